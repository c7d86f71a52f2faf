"""Put the tutorial's claims to the test, and write what comes of it to docs/claims.md.

    python scripts/claims.py --quick             # small versions, for 2 CPU cores
    python scripts/claims.py --full              # as published in the configs, with 5 seeds
    python scripts/claims.py --quick --only 4,6  # the others as they are in the cache
    python scripts/claims.py --quick --refresh   # again what other sources made

Every claim has a verdict that is computed from the numbers beside it. A finished run is
kept in runs/claims and not run again; a run that was interrupted goes on where it stopped.
The page is written anew after each claim. Needs the extras `tasks` (digits) and
`figures`.
"""

import time
from pathlib import Path
from typing import NoReturn

from absl import flags
from rich.console import Console

from attention.lab.claims import CLAIMS
from attention.lab.claims.cache import Cache
from attention.lab.claims.page import write_page
from attention.lab.claims.size import FULL, QUICK, Size
from attention.lab.commands.command_line import define_compilation_cache, refuse, run
from attention.lab.commands.packages import require
from attention.lab.commands.places import file_for, folder_for
from attention.lab.compilation_cache import keep_compiled_programs
from attention.lab.errors import UsageError
from attention.lab.repository import ROOT

FLAGS = flags.FlagValues()
IS_QUICK = flags.DEFINE_boolean("quick", False, "small versions, 3 seeds", flag_values=FLAGS)
IS_FULL = flags.DEFINE_boolean("full", False, "5 seeds", flag_values=FLAGS)
ONLY = flags.DEFINE_string(
    "only", None, "numbers of claims, such as 4,6 (default: all)", flag_values=FLAGS
)
PAGE = flags.DEFINE_string(
    "page", None, "the file to write (default: docs/claims.md of the checkout)", flag_values=FLAGS
)
RUNS = flags.DEFINE_string(
    "runs", None, "where to keep runs (default: runs/claims of the checkout)", flag_values=FLAGS
)
REFRESH = flags.DEFINE_boolean(
    "refresh", False, "run again what other sources than the present made", flag_values=FLAGS
)
COMPILATION_CACHE = define_compilation_cache(FLAGS)

PACKAGES = {"matplotlib": "figures", "sklearn": "tasks"}  # by the extra that has them


def main() -> NoReturn:
    """Parses the flags, puts the claims to the test, and exits."""
    run(_claims, FLAGS, __doc__)


def _claims(rest: list[str]) -> int:
    refuse(rest)
    keep_compiled_programs(COMPILATION_CACHE.value)
    size, numbers = _size(), _numbers(ONLY.value)
    page = file_for("--page", _or_of_the_checkout(PAGE.value, "docs/claims.md"))
    cache = Cache(folder_for("--runs", _or_of_the_checkout(RUNS.value, "runs/claims")))
    for package, extra in PACKAGES.items():
        require(package, extra)
    console = Console()
    try:
        for number in numbers:
            started = time.perf_counter()
            CLAIMS[number].run(size, cache, console, refresh=REFRESH.value)
            write_page(page, cache, size)
            seconds = time.perf_counter() - started
            console.print(f"claim {number}: {seconds:.0f} s; {page}", soft_wrap=True)
    except KeyboardInterrupt:
        console.print("interrupted; run the same command again to go on")
        return 130
    return 0


def _or_of_the_checkout(named: str | None, path: str) -> str | Path:
    return ROOT / path if named is None else named


def _size() -> Size:
    if IS_QUICK.value and IS_FULL.value:
        raise UsageError("--full: not allowed with argument --quick")
    if not IS_QUICK.value and not IS_FULL.value:
        raise UsageError("one of the arguments --quick --full is required")
    return QUICK if IS_QUICK.value else FULL


def _numbers(text: str | None) -> list[int]:
    if text is None:
        return list(CLAIMS)
    numbers = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
    if not set(numbers) <= set(CLAIMS):
        choices = f"numbers of claims, {min(CLAIMS)} to {max(CLAIMS)}, such as 4,6"
        raise UsageError(f"--only: {text!r} is not {choices}")
    return numbers


if __name__ == "__main__":
    main()
