"""That the trials of a sweep are what was asked for, and are grouped by what they share."""

import pytest
from small_sweeps import FILE, trials_of

from attention.lab.commands.swept_config import SweptConfig
from attention.lab.errors import UsageError
from attention.lab.sweeps.trials import folder_name, in_groups, make_trials, read_grid


def test_the_trials_are_every_combination_with_every_seed():
    trials = trials_of(["score=linear,dot", "train.log_every_steps=3,5"], 2, ["--config.seed=7"])
    assert [tuple(trial.overrides.values()) for trial in trials] == [
        (score, steps, seed) for score in ("linear", "dot") for steps in (3, 5) for seed in (7, 8)
    ]
    for trial in trials:
        settings = trial.settings
        found = settings.score.name, settings.train.log_every_steps, settings.seed
        assert found == tuple(trial.overrides.values())
        assert settings.train.batch_size == 3  # a flag of the command
    assert trials[2].configuration == "score=linear train.log_every_steps=5"


def test_a_value_may_have_commas_in_brackets():
    trials = make_trials(SweptConfig(FILE, []).settings, read_grid(["eval.lengths=(3,),(1,2)"]), 1)
    assert [trial.settings.eval.lengths for trial in trials] == [(3,), (1, 2)]


def test_an_id_is_of_what_was_meant_not_of_how_it_was_typed():
    (one,) = trials_of(["optimizer.learning_rate=1e-3"])
    (other,) = trials_of(["optimizer.learning_rate=0.001"], fields=["--config.train.steps=3"])
    assert one.id == other.id == "6f52a3372345"  # as it was in the process that wrote this test
    ids = [trial.id for trial in trials_of(["score=linear,dot"], 3)]
    assert len(set(ids)) == 6


def test_names_of_folders_are_short_plain_and_never_equal():
    fields = {"score": "my lab.scores:Näïve", "task.path": "/a/b\n*", "x.values": [1, 2], "seed": 7}
    name = folder_name(fields, "0f")
    assert name == "score=my_lab.scores_N_ve-path=a_b-values=1_2-seed=7-0f"
    long = {f"field{number}": "x" * 99 for number in range(9)}
    assert len(folder_name(long, "0f")) < 100
    assert folder_name(long, "0f") != folder_name(long, "0e")
    assert folder_name({}, "0f") == "0f"


def test_groups_share_all_that_has_a_shape():
    decayed = ["score=linear,dot", "optimizer.weight_decay=0,0.1", "optimizer.clip_norm=1,2"]
    fields = ["--config.optimizer.name=adamw"]
    groups = in_groups(trials_of(decayed, 2, fields))
    assert [len(group) for group in groups] == [8, 8]
    assert [len({trial.settings.score.name for trial in group}) for group in groups] == [1, 1]
    assert len(in_groups(trials_of(["model.heads=1,2", "model.dropout=0.0,0.1"]))) == 4
    parts = in_groups(trials_of(["score=linear,dot"], 5), 2)
    assert [[(t.settings.score.name, t.overrides["seed"]) for t in part] for part in parts] == [
        [(score, seed) for seed in seeds]
        for score in ("linear", "dot")
        for seeds in ((0, 1), (2, 3), (4,))
    ]


@pytest.mark.parametrize(
    ("grid", "seeds", "told"),
    [
        ([f"train.steps={','.join(map(str, range(1, 300)))}"] * 1, 1000, "--seeds=1000: asks for"),
        ([f"train.{name}_every_steps={'1,' * 99}1" for name in ("log", "eval", "x")], 1, "--grid"),
        ([], 10**9, "--seeds=1000000000: asks for 1000000000 trials"),
    ],
)
def test_more_trials_than_can_be_are_counted_not_made(grid, seeds, told):
    with pytest.raises(UsageError, match=told):
        trials_of(grid, seeds)
