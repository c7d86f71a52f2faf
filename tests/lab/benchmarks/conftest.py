"""`scripts/benchmark.py`, called in this process."""

import sys

import pytest

from attention.lab.commands import benchmark


@pytest.fixture
def run(monkeypatch):
    """A function of flags that runs the command and returns its exit status."""

    def run(*arguments):
        for flag_values in (
            benchmark.COST,
            benchmark.OF_SWEEP,
            benchmark.OF_TRAINING,
            benchmark.OF_DECODING,
        ):
            flag_values.unparse_flags()  # those of a command line before would stay
        monkeypatch.setattr(sys, "argv", ["scripts/benchmark.py", *arguments])
        with pytest.raises(SystemExit) as end:
            benchmark.main()
        return end.value.code

    return run
