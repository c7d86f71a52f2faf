"""The page of all claims, from what is in the cache."""

import datetime
from collections.abc import Collection
from pathlib import Path

from attention.lab.claims import CLAIMS
from attention.lab.claims.cache import Cache
from attention.lab.claims.claim import Finding
from attention.lab.claims.cost import machine
from attention.lab.claims.experiments import FIRST_SEED, Experiment
from attention.lab.claims.results import Result
from attention.lab.claims.size import Size
from attention.lab.claims.tables import short
from attention.lab.runs.files import write_atomically
from attention.lab.runs.version import code_hash, code_version

MISSING = "not run, or failed in every replica"


def write_page(page: Path, cache: Cache, size: Size) -> None:
    """Writes the page, and its figures into a folder beside it.

    Args:
      page: the file.
      cache: what was run and measured; what it lacks is said to be missing.
      size: of the experiments.
    """
    figures = page.parent / page.stem
    used: dict[Experiment, Result] = {}
    sections, summary = [], []
    for number, claim in CLAIMS.items():
        finding, results = claim.find(size, cache, figures)
        used |= results
        verdict = finding.verdict if finding else MISSING
        summary.append(f"{number}. {claim.title} **{verdict}.**")
        sections.append(_section(number, claim.title, finding))
    page.parent.mkdir(parents=True, exist_ok=True)
    told = "The claims, each with its verdict:"  # between two lists, which would become one
    parts = [_header(size, used.values()), told, "\n".join(summary), *sections]
    write_atomically(page, "\n\n".join(parts) + "\n")


def _section(number: int, title: str, finding: Finding | None) -> str:
    heading = f"## {number}. {title}"
    if finding is None:
        return f"{heading}\n\n**Verdict: {MISSING}.**"
    return "\n\n".join([heading, f"**Verdict: {finding.verdict}.**", *finding.evidence])


def _header(size: Size, used: Collection[Result]) -> str:
    minutes = sum(result.seconds for result in used) / 60
    present = sum(result.code_hash == code_hash() for result in used)
    paragraphs = [
        "# The tutorial's claims, put to the test",
        "Written by `scripts/claims.py`; do not edit it. Every verdict is computed from the numbers"
        " beside it, by a rule that is stated there. The last column of a table, *code*, names the"
        " sources that its runs were begun by: the first digits of their hash, with the number of"
        " runs of each where a row has runs of several. `--refresh` runs again what is not by the"
        " present sources.",
    ]
    lines = [
        f"- command: `python scripts/claims.py --{size.name}`"
        + (f" ({size.about})" if size.about else ""),
        f"- date: {datetime.date.today()}",
        f"- machine: {machine()}",
        f"- code: {code_version()}; present sources: {short(code_hash())}",
        f"- runs: {len(used)} of all seeds each, {minutes:.0f} minutes of training and testing;"
        f" {present} by the present sources, {len(used) - present} by others",
        f"- seeds: {size.seeds}, {FIRST_SEED} to {FIRST_SEED + size.seeds - 1}; tables show mean ±"
        " standard deviation over them, and the mean alone where they agree to the last digit",
    ]
    return "\n\n".join(paragraphs) + "\n\n" + "\n".join(lines)
