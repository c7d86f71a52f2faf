"""Mean and standard deviation over replicas, of all numbers in their reports at once."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any


def mean(reports: Sequence[Any]) -> Any:
    """The mean of each number over the reports that have it; None where none has."""
    return _each_number(lambda known: statistics.mean(known) if known else None, reports)


def sd(reports: Sequence[Any]) -> Any:
    """The sample standard deviation of each number; None where fewer than two reports have it."""
    return _each_number(lambda known: statistics.stdev(known) if len(known) > 1 else None, reports)


def _each_number(statistic: Callable[[list], Any], reports: Sequence[Any]) -> Any:
    """Reports are alike: nested dictionaries and lists, with a number or None at each end."""
    first = reports[0]
    if isinstance(first, dict):
        return {name: _each_number(statistic, [r[name] for r in reports]) for name in first}
    if isinstance(first, list):
        return [_each_number(statistic, values) for values in zip(*reports, strict=True)]
    return statistic([value for value in reports if value is not None])
