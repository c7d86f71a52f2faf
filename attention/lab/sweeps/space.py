"""Random draws from a space, such as the file configs/sweeps/copy.py describes.

The value of a field depends on three things alone: the seed of the draws, the name of the field and
the number of the draw. So a command that is repeated names the trials it named before, a command
that asks for more draws begins with those of fewer, and a further field changes no value of others.
"""

import random
import runpy
from collections.abc import Iterator
from typing import Any

from attention.lab.configs import find_file
from attention.lab.errors import UsageError
from attention.lab.own_code import in_one_line
from attention.lab.repository import CONFIGS
from attention.lab.sweeps.distributions import Range
from attention.lab.sweeps.trials import Values, refuse_seeds, refuse_too_many

TRIES = 100  # draws, for every one that is asked for, since draws may be alike

Space = dict[str, Range | list[Any]]


def read_space(named: str) -> Space:
    """The space that a file describes: its `get_space()` returns it.

    Args:
      named: path of the file, or the name of a space that is shipped.

    Raises:
      UsageError: the file cannot be run, or describes no space.
    """
    file = str(find_file("--space", named, CONFIGS / "sweeps"))
    try:
        names = runpy.run_path(file)
        space = names["get_space"]() if "get_space" in names else None
    except (Exception, SystemExit) as error:  # somebody's program: anything may go wrong in it
        raise UsageError(f"--space={file}: {in_one_line(error)}") from error
    if not isinstance(space, dict) or not space:
        raise UsageError(
            f"--space={file}: needs a get_space() that returns fields and their values"
        )
    for field, values in space.items():
        refuse_seeds(field, f"--space={file}: {field!r}")
        if not isinstance(values, Range) and not (isinstance(values, list) and values):
            raise UsageError(
                f"--space={file}: {field!r}: {values!r} is neither a range, such as"
                " log_uniform(1e-4, 1e-1), nor a list of values"
            )
    return space


def draws(space: Space, count: int, seed: int) -> list[Values]:
    """Draws from a space, no two of them alike.

    Raises:
      UsageError: the space has fewer different draws than this count.
    """
    refuse_too_many(count, f"--random={count}")
    distinct: dict[tuple[str, ...], Values] = {}
    for number in range(TRIES * count):
        draw = _draw(space, number, seed)
        distinct.setdefault(tuple(draw.values()), draw)
        if len(distinct) == count:
            return list(distinct.values())
    raise UsageError(f"--random={count}: the space has {len(distinct)} different draws, fewer")


def extremes(space: Space, draw: Values) -> Iterator[Values]:
    """Draws that differ from a draw in one field: either end of its range, or each listed value."""
    for field, values in space.items():
        for value in (values.low, values.high) if isinstance(values, Range) else values:
            yield draw | {field: str(value)}


def _draw(space: Space, number: int, seed: int) -> Values:
    return {
        field: str(_value_at(values, random.Random(f"{seed} {number} {field}").random()))
        for field, values in space.items()
    }


def _value_at(values: Range | list[Any], fraction: float) -> Any:
    return values.at(fraction) if isinstance(values, Range) else values[int(fraction * len(values))]
