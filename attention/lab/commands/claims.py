"""Put the tutorial's claims to the test, and write what comes of it to docs/claims.md.

    python scripts/claims.py --quick            # small versions, for 2 CPU cores
    python scripts/claims.py --full             # as published in the configs, with 5 seeds
    python scripts/claims.py --quick --only 4,6 # the others as they are in the cache

Every claim has a verdict that is computed from the numbers beside it. A finished run is kept in
runs/claims and not run again; a run that was interrupted goes on where it stopped. The page is
written anew after each claim. Needs the extras `tasks` (digits) and `bench` (figures).
"""

import argparse
import datetime
import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from attention.lab.claims import cost as costing
from attention.lab.claims import grids as grids
from attention.lab.claims.experiments import REPOSITORY, Experiment, Result, cached, run
from attention.lab.claims.findings import CLAIMS, Claim, Finding
from attention.lab.errors import UsageError
from attention.lab.runs.files import write_atomically
from attention.lab.runs.version import code_version

PACKAGES = {"matplotlib": "bench", "sklearn": "tasks"}
MISSING = "not run, or failed in every replica"


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    console = Console()
    page, runs = Path(arguments.page), Path(arguments.runs)
    try:
        for number in arguments.only:
            started = time.perf_counter()
            run_claim(CLAIMS[number], arguments.full, runs, console)
            write_page(page, runs, arguments.full)
            seconds = time.perf_counter() - started
            console.print(f"claim {number}: {seconds:.0f} s; {page}", soft_wrap=True)
    except KeyboardInterrupt:
        console.print("interrupted; run the same command again to go on")
        return 130
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--quick", action="store_true", help="small versions, 3 seeds")
    size.add_argument("--full", action="store_true", help="5 seeds")
    parser.add_argument("--only", type=numbers, default=list(CLAIMS), help="such as 4,6")
    parser.add_argument("--page", default=REPOSITORY / "docs" / "claims.md", help="a file")
    parser.add_argument("--runs", default=REPOSITORY / "runs" / "claims", help="a folder")
    arguments = parser.parse_args(argv)
    for package, extra in PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            parser.exit(2, f"error: {package} is not installed; it is in the extra {extra!r}\n")
    return arguments


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def numbers(text: str) -> list[int]:
    found = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
    if not set(found) <= set(CLAIMS):
        choices = f"numbers of claims, {min(CLAIMS)} to {max(CLAIMS)}, such as 4,6"
        raise argparse.ArgumentTypeError(f"{text!r} is not {choices}")
    return found


def run_claim(claim: Claim, full: bool, runs: Path, console: Console) -> None:
    """Runs what is not in the cache."""
    if claim.needs_cost:
        costing.measured(cost_file(runs, full), full)
    run_all(claim.experiments(full), runs, console)
    results = in_cache(claim.experiments(full), runs)
    if claim.more and results is not None:  # what failed in every replica has no result
        run_all(claim.more(results, full), runs, console)


def run_all(experiments: Sequence[Experiment], runs: Path, console: Console) -> None:
    for each in dict.fromkeys(experiments):
        run(each, runs, console)


def cost_file(runs: Path, full: bool) -> Path:
    return runs / f"cost-{'full' if full else 'quick'}.json"


# The page.


def write_page(page: Path, runs: Path, full: bool) -> None:
    """The page of what is in the cache."""
    figures = page.parent / page.stem
    used: dict[Experiment, Result] = {}
    sections, summary = [], []
    for number, claim in CLAIMS.items():
        finding, results = find(claim, runs, full, figures)
        used |= results
        told = finding.verdict if finding else MISSING
        summary.append(f"{number}. {claim.title} **{told}.**")
        sections.append(section(number, claim, finding))
    page.parent.mkdir(parents=True, exist_ok=True)
    parts = [header(full, list(used.values())), "\n".join(summary), *sections]
    write_atomically(page, "\n\n".join(parts) + "\n")


def find(
    claim: Claim, runs: Path, full: bool, figures: Path
) -> tuple[Finding | None, dict[Experiment, Result]]:
    """What the cache says about a claim, None if something is missing; and the runs it uses."""
    if claim.needs_cost:
        if not cost_file(runs, full).exists():
            return None, {}
        rows = costing.measured(cost_file(runs, full), full)
        return claim.finding(rows, full, figures), {}
    results = in_cache(claim.experiments(full), runs)
    if results is not None and claim.more:
        more = in_cache(claim.more(results, full), runs)
        results = None if more is None else results | more
    if results is None:
        return None, {}
    return claim.finding(results, full, figures), results


def in_cache(experiments: Sequence[Experiment], runs: Path) -> dict[Experiment, Result] | None:
    found = {each: cached(each, runs) for each in experiments}
    known = {each: result for each, result in found.items() if result is not None}
    return known if len(known) == len(found) else None


def section(number: int, claim: Claim, finding: Finding | None) -> str:
    heading = f"## {number}. {claim.title}"
    if finding is None:
        return f"{heading}\n\n**Verdict: {MISSING}.**"
    return "\n\n".join([heading, f"**Verdict: {finding.verdict}.**", *finding.evidence])


def header(full: bool, used: list[Result]) -> str:
    size, seeds = "full" if full else "quick", grids.SEEDS[full]
    versions = sorted({result.code_version for result in used})
    minutes = sum(result.seconds for result in used) / 60
    last = grids.FIRST_SEED + seeds - 1
    lines = [
        "# The tutorial's claims, put to the test",
        "Written by `scripts/claims.py`; do not edit it. Every verdict is computed from the numbers"
        " beside it, by a rule that is stated there.",
        f"- command: `python scripts/claims.py --{size}`"
        + ("" if full else " (fewer scores, shorter sequences and fewer updates than `--full`)"),
        f"- date: {datetime.date.today()}",
        f"- machine: {costing.machine()}",
        f"- code: {code_version()}; of the runs: {', '.join(versions) or 'none'}",
        f"- runs: {len(used)} of all seeds each, {minutes:.0f} minutes of training and testing",
        f"- seeds: {seeds}, {grids.FIRST_SEED} to {last}; tables show mean ± standard deviation"
        " over them, and the mean alone where they agree to the last digit",
    ]
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UsageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
