"""Which code made a run: its version, and a hash of its sources."""

import functools
import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attention
from attention.lab.own_code import Line, own_files, own_parts
from attention.lab.repository import CONFIGS_IN_A_WHEEL
from attention.lab.settings import Settings

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


def made_by(settings: Settings) -> dict[str, Any]:
    """What the `config.json` of a run says of the code that began the run."""
    return {
        "code_version": code_version(),
        "code_hash": code_hash(),
        "own_code": {module: _hash_of(file) for module, file in _own_files(settings).items()},
    }


def own_code_changed(record: Mapping[str, Any], settings: Settings) -> str:
    """In a line, which files of a user's own code have changed since a run began; nothing if none.

    Args:
      record: what the `config.json` of the run holds; older runs do not tell.
      settings: of the run.
    """
    files, begun_with = _own_files(settings), record.get("own_code", {})
    changed = [
        str(Line(str(file), 1)).removesuffix(":1")
        for module, file in files.items()
        if module in begun_with and begun_with[module] != _hash_of(file)
    ]
    if not changed:
        return ""
    verb = "has" if len(changed) == 1 else "have"
    return f"{', '.join(changed)} {verb} changed since the run began"


def _own_files(settings: Settings) -> dict[str, Path]:
    return own_files(own_parts(settings))


def _hash_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


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
