"""Which code made a run: its version, and a hash of its sources."""

import functools
import hashlib
import os
import subprocess
from pathlib import Path

import attention
from attention.lab.repository import CONFIGS_IN_A_WHEEL

PACKAGE = Path(__file__).parents[2]
# Folders of code that only starts runs and reads results, and of configs, which a run records: no
# number of a run depends on them.
ROOMS = ("lab/commands", "lab/sweeps", "lab/claims", "lab/benchmarks", "lab/docs")
NOT_IN_A_RUN = (*ROOMS, CONFIGS_IN_A_WHEEL)
# Git sets these for the programs that it starts, such as hooks: they are of another repository.
OF_ANOTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


def code_version(package: Path = PACKAGE) -> str:
    """The package's version and, in a git checkout, the commit: `0.1.0+639ac5f`.

    It ends in `.changed` where tracked files differ from the commit. Of a package that lies in
    somebody else's checkout, as in an environment there, the version alone is told.

    Args:
      package: the folder of the package.
    """
    version = attention.__version__
    if not _git(package, "ls-files", "__init__.py"):
        return version
    commit = _git(package, "rev-parse", "--short", "HEAD")
    changed = _git(package, "status", "--porcelain", "--untracked-files=no")
    return f"{version}+{commit}{'.changed' if changed else ''}" if commit else version


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


def _git(package: Path, *arguments: str) -> str:
    command = ["git", "-C", str(package), *arguments]
    environment = {n: v for n, v in os.environ.items() if n not in OF_ANOTHER_REPOSITORY}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
