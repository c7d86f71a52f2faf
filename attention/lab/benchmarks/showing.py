"""Showing what was measured: tables in Markdown, and a plot."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from attention.lab.benchmarks.contenders import MEMORY_COPY, PICKED, PLAIN, RIVALS
from attention.lab.benchmarks.measuring import Row
from attention.lab.benchmarks.program import PARTS
from attention.lab.benchmarks.sizes import Size
from attention.lab.runs.tables import Column, print_table


def section(name: str, size: Size, rows: list[Row]) -> str:
    """A heading and a table in Markdown, aligned for the terminal too."""
    lines = [list(line) for line in zip(*_columns(rows), strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    table = [
        " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
    return "\n".join([f"## {_heading(name, size)}", "", *(f"| {line} |" for line in table)])


def print_section(name: str, size: Size, rows: list[Row], console: Console) -> None:
    """Prints the same table, in a form that fits the console."""
    contenders, *measured, notes = (Column(each[0], each[1:]) for each in _columns(rows))
    keys = [replace(contenders, justify="left")]
    print_table(console, _heading(name, size), keys, measured)
    for contender, note in zip(contenders.cells, notes.cells, strict=True):
        if note:
            console.print(f"{contender}: {note}", soft_wrap=True, highlight=False, markup=False)


def _heading(name: str, size: Size) -> str:
    return f"{name}: batch {size[0]}, queries {size[1]}, keys {size[2]}"


def _columns(rows: list[Row]) -> Iterator[list[str]]:
    """The cells of each column, below its heading."""
    yield ["contender", *(row["contender"] for row in rows)]
    yield ["ms", *(pair(number, *(row.get(f"{part} ms") for part in PARTS)) for row in rows)]
    for heading, key in (("compile s", "compile s"), ("MB", "temporary MB")):
        yield [heading, *(pair(number, row[key]) for row in rows)]
    errors = [(row["error"], row["gradient error"]) for row in rows]
    yield ["error", *(pair("{:.0e}".format, *both) for both in errors)]
    for rival in RIVALS:
        if any(rival in row.get("forward vs", {}) for row in rows):
            heading = "% of a copy" if rival == MEMORY_COPY else f"vs {rival}"
            ratios = [[row.get(f"{part} vs", {}).get(rival) for part in PARTS] for row in rows]
            yield [heading, *(pair(number, *both) for both in ratios)]
    yield ["note", *(row["note"] for row in rows)]


def pair(show: Callable[[Any], str], *values: float | None) -> str:
    """Values beside each other, with a dash in the place of None."""
    return " / ".join("—" if value is None else show(value) for value in values)


def number(value: float) -> str:
    """A number with three digits, or with more where they are before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def plot(sweep: list[Row], device: str, path: Path) -> None:
    """Draws time against length, a panel a problem (extra `bench`).

    Args:
      sweep: the rows of `PICKED` and `PLAIN`, at several lengths.
      device: what they were measured on.
      path: the file to write.
    """
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
