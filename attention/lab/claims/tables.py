"""Tables and pictures of the page, in Markdown."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attention.lab.claims.results import Result


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of anything that can be written."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def table_of_runs(
    header: Sequence[str], rows: Iterable[tuple[Sequence[Any], Iterable[Result]]]
) -> str:
    """A table that says in a last column which code each row is of.

    Args:
      header: names of the columns before it.
      rows: the cells of a row, and the results that they were computed from.
    """
    coded = [[*cells, code(result.code_hash for result in results)] for cells, results in rows]
    return table([*header, "code"], coded)


def code(hashes: Iterable[str]) -> str:
    """The short hashes of the sources that made some runs, with their numbers if they differ."""
    counts = Counter(map(short, hashes))
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ×{count}" for name, count in counts.most_common())


def short(code_hash: str) -> str:
    """As much of a hash as tells codes apart."""
    return code_hash[:7]


def cell(result: Result, metric: str, length: int | None = None) -> str:
    """A metric over seeds, and how many of them failed, if any did."""
    failed = f" ({result.failed} failed)" if result.failed else ""
    return f"{result.over_seeds(metric, length)}{failed}"


def figure(path: Path, told: str) -> str:
    """A picture, by its path from the page."""
    return f"![{told}]({path.parent.name}/{path.name})"
