"""The figures of the page; matplotlib is in the extra `figures`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attention.lab.analysis.mean_sd import MeanSd

Points = Mapping[int, MeanSd]  # by length


def lines(
    path: Path,
    panels: Mapping[str, Mapping[str, Points]],
    *,
    x: str,
    y: str,
    log_y: bool = False,
) -> None:
    """Draws panels side by side, a line for each series over a logarithmic axis of lengths.

    Args:
      path: of the PNG file.
      panels: series of points by the title of the panel and the label of the series.
      x: what the horizontal axis shows.
      y: what the vertical axis shows.
      log_y: whether the vertical axis is logarithmic; else it is for shares, 0 to 1.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        1,
        len(panels),
        figsize=(4.2 * len(panels) + 0.6, 3.8),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    markers = "osv^D*PXhd"
    for axis, (title, series) in zip(axes[0], panels.items(), strict=True):
        for number, (label, points) in enumerate(series.items()):
            axis.errorbar(
                list(points),
                [point.mean for point in points.values()],
                [point.sd for point in points.values()],
                fmt=f"{markers[number % len(markers)]}-",
                label=label,
                markersize=4,
                capsize=2,
                lw=1.2,
            )
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
        if log_y:
            axis.set_yscale("log")
        else:
            axis.set_ylim(-0.03, 1.03)
        axis.set(title=title, xlabel=x)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=7)
    axes[0, 0].set_ylabel(y)
    _save(figure, path)


def heat_map(
    path: Path, rows: Sequence[str], columns: Sequence[str], values: Any, *, title: str
) -> None:
    """Draws a square for each value between 0 and 1, the value in it; empty where it is NaN."""
    pyplot = _pyplot()
    size = (0.9 * len(columns) + 1.8, 0.5 * len(rows) + 1.2)
    figure, axis = pyplot.subplots(figsize=size, layout="constrained")
    image = axis.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(columns)), columns, fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            colour = "black" if value > 0.6 else "white"
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axis.set_title(title, fontsize=9)
    figure.colorbar(image)
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    """Saves under another name first: a kill leaves the old figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.new{path.suffix}")
    figure.savefig(temporary, dpi=90)
    temporary.replace(path)
    _pyplot().close(figure)
