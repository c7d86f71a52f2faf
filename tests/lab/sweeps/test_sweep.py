"""That `scripts/sweep.py` trains what it was asked for, once, whoever is killed."""

import csv
import fcntl
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import files
from test_command_line import COPY, ROOT, TINY, run

from attention.lab.errors import TrainingError, UsageError

SCRIPTS = ROOT / "scripts"
SWEEP = "scripts/sweep.py"
FILE = COPY.partition("=")[2]
SPACE = ROOT / "configs" / "sweeps" / "copy.py"
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty directory to work in."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def trials_of(grid, seeds=1, fields=()):
    from attention.lab.sweeps.trials import Command, make_trials, read_grid

    return make_trials(Command(FILE, [*TINY, *fields]), read_grid(grid), seeds)


# What is asked for.


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
    from attention.lab.sweeps.trials import Command, make_trials, read_grid

    trials = make_trials(Command(FILE, []), read_grid(["eval.lengths=(3,),(1,2)"]), 1)
    assert [trial.settings.eval.lengths for trial in trials] == [(3,), (1, 2)]


def test_an_id_is_of_what_was_meant_not_of_how_it_was_typed():
    (one,) = trials_of(["optimizer.learning_rate=1e-3"])
    (other,) = trials_of(["optimizer.learning_rate=0.001"], fields=["--config.train.steps=3"])
    assert one.id == other.id == "6f52a3372345"  # as it was in the process that wrote this test
    ids = [trial.id for trial in trials_of(["score=linear,dot"], 3)]
    assert len(set(ids)) == 6


def test_groups_share_all_that_has_a_shape():
    from attention.lab.sweeps.trials import in_groups

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
    ("flags", "told"),
    [
        (["--grid=score="], ["--grid='score='", "score=linear,mlp"]),
        (["--grid="], ["--grid=''", "score=linear,mlp"]),
        (["--grid=score=dot,,mlp"], ["--grid='score=dot,,mlp'"]),
        (["--grid=train.stepz=5"], ["--grid train.stepz=5: ", "shard_parameters, steps"]),
        (["--grid=scor=dot"], ["--grid scor=dot: ", "optimizer", "score"]),
        (["--grid=model.heads=1,many"], ["--grid model.heads=many: ", "invalid literal for int"]),
        (
            ["--grid=optimizer.learning_rate=1e-3,-1"],
            ["config.optimizer.learning_rate=-1.0", "greater than 0"],
        ),
        (["--grid=score=dot,mpl"], ["--grid score=mpl: ", "'mpl' is unknown", "bilinear"]),
        (["--grid=score=dot,dot"], ["--grid: lists score=dot twice"]),
        (["--grid=score=dot", "--grid=score=mlp"], ["there is a --grid of score already"]),
        (["--grid=seed=1,2"], ["--grid='seed=1,2'", "--seeds"]),
        (["--config.num_seeds=2"], ["config.num_seeds=2", "--seeds"]),
        (["--grid=optimizer.weight_decay=0,0.1"], ["weight_decay=0.1: only adamw"]),
        (["--grid=model.heads=1,3"], ["config.model.heads=3", "config.model.dim=4"]),
        (["--seeds=0"], ["--seeds=0"]),
        (["--together=0"], ["--together=0"]),
        (["--jobs=none"], ["--jobs=none"]),
        (["--engine=dask"], ["--engine=dask", "local", "ray"]),
        (["score=dot"], ["'score=dot' is not a flag"]),
        (["--grid=train.steps=3,5"], ["--config.train.steps=2: ", "--grid train.steps=…"]),
        (["--seeds=2", f"--config.seed={2**32 - 1}"], ["the last seed would be above"]),
        (["--random=3"], ["--random and --space: one needs the other"]),
        ([f"--space={SPACE}"], ["--random and --space: one needs the other"]),
        ([f"--space={SPACE}", "--random=0"], ["--random=0"]),
        ([f"--space={SPACE}", "--random=3", "--grid=score=dot"], ["--grid='score=dot'", "--space"]),
        (["--space=no.py", "--random=3"], ["--space=no.py: FileNotFoundError"]),
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


def space_file(here, space):
    """A file in a folder of its own."""
    file = here.parent / "space.py"
    imports = "from attention.lab.sweeps.distributions import log_uniform, uniform"
    file.write_text(f"{imports}\ndef get_space():\n    return {space}\n")
    return file


@pytest.mark.parametrize(
    ("space", "count", "told"),
    [
        ("{}", 3, ["needs a get_space() that returns fields"]),
        (
            "{'train.stepz': uniform(3, 5)}",
            3,
            ["--random train.stepz=3: ", "shard_parameters, steps"],
        ),
        ("{'score': ['dot', 'mpl']}", 1, ["--random score=mpl: ", "'mpl' is unknown"]),
        ("{'model.heads': uniform(1.0, 2.0)}", 3, ["model.heads=1.0: ", "invalid literal for int"]),
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


def test_draws_are_of_the_space_and_more_of_them_begin_with_the_fewer(here):
    from attention.lab.sweeps.space import draws, read_space

    space = "{'score': ['dot', 'mlp'], 'model.dropout': uniform(0.1, 0.7)}"
    found = draws(read_space(str(space_file(here, space))), 97, 3)
    assert found[:2] == [  # as they were in the process that wrote this test
        {"score": "dot", "model.dropout": "0.5662"},
        {"score": "mlp", "model.dropout": "0.6881"},
    ]
    assert {draw["score"] for draw in found} == {"dot", "mlp"}
    values = sorted(float(draw["model.dropout"]) for draw in found)
    assert 0.1 <= values[0] < 0.15 < 0.35 < values[48] < 0.45 < 0.65 < values[-1] <= 0.7
    again = read_space(str(space_file(here, space)))
    assert draws(again, 13, 3) == found[:13]
    assert draws(again, 13, 4) != found[:13]
    more = read_space(str(space_file(here, space.replace("{", "{'model.heads': [1, 2], "))))
    kept = [{name: draw[name] for name in found[0]} for draw in draws(more, 13, 3)]
    assert kept == found[:13]
    few = draws(read_space(str(space_file(here, "{'model.heads': [1, 2, 4]}"))), 3, 0)
    assert sorted(draw["model.heads"] for draw in few) == ["1", "2", "4"]


def test_a_space_in_configs_is_of_the_config_of_its_name():
    from attention.lab.sweeps.space import draws, extremes, read_space
    from attention.lab.sweeps.trials import Command, make_trials

    for file in (ROOT / "configs" / "sweeps").glob("*.py"):
        space = read_space(str(file))
        found = draws(space, 5, 0)
        asked = [*found, *extremes(space, found[0])]
        distinct = list({tuple(values.items()): values for values in asked}.values())
        trials = make_trials(Command(str(ROOT / "configs" / file.name), []), distinct, 1)
        assert len(trials) == len(distinct) > 5


def test_a_sweep_may_grow(begun):
    from attention.lab.sweeps.folder import begin, check, left, make_group

    folder, trials = begun
    group = make_group(folder, trials)
    finish(group)
    group.record()
    more = trials_of(["score=linear,dot"], 3)
    check(folder, more)
    begin(folder, more)
    assert left(folder, more) == more[3:]
    with pytest.raises(UsageError, match="6 trials there, 3 now, 3 common"):
        check(folder, trials)


def test_groups_are_the_same_when_some_of_others_are_done(monkeypatch, here):
    """Or what is half done would begin anew."""
    from attention.lab.sweeps.folder import begin, make_group

    trials = trials_of(["score=linear"], 6)
    folder = here / "sweep"
    folder.mkdir()
    begin(folder, trials)
    group = make_group(folder, trials[:2])
    finish(group, failed=[1])
    group.record()
    trained = []
    monkeypatch.setattr("sweep_jobs.train_all", lambda groups, *_: trained.extend(groups))
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
        monkeypatch.setattr("sweep_folder.left", lambda folder, trials: [])
        status, out, err = run(monkeypatch, SWEEP, COPY, *TINY, *flags, f"--random={count}")
        assert (status, err) == (0, "")
        names |= set(Path("runs").iterdir())
        assert "finished already" in out
    (name,) = names
    assert len(json.loads((name / "sweep.json").read_text())) == 6


# What is done.


def finish(group, failed=()):
    """As if a group had been trained: replica number n has exact match 0.1 n."""

    def replica(number):
        metrics = {"exact_match": 0.1 * number, "token_accuracy": 0.5, "alignment_accuracy": None}
        return {
            "failed": number in failed,
            "step": 2,
            "all": metrics,
            "by_length": {"3": metrics},
        }

    group.run.path.mkdir(parents=True, exist_ok=True)
    replicas = list(map(replica, range(len(group.trials))))
    group.run.write("result.json", {"test": {"replicas": replicas}})


@pytest.fixture
def begun(here):
    """A folder, and the trials of which nothing is done."""
    from attention.lab.sweeps.folder import begin

    trials = trials_of(["score=linear"], 3)
    folder = here / "sweep"
    folder.mkdir()
    begin(folder, trials)
    return folder, trials


def test_what_was_trained_but_not_recorded_is_recorded_not_trained_again(begun):
    from attention.lab.sweeps.folder import begin, left, make_group, result_of

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
    from attention.lab.sweeps.folder import left, make_group, result_of

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


def test_the_error_of_the_last_to_fail_is_not_told_of_each(begun, monkeypatch):
    from attention.lab.sweeps import train_group as sweep_group
    from attention.lab.sweeps.folder import make_group, result_of

    def fail(settings, *_):
        raise TrainingError(f"at step 5 {settings.num_replicas} have no loss")

    monkeypatch.setattr(sweep_group, "train", fail)
    folder, trials = begun
    for some in (trials[:2], trials[2:]):
        assert sweep_group.main(folder, make_group(folder, some).id) == 1
    assert [result_of(folder, trial)["reason"] for trial in trials] == [
        *2 * ["all 2 of the group failed, the last at step 5 2 have no loss"],
        "at step 5 1 have no loss",
    ]


def test_a_finished_sweep_says_so_and_ranks(monkeypatch, here):
    flags = ["--grid=score=linear,dot", "--seeds=3", "--workdir=sweep"]
    trials = trials_of(["score=linear,dot"], 3)
    from attention.lab.sweeps.folder import begin, make_group

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
        "error: --workdir=sweep: holds another sweep (6 trials there, 4 now, 4 common);"
        " name another folder\n"
    )
    more = ["--config.train.steps=9"]
    status, _, err = run(monkeypatch, SWEEP, COPY, *TINY, *flags, *more)
    assert status == 2
    assert "(train.steps: 2 there, 9 now)" in err


def test_a_score_is_named_once(monkeypatch, here):
    status, _, err = run(monkeypatch, SWEEP, f"{COPY}:dot", "--grid=score=mlp")
    assert (status, files(here)) == (2, {})
    assert err.endswith("copy.py:dot: names a score, and so does --grid score=…\n")


def test_a_folder_of_something_else_is_refused(here):
    from attention.lab.sweeps.folder import check

    (here / "mine").mkdir()
    (here / "mine" / ".lock").touch()
    check(here / "mine", [])
    (here / "mine" / "thesis.txt").touch()
    with pytest.raises(UsageError, match=r"mine: is there and holds no sweep"):
        check(here / "mine", [])


def test_curves_are_of_the_seeds_of_a_configuration(begun):
    from attention.lab.sweeps.folder import make_group, result_of
    from attention.lab.sweeps.results import curves

    folder, trials = begun
    group = make_group(folder, trials)
    finish(group, failed=[2])
    group.record()
    lines = [
        {"kind": kind, "step": step, "replica": number, "exact_match": 0.1 * number + 0.01 * step}
        for step in (3, 5)
        for number in (0, 1)
        for kind in ("train", "validation")
    ]
    half = '\n{"kind": "vali'  # of what was killed
    (group.run.path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + half)
    found = curves(folder, [(trial, result_of(folder, trial)) for trial in trials])
    assert found == {"score=linear": {3: [0.03, 0.13], 5: [0.05, pytest.approx(0.15)]}}


def test_coordinates_are_heights_on_an_axis():
    from attention.lab.sweeps.plots import coordinates

    assert coordinates([1, 3, 2]) == [0, 1, 0.5]
    assert coordinates([1e-4, 1e-2, 1e-1]) == [0, pytest.approx(2 / 3), 1]  # by the logarithm
    assert coordinates([0, 50, 100]) == [0, 0.5, 1]
    assert coordinates(["mlp", "dot", "rbf", "dot"]) == [0.5, 0, 1, 0]
    assert coordinates([True, False]) == [1, 0]
    assert coordinates([3, 3]) == [0.5, 0.5]


def test_an_outcome_is_a_mean_over_seeds(begun):
    from attention.lab.sweeps.folder import make_group, result_of
    from attention.lab.sweeps.results import outcomes

    folder, trials = begun
    assert outcomes([(trial, None) for trial in trials]) == [({"score": "linear"}, None)]
    group = make_group(folder, trials)
    finish(group, failed=[0])
    group.record()
    rows = [(trial, result_of(folder, trial)) for trial in trials]
    assert outcomes(rows) == [({"score": "linear"}, pytest.approx(0.15))]  # 0.1 and 0.2


# In processes of their own.

ABSURD = ["--config.optimizer.name=sgd", "--config.optimizer.clip_norm=3e38"]
KILLED = ["--grid=score=linear,dot", "--grid=optimizer.learning_rate=1e-3,3e38", "--workdir=sweep"]


def is_locked(run_path):
    """Whether a process is training there."""
    with (run_path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def wait_for(condition, seconds=100):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_killed_in_the_middle_a_sweep_goes_on_and_trains_nothing_twice(monkeypatch, here, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    from attention.lab.sweeps.folder import begin, make_group

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
    wait_for(lambda: not is_locked(lock.parent), 5)
    assert (files(first.run.path), files(folder / "trials")) == before

    status, out, err = run(monkeypatch, SWEEP, *flags, "--jobs=2")
    assert (status, err) == (1, "")  # since an absurd rate fails however often it is tried
    assert "2 of 4 trials to train, as 1 groups, 1 at once" in out
    kept = {
        name: content for name, content in files(folder / "trials").items() if name in before[1]
    }
    assert (files(first.run.path), kept) == before
    good, bad = (
        json.loads((folder / f"trials/{t.id}/result.json").read_text()) for t in trials[2:]
    )
    assert (good["status"], bad["status"]) == ("done", "failed")
    assert folder / good["group"] == folder / bad["group"] == lock.parent
    assert "failed: score=dot optimizer.learning_rate=3e+38 seed=0: at step 2 the loss" in out
    assert "0 of 1" in out
