"""That tables fit: no number is broken over lines, whatever the width."""

import io

import pytest
from rich.console import Console

from attention.lab.runs.tables import Column, print_table

NUMBERS = [[f"0.{row}{column}01 ± 0.0{column}{row}7" for row in range(3)] for column in range(1, 6)]
KEYS = [Column("length", ["all", "8", "16, the longest"], "left")]
REST = [Column(f"of head {number}", cells) for number, cells in enumerate(NUMBERS)]


def printed(width, keys=KEYS, rest=REST, title="title"):
    terminal = width is not None
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=width or 80, color_system=None
    )
    print_table(console, title, keys, rest)
    return console.file.getvalue().splitlines()


def cells_of(lines):
    return [[c.strip() for c in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


@pytest.mark.parametrize("width", [38, 60, 80, 120])
def test_no_cell_is_broken_and_no_line_is_too_long(width):
    lines = printed(width)
    assert max(map(len, lines)) <= width
    whole = [cell for row in cells_of(lines) for cell in row]
    for column in NUMBERS:
        for number in column:
            assert number in whole


def test_what_is_too_wide_is_stacked_with_all_rows_in_each_table():
    lines = printed(60)
    keys = [row[0] for row in cells_of(lines)]
    assert keys == 3 * ["all", "8", "16, the longest"]
    assert [len(row) for row in cells_of(lines)] == 3 * [3] + 3 * [3] + 3 * [2]


def test_a_table_that_fits_is_one():
    assert cells_of(printed(120)) == [
        list(row) for row in zip(KEYS[0].cells, *NUMBERS, strict=True)
    ]


def test_what_is_not_printed_on_a_terminal_is_as_wide_as_it_needs():
    wide = [
        Column(f"a heading of several words {number}", cells)
        for number in range(9)
        for cells in NUMBERS
    ]
    lines = printed(None, rest=wide)
    assert [len(row) for row in cells_of(lines)] == 3 * [46]
    assert "a heading of several words 8" in lines[2]


def test_words_of_a_heading_stand_in_several_lines_before_a_table_is_stacked():
    rest = [Column("accuracy of tokens", ["1.0000"]), Column("accuracy of all", ["0.5000"])]
    lines = printed(38, [Column("length", ["all"], "left")], rest)
    assert cells_of(lines) == [["all", "1.0000", "0.5000"]]
    assert all("accuracy of" not in line for line in lines)


def test_rows_are_numbered_where_their_names_leave_no_room():
    names = ["a name that is long", "and another that is longer"]
    lines = printed(34, [Column("name", names, "left")], [Column("x", ["0.123456", "7"])])
    assert max(map(len, lines)) <= 34
    rows = cells_of(lines)
    assert rows == [["1", names[0]], ["2", names[1]], ["1", "0.123456"], ["2", "7"]]


def test_a_text_without_room_is_broken_and_a_number_is_not():
    names = [Column("name", ["abcdefghijklmnopqrstuvwxyz"], "left")]
    lines = printed(20, names, [Column("x", ["12345678901"])])
    assert max(map(len, lines)) <= 20
    assert cells_of(lines) == [
        ["1", "abcdefghijkl"],
        ["", "mnopqrstuvwx"],
        ["", "yz"],
        ["1", "12345678901"],
    ]


def test_brackets_are_text():
    keys, title = [Column("shape", ["[1,2]", "[/]"], "left")], "runs/a[b]"
    lines = printed(80, keys, [Column("[red]", ["1", "2"])], title)
    assert lines[0] == title
    assert [row[0] for row in cells_of(lines)] == ["[1,2]", "[/]"]
    assert "[red]" in lines[2]
