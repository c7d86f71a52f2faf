"""Measuring: all contenders do the same work in one process, strictly in turn."""

import os
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import jax

from attention.lab.benchmarks import contenders as contending
from attention.lab.benchmarks.contenders import MEMORY_COPY, RIVALS
from attention.lab.benchmarks.errors import Truth, error, reference
from attention.lab.benchmarks.program import PARTS, Program, Run, failed
from attention.lab.benchmarks.sizes import Size

SEED = 0  # of the arrays
SHORTEST_TURN = 0.01  # seconds: a shorter call is repeated, for the clock's sake

Row = dict[str, Any]


def setting(*, rounds: int, memory_gb: float, torch: bool) -> dict[str, Any]:
    """What the numbers depend on beside the problems: the machine, the versions, what is asked."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "device": f"{jax.default_backend()}: {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "torch": version("torch") if torch else "left out",
        "seed": SEED,
        "rounds": rounds,
        "memory_gb": memory_gb,
    }


def rows_of(
    name: str, size: Size, *, rounds: int, memory_gb: float, torch: bool, only: Sequence[str] = ()
) -> list[Row]:
    """The measurements of a problem, a row a contender.

    Args:
      name: of the problem.
      size: of the problem.
      rounds: how many turns every contender has.
      memory_gb: what needs more temporary memory is skipped.
      torch: whether PyTorch is among the contenders.
      only: names of contenders in JAX; if there are any, the others are left out.
    """
    arrays, cotangent = contending.draw(name, size, SEED)
    given = contending.draw_given(name, size, SEED)
    contenders = contending.programs(name, arrays, cotangent, memory_gb, torch, only, given)
    truth = reference(name, arrays, cotangent, given)
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
            if contender != MEMORY_COPY:
                row[f"{part} vs"] = ratios = times_faster(contender, times[part])
                if MEMORY_COPY in ratios:  # from the time of a copy to per cent of its bytes a time
                    ratios[MEMORY_COPY] *= 100 * touched[part] / copied
    return list(rows.values())


def check(contender: str, program: Program, truth: Truth) -> Row:
    """The errors of the first call of each part, which also warms up.

    A part that fails is noted in the program, and is no longer among its runs.
    """
    row: Row = {"error": None, "gradient error": None}
    for part, run in list(program.runs.items()) if contender != MEMORY_COPY else ():
        start = time.perf_counter()
        try:
            result = run()
        except Exception as failure:  # of any kind: a compiler may raise what it likes
            del program.runs[part]
            program.note += f"{part} {failed(failure)} "
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


def in_turn(contenders: dict[str, Program], part: str, rounds: int) -> dict[str, list[float]]:
    """Seconds a call, by contender and round, of those contenders that can run the part.

    The contenders take turns, so that a machine that slows down slows all of them down. A call
    before the rounds warms up and tells how many calls make a turn.
    """
    runs = {
        name: program.runs[part] for name, program in contenders.items() if part in program.runs
    }
    calls = {name: 1 + int(SHORTEST_TURN / seconds(run, 1)) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run, calls[name]))
    return times


def seconds(run: Run, calls: int) -> float:
    """The mean time of a number of calls."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def times_faster(contender: str, times: dict[str, list[float]]) -> dict[str, float]:
    """How many times faster than each rival: the median over the rounds of a round's ratio."""
    taken = times[contender]
    ratios = {rival: [a / b for a, b in zip(times[rival], taken, strict=True)] for rival in times}
    return {rival: statistics.median(ratios[rival]) for rival in RIVALS if rival in times}
