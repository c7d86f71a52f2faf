"""What counts as what in `claims.py`: predicates on numbers, with their thresholds."""

from collections.abc import Mapping

from attention.lab.claims.experiments import Spread

SOLVED = 0.99  # mean exact match, or share of tokens, from which on a task counts as solved
LEAST = 0.01  # a smaller difference of means is none
DEVIATIONS = 2  # by which means must differ
STATIC_AT_MOST = 0.01  # query dependence of scores that ignore the query

BETTER = (
    f"better: by more than {DEVIATIONS} standard deviations (the larger of the two) and by more"
    f" than {LEAST}"
)
HOLDS, FAILS, DEPENDS = "holds", "does not hold", "depends"


def is_better(one: Spread, other: Spread) -> bool:
    """Whether one mean is above another by more than chance and rounding; not if one is NaN."""
    return one.mean - other.mean > max(LEAST, DEVIATIONS * max(one.sd, other.sd))


def is_solved(spread: Spread) -> bool:
    return spread.mean >= SOLVED


def verdict(cases: Mapping[str, bool], on: str = "on") -> str:
    """Of a claim about several cases, and on which of them it holds."""
    yes = [name for name, holds in cases.items() if holds]
    no = [name for name, holds in cases.items() if not holds]
    if not no:
        return f"{HOLDS} {on} all of {', '.join(yes)}"
    if not yes:
        return f"{FAILS} {on} any of {', '.join(no)}"
    return f"{DEPENDS}: {HOLDS} {on} {', '.join(yes)}; not {on} {', '.join(no)}"


def crossing(with_it: Mapping[int, Spread], without: Mapping[int, Spread]) -> int | None:
    """The least length from which on, up to the greatest, one is better than the other."""
    found = None
    for length in sorted(with_it, reverse=True):
        if not is_better(with_it[length], without[length]):
            break
        found = length
    return found


def reach(solved: Mapping[int, Spread]) -> int:
    """The greatest length up to which every one is solved; 0 if not even the least is."""
    found = 0
    for length in sorted(solved):
        if not is_solved(solved[length]):
            break
        found = length
    return found
