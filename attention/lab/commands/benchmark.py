"""What attention costs: score × size × implementation, beside the same thing by other means.

    python scripts/benchmark.py [--scores mlp,dot] [--sizes 8x256x256] [--output benchmark]

Prints a table a problem, with a row a contender. Two numbers are forward / forward+backward:
- ms: medians. All contenders do the same work in one process, strictly in turn.
- compile s, MB: of forward+backward; megabytes of temporary memory.
- error: of the context / of the worst gradient, against plain JAX in float64, relative to
  max(1, |reference|).
- vs X: 2 / 3 is twice as fast as X forward, three times forward+backward.
- % of a copy: the bytes that must be read and written, over time, against those of a copy.

Contenders are `attend` by each implementation and by its own pick, plain JAX as one writes it by
hand, and PyTorch (extra `bench`). Arrays are projected already. `linear` is measured with one
query (pooling) and with one query a key (causal). On a machine with other work, set
OMP_WAIT_POLICY=PASSIVE, or PyTorch's threads spin in vain. Writes table.md, table.json and, if
matplotlib is there (extra `bench`), cost.png: time against length, by the pick and by plain JAX.

    python scripts/benchmark.py --sweep

is another one: trained runs per hour, by processes and in one program; see runs_per_hour.py.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave PyTorch some memory

import jax
import jax.numpy as jnp
import numpy as np

from attention.lab.benchmarks import contenders as contending
from attention.lab.benchmarks import runs_per_hour
from attention.lab.benchmarks.contenders import (
    COPY,
    PARTS,
    PICKED,
    PLAIN,
    PROBLEMS,
    RIVALS,
    Program,
    Run,
)

SEED = 0
SWEEP = "--sweep"
REFERENCE_TERMS = 2**24  # in float64 at once
SHORTEST_TURN = 0.01  # seconds: shorter calls are repeated

SCORES = ("mlp", "dot", "own", "linear")
Size = tuple[int, int, int]  # batch, queries, keys
SIZES: dict[str, list[Size]] = {
    "mlp": [(8, 256, 256), (1, 1024, 1024)],
    "dot": [(8, 256, 256), (1, 1024, 1024)],
    "own": [(1, 512, 512), (1, 4096, 4096)],
    "linear": [(1, 1, 10**power) for power in (3, 4, 5, 6)],
}
GPU_SIZES: dict[str, list[Size]] = {"mlp": [(16, 1024, 1024), (1, 32768, 32768)]}

Row = dict[str, Any]
Truth = tuple[np.ndarray, list[np.ndarray]]  # the context, the gradients


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if SWEEP in argv:  # before JAX takes the accelerator from those who are to train
        runs_per_hour.main([flag for flag in argv if flag != SWEEP])
        return
    arguments = parse(argv)
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    measure = partial(rows_of, rounds=arguments.rounds, memory_gb=arguments.memory_gb)
    report: dict[str, Any] = {"setting": setting(arguments), "rows": [], "sweep": []}
    sections = [", ".join(f"{name} {value}" for name, value in report["setting"].items())]
    print(sections[0])
    for case in cases(arguments.scores, arguments.sizes):
        report["rows"] += (rows := measure(*case, torch=arguments.torch))
        sections.append(section(*case, rows))
        print("\n" + sections[-1])
    for case in cases(arguments.scores, [(1, n, n) for n in arguments.lengths]):
        report["sweep"] += measure(*case, torch=False, only=(PICKED, PLAIN))
    (output / "table.md").write_text("\n\n".join(["# What attention costs", *sections]) + "\n")
    (output / "table.json").write_text(json.dumps(report, indent=1) + "\n")
    if importlib.util.find_spec("matplotlib"):
        plot(report["sweep"], report["setting"]["device"], output / "cost.png")
    else:
        print("\ncost.png is not drawn: matplotlib is in the extra `bench`")


# What is asked for.


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    longest = 12 if jax.default_backend() == "gpu" else 10
    lengths = [2**power for power in range(6, longest + 1)]
    add = parser.add_argument
    add("--scores", type=listed(score), default=SCORES, help=f"some of {','.join(SCORES)}")
    add("--sizes", type=listed(size), help="BATCHxQUERIESxKEYS,…, in place of each score's own")
    add("--lengths", type=listed(positive), default=lengths, help="the points of the plot")
    add("--rounds", type=positive, default=9, help="times that each gets its turn")
    add("--memory-gb", type=gigabytes, default=4.0, help="what needs more is skipped")
    add("--no-torch", dest="torch", action="store_false", help="leave PyTorch out")
    add("--output", default="benchmark", help="a folder")
    arguments = parser.parse_args(argv)
    arguments.torch &= importlib.util.find_spec("torch") is not None
    return arguments


def listed(parse_one: Callable[[str], Any]) -> Callable[[str], list]:
    return lambda text: [parse_one(part) for part in text.split(",")]


def score(text: str) -> str:
    return text if text in SCORES else refuse(text, f"one of {', '.join(SCORES)}")


def size(text: str) -> Any:
    if re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", text, re.ASCII):
        return tuple(map(int, text.split("x")))
    return refuse(text, "batch x queries x keys, such as 8x256x256")


def positive(text: str) -> int:
    return int(text) if text.isdecimal() and int(text) else refuse(text, "a whole number from 1")


def gigabytes(text: str) -> float:
    if re.fullmatch(r"\d*\.?\d+", text, re.ASCII) and float(text):
        return float(text)
    return refuse(text, "a number above 0")


def refuse(text: str, choices: str) -> Any:
    raise argparse.ArgumentTypeError(f"{text!r} is not {choices}")


def cases(scores: Sequence[str], sizes: list[Size] | None) -> list[tuple[str, Size]]:
    """The problems: `linear` is two, and the query that it ignores is one, or one a key."""
    found = []
    for name in scores:
        more = GPU_SIZES.get(name, []) if jax.default_backend() == "gpu" else []
        for batch, queries, keys in sizes or [*SIZES[name], *more]:
            if name == "linear":
                found += [(name, (batch, 1, keys)), ("linear, causal", (batch, keys, keys))]
            else:
                found.append((name, (batch, queries, keys)))
    return sorted(found, key=lambda case: list(PROBLEMS).index(case[0]))


def setting(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "device": f"{jax.default_backend()}: {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "torch": version("torch") if arguments.torch else "left out",
        "seed": SEED,
        "rounds": arguments.rounds,
        "memory_gb": arguments.memory_gb,
    }


# Measuring.


def rows_of(
    name: str, size: Size, *, rounds: int, memory_gb: float, torch: bool, only: Sequence[str] = ()
) -> list[Row]:
    """A row a contender, of one problem."""
    arrays, cotangent = contending.draw(name, size, SEED)
    contenders = contending.programs(name, arrays, cotangent, memory_gb, torch, only)
    truth = reference(name, arrays, cotangent)
    problem = dict(zip(("score", "batch", "queries", "keys"), (name, *size), strict=True))
    rows = {
        contender: {**problem, "contender": contender, **check(contender, program, truth)}
        for contender, program in contenders.items()
    }
    del truth
    times = {part: in_turn(contenders, part, rounds) for part in PARTS}
    inputs, copied = sum(array.nbytes for array in arrays), 2 * arrays[-1].nbytes
    touched = {PARTS[0]: inputs + cotangent.nbytes, PARTS[1]: 2 * inputs + cotangent.nbytes}
    for contender, row in rows.items():
        for part in PARTS:
            if contender not in times[part]:
                continue
            row[f"{part} ms"] = statistics.median(times[part][contender]) * 1e3
            if contender != COPY:
                row[f"{part} vs"] = ratios = times_faster(contender, times[part])
                if COPY in ratios:
                    ratios[COPY] *= 100 * touched[part] / copied
    return list(rows.values())


def reference(name: str, arrays: list[jax.Array], cotangent: jax.Array) -> Truth:
    """Plain JAX in float64, some queries at a time: the first array has their axis."""
    with jax.enable_x64(True):
        queries, *rest, weights = (
            jnp.asarray(np.asarray(array, np.float64)) for array in (*arrays, cotangent)
        )
        size = queries.shape[1]
        if not name.startswith("linear"):
            terms = queries.shape[0] * rest[0].shape[1] * queries.shape[2]
            size = max(1, REFERENCE_TERMS // terms)
        run, contexts, gradients = contending.loss_and_gradient(PROBLEMS[name].plain), [], []
        for start in range(0, queries.shape[1], size):
            some = slice(start, start + size)
            block = [queries[:, some], *rest]
            contexts.append(PROBLEMS[name].plain(*block))
            gradients.append(run(block, weights[:, some])[1])
        first, *others = zip(*gradients, strict=True)
        summed = [np.sum(parts, axis=0) for parts in others]
        return np.concatenate(contexts, axis=1), [np.concatenate(first, axis=1), *summed]


def check(contender: str, program: Program, truth: Truth) -> Row:
    """The errors of a first call, which also warms up; what fails is noted and not timed."""
    row: Row = {"error": None, "gradient error": None}
    for part, run in list(program.runs.items()) if contender != COPY else ():
        start = time.perf_counter()
        try:
            result = run()
        except Exception as failure:  # of any kind: a compiler may raise what it likes
            del program.runs[part]
            program.note += f"{part} {contending.failed(failure)} "
            continue
        if part == PARTS[0]:
            row["error"] = error(result, truth[0])
        else:
            row["gradient error"] = max(map(error, result[1], truth[1]))
            if program.compiles_late:
                program.compile_seconds = time.perf_counter() - start
    megabytes = None if program.temporary_bytes is None else program.temporary_bytes / 1e6
    row |= {"compile s": program.compile_seconds, "temporary MB": megabytes}
    return row | {"note": program.note.strip()}


def error(result: Any, truth: np.ndarray) -> float:
    result = result.numpy(force=True) if hasattr(result, "numpy") else np.asarray(result)
    return float(np.max(np.abs(result - truth)) / max(1.0, np.max(np.abs(truth))))


def in_turn(contenders: dict[str, Program], part: str, rounds: int) -> dict[str, list[float]]:
    """Seconds a call in each round, strictly in turn, after one to warm up."""
    runs = {name: each.runs[part] for name, each in contenders.items() if part in each.runs}
    calls = {name: 1 + int(SHORTEST_TURN / seconds(run, 1)) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run, calls[name]))
    return times


def seconds(run: Run, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def times_faster(contender: str, times: dict[str, list[float]]) -> dict[str, float]:
    """Than each rival: the median of the ratios of each round."""
    own = times[contender]
    ratios = {rival: [a / b for a, b in zip(times[rival], own, strict=True)] for rival in times}
    return {rival: statistics.median(ratios[rival]) for rival in RIVALS if rival in times}


# Showing.


def section(name: str, size: Size, rows: list[Row]) -> str:
    """A heading and a table in Markdown, aligned for the terminal too."""
    rivals = [rival for rival in RIVALS if any(rival in row.get("forward vs", {}) for row in rows)]
    header = ["contender", "ms", "compile s", "MB", "error"]
    header += ["% of a copy" if rival == COPY else f"vs {rival}" for rival in rivals]
    lines = [[*header, "note"]]
    for row in rows:
        cells = [row["contender"], pair(number, *(row.get(f"{part} ms") for part in PARTS))]
        cells += [pair(number, row[key]) for key in ("compile s", "temporary MB")]
        cells.append(pair("{:.0e}".format, row["error"], row["gradient error"]))
        for rival in rivals:
            ratios = (row.get(f"{part} vs", {}).get(rival) for part in PARTS)
            cells.append(pair(number, *ratios))
        lines.append([*cells, row["note"]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    table = [
        " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
    heading = f"## {name}: batch {size[0]}, queries {size[1]}, keys {size[2]}"
    return "\n".join([heading, "", *(f"| {line} |" for line in table)])


def pair(show: Callable[[Any], str], *values: float | None) -> str:
    return " / ".join("—" if value is None else show(value) for value in values)


def number(value: float) -> str:
    """With three digits, or more where they are before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def plot(sweep: list[Row], device: str, path: Path) -> None:
    """A panel a score: time against length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["score"] for row in sweep))
    width, time_of = 3.2 * len(names) + 0.6, f"{PARTS[1]} ms"
    figure, panels = pyplot.subplots(
        1, len(names), figsize=(width, 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, name in zip(panels[0], names, strict=True):
        for contender, style in ((PLAIN, "o--"), (PICKED, "s-")):
            rows = [r for r in sweep if (r["score"], r["contender"]) == (name, contender)]
            lengths, times = [row["keys"] for row in rows], [row.get(time_of) for row in rows]
            label = "attention" if contender == PICKED else contender
            panel.loglog(lengths, np.array(times, float), style, label=label, markersize=4)
        panel.set_xscale("log", base=2)
        panel.set(title=name, xlabel="length (keys)")
        panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel("forward+backward (ms)")
    panels[0, 0].legend(frameon=False)
    figure.suptitle(f"What attention costs, batch 1, {device}", fontsize=10)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
