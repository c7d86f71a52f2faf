"""Sweeps that are small enough for a test, and waiting for what processes do."""

import fcntl
import time

from command_lines import COPY, ROOT, TINY

from attention.lab.commands.swept_config import SweptConfig
from attention.lab.sweeps.trials import make_trials, read_grid

SWEEP = "scripts/sweep.py"
FILE = COPY.partition("=")[2]
SPACE = ROOT / "configs" / "sweeps" / "copy.py"


def trials_of(grid, seeds=1, fields=()):
    """The trials of a grid, each small enough for a test."""
    return make_trials(SweptConfig(FILE, [*TINY, *fields]).settings, read_grid(grid), seeds)


def space_file(here, space):
    """A file in a folder of its own."""
    file = here.parent / "space.py"
    imports = "from attention.lab.sweeps.distributions import log_uniform, uniform"
    file.write_text(f"{imports}\ndef get_space():\n    return {space}\n")
    return file


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


def is_locked(run_path):
    """Whether a process is training there."""
    with (run_path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def wait_for(condition):
    """What a condition tells once it holds."""
    end = time.monotonic() + 100
    while not (told := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return told
