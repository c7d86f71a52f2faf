"""That `scripts/sweep.py` trains what it was asked for, once, whoever is killed."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import COPY, ROOT, TINY, run
from small import files
from small_sweeps import FILE, SPACE, SWEEP, finish, is_locked, space_file, trials_of, wait_for

from attention.lab.commands.sweep import _hash_of
from attention.lab.sweeps.folder import begin, make_group

ABSURD = ["--config.optimizer.name=sgd", "--config.optimizer.clip_norm=3e38"]
DIM = ["--grid score=dot: ", "config.model.dim=5: must be even"]
KILLED = ["--grid=score=linear,dot", "--grid=optimizer.learning_rate=1e-3,3e38", "--workdir=sweep"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--grid=score="], ["--grid='score='", "score=linear,mlp"]),
        (["--grid="], ["--grid=''", "score=linear,mlp"]),
        (["--grid=score=dot,,mlp"], ["--grid='score=dot,,mlp'", "missing beside a comma"]),
        (["--grid=eval.lengths=(1,(2,3)"], ["--grid='eval.lengths=(1,(2,3)'", "( is not closed"]),
        ([], ["nothing to sweep", "--grid", "--seeds", "--space", "--random"]),
        (["--grid=score=dot", "--workdir="], ["--workdir=: name a folder"]),
        (["--grid=score=dot", "--workdir=/proc/nope/w"], ["--workdir=/proc/nope/w: cannot"]),
        (["--grid=task.name=copy,text"], ["--grid task.name=text: ", "use --config=text"]),
        (["--grid=train.stepz=5"], ["--grid train.stepz=5: ", "shard_parameters, steps"]),
        (["--grid=scor=dot"], ["--grid scor=dot: ", "optimizer", "score"]),
        (["--grid=model.heads=1,many"], ["--grid model.heads=many: ", "is no whole number"]),
        (
            ["--grid=optimizer.learning_rate=1e-3,-1"],
            ["config.optimizer.learning_rate=-1.0", "greater than 0"],
        ),
        (["--grid=score=dot,mpl"], ["--grid score=mpl: ", "'mpl': is unknown", "bilinear"]),
        (["--grid=score=dot,dot"], ["--grid: lists score=dot twice"]),
        (["--grid=score=dot", "--grid=score=mlp"], ["there is a --grid of score already"]),
        (["--grid=seed=1,2"], ["--grid='seed=1,2'", "--seeds"]),
        (["--config.num_seeds=2"], ["config.num_seeds=2", "--seeds"]),
        (["--grid=optimizer.weight_decay=0,0.1"], ["weight_decay=0.1: only adamw"]),
        (["--grid=model.heads=1,3"], ["config.model.heads=3", "config.model.dim=4"]),
        (["--grid=score=dot", "--config.model.mixer=gru", "--config.model.dim=5"], DIM),
        (["--seeds=0"], ["--seeds=0"]),
        (["--together=0"], ["--together=0"]),
        (["--jobs=none"], ["--jobs='none': is no whole number"]),
        (["--engine=dask"], ["--engine=dask", "local", "ray"]),
        (["score=dot"], ["'score=dot' is not a flag"]),
        (["--grid=train.steps=3,5"], ["--config.train.steps=2: ", "--grid train.steps=…"]),
        (["--seeds=2", f"--config.seed={2**32 - 1}"], ["the last seed would be above"]),
        (["--random=3"], ["--random and --space: one needs the other"]),
        ([f"--space={SPACE}"], ["--random and --space: one needs the other"]),
        ([f"--space={SPACE}", "--random=0"], ["--random=0"]),
        ([f"--space={SPACE}", "--random=3", "--grid=score=dot"], ["--grid='score=dot'", "--space"]),
        (["--space=no.py", "--random=3"], ["--space=no.py: there is no such file", "one of copy"]),
        ([f"--space={FILE}", "--random=3"], ["copy.py: needs a get_space()"]),
    ],
)
def test_a_bad_sweep_is_told_in_one_line_before_anything_starts(monkeypatch, here, flags, told):
    status, out, err = run(monkeypatch, SWEEP, COPY, *TINY, *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    for words in told:
        assert words in err
    assert files(here) == {}


@pytest.mark.parametrize(
    ("space", "count", "told"),
    [
        ("{}", 3, ["needs a get_space() that returns fields"]),
        (
            "{'train.stepz': uniform(3, 5)}",
            3,
            ["--random train.stepz=3: ", "shard_parameters, steps"],
        ),
        ("{'score': ['dot', 'mpl']}", 1, ["--random score=mpl: ", "'mpl': is unknown"]),
        ("{'model.heads': uniform(1.0, 2.0)}", 3, ["model.heads=1.0: ", "is no whole number"]),
        ("{'model.dropout': uniform(0.5, 1.0)}", 1, ["model.dropout=1.0", "less than 1"]),
        ("{'optimizer.learning_rate': log_uniform(0, 1)}", 3, ["log_uniform(0, 1): both ends"]),
        ("{'optimizer.learning_rate': uniform(2, 1)}", 3, ["uniform(2, 1): ", "the lower first"]),
        ("{'score': []}", 3, ["'score': [] is neither a range"]),
        ("{'seed': uniform(1, 9)}", 3, ["'seed': seeds are swept by --seeds"]),
        ("{'model.heads': [1, 2, 4]}", 5, ["--random=5: the space has 3 different draws"]),
        ("{'train.steps': [3, 5]}", 2, ["--config.train.steps=2: ", "--random train.steps=…"]),
        ("{'score': nothing}", 1, ["NameError: name 'nothing' is not defined"]),
    ],
)
def test_a_bad_space_is_told_in_one_line(monkeypatch, here, space, count, told):
    flags = [f"--space={space_file(here, space)}", f"--random={count}"]
    status, out, err = run(monkeypatch, SWEEP, COPY, *TINY, *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    for words in told:
        assert words in err
    assert files(here) == {}


def test_a_score_is_named_once(monkeypatch, here):
    status, _, err = run(monkeypatch, SWEEP, f"{COPY}:dot", "--grid=score=mlp")
    assert (status, files(here)) == (2, {})
    assert err.endswith("copy.py:dot: names a score, and so does --grid score=…\n")


def test_groups_are_the_same_when_some_of_others_are_done(monkeypatch, here):
    """Or what is half done would begin anew."""
    trials = trials_of(["score=linear"], 6)
    folder = here / "sweep"
    folder.mkdir()
    begin(folder, trials)
    group = make_group(folder, trials[:2])
    finish(group, failed=[1])
    group.record()
    trained = []
    monkeypatch.setattr(
        "attention.lab.commands.sweep.train_all", lambda groups, *_: trained.extend(groups)
    )
    flags = ["--grid=score=linear", "--seeds=6", "--together=2", "--workdir=sweep"]
    status, out, err = run(monkeypatch, SWEEP, COPY, *TINY, *flags)
    assert (status, err) == (1, "")
    assert "5 of 6 trials to train, as 3 groups" in out
    assert [group.trials for group in trained] == [trials[1:2], trials[2:4], trials[4:]]


def test_more_draws_go_on_in_the_same_folder(monkeypatch, here):
    """Which is told of a folder that is taken."""
    flags = [f"--space={SPACE}", "--seeds=2"]
    names = set()
    for count in (2, 3):
        monkeypatch.setattr("attention.lab.commands.sweep.left", lambda folder, trials: [])
        status, out, err = run(monkeypatch, SWEEP, COPY, *TINY, *flags, f"--random={count}")
        assert (status, err) == (0, "")
        names |= set(Path("runs").iterdir())
        assert "finished already" in out
    (name,) = names
    assert len(json.loads((name / "sweep.json").read_text())) == 6


def test_a_finished_sweep_says_so_and_ranks(monkeypatch, here):
    flags = ["--grid=score=linear,dot", "--seeds=3", "--workdir=sweep"]
    trials = trials_of(["score=linear,dot"], 3)

    Path("sweep").mkdir()
    begin(Path("sweep"), trials)
    for some in (trials[:2], trials[2:]):
        group = make_group(Path("sweep"), some)
        finish(group)
        group.record()
    status, out, err = run(monkeypatch, SWEEP, COPY, *TINY, *flags)
    assert (status, err) == (0, "")
    assert out.startswith("sweep: finished already, nothing to do\n")
    rows = [line.split("│")[1:4] for line in out.splitlines() if line.startswith("│")]
    # dot: 0.1, 0.2, 0.3; linear: 0, 0.1, 0
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["dot", "3", "0.2000 ± 0.1000"],
        ["linear", "3", "0.0333 ± 0.0577"],
    ]
    with Path("sweep/results.csv").open() as table:
        found = list(csv.DictReader(table))
    assert [row["id"] for row in found] == [trial.id for trial in trials]
    assert [row["exact_match"] for row in found] == [
        "0.0",
        "0.1",
        "0.0",
        "0.1",
        "0.2",
        "0.30000000000000004",
    ]

    status, out, err = run(monkeypatch, SWEEP, COPY, *TINY, *flags[:1], "--seeds=2", flags[2])
    assert (status, out) == (2, "")
    assert err == (
        "error: --workdir=sweep: holds another sweep (6 trials there, 4 now, 4 in common);"
        " name another folder by --workdir\n"
    )
    more = ["--config.train.steps=9"]
    status, _, err = run(monkeypatch, SWEEP, COPY, *TINY, *flags, *more)
    assert status == 2
    assert "(train.steps: 2 there, 9 now)" in err


def test_killed_in_the_middle_a_sweep_goes_on_and_trains_nothing_twice(monkeypatch, here):
    flags = [COPY, *TINY, *ABSURD, *KILLED]
    trials = trials_of([flag.removeprefix("--grid=") for flag in KILLED[:2]], 1, ABSURD)
    folder = here / "sweep"
    folder.mkdir()
    begin(folder, trials)
    first = make_group(folder, trials[:2])
    finish(first)
    first.record()
    before = files(first.run.path), files(folder / "trials")
    killed = subprocess.Popen([sys.executable, ROOT / SWEEP, *flags], stdout=subprocess.DEVNULL)
    wait_for(lambda: list((folder / "groups").glob("*/.lock")))
    killed.kill()
    killed.wait()
    (lock,) = (folder / "groups").glob("*/.lock")
    wait_for(lambda: not is_locked(lock.parent))
    assert (files(first.run.path), files(folder / "trials")) == before

    status, out, err = run(monkeypatch, SWEEP, *flags, "--jobs=2")
    assert (status, err) == (1, "")  # since an absurd rate fails however often it is tried
    assert "2 of 4 trials to train, as 1 groups, 1 at once" in out
    kept = {
        name: content for name, content in files(folder / "trials").items() if name in before[1]
    }
    assert (files(first.run.path), kept) == before
    good, bad = (
        json.loads((folder / f"trials/{t.name}/result.json").read_text()) for t in trials[2:]
    )
    assert (good["status"], bad["status"]) == ("done", "failed")
    assert folder / good["group"] == folder / bad["group"] == lock.parent
    assert (
        "failed: score=dot optimizer.learning_rate=3e+38, seed 0: the loss or the gradient" in out
    )
    assert "0 of 1" in out


def test_sweeps_of_other_fields_with_equal_settings_have_folders_of_their_own():
    """A grid of one value says what the config says: the settings of the two trials are equal."""
    sweeps = [trials_of(grid) for grid in (["score=mlp"], ["train.steps=2"], ["score=mlp"])]
    assert sweeps[0][0].settings == sweeps[1][0].settings
    assert _hash_of(sweeps[0]) == _hash_of(sweeps[2]) != _hash_of(sweeps[1])
