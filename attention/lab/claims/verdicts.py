"""What counts as what: predicates on numbers, with their thresholds, and verdicts in words."""

from collections.abc import Mapping

from attention.lab.analysis.mean_sd import MeanSd

SOLVED = 0.99  # mean exact match, or share of tokens, from which on a task counts as solved
LEAST = 0.01  # a smaller difference of means is none
DEVIATIONS = 2  # by which means must differ

BETTER = (
    f"better: by more than {DEVIATIONS} standard deviations (the larger of the two) and by more"
    f" than {LEAST}"
)
HOLDS, FAILS, DEPENDS = "holds", "does not hold", "depends"


def is_better(value: MeanSd, other: MeanSd) -> bool:
    """Whether the mean is above the other by more than chance and rounding; not if one is NaN."""
    return value.mean - other.mean > max(LEAST, DEVIATIONS * max(value.sd, other.sd))


def is_solved(value: MeanSd) -> bool:
    """Whether the mean reaches the bar; a mean that is NaN does not."""
    return value.mean >= SOLVED


def verdict(cases: Mapping[str, bool], on: str = "on") -> str:
    """Of a claim about several cases: whether it holds, and on which of them."""
    yes = [name for name, holds in cases.items() if holds]
    no = [name for name, holds in cases.items() if not holds]
    if not no:
        return f"{HOLDS} {on} all of {', '.join(yes)}"
    if not yes:
        return f"{FAILS} {on} any of {', '.join(no)}"
    return f"{DEPENDS}: {HOLDS} {on} {', '.join(yes)}; not {on} {', '.join(no)}"


def crossing(with_it: Mapping[int, MeanSd], without: Mapping[int, MeanSd]) -> int | None:
    """The least length from which on, up to the greatest, the first is better than the second."""
    least = None
    for length in sorted(with_it, reverse=True):
        if not is_better(with_it[length], without[length]):
            break
        least = length
    return least


def reach(values: Mapping[int, MeanSd]) -> int:
    """The greatest length up to which all lengths are solved; 0 if the least is not."""
    greatest = 0
    for length in sorted(values):
        if not is_solved(values[length]):
            break
        greatest = length
    return greatest
