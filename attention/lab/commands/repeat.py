"""Train a config on several seeds, one fresh process each, and report mean ± standard deviation.

    python scripts/repeat.py --config configs/copy.py:mlp --seeds 100-107

What follows `--` goes to `train.py`: `-- --config.task.max_length=8`. Prints a row of a
Markdown table; seconds are those of the whole command, from start to exit. Every run is
kept, and a finished one is not run again but its time is not known then. Where the time of a
process does not matter, `train.py --config.num_seeds=8` trains as many seeds in one.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", required=True, help="as for train.py")
    parser.add_argument("--seeds", default="100-107", help="first and last seed")
    parser.add_argument("--workdir", default="runs/repeat", help="where to keep the runs")
    parser.add_argument("overrides", nargs="*", help="flags for train.py, after --")
    arguments = parser.parse_args()
    seeds = read_seeds(arguments.seeds)
    if not seeds:
        parser.exit(2, f"error: --seeds={arguments.seeds}: name the first and last, as 100-107\n")
    if any("num_seeds" in override for override in arguments.overrides):
        parser.exit(2, "error: num_seeds is for train.py alone: here a process trains one seed\n")
    runs = [
        train(arguments.config, arguments.overrides, seed, Path(arguments.workdir))
        for seed in seeds
    ]
    print("| config | length | exact match | worst seed | tokens | alignment | steps | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    name = " ".join([arguments.config, *arguments.overrides])
    for length in ["all", *runs[0]["by_length"]]:
        print(f"| {name} | {length} | {row(runs, length)} |")


def read_seeds(text: str) -> range:
    """The seeds of `100-107`, or of `100`; none of anything else."""
    first, dash, last = text.partition("-")
    ends = first, last if dash else first
    return range(int(ends[0]), int(ends[1]) + 1) if all(map(str.isdecimal, ends)) else range(0)


def train(config: str, overrides: list[str], seed: int, workdir: Path) -> dict:
    """The evaluation of one run, with its length in steps and seconds."""
    path = workdir / "-".join([Path(config).name, *(o.lstrip("-") for o in overrides), str(seed)])
    started = time.perf_counter()
    flags = ["--config", config, f"--config.seed={seed}", f"--workdir={path}", *overrides]
    finished = (path / "result.json").exists()
    subprocess.run([sys.executable, REPOSITORY / "train.py", *flags], check=True, stdout=sys.stderr)
    seconds = time.perf_counter() - started
    result = json.loads((path / "result.json").read_text())
    return {**result["test"], "step": result["step"], "seconds": None if finished else seconds}


def row(runs: list[dict], length: str) -> str:
    """Mean ± standard deviation over the runs, of sequences of one length."""
    metrics = [run["all"] if length == "all" else run["by_length"][length] for run in runs]
    exact = [metric["exact_match"] for metric in metrics]
    cells = [
        spread(exact, 4),
        "—" if None in exact else f"{min(exact):.4f}",
        spread([metric["token_accuracy"] for metric in metrics], 4),
        spread([metric["alignment_accuracy"] for metric in metrics], 4),
        spread([run["step"] for run in runs], 0),
        spread([run["seconds"] for run in runs], 1),
    ]
    return " | ".join(cells)


def spread(values: list, digits: int) -> str:
    """`mean ± sd`, the mean alone of a single or constant value, — where one is unknown."""
    if None in values:
        return "—"
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(set(values)) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
