"""Distributions to draw the values of a setting from, for the files in `configs/sweeps/`."""

import math
from dataclasses import dataclass

DIGITS = 4  # of a float that is drawn: a person can read and type it

Number = int | float


@dataclass(frozen=True)
class Range:
    """The numbers between two ends: integers if both ends are integers, floats if not.

    Integers include both ends.

    Attributes:
      name: of the distribution, `uniform` or `log_uniform`.
      low: the lower end.
      high: the higher end.

    Raises:
      ValueError: the ends are not finite or not in order, or a logarithmic range reaches 0.
    """

    name: str
    low: Number
    high: Number

    def __post_init__(self):
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"{self}: give two finite numbers, the lower first")
        if self._is_logarithmic and self.low <= 0:
            raise ValueError(f"{self}: both ends must be above 0")

    def __str__(self) -> str:
        return f"{self.name}({self.low!r}, {self.high!r})"

    def at(self, fraction: float) -> Number:
        """The value that has this fraction of the distribution, from [0, 1), below it."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return math.floor(self._between(self.low, self.high + 1, fraction))
        value = float(f"{self._between(self.low, self.high, fraction):.{DIGITS}g}")
        return min(max(value, self.low), self.high)  # rounding may have left the range

    @property
    def _is_logarithmic(self) -> bool:
        return self.name == log_uniform.__name__

    def _between(self, low: Number, high: Number, fraction: float) -> float:
        if self._is_logarithmic:
            return low * (high / low) ** fraction
        return low + (high - low) * fraction


def uniform(low: Number, high: Number) -> Range:
    """Every value as likely as any other."""
    return Range("uniform", low, high)


def log_uniform(low: Number, high: Number) -> Range:
    """Every order of magnitude as likely as any other: for a learning rate, or a width."""
    return Range("log_uniform", low, high)
