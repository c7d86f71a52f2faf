"""A run: a directory that holds one experiment, and says which experiment it is.

config.json     all settings, the hash of the task's data if it reads any, the code's version and
                hash, and a hash of each file of the user's own code
source.txt      the data that the task reads, so that evaluation needs nothing else
checkpoints/    a directory for each step that was saved
metrics.jsonl   a line for each log and each evaluation (of each replica), for programs to read
tensorboard/    the same metrics, for people to look at
attention.png   where the trained model looks, in a few validation examples
eval.json       the evaluation at the end of training
eval-….json     other evaluations, named by what was asked for
result.json     written last: the run is finished
"""

import fcntl
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from attention.lab.errors import UsageError
from attention.lab.parallel import hosts
from attention.lab.runs.files import write_atomically
from attention.lab.runs.version import made_by
from attention.lab.settings import Settings, differences, from_json

# What a run holds before its first checkpoint. A directory with anything else is never cleared.
BEFORE_A_CHECKPOINT = (
    *(".lock", ".config.json.*", ".source.txt.*", ".metrics.jsonl.*", ".seen-*"),
    *("config.json", "source.txt", "metrics.jsonl", "tensorboard", "checkpoints"),
)
PICTURE = "attention.png"


@dataclass(frozen=True)
class Run:
    """The directory of a run.

    Attributes:
      path: of the directory.
      replaced: whether it has taken the place of another run, which ended before its first
        checkpoint.
    """

    path: Path
    replaced: bool = False

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    def record(self) -> dict[str, Any]:
        """What `config.json` holds."""
        return json.loads((self.path / "config.json").read_text())

    def result(self) -> dict[str, Any] | None:
        """What `result.json` holds; None while the run is not finished."""
        file = self.path / "result.json"
        return json.loads(file.read_text()) if file.exists() else None

    def check_is_seen(self) -> None:
        """Refuses to go on where a process does not see the files that the first process writes.

        A collective call: all processes make it together.

        Raises:
          UsageError: the hosts have no file system in common.
        """
        # A new mark every time: an old mark may lie on every host's private disk.
        mark = self.path / f".seen-{hosts.from_first(secrets.randbelow(2**31))}"
        try:
            with hosts.in_agreement():
                if hosts.is_first():
                    mark.touch()
            with hosts.in_agreement():
                if not mark.exists():
                    raise UsageError(
                        f"--workdir={self.path}: not every host sees it; they need one file system"
                    )
        finally:
            if hosts.is_first():
                mark.unlink(missing_ok=True)

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Writes a JSON file into the run. Of several processes, only the first writes."""
        if hosts.is_first():
            write_atomically(self.path / name, json.dumps(content, indent=2) + "\n")


def default_path(settings: Settings) -> Path:
    """Where a run lies if nobody says: `runs/<config>-<score>`."""
    return Path("runs") / f"{settings.name}-{settings.score.name.replace(':', '-')}"


@contextmanager
def open_for_training(path: Path, settings: Settings, source: bytes | None) -> Iterator[Run]:
    """The run at a path, new or begun before, locked against other processes.

    A run that ended before its first checkpoint has nothing to go on with: so it may be of other
    settings or data, and is then begun anew.

    Of several processes that train together, the first makes and locks the run for all of them.

    Args:
      path: the directory of the run.
      settings: of the experiment; a run that has a checkpoint must have equal settings.
      source: the data that the task reads, None if it reads none; a run that has a checkpoint
        must have equal data.

    Raises:
      UsageError: the path holds something else, or another process is training there. Nothing
        was written then.
    """
    if not hosts.is_first():
        yield Run(path)
        return
    identity = _identity(settings, source)
    _refuse_other(path, identity, settings)
    path.mkdir(parents=True, exist_ok=True)
    with alone(path):
        # Again, for another process may have been here since. What is still there and of another
        # experiment may be cleared.
        is_other = _refuse_other(path, identity, settings)
        if is_other:
            clear(path)
        if not (path / "config.json").exists():
            if source is not None:
                write_atomically(path / "source.txt", source)
            Run(path).write("config.json", {**identity, **made_by(settings)})
        yield Run(path, replaced=is_other)


def open_for_evaluation(path: Path) -> tuple[Run, Settings, bytes | None]:
    """A run, its settings, and the data that its task reads (None if it reads none).

    Raises:
      UsageError: there is no run at this path, the run is of an older version, or its data have
        changed.
    """
    record = _read_record(path)
    if record is None:
        raise UsageError(f"--workdir={path}: no run here (it has no config.json)")
    if _is_outdated(record["config"]):
        raise UsageError(f"--workdir={path}: is of an older version, train it anew")
    settings = from_json(record["config"])
    source = None
    if record["source_sha256"] is not None:
        try:
            source = (path / "source.txt").read_bytes()
        except OSError as error:
            raise UsageError(f"{path / 'source.txt'}: {error.strerror}") from None
        if _sha256(source) != record["source_sha256"]:
            raise UsageError(f"{path / 'source.txt'} is not the text that the run was trained on")
    return Run(path), settings, source


def _identity(settings: Settings, source: bytes | None) -> dict[str, Any]:
    """What must be equal for a process to go on with a run that another process began."""
    return {
        "config": json.loads(settings.model_dump_json()),
        "source_sha256": None if source is None else _sha256(source),
    }


def _read_record(path: Path) -> dict[str, Any] | None:
    file = path / "config.json"
    try:
        record = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    if not isinstance(record, dict) or not {"config", "source_sha256"} <= record.keys():
        raise UsageError(f"{file} is not of a run of this project")
    return record


def is_unbegun(path: Path) -> bool:
    """Whether a directory holds a run of this project that has neither a checkpoint nor a result.

    A checkpoint of step 0, which an early Ctrl-C leaves, is but a draw of parameters. The run must
    have been locked, and hold nothing else: what is not known is not a run's.
    """
    from attention.lab.runs.checkpoints import steps  # takes Orbax, which takes time

    if not (path / ".lock").exists() or any(steps(path / "checkpoints")):
        return False
    return all(
        any(fnmatch(file.name, known) for known in BEFORE_A_CHECKPOINT) for file in path.iterdir()
    )


def clear(path: Path) -> None:
    """Deletes what a run holds that has no checkpoint, but for its lock.

    `config.json`, which says that it is a run, goes last.
    """
    files = [file for file in path.iterdir() if file.name != ".lock"]
    for file in sorted(files, key=lambda file: file.name == "config.json"):
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink()


def _refuse_other(path: Path, identity: dict[str, Any], settings: Settings) -> bool:
    """Refuses a directory that holds something else than a run of this identity.

    Returns:
      Whether it holds another run that may be cleared, for that has no checkpoint.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"--workdir={path}: is a file, not a directory")
    may_clear = is_unbegun(path)
    try:
        taken_by = _read_record(path)
    except UsageError:  # only a part of it was written, perhaps
        if may_clear:
            return True
        raise
    if taken_by is None:
        is_empty = not path.is_dir() or all(file.name == ".lock" for file in path.iterdir())
        if not is_empty and not may_clear:
            raise UsageError(f"--workdir={path}: is not empty and holds no run (no config.json)")
        return not is_empty
    there = {field: taken_by[field] for field in identity}
    changed = differences({**there, "config": _with_defaults(there["config"])}, identity)
    if not changed or may_clear:
        return bool(changed)
    listed = ", ".join(
        f"{field}: {old!r} there, {new!r} now" for field, (old, new) in changed.items()
    )
    raise UsageError(
        f"--workdir={path}: holds another experiment ({listed});"
        f" use --workdir={_free_path(settings, changed)}"
    )


def _is_outdated(config: dict[str, Any]) -> bool:
    """Whether a config is of the versions without replicas, whose runs can no longer be read."""
    return "num_seeds" not in config


def _with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a run, in which fields that are newer than the run have their defaults."""
    if _is_outdated(config):
        return config
    try:
        return json.loads(from_json(config).model_dump_json())
    except UsageError:  # not a config of today: `_refuse_other` then lists its differences
        return config


def _free_path(settings: Settings, changed: dict[str, tuple]) -> Path:
    """A path that is not taken, and names the settings that differ."""
    parts = []
    for field, (_, new) in changed.items():
        value = str(new)[:8] if field == "source_sha256" else str(new)
        safe = "".join(c if c.isalnum() or c in ".-_" else "_" for c in value)[:24]
        parts.append(f"{field.rpartition('.')[2]}={safe}")
    base = f"{default_path(settings)}-{'-'.join(parts[:3])}"
    candidate, number = Path(base), 2
    while candidate.exists():
        candidate, number = Path(f"{base}-{number}"), number + 1
    return candidate


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Locks a directory against other processes that ask for the lock in the same way.

    Raises:
      UsageError: another process holds the lock.
    """
    with (path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"--workdir={path}: another process is training there") from None
        yield


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
