"""Which code made a run: its version, and a hash of its sources."""

import functools
import hashlib
import subprocess
from pathlib import Path

import attention

PACKAGE = Path(__file__).parents[2]
# Folders of code that only starts runs and reads results: no number of a run depends on it.
NOT_IN_A_RUN = ("lab/commands", "lab/sweeps", "lab/claims", "lab/benchmarks")


def code_version() -> str:
    """The package's version and, in a git checkout, the commit: `0.1.0+639ac5f`.

    It ends in `.changed` where tracked files differ from the commit.
    """
    version = attention.__version__
    commit = _git("rev-parse", "--short", "HEAD")
    changed = ".changed" if commit and _git("status", "--porcelain", "--untracked-files=no") else ""
    return f"{version}+{commit}{changed}" if commit else version


def made_by() -> dict[str, str]:
    """What the `config.json` of a run says of the code that began the run."""
    return {"code_version": code_version(), "code_hash": code_hash()}


@functools.cache
def code_hash(package: Path = PACKAGE) -> str:
    """A hash of all sources that the numbers of a run may depend on, committed or not.

    Twelve hexadecimal digits of the SHA-256 of the package's Python files and their paths,
    without the folders in `NOT_IN_A_RUN`.

    Args:
      package: the folder of the package.
    """
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        if not name.startswith(tuple(f"{room}/" for room in NOT_IN_A_RUN)):
            digest.update(f"{name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
