"""Showing what was measured: tables in Markdown, and a plot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from attention.lab.benchmarks.contenders import MEMORY_COPY, PICKED, PLAIN, RIVALS
from attention.lab.benchmarks.measuring import Row
from attention.lab.benchmarks.program import PARTS
from attention.lab.benchmarks.sizes import Size


def section(name: str, size: Size, rows: list[Row]) -> str:
    """A heading and a table in Markdown, aligned for the terminal too."""
    rivals = [rival for rival in RIVALS if any(rival in row.get("forward vs", {}) for row in rows)]
    header = ["contender", "ms", "compile s", "MB", "error"]
    header += ["% of a copy" if rival == MEMORY_COPY else f"vs {rival}" for rival in rivals]
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
