"""What attention costs: score × size × implementation, beside other means to the same end.

    python scripts/benchmark.py [--scores mlp,dot] [--sizes 8x256x256] [--output benchmark]

Prints a table a problem, with a row a contender. Two numbers are forward / forward+backward:
- ms: medians. All contenders do the same work in one process, strictly in turn.
- compile s, MB: of forward+backward; megabytes of temporary memory.
- error: of the context / of the worst gradient, against plain JAX in float64, relative to
  max(1, |reference|).
- vs X: 2 / 3 is twice as fast as X forward, three times forward+backward.
- % of a copy: the bytes that must be read and written, over time, against those of a copy.

Contenders are `attend` by every implementation and by its pick, plain JAX as a person writes it,
and PyTorch (extra `bench`). Arrays are projected already. `linear` is measured with one
query (pooling) and with one query a key (causal). `dot_…` and `mlp_…` have a bias array, an array
mask, dropout of the weights or the like, without PyTorch beside them. On a machine with other work,
set OMP_WAIT_POLICY=PASSIVE, or PyTorch's threads spin in vain. Writes table.md, table.json and, if
matplotlib is there (extra `figures`), cost.png: time against length, by the pick and by plain JAX.

    python scripts/benchmark.py --sweep
    python scripts/benchmark.py --training
    python scripts/benchmark.py --decoding

are three more benchmarks, of trained runs per hour, of the time of an update in training, and of
the time of a step with a cache; add `--help` to read about each.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from absl import flags
from rich.console import Console

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave PyTorch some memory

from attention.lab.benchmarks import decoding, runs_per_hour, training
from attention.lab.benchmarks.contenders import PICKED, PLAIN
from attention.lab.benchmarks.measuring import rows_of, setting
from attention.lab.benchmarks.showing import plot, print_section, section
from attention.lab.benchmarks.sizes import SCORES, USUAL, Size, cases, lengths
from attention.lab.commands import packages
from attention.lab.commands.command_line import refuse, run
from attention.lab.commands.flag_readers import Reader, above_zero, is_not, listed, positive
from attention.lab.commands.places import folder_for
from attention.lab.errors import UsageError

OF_SWEEP_ABOUT = f"""usage: python scripts/benchmark.py --sweep [--runs 4] [--jobs 2] [--together 4]

{runs_per_hour.__doc__}"""
OF_TRAINING_ABOUT = f"""usage: python scripts/benchmark.py --training [--rounds 9] [--updates 100]

{training.__doc__}"""
OF_DECODING_ABOUT = f"""usage: python scripts/benchmark.py --decoding [--rounds 9] [--keys 4096]

{decoding.__doc__}"""


def score(text: str) -> str:
    """Reads the name of a score."""
    return text if text in SCORES else is_not(text, f"one of {', '.join(SCORES)}")


def size(text: str) -> Size:
    """Reads a size, such as 8x256x256."""
    if re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", text, re.ASCII):
        batch, queries, keys = map(int, text.split("x"))
        return batch, queries, keys
    return is_not(text, "batch x queries x keys, such as 8x256x256")


# A benchmark of the four has its flags, and refuses those of the others.

COST, OF_SWEEP, OF_TRAINING, OF_DECODING = (flags.FlagValues() for _ in range(4))


def _define(
    of: flags.FlagValues, name: str, read: Callable[[str], Any], default: str | None, about: str
) -> flags.FlagHolder:
    return flags.DEFINE(Reader(read), name, default, about, flag_values=of, module_name=__name__)


SCORES_ASKED = _define(
    COST, "scores", listed(score), None, f"some of {','.join(SCORES)} (default: {','.join(USUAL)})"
)
SIZES = _define(
    COST, "sizes", listed(size), None, "BATCHxQUERIESxKEYS,… (default: some that suit the score)"
)
LENGTHS = _define(
    COST,
    "lengths",
    listed(positive),
    None,
    "the points of the plot (default: 64 to 1024, on a GPU to 4096, by powers of two)",
)
COST_ROUNDS = _define(COST, "rounds", positive, "9", "times that each contender gets its turn")
MEMORY_GB = _define(COST, "memory_gb", above_zero, "4.0", "what needs more memory is skipped")
flags.DEFINE_alias("memory-gb", "memory_gb", flag_values=COST)
TORCH = flags.DEFINE_boolean(
    "torch", True, "PyTorch among the contenders, if it is installed", flag_values=COST
)
NO_TORCH = flags.DEFINE_boolean("no-torch", False, "as --notorch", flag_values=COST)
OUTPUT = flags.DEFINE_string("output", "benchmark", "a folder", flag_values=COST)

flags.DEFINE_boolean("sweep", True, "trained runs per hour", flag_values=OF_SWEEP)
RUNS = _define(OF_SWEEP, "runs", positive, "4", "one after another, and by jobs")
JOBS = _define(OF_SWEEP, "jobs", positive, None, "processes at once (default: the cores)")
TOGETHER = _define(OF_SWEEP, "together", positive, None, "of one program (default: as --runs)")
SWEEP_ROUNDS = _define(OF_SWEEP, "rounds", positive, "3", "times that each way gets its turn")

flags.DEFINE_boolean("training", True, "the time of an update", flag_values=OF_TRAINING)
TRAINING_ROUNDS = _define(OF_TRAINING, "rounds", positive, "9", "times that each gets its turn")
UPDATES = _define(OF_TRAINING, "updates", positive, "100", "updates in a turn")

flags.DEFINE_boolean("decoding", True, "the time of a step", flag_values=OF_DECODING)
DECODING_ROUNDS = _define(OF_DECODING, "rounds", positive, "9", "times that each gets its turn")
STEPS = _define(OF_DECODING, "steps", positive, "20", "steps in a turn, at most as many as keys")
KEYS = _define(OF_DECODING, "keys", positive, "4096", "keys that the cache has room for")


def main() -> NoReturn:
    """Runs the benchmark that the command line asks for."""
    if "--sweep" in sys.argv:
        run(_runs_per_hour, OF_SWEEP, OF_SWEEP_ABOUT)
    if "--training" in sys.argv:
        run(_training, OF_TRAINING, OF_TRAINING_ABOUT)
    if "--decoding" in sys.argv:
        run(_decoding, OF_DECODING, OF_DECODING_ABOUT)
    run(_cost, COST, __doc__)


def _cost(rest: list[str]) -> int:
    refuse(rest)
    torch = TORCH.value and not NO_TORCH.value and packages.is_installed("torch")
    asked = {"rounds": COST_ROUNDS.value, "memory_gb": MEMORY_GB.value}
    scores, measure = SCORES_ASKED.value or USUAL, partial(rows_of, **asked)
    output = folder_for("--output", OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"setting": setting(**asked, torch=torch), "rows": [], "sweep": []}
    sections = [", ".join(f"{name} {value}" for name, value in report["setting"].items())]
    print(sections[0])
    for case in cases(scores, SIZES.value):
        report["rows"] += (rows := measure(*case, torch=torch))
        sections.append(section(*case, rows))
        if sys.stdout.isatty():
            print()
            print_section(*case, rows, Console())
        else:
            print("\n" + sections[-1], flush=True)
    for case in cases(scores, [(1, length, length) for length in LENGTHS.value or lengths()]):
        report["sweep"] += measure(*case, torch=False, only=(PICKED, PLAIN))
    (output / "table.md").write_text("\n\n".join(["# What attention costs", *sections]) + "\n")
    (output / "table.json").write_text(json.dumps(report, indent=1) + "\n")
    if packages.is_installed("matplotlib"):
        plot(report["sweep"], report["setting"]["device"], output / "cost.png")
    else:
        print("\ncost.png is not drawn: matplotlib is in the extra `figures`")
    return 0


def _runs_per_hour(rest: list[str]) -> int:
    """Uses no device of JAX, for an accelerator that is taken is not there for those who train."""
    if refused := [flag for flag in rest if not flag.startswith("--config.")]:
        raise UsageError(f"{refused[0]!r} is neither one of these flags nor --config.…=…")
    cores = len(os.sched_getaffinity(0))
    ways = runs_per_hour.ways(RUNS.value, JOBS.value or cores, TOGETHER.value or RUNS.value)
    try:
        times = runs_per_hour.in_turn(ways, SWEEP_ROUNDS.value, rest)
    except subprocess.CalledProcessError as failure:
        return failure.returncode  # what a command told, it told
    load = f"load at the end {os.getloadavg()[0]:.1f}"
    print(f"{cores} CPU cores, {load}, {SWEEP_ROUNDS.value} rounds\n")
    print("\n".join(runs_per_hour.table(ways, times)))
    return 0


def _training(rest: list[str]) -> int:
    refuse(rest)
    packages.require("torch", "bench")
    for line in training.report(TRAINING_ROUNDS.value, UPDATES.value):
        print(line, flush=True)
    return 0


def _decoding(rest: list[str]) -> int:
    refuse(rest)
    if STEPS.value > KEYS.value:
        raise UsageError(f"--steps={STEPS.value} must be at most --keys={KEYS.value}")
    for line in decoding.report(DECODING_ROUNDS.value, STEPS.value, KEYS.value):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    main()
