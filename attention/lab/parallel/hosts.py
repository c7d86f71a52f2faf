"""Hosts: several processes, each with devices of its own, that train one experiment.

All processes run the same program on their shares of its arrays, and come to the same decisions;
about what files or signals decide, they agree by collective calls: functions that every process
must call, in the same order, and that return when all have called. The first process alone writes
files and shows progress, except for checkpoints, of which each process writes its share: so all
need one file system.
"""

import hashlib
import importlib.util
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from attention.lab.errors import UsageError

# Without a sign of life for so long, a process counts as dead, which ends the others.
HEARTBEAT_SECONDS = 30
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
TPU_WORKERS = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"


def join(address: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes, if there are any. Comes before all else that uses devices.

    Args:
      address: `host:port` of the first process; None to find the others in the environment,
        which JAX's own variables, Slurm or Cloud TPU have set.
      num_processes: how many there are; with `address`.
      process_id: which this is, from 0; with `address`.

    Raises:
      UsageError: only some of the arguments are there, they do not fit each other, or the
        processes cannot meet.
    """
    given = {
        "--coordinator_address": address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if _environment_has_several():
            _initialize()
        return
    if address is None or num_processes is None or process_id is None:
        raise UsageError(f"{missing[0]} is missing: {', '.join(given)} go together")
    if not address.rpartition(":")[2].isdigit():
        raise UsageError(f"--coordinator_address={address}: give host:port, such as 10.0.0.1:1234")
    if not 0 <= process_id < num_processes:
        raise UsageError(
            f"--process_id={process_id}: of --num_processes={num_processes} processes, the ids"
            f" are 0 to {num_processes - 1}"
        )
    if num_processes > 1:
        _initialize(address, num_processes, process_id)


def are_several() -> bool:
    """Whether several processes train together."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes and shows."""
    return not are_several() or jax.process_index() == 0


def from_first(value: int) -> int:
    """The value that the first process has. A collective call."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value))) if are_several() else value


def greatest(value: int) -> int:
    """The greatest of the values that the processes have. A collective call."""
    return int(np.max(_of_all(np.array(value, np.int32)))) if are_several() else value


@contextmanager
def in_agreement() -> Iterator[None]:
    """Makes an error in one process an error in all. Its end is a collective call.

    Raises:
      UsageError: that of the first process that raised one, or that could not read or write.
    """
    error = ""
    try:
        yield
    except (UsageError, OSError) as here:
        if not are_several():
            raise
        error = str(here)
    if are_several():
        # What is too long may have been cut within a letter.
        errors = [bytes(e).rstrip(b"\0").decode(errors="ignore") for e in _of_all(_padded(error))]
        if any(errors):
            raise UsageError(next(filter(None, errors)))


def check_alike(*what: bytes) -> None:
    """Refuses to go on where processes are about to do different things. A collective call.

    Args:
      what: bytes that decide what a process does; they must be equal in all.

    Raises:
      UsageError: they are not.
    """
    digest = np.frombuffer(hashlib.sha256(b"\0".join(what)).digest(), np.uint8)
    if are_several() and len(np.unique(_of_all(digest), axis=0)) > 1:
        raise UsageError(
            "the processes differ in config, data or --workdir: start all by the same command"
        )


def fetch(tree: PyTree) -> PyTree:
    """Arrays as NumPy arrays: whole, also where other processes have shares of them.

    A collective call where there are several processes.
    """
    if not are_several():
        return jax.device_get(tree)
    return jax.tree.map(
        lambda leaf: (
            np.asarray(leaf)
            if getattr(leaf, "is_fully_addressable", True)
            else multihost_utils.process_allgather(leaf, tiled=True)
        ),
        tree,
    )


def _initialize(
    address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    try:
        jax.distributed.initialize(
            address,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        where = "as the environment says" if address is None else f"at {address}"
        raise UsageError(f"the processes cannot meet {where}: {error}") from None


def _environment_has_several() -> bool:
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        return True
    if all(name in os.environ for name in SLURM):
        return int(os.environ["SLURM_NTASKS"]) > 1
    return importlib.util.find_spec("libtpu") is not None and "," in _tpu_workers()


def _tpu_workers() -> str:
    """The workers of a slice of Cloud TPU, with commas between them; empty elsewhere."""
    workers = os.environ.get("TPU_WORKER_HOSTNAMES")
    if workers is not None or "TPU_SKIP_MDS_QUERY" in os.environ:
        return workers or ""
    request = urllib.request.Request(TPU_WORKERS, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _of_all(value: np.ndarray) -> np.ndarray:
    """The arrays of all processes, along a leading axis of processes. A collective call."""
    return np.asarray(multihost_utils.process_allgather(value))


def _padded(text: str) -> np.ndarray:
    return np.frombuffer(text.encode()[:2000].ljust(2000, b"\0"), np.uint8)
