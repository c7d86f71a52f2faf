"""Training the groups of a sweep by an engine, and showing how far they are."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from attention.lab.parallel.interruption import Interruption
from attention.lab.sweeps.folder import Group, result_of
from attention.lab.sweeps.trials import Trial

LOOK_EVERY_SECONDS = 0.2


class Training(Protocol):
    """A group that was given to an engine."""

    def ending(self) -> str | None:
        """How it ended, in words, or None while it has not."""

    def stop(self) -> None:
        """Has it save and end; called once."""


class Engine(AbstractContextManager, Protocol):
    """What trains groups while it is open. At the end what is left of them ends at once.

    Attributes:
      at_once: the most groups that it takes at a time.

    Raises:
      UsageError: when it opens, if it is not there, or has not what it is asked for.
    """

    at_once: int

    def promise(self, groups: int) -> str:
        """How it will train so many groups, in words."""

    def start(self, group: Group) -> Training:
        """Takes a group, to train it now or when there is room."""


@dataclass
class Job:
    """A group and its training."""

    group: Group
    trials: list[Trial] = field(init=False)
    training: Training | None = None
    began: float = 0.0
    seconds: float = 0.0
    told: str = "waiting"
    ended: bool = False
    stopped: bool = False

    def __post_init__(self):
        self.trials = self.group.trials

    @property
    def name(self) -> str:
        """What its trials have in common."""
        first = self.trials[0].overrides
        common = [
            f"{field}={value}"
            for field, value in first.items()
            if all(trial.overrides[field] == value for trial in self.trials)
        ]
        return " ".join([*common, f"({len(self.trials)} trials)"])

    @property
    def is_running(self) -> bool:
        return self.training is not None and not self.ended

    def start(self, engine: Engine) -> None:
        self.group.log.unlink(missing_ok=True)
        self.training = engine.start(self.group)

    def stop(self) -> None:
        """Has it save and end, once."""
        if self.training is not None and not self.stopped:
            self.stopped = True
            self.training.stop()

    def look(self) -> None:
        """Sees how far it is."""
        assert self.training is not None
        ending = self.training.ending()
        if not self.began and self.group.log.exists():
            self.began = time.perf_counter()
        if self.began:
            self.seconds = time.perf_counter() - self.began
        if ending is None:
            self.told = _progress(self.group.log)
            return
        self.ended = True
        results = [result_of(self.group.folder, trial) for trial in self.trials]
        done = sum(result is not None and result["status"] == "done" for result in results)
        failed = sum(result is not None and result["status"] == "failed" for result in results)
        self.told = f"{done} done" + (f", {failed} failed" if failed else "")
        if done + failed < len(self.trials):
            ending = f"ended with {ending}, see {self.group.log}"
            self.told = "stopped" if self.stopped else f"{ending}: {_last_line(self.group.log)}"


def train_all(
    groups: Sequence[Group], engine: Engine, console: Console, interruption: Interruption
) -> None:
    """Trains groups to their end, or to an interruption."""
    jobs = [Job(group) for group in groups]
    waiting = list(jobs)
    with Board(console, jobs) as board:
        while any(job.is_running for job in jobs) or (waiting and not interruption.signal):
            for job in jobs:
                if job.is_running and interruption.signal:
                    job.stop()
                if job.is_running:
                    job.look()
            while waiting and sum(job.is_running for job in jobs) < engine.at_once:
                if interruption.signal:
                    break
                waiting.pop(0).start(engine)
            board.update()
            time.sleep(LOOK_EVERY_SECONDS)


class Board:
    """Shows the jobs: a live table on a terminal, a line a change elsewhere."""

    def __init__(self, console: Console, jobs: Sequence[Job]):
        self._console, self._jobs = console, jobs
        self._shown: dict[str, str] = {job.group.id: "waiting" for job in jobs}
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=4)

    def __enter__(self) -> "Board":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def update(self) -> None:
        """Tells what is new."""
        if self._console.is_terminal:
            return
        for job in self._jobs:
            if self._shown[job.group.id] != job.told:
                self._shown[job.group.id] = job.told
                self._console.print(
                    f"{job.seconds:5.0f} s  {job.name}: {job.told}", soft_wrap=True, highlight=False
                )

    def _table(self) -> Table:
        table = Table("group", "state", "seconds")
        for job in self._jobs:
            table.add_row(job.name, job.told, f"{job.seconds:.0f}" if job.began else "")
        return table


def _progress(log: Path) -> str:
    """How far a run is, by the newest line that says so."""
    if not log.exists():
        return "waiting"
    lines = log.read_text(errors="replace").splitlines()
    steps = [line for line in lines if line.startswith("step ") and "/" in line.split()[1]]
    return " ".join(steps[-1].split()[:2]) if steps else "starting"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing")
