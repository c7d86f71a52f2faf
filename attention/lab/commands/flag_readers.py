"""How flags are read that absl has no reader for: a text becomes a value, or the choices are told.

A reader is a function of the text. It raises ValueError with what the text is not; absl puts the
name of the flag before that.
"""

import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from absl import flags

Value = TypeVar("Value")


class Reader(flags.ArgumentParser):
    """A reader, as absl wants it."""

    def __init__(self, read: Callable[[str], Any]):
        super().__init__()
        self._read = read

    def parse(self, argument: str) -> Any:
        return self._read(argument)


def listed(read: Callable[[str], Value]) -> Callable[[str], list[Value]]:
    """The reader of several values with commas between them."""
    return lambda text: [read(part) for part in text.split(",")]


def positive(text: str) -> int:
    """Reads a whole number from 1."""
    return int(text) if text.isdecimal() and int(text) else is_not(text, "a whole number from 1")


def above_zero(text: str) -> float:
    """Reads a number above 0, written without an exponent."""
    if re.fullmatch(r"\d*\.?\d+", text, re.ASCII) and float(text):
        return float(text)
    return is_not(text, "a number above 0")


def is_not(text: str, choices: str) -> NoReturn:
    """Refuses a text.

    Raises:
      ValueError: naming the text and the choices.
    """
    raise ValueError(f"{text!r} is not {choices}")
