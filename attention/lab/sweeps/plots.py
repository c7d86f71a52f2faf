"""Pictures of a sweep (extra `bench`): learning curves, and what each field does."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attention.lab.analysis.mean_sd import mean_sd

MARKERS = ("o-", "s--", "^:", "D-.")
MOST_NAMES = 12  # in a legend
LOGARITHMIC_FROM = 20  # the ratio of largest to smallest value from which an axis is logarithmic

Curves = dict[str, dict[int, list[float]]]  # by configuration and step, a value for each seed
Outcome = tuple[dict[str, Any], float | None]  # the overrides of a configuration, exact match


def plot_curves(curves: Curves, path: Path, accuracy: str) -> None:
    """Draws mean and standard deviation over seeds of the accuracy against the step."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    colors = pyplot.get_cmap("turbo")
    for number, (name, values) in enumerate(curves.items()):
        if not values:
            continue
        steps = sorted(values)
        spreads = [mean_sd(values[step]) for step in steps]
        means = [spread.mean for spread in spreads]
        color = colors((number + 0.5) / len(curves))
        # A curve shows through another that lies on top of it.
        axes.plot(steps, means, MARKERS[number % len(MARKERS)], label=name, color=color, alpha=0.8)
        low = [spread.mean - spread.sd for spread in spreads]
        high = [spread.mean + spread.sd for spread in spreads]
        axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set(xlabel="step", ylabel=f"validation {accuracy}", ylim=(-0.03, 1.03))
    axes.set_xlim(left=0)
    are_named = len(curves) <= MOST_NAMES
    others = "" if are_named else f"; {len(curves)} configurations, see results.csv"
    axes.set_title(f"mean ± sd over seeds{others}", fontsize=10)
    axes.grid(alpha=0.3)
    if any(curves.values()) and are_named:
        figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def plot_fields(outcomes: Sequence[Outcome], path: Path, accuracy: str) -> None:
    """Draws parallel coordinates: a line for each configuration, from its values to its result."""
    fields = [n for n in outcomes[0][0] if len({str(values[n]) for values, _ in outcomes}) > 1]
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(2.2 * len(fields) + 2.5, 4), layout="constrained")
    heights_of_fields = []
    for number, name in enumerate(fields):
        column = [values[name] for values, _ in outcomes]
        heights_of_fields.append(coordinates(column))
        axes.axvline(number, color="0.6", linewidth=0.8)
        for label, height in _labels(column, heights_of_fields[-1]):
            box = {"boxstyle": "square,pad=0.2", "facecolor": "white", "edgecolor": "none"}
            axes.text(number + 0.04, height, label, fontsize=7, va="center", bbox=box, zorder=3)
    axes.axvline(len(fields), color="0.6", linewidth=0.8)
    colors = pyplot.get_cmap("viridis")
    for number, (_, result) in sorted(enumerate(outcomes), key=lambda item: item[1][1] or -1.0):
        heights = [of_field[number] for of_field in heights_of_fields]
        heights += [] if result is None else [result]
        color = "red" if result is None else colors(0.9 * result)  # no yellow on white
        axes.plot(range(len(heights)), heights, ".-", color=color, alpha=0.8, clip_on=False)
    axes.set_xticks(range(len(fields) + 1), [*fields, f"test {accuracy}"], fontsize=8)
    axes.set(ylim=(-0.03, 1.03), xlim=(-0.1, len(fields) + 0.1))
    axes.yaxis.tick_right()
    axes.spines[["top", "bottom", "left"]].set_visible(False)
    axes.set_title("mean over seeds, a line a configuration; red: all failed", fontsize=10)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def coordinates(values: Sequence[Any]) -> list[float]:
    """Heights in [0, 1]: numbers lie by their size or, if they span much, by its logarithm."""
    if not _are_numbers(values):
        names = sorted(set(map(str, values)))
        return [names.index(str(value)) / max(len(names) - 1, 1) for value in values]
    low, high = min(values), max(values)
    scale = math.log if low > 0 and high / low >= LOGARITHMIC_FROM else float
    span = scale(high) - scale(low)
    return [(scale(value) - scale(low)) / span if span else 0.5 for value in values]


def _labels(values: Sequence[Any], heights: Sequence[float]) -> list[tuple[str, float]]:
    """What to write along an axis: every name or, of numbers, the smallest and the largest."""
    pairs = {(str(v), height) for v, height in zip(values, heights, strict=True)}
    return [pair for pair in pairs if not _are_numbers(values) or pair[1] in (0, 1)]


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) and type(value) is not bool for value in values)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
