"""Train a grid of settings with several seeds each, and rank them.

    python scripts/sweep.py --config configs/copy.py --grid score=linear,mlp,bilinear \
        --grid optimizer.learning_rate=1e-3,3e-3 --seeds 8 --jobs 2

    python scripts/sweep.py --config configs/copy.py --space configs/sweeps/copy.py \
        --random 20 --seeds 2 --jobs 2

A trial is one combination with one seed. `score` is the argument of the config; other fields go
by their dotted path, as in `--config.optimizer.learning_rate`, and are checked as there. Trials
that differ only in seed, learning rate, clip norm or weight decay are trained together, by one
program in one process; of the others, `--jobs` processes run at once. The same command again skips
what is done, goes on with what is half done and tries again what failed; so does one that asks for
more in the same folder. Writes to the workdir results.csv, a row a trial, and with the extra
`bench` curves.png and fields.png, what each field does; prints the ranks: mean ± standard
deviation over seeds.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags
from rich.console import Console
from rich.live import Live
from rich.table import Table
from sweep_folder import Group, begin, check, left, make_group, result_of
from sweep_results import report
from sweep_space import draws, extremes, read_space
from sweep_trials import (
    Command,
    Trial,
    config_flags_of,
    in_groups,
    make_trials,
    read_grid,
    short_hash,
)

from attention.training import command
from attention.training.experiment import build, read_source
from attention.training.interruption import Interruption, noticed_interruptions
from attention.training.replicas import join
from attention.training.run import alone
from attention.training.settings import UsageError, read_config

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "config file, such as configs/copy.py", lock_config=True
)
GRID = flags.DEFINE_multi_string("grid", [], "field=value,value; once for each field")
RANDOM = flags.DEFINE_integer("random", None, "draws from --space, in the place of a grid", 1)
SPACE = flags.DEFINE_string("space", None, "file of a space, such as configs/sweeps/copy.py")
RANDOM_SEED = flags.DEFINE_integer("random_seed", 0, "of the draws")
SEEDS = flags.DEFINE_integer("seeds", 1, "of each combination, from config.seed on", 1)
JOBS = flags.DEFINE_integer("jobs", 1, "processes at once", 1)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "where to keep the sweep (default: runs/sweep-<config>-<hash>)"
)

LOOK_EVERY_SECONDS = 0.2
WIDTH = 120  # of tables that go to a file
CHILD = Path(__file__).with_name("sweep_group.py")


def main() -> int:
    base = read_config(CONFIG.value)
    trials = _trials(*config_flags_of(sys.argv[1:]))
    given = WORKDIR.value
    named_by = trials[:1] if RANDOM.value else trials  # so that more draws go on in the folder
    folder = Path(given or f"runs/sweep-{base.name}-{_hash_of(named_by)}")
    check(folder, trials)
    jax.config.update("jax_platforms", "cpu")  # the accelerator is for those who train
    for group in in_groups(trials):
        settings = join([trial.settings for trial in group])
        build(settings, read_source(settings))
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        begin(folder, trials)
        return _sweep(folder, trials, console)


def _trials(file: str, fields: list[str]) -> list[Trial]:
    if SPACE.value is None and RANDOM.value is None:
        return make_trials(Command(file, fields), read_grid(GRID.value), SEEDS.value)
    if SPACE.value is None or RANDOM.value is None:
        raise UsageError("--random and --space: one needs the other, a number of draws from a file")
    if GRID.value:
        raise UsageError(f"--grid={GRID.value[0]!r}: goes into --space as a list, with --random")
    random, space = Command(file, fields, "--random"), read_space(SPACE.value)
    asked = draws(space, RANDOM.value, RANDOM_SEED.value)
    for values in extremes(space, asked[0]):
        random.settings(values)  # what is out of range is told, whether drawn or not
    return make_trials(random, asked, SEEDS.value)


def _hash_of(trials: Sequence[Trial]) -> str:
    return short_hash([trial.settings.model_dump_json() for trial in trials])[:8]


def _sweep(folder: Path, trials: Sequence[Trial], console: Console) -> int:
    waiting = left(folder, trials)
    if not waiting:
        console.print(f"{folder}: finished already, nothing to do", soft_wrap=True)
    else:
        groups = [make_group(folder, together) for together in in_groups(waiting)]
        console.print(
            f"{len(waiting)} of {len(trials)} trials to train, as {len(groups)} groups,"
            f" {min(JOBS.value, len(groups))} at once; in {folder}",
            soft_wrap=True,
        )
        with noticed_interruptions() as interruption:
            _train(folder, groups, console, interruption)
        if interruption.signal:
            console.print(f"{interruption.name}: run the same command again to go on")
            return 128 + interruption.signal
    report(folder, trials, console)
    return 1 if left(folder, trials) else 0


@dataclass
class Job:
    """A group and the process that trains it."""

    group: Group
    trials: list[Trial]
    process: subprocess.Popen | None = None
    started: float = 0.0
    seconds: float = 0.0
    told: str = "waiting"
    stopped: bool = False

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
        return self.process is not None and self.process.returncode is None

    def start(self) -> None:
        of = self.group
        command_line = [sys.executable, "-u", str(CHILD), str(of.folder), of.id]
        with of.log.open("w") as log:
            self.process = subprocess.Popen(
                command_line,
                stdin=subprocess.PIPE,  # it ends when this closes
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for us to tell
            )
        self.started, self.told = time.perf_counter(), "starting"

    def stop(self) -> None:
        """Has it save and end: by one signal, since a second would end it at once."""
        if self.process is not None and not self.stopped:
            self.process.terminate()
            self.stopped = True

    def look(self) -> None:
        """Sees how far it is."""
        assert self.process is not None
        self.seconds = time.perf_counter() - self.started
        status = self.process.poll()
        if status is None:
            self.told = _last_step(self.group.log) or self.told
            return
        assert self.process.stdin is not None
        self.process.stdin.close()
        results = [result_of(self.group.folder, trial) for trial in self.trials]
        done = sum(result is not None and result["status"] == "done" for result in results)
        failed = sum(result is not None and result["status"] == "failed" for result in results)
        self.told = f"{done} done" + (f", {failed} failed" if failed else "")
        if done + failed < len(self.trials):
            ending = f"ended with status {status}, see {self.group.log}"
            self.told = "stopped" if self.stopped else f"{ending}: {_last_line(self.group.log)}"


def _train(
    folder: Path, groups: Sequence[Group], console: Console, interruption: Interruption
) -> None:
    """Trains groups, so many at once, to their end or to an interruption."""
    jobs = [Job(group, group.trials) for group in groups]
    waiting = list(jobs)
    try:
        with Board(console, jobs) as board:
            while any(job.is_running for job in jobs) or (waiting and not interruption.signal):
                running = [job for job in jobs if job.is_running]
                for job in running:
                    if interruption.signal:
                        job.stop()
                    job.look()
                while waiting and sum(job.is_running for job in jobs) < JOBS.value:
                    if interruption.signal:
                        break
                    waiting.pop(0).start()
                board.update()
                time.sleep(LOOK_EVERY_SECONDS)
    finally:
        for job in jobs:
            if job.is_running:
                job.process.kill()  # type: ignore[union-attr]


def _environment() -> dict[str, str]:
    """Of a process: wide tables, and where several share a device, none takes all its memory."""
    own = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if JOBS.value > 1 else {}
    return own | os.environ | {"COLUMNS": "200"}


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
            table.add_row(job.name, job.told, f"{job.seconds:.0f}" if job.started else "")
        return table


def _last_step(log: Path) -> str | None:
    """How far a run is, by the newest line that says so."""
    lines = log.read_text(errors="replace").splitlines()
    steps = [line for line in lines if line.startswith("step ") and "/" in line.split()[1]]
    return " ".join(steps[-1].split()[:2]) if steps else None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


if __name__ == "__main__":
    command.run(main)
