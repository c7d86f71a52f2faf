"""What attention costs as length grows: measured once, kept in a file."""

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
from attention.lab.benchmarks.measuring import SEED, in_turn
from attention.lab.claims.results import UNKNOWN
from attention.lab.claims.size import Size
from attention.lab.runs.files import write_atomically
from attention.lab.runs.version import code_hash, code_version

FORMS = {"KeyOnly": "linear, causal", "InnerProduct": "dot", "Additive": "mlp"}
MEMORY_GB = 1.5

Cost = dict[str, Any]


def measured(file: Path, size: Size, *, refresh: bool = False) -> list[Cost]:
    """What the file says; it is written first where there is none.

    Args:
      file: where the measurements are kept.
      size: lengths and rounds.
      refresh: whether what other sources were measured by counts as none.

    Returns:
      For each form, length and contender: seconds and bytes of forward and backward, where they
      were measured, and the hash of the sources.
    """
    rows = kept(file)
    if rows is not None and not (refresh and {code_of(row) for row in rows} != {code_hash()}):
        return rows
    # The page may be made elsewhere, and by other sources.
    made_by = {"measured": f"{machine()}; code {code_version()}", "code_hash": code_hash()}
    lengths = size.cost_lengths
    rows = [row | made_by for form in FORMS for n in lengths for row in _measure(form, n, size)]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(rows, indent=1) + "\n")
    return rows


def kept(file: Path) -> list[Cost] | None:
    """What was measured before, None if nothing was."""
    return json.loads(file.read_text()) if file.exists() else None


def code_of(row: Cost) -> str:
    """The hash of the sources that were measured; `UNKNOWN` if the row says none."""
    return row.get("code_hash", UNKNOWN)


def machine() -> str:
    """What runs this, and with which JAX."""
    cores = f"{os.cpu_count()} CPU cores"
    return f"{platform.machine()}, {cores}, {jax.default_backend()}; jax {jax.__version__}"


def _measure(form: str, length: int, size: Size) -> list[Cost]:
    name = FORMS[form]
    arrays, cotangent = contending.draw(name, (1, length, length), SEED)
    only = (PICKED, PLAIN)
    programs = contending.programs(name, arrays, cotangent, MEMORY_GB, False, only)
    for program in programs.values():
        for run in program.runs.values():
            run()  # the first call is not timed
    times = in_turn(programs, PARTS[1], size.cost_rounds)
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
    """The exponent over the longer half of the measured lengths: short ones show what is fixed.

    Args:
      rows: all that was measured.
      form: of the score.
      by: the contender.
      what: `seconds` or `bytes`.
    """
    points = [
        (row["length"], float(row[what]))
        for row in rows
        if (row["form"], row["by"]) == (form, by) and row[what]
    ]
    longer = points[len(points) // 2 :] if len(points) > 3 else points
    return exponent([n for n, _ in longer], [cost for _, cost in longer])
