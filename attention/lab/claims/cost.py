"""What attention costs as length grows, for `claims.py`: measured once, kept in a file."""

import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

import jax
import numpy as np

from attention.lab.benchmarks import contenders as contending
from attention.lab.benchmarks.contenders import PARTS, PICKED, PLAIN
from attention.lab.commands import benchmark as benchmark
from attention.lab.runs.files import write_atomically
from attention.lab.runs.version import code_version

FORMS = {"KeyOnly": "linear, causal", "InnerProduct": "dot", "Additive": "mlp"}
LENGTHS = {False: (256, 512, 1024, 2048, 4096), True: (256, 512, 1024, 2048, 4096, 8192)}
ROUNDS = {False: 3, True: 7}
MEMORY_GB = 1.5

Cost = dict[str, Any]


def measured(file: Path, full: bool) -> list[Cost]:
    """A row a form, length and contender: seconds and bytes of forward and backward, and where."""
    if file.exists():
        return json.loads(file.read_text())
    where = {"measured": f"{machine()}; code {code_version()}"}  # the page may be made elsewhere
    rows = [row | where for name in FORMS for n in LENGTHS[full] for row in _measure(name, n, full)]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(rows, indent=1) + "\n")
    return rows


def machine() -> str:
    """What runs this, and with which JAX."""
    cores = f"{os.cpu_count()} CPU cores"
    return f"{platform.machine()}, {cores}, {jax.default_backend()}; jax {jax.__version__}"


def _measure(form: str, length: int, full: bool) -> list[Cost]:
    name = FORMS[form]
    arrays, cotangent = contending.draw(name, (1, length, length), benchmark.SEED)
    only = (PICKED, PLAIN)
    programs = contending.programs(name, arrays, cotangent, MEMORY_GB, False, only)
    for program in programs.values():
        for run in program.runs.values():
            run()  # the first call is not timed
    times = benchmark.in_turn(programs, PARTS[1], ROUNDS[full])
    return [
        {
            "form": form,
            "length": length,
            "by": contender,
            "seconds": statistics.median(times[contender]) if contender in times else None,
            "bytes": program.temporary_bytes,
        }
        for contender, program in programs.items()
    ]


def exponent(lengths: list[int], costs: list[float]) -> float:
    """The slope of cost over length where both are logarithms; NaN of fewer than two points."""
    if len(lengths) < 2:
        return float("nan")
    return float(np.polyfit(np.log(lengths), np.log(costs), 1)[0])


def exponents(rows: list[Cost], form: str, by: str, what: str) -> float:
    """Of the longer half of the lengths that were measured: short ones show what is fixed."""
    points = [
        (row["length"], row[what])
        for row in rows
        if (row["form"], row["by"]) == (form, by) and row[what]
    ]
    longer = points[len(points) // 2 :] if len(points) > 3 else points
    return exponent([n for n, _ in longer], [cost for _, cost in longer])
