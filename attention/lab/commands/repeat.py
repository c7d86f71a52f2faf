"""Train a config on several seeds, one fresh process each, and report mean ± standard deviation.

    python scripts/repeat.py --config configs/copy.py:mlp --seeds 100-107

Flags `--config.…`, such as `--config.task.max_length=8`, go to `train.py`; they may follow a `--`.
Prints a row for each length, to a file or a pipe as a Markdown table; the seconds are those of a
whole process, from start to exit. Every run is kept: where it is finished already, it is not run
again, and its seconds are unknown. Where the time of a process does not matter, `train.py
--config.num_seeds=8` trains as many seeds in one process.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from rich.console import Console

from attention.lab.analysis.mean_sd import mean_sd
from attention.lab.analysis.naming import ACCURACY, HEADINGS
from attention.lab.commands.command_line import run
from attention.lab.commands.config_flags import settings_of
from attention.lab.commands.places import folder_for
from attention.lab.errors import TrainingError, UsageError
from attention.lab.parallel.children import call
from attention.lab.parallel.interruption import Interruption, noticed_interruptions
from attention.lab.runs.tables import Column, print_table
from attention.lab.settings import task_of
from attention.lab.sweeps.trials import folder_name, short_hash

FLAGS = flags.FlagValues()
CONFIG = flags.DEFINE_string(
    "config", None, "config file, with a score: configs/copy.py:mlp", flag_values=FLAGS
)
SEEDS = flags.DEFINE_string("seeds", "100-107", "first and last seed", flag_values=FLAGS)
WORKDIR = flags.DEFINE_string("workdir", "runs/repeat", "where to keep the runs", flag_values=FLAGS)

EXACT = "exact match"
COLUMNS = (EXACT, "worst seed", "tokens", "alignment", "steps", "seconds")

LONGEST_NAME = 200  # bytes; a file system takes 255

Report = dict[str, Any]  # the test report of a run, its steps, and the seconds of its process


def main() -> NoReturn:
    """Runs the command."""
    run(_repeat, FLAGS, __doc__)


def _repeat(rest: list[str]) -> int:
    config_flags = [flag for flag in rest if flag != "--"]
    seeds = read_seeds(SEEDS.value)
    if any(flag.lstrip("-").partition("=")[0] == "config.seed" for flag in config_flags):
        raise UsageError("--config.seed: the seeds are those of --seeds")
    settings = settings_of(CONFIG.value, config_flags)
    if settings.num_replicas > 1:
        raise UsageError("num_seeds is for train.py alone: here a process trains one seed")
    assert CONFIG.value is not None  # settings_of refuses it
    workdir, reports = folder_for("--workdir", WORKDIR.value), []
    with noticed_interruptions() as interruption:
        for seed in seeds:
            report = _train(CONFIG.value, config_flags, seed, workdir, interruption)
            if report is None:
                return 128 + interruption.signal
            reports.append(report)
    name = " ".join([CONFIG.value, *config_flags])
    lengths = ["all", *reports[0]["by_length"]]
    rows = [cells(reports, length) for length in lengths]
    measured = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    if task_of(settings).classifier:
        del measured["tokens"]
        measured = {HEADINGS[ACCURACY] if c == EXACT else c: m for c, m in measured.items()}
    show(name, lengths, measured, Console())
    return 0


def show(
    name: str, lengths: Sequence[str], measured: Mapping[str, Sequence[str]], console: Console
) -> None:
    """Prints a row for each length: elsewhere than on a terminal, of a table in Markdown.

    Args:
      name: the config and the flags.
      lengths: of the rows.
      measured: the cells of each column, by its heading.
      console: where to print.
    """
    if console.is_terminal:
        columns = [Column(heading, column) for heading, column in measured.items()]
        print_table(console, name, [Column("length", lengths, "left")], columns)
        return
    print(f"| {' | '.join(['config', 'length', *measured])} |")
    print("|---" * (2 + len(measured)) + "|")
    for length, *row in zip(lengths, *measured.values(), strict=True):
        print(f"| {name} | {length} | {' | '.join(row)} |")


def read_seeds(text: str) -> range:
    """The seeds of `100-107`, or of `100`.

    Raises:
      UsageError: the text names no seeds.
    """
    first, dash, last = text.partition("-")
    ends = first, last if dash else first
    seeds = range(int(ends[0]), int(ends[1]) + 1) if all(map(str.isdecimal, ends)) else range(0)
    if not seeds:
        raise UsageError(f"--seeds={text}: name the first and last, as 100-107")
    return seeds


def _train(
    config: str,
    config_flags: Sequence[str],
    seed: int,
    workdir: Path,
    interruption: Interruption,
) -> Report | None:
    """Trains one seed in a process, unless that was done before, and reports on it.

    Returns:
      The report; None if a signal interrupted the training, which said so.

    Raises:
      TrainingError: the process failed, and has said why on standard error.
    """
    path = workdir / _folder_name(config, config_flags, seed)
    was_finished = (path / "result.json").exists()
    started = time.perf_counter()
    status = call(
        [
            *(sys.executable, "-m", "attention_lab", "train", "--config", config),
            *(*config_flags, f"--config.seed={seed}", f"--workdir={path}"),
        ],
        interruption,
        stdout=sys.stderr,  # our own output is the table alone
    )
    if interruption.signal:
        return None
    seconds = None if was_finished else time.perf_counter() - started
    if status:
        raise TrainingError(f"seed {seed}: the training ended with status {status}")
    result = json.loads((path / "result.json").read_text())
    return {**result["test"], "step": result["step"], "seconds": seconds}


def _folder_name(config: str, config_flags: Sequence[str], seed: int) -> str:
    """The config, its flags and the seed; cut, with a hash, where they are no name of a folder."""
    words = [Path(config).name, *(flag.lstrip("-") for flag in config_flags)]
    name = "-".join([*words, str(seed)])
    if "/" not in name and len(name.encode()) <= LONGEST_NAME:
        return name
    return f"{folder_name({'config': config}, short_hash(words))}-{seed}"


def cells(reports: Sequence[Report], length: str) -> list[str]:
    """Mean ± standard deviation over the runs, for sequences of one length.

    Args:
      reports: of the runs.
      length: a length that they report on, or `all` for mixed lengths.
    """
    metrics = [
        report["all"] if length == "all" else report["by_length"][length] for report in reports
    ]
    exact = [metric["exact_match"] for metric in metrics]
    return [
        _spread(exact, 4),
        "—" if None in exact else f"{min(exact):.4f}",
        _spread([metric["token_accuracy"] for metric in metrics], 4),
        _spread([metric["alignment_accuracy"] for metric in metrics], 4),
        _spread([report["step"] for report in reports], 0),
        _spread([report["seconds"] for report in reports], 1),
    ]


def _spread(values: list[Any], digits: int) -> str:
    """A dash if a single value is unknown: a mean of the others would not be what the row says."""
    return "—" if None in values else mean_sd(map(float, values)).written(digits)


if __name__ == "__main__":
    main()
