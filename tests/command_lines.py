"""Running the scripts as a person does, but in this process; and an experiment small enough."""

import contextlib
import io
import runpy
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPY = f"--config={ROOT / 'configs' / 'copy.py'}"
TINY = [
    *("--config.train.steps=2", "--config.train.batch_size=3", "--config.task.max_length=3"),
    *("--config.model.dim=4", "--config.eval.sequences=5", "--config.eval.lengths=(3,)"),
]


def run(monkeypatch, script, *arguments):
    """Exit status, standard output and standard error of a script, in this process."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        usual_signals(),
        pytest.raises(SystemExit) as end,
    ):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return end.value.code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def usual_signals():
    """What a command answers signals by stays with it: its process ends after it, but not this."""
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty directory to work in."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the processes that tests start
    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.chdir(path)
    return path
