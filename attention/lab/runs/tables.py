"""Tables that fit a terminal: what is too wide is stacked, and no number is broken over lines."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

EDGE, BETWEEN = 4, 3  # characters that the frame takes, and each further column


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      heading: its words may stand in several lines.
      cells: one for each row.
      justify: `left` for text, `right` for numbers. Text is broken where a line is too short.
    """

    heading: str
    cells: Sequence[str]
    justify: Literal["left", "right"] = "right"

    @property
    def full(self) -> int:
        """The width at which the heading takes one line."""
        return max(map(cell_len, [self.heading, *self.cells]))

    @property
    def least(self) -> int:
        """The width at which no cell, and no word of the heading, is broken."""
        return max(map(cell_len, [*self.heading.split(), *self.cells]), default=0)


def print_prose(console: Console, text: str) -> None:
    """Prints a sentence: broken between words on a terminal, and elsewhere in one line."""
    console.print(text, soft_wrap=not console.is_terminal)


def print_table(
    console: Console, title: str, keys: Sequence[Column], rest: Sequence[Column]
) -> None:
    """Prints a table.

    A terminal that is too narrow is given several tables, one below the other, of as many columns
    as fit; each has all rows. Where there is no terminal, lines are as long as they need to be.

    Args:
      console: where to print.
      title: a line above the table.
      keys: the columns that say what a row is about. Stacked tables repeat them, or, where there is
        no room for that, the numbers of the rows.
      rest: the other columns.
    """
    console.print(Text(title), style="table.title", soft_wrap=True)
    whole = [*keys, *rest]
    widths = [column.full for column in whole]
    if not console.is_terminal or _total(widths) <= console.width:
        _draw(console, whole, widths)
        return
    for columns in _stacked(keys, rest, console.width):
        widths = [column.least for column in columns]
        if columns[-1].justify == "left":  # a text that is too long, even alone
            widths[-1] = max(1, widths[-1] - max(0, _total(widths) - console.width))
        _draw(console, columns, widths)


def _stacked(
    keys: Sequence[Column], rest: Sequence[Column], width: int
) -> Iterator[Sequence[Column]]:
    """The columns of each table: as many as fit."""
    repeated, waiting = list(keys), list(rest)
    if any(_least([*repeated, column]) > width for column in waiting):
        numbers = [str(number + 1) for number in range(len(keys[0].cells))]
        repeated, waiting = [Column("", numbers)], [*keys, *rest]
    while waiting:
        columns = [*repeated, waiting.pop(0)]
        while waiting and _least([*columns, waiting[0]]) <= width:
            columns.append(waiting.pop(0))
        yield columns


def _least(columns: Iterable[Column]) -> int:
    return _total([column.least for column in columns])


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + EDGE + BETWEEN * (len(widths) - 1)


def _draw(console: Console, columns: Sequence[Column], widths: Sequence[int]) -> None:
    table = Table()
    for column, width in zip(columns, widths, strict=True):
        heading = Text(column.heading)
        table.add_column(heading, justify=column.justify, width=width, overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, cells))
    # Printed as usual, it would be squeezed into the width that Rich takes a file to have.
    drawn = console.render(table, console.options.update_width(_total(widths)))
    console.print(Segments(drawn), end="", soft_wrap=True)
