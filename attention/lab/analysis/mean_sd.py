"""Mean and standard deviation over seeds: no other file computes them or writes them as text."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

UNKNOWN = "—"


@dataclass(frozen=True)
class MeanSd:
    """The mean and the standard deviation of some values.

    Attributes:
      mean: the mean; NaN where there is no value.
      sd: the sample standard deviation; 0 where there are fewer than two values.
    """

    mean: float
    sd: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether there was any value."""
        return self.mean == self.mean

    def __str__(self) -> str:
        return self.written(4)

    def written(self, digits: int) -> str:
        """`mean ± sd`, or a dash where there is no value.

        The mean stands alone where the values agree, as far as the digits tell.

        Args:
          digits: how many digits follow the decimal point.
        """
        if not self.is_known:
            return UNKNOWN
        mean, deviation = f"{self.mean:.{digits}f}", f"{self.sd:.{digits}f}"
        return f"{mean} ± {deviation}" if float(deviation) else mean


def mean_sd(values: Iterable[float | None]) -> MeanSd:
    """Mean and standard deviation of the values that are known: of those that are not None."""
    known = [value for value in values if value is not None]
    if not known:
        return MeanSd(float("nan"))
    return MeanSd(statistics.mean(known), statistics.stdev(known) if len(known) > 1 else 0.0)


def means(reports: Sequence[Any]) -> Any:
    """The mean of each number over the reports that have it; None where no report has it.

    Args:
      reports: nested dictionaries and lists, all of the same structure, whose leaves are numbers
        or None.

    Returns:
      A report of the same structure.
    """
    return _of_each_number(lambda known: statistics.mean(known) if known else None, reports)


def sds(reports: Sequence[Any]) -> Any:
    """The sample standard deviation of each number; None where fewer than two reports have it.

    Args:
      reports: as for `means`.

    Returns:
      A report of the same structure.
    """
    return _of_each_number(lambda known: statistics.stdev(known) if known[1:] else None, reports)


def _of_each_number(statistic: Callable[[list], Any], reports: Sequence[Any]) -> Any:
    first = reports[0]
    if isinstance(first, dict):
        return {name: _of_each_number(statistic, [r[name] for r in reports]) for name in first}
    if isinstance(first, list):
        return [_of_each_number(statistic, values) for values in zip(*reports, strict=True)]
    return statistic([value for value in reports if value is not None])
