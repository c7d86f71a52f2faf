"""Which code a run was made by."""

import subprocess
from importlib import metadata
from pathlib import Path


def code_version() -> str:
    """The package's version, and the commit where it lies in a git checkout: `0.1.0+639ac5f`."""
    try:
        version = metadata.version("attention")
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        version = "0"
    commit = _git("rev-parse", "--short", "HEAD")
    changed = ".changed" if commit and _git("status", "--porcelain", "--untracked-files=no") else ""
    return f"{version}+{commit}{changed}" if commit else version


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
