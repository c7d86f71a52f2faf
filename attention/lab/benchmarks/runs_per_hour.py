"""Trained runs per hour, by three ways to train several.

- one after another: a process of `train.py` a run;
- jobs: `sweep.py`, a process a run, some of them at once;
- together: `sweep.py`, all runs seeds of a single program.

A way is timed from start to exit, with compilation, evaluation and what is written; the ways take
turns, and figures are medians over the rounds. What is trained is configs/copy.py, with those flags
--config.… that are given, such as --config.train.steps=100.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attention.lab.parallel.children import call
from attention.lab.parallel.interruption import before_the_end
from attention.lab.repository import CONFIGS

# The experiment, and the commands that train it.
CONFIG = f"--config={CONFIGS / 'copy.py'}"
TRAIN, SWEEP = (("-m", "attention_lab", name) for name in ("train", "sweep"))

ANEW = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # compiling is part of what is timed

Commands = list[list[str]]


@dataclass(frozen=True)
class Way:
    """A way to train several runs.

    Attributes:
      name: as the table has it.
      runs: how many are trained.
      commands: what trains them, command after command, given an empty folder to write to.
    """

    name: str
    runs: int
    commands: Callable[[str], Commands]


def ways(runs: int, jobs: int, together: int) -> list[Way]:
    """The three ways.

    Args:
      runs: how many are trained one after another, and by jobs.
      jobs: how many processes train at once.
      together: how many runs the single program trains.
    """
    by_jobs = ("--together=1", f"--jobs={jobs}")
    return [
        Way("one after another", runs, lambda folder: _alone(folder, runs)),
        Way(f"{jobs} jobs", runs, lambda folder: _sweep(folder, runs, *by_jobs)),
        Way("together", together, lambda folder: _sweep(folder, together)),
    ]


def _alone(folder: str, runs: int) -> Commands:
    return [
        [*TRAIN, CONFIG, f"--config.seed={seed}", f"--workdir={folder}/{seed}"]
        for seed in range(runs)
    ]


def _sweep(folder: str, runs: int, *flags: str) -> Commands:
    return [[*SWEEP, CONFIG, f"--seeds={runs}", *flags, f"--workdir={folder}/sweep"]]


def in_turn(contenders: Sequence[Way], rounds: int, flags: list[str]) -> list[list[float]]:
    """The seconds of each way, a number a round.

    Args:
      contenders: the ways.
      rounds: how many turns every way has.
      flags: for each command, such as --config.train.steps=100.

    Raises:
      subprocess.CalledProcessError: a command failed, after it told why.
    """
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for way, taken in zip(contenders, times, strict=True):
            temporary = tempfile.TemporaryDirectory()
            with temporary as folder, before_the_end(temporary.cleanup):
                taken.append(seconds(way.commands(folder), flags))
    return times


def seconds(commands: Commands, flags: list[str]) -> float:
    """The time of all commands, one after another.

    Raises:
      subprocess.CalledProcessError: as `in_turn`.
    """
    start = time.perf_counter()
    for command in commands:
        line = [sys.executable, *command, *flags]
        if status := call(line, stdout=subprocess.DEVNULL, env=os.environ | ANEW):
            raise subprocess.CalledProcessError(status, line)
    return time.perf_counter() - start


def table(contenders: Sequence[Way], times: list[list[float]]) -> list[str]:
    """The lines of a table in Markdown, a row a way.

    The ratio is of runs per hour to those of the first way, the median of those of the rounds.
    """
    lines = ["| way | runs | seconds | runs per hour | ratio |", "|---|---|---|---|---|"]
    base = [spent / contenders[0].runs for spent in times[0]]
    for way, taken in zip(contenders, times, strict=True):
        a_run = [spent / way.runs for spent in taken]
        ratio = statistics.median(a / b for a, b in zip(base, a_run, strict=True))
        took, count = statistics.median(taken), way.runs
        per_hour = 3600 * count / took
        lines.append(f"| {way.name} | {count} | {took:.1f} | {per_hour:.0f} | {ratio:.2f} |")
    return lines
