"""Trained runs per hour, by three ways to train several.

    python scripts/benchmark.py --sweep [--runs 4] [--jobs 2] [--together 4] [--rounds 3]

- one after another: a process of `train.py` a run;
- jobs: `sweep.py`, each run a process of its own, `--jobs` at once;
- together: `sweep.py`, all runs seeds of one program.

Each way is timed from start to exit, with compilation, evaluation and what is written; the ways
take turns, and figures are medians over the rounds. Of the default copy experiment; other flags go
to the commands, such as --config.train.steps=100.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPTS = Path(__file__).parent
REPOSITORY = SCRIPTS.parent
CONFIG = f"--config={REPOSITORY / 'configs' / 'copy.py'}"

Commands = list[list[str]]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    cores = len(os.sched_getaffinity(0))
    add = parser.add_argument
    add("--runs", type=positive, default=4, help="one after another, and by jobs")
    add("--jobs", type=positive, default=cores, help="processes at once (default: cores)")
    add("--together", type=positive, help="runs of the one program (default: as --runs)")
    add("--rounds", type=positive, default=3, help="times that each way gets its turn")
    given, others = parser.parse_known_args(argv)
    if refused := [flag for flag in others if not flag.startswith("--config.")]:
        parser.error(f"{refused[0]!r} is neither one of these flags nor --config.…=…")
    runs = {"one after another": given.runs, f"{given.jobs} jobs": given.runs}
    runs["together"] = given.together or given.runs
    times: dict[str, list[float]] = {way: [] for way in runs}
    for _ in range(given.rounds):
        for number, way in enumerate(runs):
            with tempfile.TemporaryDirectory() as folder:
                times[way].append(seconds(commands(number, runs[way], given.jobs, folder), others))
    print(f"{cores} CPU cores, load at the end {os.getloadavg()[0]:.1f}, {given.rounds} rounds\n")
    print("\n".join(table(runs, times)))


def positive(text: str) -> int:
    if text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")


def commands(way: int, runs: int, jobs: int, folder: str) -> Commands:
    """What trains so many runs by a way, of the three in their order."""
    train, sweep = str(REPOSITORY / "train.py"), str(SCRIPTS / "sweep.py")
    if way == 0:
        return [
            [train, CONFIG, f"--config.seed={seed}", f"--workdir={folder}/{seed}"]
            for seed in range(runs)
        ]
    asked = [f"--seeds={runs}", *(["--together=1", f"--jobs={jobs}"] if way == 1 else [])]
    return [[sweep, CONFIG, *asked, f"--workdir={folder}/sweep"]]


def seconds(what: Commands, others: list[str]) -> float:
    """Of all commands, one after another."""
    start = time.perf_counter()
    for command in what:
        done = subprocess.run([sys.executable, *command, *others], stdout=subprocess.DEVNULL)
        if done.returncode:  # it has told why
            sys.exit(done.returncode)
    return time.perf_counter() - start


def table(runs: dict[str, int], times: dict[str, list[float]]) -> list[str]:
    """A Markdown row a way; the ratio is to the first, the median of those of the rounds."""
    lines = ["| way | runs | seconds | runs per hour | ratio |", "|---|---|---|---|---|"]
    first, *_ = runs
    for way, count in runs.items():
        each = [spent / count for spent in times[way]]
        base = [spent / runs[first] for spent in times[first]]
        ratio = statistics.median(a / b for a, b in zip(base, each, strict=True))
        took = statistics.median(times[way])
        lines.append(f"| {way} | {count} | {took:.1f} | {3600 * count / took:.0f} | {ratio:.2f} |")
    return lines


if __name__ == "__main__":
    main()
