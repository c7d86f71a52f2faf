"""Checkpoints: Orbax writes the arrays, a manifest says that all of them were written.

Orbax alone restores flipped bits without an error and takes an empty directory for a
checkpoint. So each step gets a `manifest.json` with the SHA-256 of every file, written
after Orbax has committed: a step exists when its manifest does, and is intact when the
hashes agree.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from attention.lab.errors import UsageError
from attention.lab.parallel import hosts
from attention.lab.runs.files import write_atomically

MANIFEST = "manifest.json"

Arrays = Mapping[str, PyTree]


class Checkpoints:
    """Saves arrays in the background. A context manager, whose exit waits for the last save.

    Args:
      directory: where checkpoints are written, each to a directory named by its step.
      keep: how many checkpoints to keep, the newest. Older ones are removed, and so are
        directories that were never committed.
      metadata: written into each checkpoint.
      restored: the step of the checkpoint that training goes on from, if any. It is known to
        be intact, so `save` does not write it again.
    """

    def __init__(
        self, directory: Path, keep: int, metadata: dict[str, Any], restored: int | None = None
    ):
        self._directory, self._keep, self._metadata = directory.resolve(), keep, metadata
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._checkpointer = self._thread.submit(_checkpointer)  # the import takes its time
        self._pending: Future[None] | None = None
        self._newest = restored

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._checkpointer.result().close()

    def save(self, step: int, arrays: Arrays) -> None:
        """Begins to write the arrays of a step, once the step saved before is committed.

        A step that was just saved or restored is not written again. The arrays may be
        overwritten as soon as this method returns.

        Args:
          step: updates completed.
          arrays: pytrees of arrays, by name.

        Raises:
          Exception: what went wrong in the background with the save before, as in `wait`.
        """
        self.wait()
        if step == self._newest:  # to write it again would first remove an intact one
            return
        self._newest, path = step, self._directory / str(step)
        copy = _copied(dict(arrays))  # the next update overwrites them
        # Force: a directory of this name was left half written by a kill, or is damaged.
        self._checkpointer.result().save(path, copy, force=True, custom_metadata=self._metadata)
        self._pending = self._thread.submit(self._commit, path)

    def wait(self) -> None:
        """Returns when everything is committed.

        Raises:
          Exception: what went wrong while the arrays were written in the background.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _commit(self, path: Path) -> None:
        self._checkpointer.result().wait_until_finished()  # until all processes wrote their share
        if not hosts.is_first():
            return
        write_atomically(path / MANIFEST, json.dumps(_hashes(path), indent=1))
        # Steps beyond this one are damaged, or training would have gone on from there.
        until_now = [step for step in steps(self._directory) if step <= int(path.name)]
        kept = {str(step) for step in until_now[-self._keep :]}
        for checkpoint in self._directory.glob("[0-9]*"):  # half-written ones among them
            if checkpoint.name not in kept:
                shutil.rmtree(checkpoint)


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    return ocp.StandardCheckpointer()


@jax.jit
def _copied(arrays: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, arrays)


def steps(directory: Path) -> list[int]:
    """The steps that were committed, in ascending order."""
    names = [manifest.parent.name for manifest in directory.glob(f"*/{MANIFEST}")]
    return sorted(int(name) for name in names if name.isdigit())


def restore(directory: Path, like: Arrays, step: int | None = None) -> dict[str, PyTree]:
    """The arrays of a step, or of the newest step that is intact.

    Where newer steps are damaged, a warning says so.

    Args:
      directory: where the checkpoints are.
      like: the names, shapes and dtypes to expect, and the devices to restore to.
      step: the step to restore, in updates completed; None for the newest intact step.

    Raises:
      UsageError: there is no checkpoint of this step, no checkpoint is intact, or its arrays have
        other names or shapes.
    """
    chosen = -1
    with hosts.in_agreement():
        if hosts.is_first():
            chosen = _choose(directory, step)
    path = directory.resolve() / str(hosts.from_first(chosen))
    try:
        with _checkpointer() as checkpointer:
            return checkpointer.restore(path, dict(like))
    except ValueError as error:  # in which Orbax lists all arrays
        raise UsageError(
            f"{path}: its arrays have other names or shapes than those of the model, whose code has"
            " changed since"
        ) from error


def _choose(directory: Path, step: int | None) -> int:
    """The step to restore; raises what `restore` raises."""
    committed = steps(directory)
    if not committed:
        raise UsageError(f"{directory}: no checkpoint here")
    if step is not None and step not in committed:
        raise UsageError(f"--step={step}: no such checkpoint; there are {_listed(committed)}")
    wanted = committed if step is None else [step]
    for candidate in reversed(wanted):
        path = directory.resolve() / str(candidate)
        damage = _damage(path)
        if damage is None:
            return candidate
        print(f"WARNING: checkpoint {path} is damaged ({damage})", file=sys.stderr, flush=True)
    raise UsageError(f"{directory}: no intact checkpoint among steps {_listed(wanted)}")


def _hashes(path: Path) -> dict[str, str]:
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files; None if they are intact."""
    try:
        expected = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"{MANIFEST} is unreadable"
    actual = _hashes(path)
    if expected == actual:
        return None
    files = [name for name in {**expected, **actual} if expected.get(name) != actual.get(name)]
    return f"not as written: {', '.join(files)}"


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
