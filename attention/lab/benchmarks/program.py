"""A program: a contender that has been made ready to run on the arrays of a problem."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PARTS = ("forward", "forward+backward")

Run = Callable[[], Any]


@dataclass
class Program:
    """A contender, ready to run unless `note` says what prevents it.

    Attributes:
      runs: a function for each of `PARTS` that can be run. It waits for its result: the context
        of forward; the loss and its gradients of forward+backward.
      compile_seconds: of forward+backward, where it is compiled before its first call.
      compiles_late: whether it is compiled by its first call.
      temporary_bytes: of forward+backward, where they are known.
      note: what the reader must know.
    """

    runs: dict[str, Run] = field(default_factory=dict)
    compile_seconds: float | None = None
    compiles_late: bool = False
    temporary_bytes: int | None = None
    note: str = ""


def failed(failure: Exception) -> str:
    """What failed, in a line that may stand in the cell of a Markdown table."""
    first = next(iter(str(failure).strip().splitlines()), "").replace("|", "¦")
    return f"failed: {type(failure).__name__}: {first[:60]}"
