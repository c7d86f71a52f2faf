"""Sizes: of vectors, hidden units and heads."""

import operator

LARGEST = 2**31 - 1  # an index of a larger axis would not fit the integers that JAX counts with


def check_size(name: str, size: int) -> None:
    """Refuses what is no size of an axis.

    Args:
      name: of the argument, for the error message.
      size: the size.

    Raises:
      ValueError: the size is no whole number, is below 1, or is above `LARGEST`.
    """
    try:
        is_whole = 1 <= operator.index(size) <= LARGEST and not isinstance(size, bool)
    except TypeError:
        is_whole = False
    if not is_whole:
        raise ValueError(f"{name}={size!r}: must be a whole number from 1 to {LARGEST}")
