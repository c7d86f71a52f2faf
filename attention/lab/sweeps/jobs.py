"""Training the groups of a sweep by an engine, and showing how far they are."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from attention.lab.parallel.interruption import Interruption, before_the_end
from attention.lab.runs.log import last_step
from attention.lab.sweeps.folder import Group, result_of
from attention.lab.sweeps.trials import Trial

LOOK_EVERY_SECONDS = 0.2
STATE = 20  # characters, for which a table has room: of `step 100000/100000`


@runtime_checkable
class Training(Protocol):
    """The training of a group that an engine has taken."""

    def ending(self) -> str | None:
        """Says in words how the training ended, as `status 0`; None as long as it goes on."""

    def stop(self) -> None:
        """Asks the training to save its state and end; to be called once."""


@runtime_checkable
class Engine(AbstractContextManager, Protocol):
    """Trains groups while it is open as a context; when it closes, it kills what still trains.

    Attributes:
      at_once: the largest number of groups that it takes at a time.

    Raises:
      UsageError: when it opens: it cannot be reached, or lacks the resources asked of it.
    """

    at_once: int

    def promise(self, groups: int) -> str:
        """Says in words how it will train this many groups."""

    def start(self, group: Group) -> Training:
        """Takes a group, to train it at once or as soon as there is room for it."""


@dataclass
class Job:
    """A group, and how far its training is.

    Attributes:
      group: the group.
      trials: the trials of the group.
      training: None until an engine has taken the group.
      began: the time when the process of the training was first seen; 0 before.
      seconds: from then until it was looked at last.
      state: how far the training is, in words.
      ended: whether the training has ended, in whatever way.
      stopped: whether it was asked to stop.
    """

    group: Group
    trials: list[Trial] = field(init=False)
    training: Training | None = None
    began: float = 0.0
    seconds: float = 0.0
    state: str = "waiting"
    ended: bool = False
    stopped: bool = False

    def __post_init__(self):
        self.trials = self.group.trials

    @property
    def name(self) -> str:
        """The overrides that all trials of the group have in common, and how many these are."""
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
        """Gives the group to an engine."""
        self.group.log.unlink(missing_ok=True)
        self.training = engine.start(self.group)

    def stop(self) -> None:
        """Asks the training to save its state and end, the first time that this is called."""
        if self.training is not None and not self.stopped:
            self.stopped = True
            self.training.stop()

    def look(self) -> None:
        """Brings the state and the seconds up to date."""
        assert self.training is not None
        ending = self.training.ending()
        if not self.began and self.group.log.exists():
            self.began = time.perf_counter()
        if self.began:
            self.seconds = time.perf_counter() - self.began
        self.ended = ending is not None
        self.state = self._progress() if ending is None else self._outcome(ending)

    def _progress(self) -> str:
        if not self.group.log.exists():
            return "waiting"
        step = last_step(self.group.run.path)
        return "starting" if step is None else f"step {step}/{self.trials[0].settings.train.steps}"

    def _outcome(self, ending: str) -> str:
        """What the training has left, or why it left nothing."""
        results = [result_of(self.group.folder, trial) for trial in self.trials]
        done = sum(result is not None and result["status"] == "done" for result in results)
        failed = sum(result is not None and result["status"] == "failed" for result in results)
        if done + failed == len(self.trials):
            return f"{done} done" + (f", {failed} failed" if failed else "")
        if self.stopped:
            return "stopped"
        return f"ended with {ending}, see {self.group.log}: {_last_line(self.group.log)}"


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
    """Shows the jobs: a live table on a terminal; elsewhere a line for each change of state."""

    def __init__(self, console: Console, jobs: Sequence[Job]):
        self._console, self._jobs = console, jobs
        self._shown: dict[str, str] = {job.group.id: "waiting" for job in jobs}
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=4)
        self._open = ExitStack()

    def __enter__(self) -> "Board":
        if self._console.is_terminal:
            self._live.start()
            self._open.enter_context(before_the_end(self._hide))
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()
        if self._console.is_terminal:
            self._live.stop()

    def _hide(self) -> None:
        self._live.transient = True
        self._live.stop()

    def update(self) -> None:
        """Prints the jobs whose state has changed; the live table does so by itself."""
        if self._console.is_terminal:
            return
        for job in self._jobs:
            if self._shown[job.group.id] != job.state:
                self._shown[job.group.id] = job.state
                self._console.print(
                    f"{job.seconds:5.0f} s  {job.name}: {job.state}",
                    soft_wrap=True,
                    highlight=False,
                )

    def _table(self) -> Table:
        table = Table(
            Column("group", overflow="fold"),
            Column("state", overflow="fold", min_width=STATE),
            Column("seconds", justify="right", no_wrap=True),
        )
        for job in self._jobs:
            seconds = f"{job.seconds:.0f}" if job.began else ""
            table.add_row(Text(job.name), Text(job.state), seconds)
        return table


def _last_line(log: Path) -> str:
    """The last line that a process printed before it died: most likely why."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing")
