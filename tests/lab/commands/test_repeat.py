"""That `scripts/repeat.py` trains every seed, and reports their mean."""

import io
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import COPY, ROOT, TINY, run
from rich.console import Console
from small import files, small

from attention.lab.commands import repeat
from attention.lab.commands.repeat import cells, show

REPEAT = "scripts/repeat.py"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "--config is missing"),
        ([COPY, "--seeds=8-7"], "--seeds=8-7: name the first and last, as 100-107"),
        ([COPY, "--seeds=a-b"], "--seeds=a-b: name the first and last"),
        ([COPY, "--seeds="], "--seeds=: name the first and last"),
        ([COPY, "--config.num_seeds=2"], "num_seeds is for train.py alone"),
        ([COPY, "--", "--config.num_seeds=2"], "num_seeds is for train.py alone"),
        ([COPY, "--config.seed=3"], "--config.seed: the seeds are those of --seeds"),
        ([COPY, "--", "--config.train.stepz=3"], "--config.train.stepz"),
        ([COPY, "--nonsense=3"], "Unknown command line flag 'nonsense'"),
    ],
)
def test_bad_input_is_told_in_one_line_before_anything_starts(monkeypatch, here, flags, told):
    status, out, err = run(monkeypatch, REPEAT, *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert files(here) == {}


def test_training_that_fails_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(repeat, "call", lambda *_, **__: 5)
    done = run(monkeypatch, REPEAT, COPY, "--seeds=7")
    assert done == (1, "", "error: seed 7: the training ended with status 5\n")


def test_a_run_lies_in_a_folder_of_its_own_whatever_the_flags(monkeypatch, here):
    paths = []

    def train(command, *_, **__):
        paths.append(Path(command[-1].removeprefix("--workdir=")))
        return 5

    monkeypatch.setattr(repeat, "call", train)
    for flag in ("--config.name=x", "--config.name=y" * 20, "--config.optimizer.name=adam"):
        run(monkeypatch, REPEAT, COPY, flag[:99], "--seeds=7")
    config = f"--config={ROOT / 'configs' / 'text.py'}"
    run(monkeypatch, REPEAT, config, "--config.task.path=a/b", "--seeds=7")
    run(monkeypatch, REPEAT, config, f"--config.task.path={'ab' * 99}", "--seeds=7")
    assert paths[0].name == "copy.py-config.name=x-7"
    assert len({*paths}) == len(paths) == 5
    assert {path.parent for path in paths} == {Path("runs/repeat")}
    assert max(len(path.name) for path in paths) <= 200
    assert all(path.name.endswith("-7") for path in paths)


def test_a_cell_is_a_mean_over_runs_and_a_dash_where_a_run_does_not_know():
    def report(exact, alignment, seconds):
        metrics = {"exact_match": exact, "token_accuracy": 0.5, "alignment_accuracy": alignment}
        return {"all": metrics, "by_length": {"3": metrics}, "step": 200, "seconds": seconds}

    reports = [report(0.25, None, 1.0), report(0.75, 0.5, 4.0)]
    expected = ["0.5000 ± 0.3536", "0.2500", "0.5000", "—", "200", "2.5 ± 2.1"]
    assert cells(reports, "all") == cells(reports, "3") == expected
    unknown = [report(None, 0.5, None), report(0.75, 0.5, 4.0)]
    assert cells(unknown, "all") == ["—", "—", "0.5000", "0.5000", "200", "—"]


def reported(monkeypatch, task, *, interrupted=False):
    """What is shown where every run found the same, or was interrupted."""
    metrics = {"exact_match": 0.25, "token_accuracy": 0.25, "alignment_accuracy": None}
    report = {"all": metrics, "by_length": {"3": metrics}, "step": 200, "seconds": 1.0}
    monkeypatch.setattr(repeat, "settings_of", lambda *_: small(task=task))

    def train(config, config_flags, seed, workdir, interruption):
        interruption.signal = signal.SIGTERM if interrupted else 0
        return None if interrupted else report

    monkeypatch.setattr(repeat, "_train", train)
    return run(monkeypatch, REPEAT, "--config=c", "--seeds=7-8")


def test_a_classifier_has_one_accuracy(monkeypatch):
    status, out, err = reported(monkeypatch, "digits")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "| config | length | accuracy | worst seed | alignment | steps | seconds |",
        "|---|---|---|---|---|---|---|",
        "| c | all | 0.2500 | 0.2500 | — | 200 | 1.0 |",
        "| c | 3 | 0.2500 | 0.2500 | — | 200 | 1.0 |",
    ]


def test_a_terminal_gets_a_table_that_fits():
    console = Console(file=io.StringIO(), force_terminal=True, width=40, color_system=None)
    measured = {f"column {number}": ["0.2500", "0.1250"] for number in range(7)}
    show("copy", ["all", "3"], measured, console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert "\n".join(lines).count(" 0.1250 ") == 7


def test_a_run_that_was_interrupted_ends_the_command_without_another_word(monkeypatch):
    assert reported(monkeypatch, "copy", interrupted=True) == (143, "", "")


def test_every_seed_is_trained_once(here):
    def rows(seeds):
        command = [sys.executable, ROOT / REPEAT, COPY, f"--seeds={seeds}", *TINY[:3], "--"]
        done = subprocess.run([*command, *TINY[3:]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [line.split(" | ") for line in done.stdout.splitlines()]

    heading, _, mixed, longest = rows("7")
    assert heading[0] == "| config"
    assert mixed[0] == " ".join(["|", COPY.partition("=")[2], *TINY])
    assert [mixed[1], longest[1], mixed[6]] == ["all", "3", "2"]
    assert re.fullmatch(r"\d+\.\d \|", mixed[7])
    (run_path,) = (here / "runs" / "repeat").iterdir()
    assert run_path.name.startswith("copy.py-config.train.steps=2-")
    assert run_path.name.endswith("-7")
    before = files(run_path)

    *_, mixed, longest = rows("7-8")
    assert mixed[7] == longest[7] == "— |"  # since nobody timed the first of them
    assert files(run_path) == before
    assert len(list((here / "runs" / "repeat").iterdir())) == 2
