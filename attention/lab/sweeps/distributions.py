"""Ranges of settings, to draw values from: what a file in `configs/sweeps/` is made of."""

import math
from dataclasses import dataclass

DIGITS = 4  # of a float, so that a person can read and type it

Number = int | float


@dataclass(frozen=True)
class Range:
    """What lies between two ends: integers, ends included, where both ends are; else floats.

    Attributes:
      name: of the distribution.
      low: the lower end.
      high: the higher end.

    Raises:
      ValueError: the ends are not what the distribution needs.
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
        """The value that has this fraction of the distribution below it, from [0, 1)."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return math.floor(self._between(self.low, self.high + 1, fraction))
        value = float(f"{self._between(self.low, self.high, fraction):.{DIGITS}g}")
        return min(max(value, self.low), self.high)  # which rounding may have left

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
