"""Places to write to: whether a command can write there is tried before it begins."""

import os
import tempfile
from pathlib import Path

from attention.lab.errors import UsageError


def folder_for(flag: str, named: str | Path) -> Path:
    """A folder, there or not, in which files can be made.

    It is tried, for permissions tell too little: of root, of /proc, of disks that are full or
    mounted to read from. What is made for the trial is taken away again.

    Args:
      flag: what named the folder.
      named: the folder.

    Raises:
      UsageError: no file can be made there; the message names the flag.
    """
    if not str(named):
        raise UsageError(f"{flag}=: name a folder")
    _try(flag, named, Path(named))
    return Path(named)


def file_for(flag: str, named: str | Path) -> Path:
    """A file, there or not, that can be written.

    Args:
      flag: what named the file.
      named: the file.

    Raises:
      UsageError: it cannot be written; the message names the flag.
    """
    if not str(named):
        raise UsageError(f"{flag}=: name a file")
    if os.path.isdir(named):
        raise UsageError(f"{flag}={named}: is a directory, not a file")
    _try(flag, named, Path(named).parent)
    return Path(named)


def _try(flag: str, named: str | Path, folder: Path) -> None:
    there = folder
    while not os.path.lexists(there):
        there = there.parent
    if not os.path.isdir(there):
        raise UsageError(f"{flag}={named}: {there} is no directory")
    try:
        # Under a name of its own, for others may begin beside it at this moment.
        with tempfile.TemporaryDirectory(prefix=".trial-", dir=there) as trial:
            inside = Path(trial) / folder.relative_to(there)
            inside.mkdir(parents=True, exist_ok=True)
            (inside / "file").touch()
    except OSError as error:
        raise UsageError(f"{flag}={named}: cannot be written to: {error.strerror}") from None
