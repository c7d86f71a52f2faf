"""That the folder of a sweep says what has been done, whoever is killed."""

import json

import pytest
from small import files
from small_sweeps import finish, trials_of

from attention.lab.errors import UsageError
from attention.lab.runs.directory import open_for_training
from attention.lab.sweeps.folder import begin, check, left, make_group, result_of


def test_a_sweep_may_grow(begun):
    folder, trials = begun
    group = make_group(folder, trials)
    finish(group)
    group.record()
    more = trials_of(["score=linear,dot"], 3)
    check(folder, more)
    begin(folder, more)
    assert left(folder, more) == more[3:]
    with pytest.raises(UsageError, match="6 trials there, 3 now, 3 in common"):
        check(folder, trials)


def test_what_was_trained_but_not_recorded_is_recorded_not_trained_again(begun):
    folder, trials = begun
    group = make_group(folder, trials)
    assert group.trials == trials
    group.run.path.mkdir()
    assert make_group(folder, trials).run.path.exists()  # half done: to be gone on with
    finish(group)
    assert left(folder, trials) == trials
    begin(folder, trials)
    assert left(folder, trials) == []
    results = [result_of(folder, trial) for trial in trials]
    assert [(r["replica"], r["group"]) for r in results] == [
        (number, f"groups/{group.id}") for number in range(3)
    ]
    assert results[2]["test"]["all"]["exact_match"] == 0.2


def test_what_failed_is_tried_again_alone_and_anew(begun):
    folder, trials = begun
    group = make_group(folder, trials)
    finish(group, failed=[1])
    group.record()
    assert left(folder, trials) == trials[1:2]
    assert "not finite" in result_of(folder, trials[1])["reason"]

    again = make_group(folder, trials[1:2])
    assert again.id != group.id
    again.run.path.mkdir()
    again.fail("no hope")
    again.record()
    assert left(folder, trials) == trials[1:2]

    again = make_group(folder, trials[1:2])
    assert not again.run.path.exists()
    assert not again.is_over()
    finish(again)
    again.record()
    group.record()  # which still says that it failed
    assert left(folder, trials) == []


def test_names_in_the_folder_say_what_sets_trials_apart(begun):
    folder, trials = begun
    group = make_group(folder, trials[:2])
    finish(group)
    group.record()
    names = {f"score=linear-seed={seed}-{trials[seed].id}" for seed in (0, 1)}
    assert {path.name for path in (folder / "trials").iterdir()} == names
    assert group.id.startswith("score=linear-trials=2-")
    (alone,) = trials_of(["optimizer.learning_rate=0.25", "score=dot"])
    begin(folder, [*trials, alone])
    group = make_group(folder, [alone])
    group.log.touch()
    group.fail("no hope")
    files = {path.name.removeprefix(group.id) for path in (folder / "groups").glob("*0.25*")}
    assert files == {".json", ".log", ".error"}  # though the name has a dot


def test_a_folder_of_an_older_version_is_gone_on_with(begun):
    """In which trials and groups were called by their hashes."""
    folder, trials = begun
    group = make_group(folder, trials[:2])
    finish(group)
    group.record()
    for path in (folder / "groups").iterdir():
        path.rename(path.with_name(path.name.replace(group.id, group.id[-12:])))
    for trial in trials[:1]:
        (folder / "trials" / trial.name).rename(folder / "trials" / trial.id)
    (folder / "trials" / trials[1].name / "result.json").unlink()
    check(folder, trials)
    begin(folder, trials)
    assert left(folder, trials) == trials[2:]
    assert make_group(folder, trials[:2]).id == group.id[-12:]
    assert (folder / "trials" / trials[0].id / "result.json").exists()
    assert not (folder / "trials" / trials[0].name).exists()


def test_a_folder_of_another_sweep_is_refused_with_the_remedy(begun):
    folder, trials = begun
    group = make_group(folder, trials)
    finish(group)
    group.record()
    others = trials_of(["score=mlp"], 2)
    told = r"holds another sweep \(3 trials there, 2 now, none in common\); name .* --workdir$"
    with pytest.raises(UsageError, match=told):
        check(folder, others)
    one = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps({trials[0].id: one[trials[0].id]}))
    with pytest.raises(UsageError, match=r"\(1 trial there, 2 now, none in common\)"):
        check(folder, others)


def test_a_folder_of_something_else_is_refused(here):
    (here / "mine").mkdir()
    (here / "mine" / ".lock").touch()
    check(here / "mine", [])
    (here / "mine" / "thesis.txt").touch()
    with pytest.raises(UsageError, match=r"mine: is there and holds no sweep"):
        check(here / "mine", [])


OTHERS = trials_of(["score=linear"], 3, ["--config.train.steps=3"])


def test_a_sweep_without_a_checkpoint_gives_way_to_its_correction(begun):
    folder, trials = begun
    group = make_group(folder, trials)
    with open_for_training(group.run.path, trials[0].settings, None):
        pass
    group.fail("no hope")
    group.record()
    check(folder, OTHERS)
    assert begin(folder, OTHERS)
    assert left(folder, OTHERS) == OTHERS
    assert not group.run.path.exists()
    assert result_of(folder, trials[0]) is None
    assert not begin(folder, OTHERS)


@pytest.mark.parametrize("is_done", [True, False])
def test_a_sweep_with_a_result_or_a_checkpoint_does_not_give_way(begun, is_done):
    folder, trials = begun
    group = make_group(folder, trials[:2])
    if is_done:
        finish(group)
    else:
        with open_for_training(group.run.path, trials[0].settings, None) as run:
            (run.checkpoints / "3").mkdir(parents=True)
            (run.checkpoints / "3" / "manifest.json").touch()
    before = files(folder)
    for refuse in (check, begin):
        with pytest.raises(UsageError, match=r"train\.steps: 2 there, 3 now"):
            refuse(folder, OTHERS)
    assert files(folder) == before
