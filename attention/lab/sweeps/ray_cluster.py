"""The engine `ray` (extra `sweep`): tasks on a Ray cluster, or on one that it starts here.

All machines of a cluster must see the working directory and the folder of the sweep at the same
paths, for progress and results go by files; and they must have this package.
"""

import importlib.util
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attention.lab.compilation_cache import said_to_jax
from attention.lab.errors import UsageError
from attention.lab.repository import install
from attention.lab.sweeps import ray_task
from attention.lab.sweeps.folder import Group
from attention.lab.sweeps.local import WIDE, child_arguments

ANSWERS_WITHIN_SECONDS = 3
RETRIES = 100  # of a group whose worker or machine died; it goes on from its checkpoint
OBJECT_BYTES = 100 * 2**20  # we store no objects, and Ray would set a third of the memory apart
HERE, ANY = "local", "auto"

Resources = Mapping[str, float]


def read_resources(given: str) -> dict[str, float]:
    """The resources that a flag names, as `TPU=4,CPU=8`; none if it is empty.

    Raises:
      UsageError: it is not a list of names with their amounts.
    """
    resources = {}
    for part in given.split(",") if given else ():
        match = re.fullmatch(r"(?!memory|object_store_memory)(\w+)=(\d+|0?\.\d+)", part, re.ASCII)
        if match is None or not float(match[2]):
            raise UsageError(
                f"--resources={given!r}: {part!r} is not a name with a whole number or a fraction"
                " below 1, as in TPU=4,CPU=8"
            )
        resources[match[1]] = float(match[2])
    return resources


class Ray:
    """Submits a task for each group; see `jobs.Engine`.

    Args:
      address: `host:port` of a cluster, `auto` for the one this machine is part of, or `local`.
      resources: what each group needs; empty: one TPU or GPU if the cluster has any, or a CPU.
    """

    def __init__(self, address: str, resources: Resources):
        self.at_once = 2**31  # all of them: Ray has the tasks wait for room
        self._address, self._resources = address, resources
        self._function: Any = None

    def __enter__(self) -> "Ray":
        if importlib.util.find_spec("ray") is None:
            raise UsageError(f"--engine=ray: needs the extra `sweep`: {install('sweep')}")
        self._refuse_silence()
        ray = _ray()
        options: dict[str, Any] = {}
        if self._address == HERE:
            options = {"include_dashboard": False, "object_store_memory": OBJECT_BYTES}
        try:
            ray.init(self._address, logging_level="ERROR", log_to_driver=False, **options)
        except (Exception, SystemExit) as error:  # the latter where something else answers
            raise UsageError(f"--address={self._address}: Ray does not start: {error}") from None
        amounts = ray.cluster_resources()
        if not self._resources:
            self._resources = {next((n for n in ("TPU", "GPU") if amounts.get(n)), "CPU"): 1.0}
        if self._address == HERE and not self._room():
            raise UsageError(f"--resources={_listed(self._resources)}: this machine has less")
        self._function = self._task()
        return self

    def __exit__(self, *exception: object) -> None:
        _ray().shutdown()  # ends the workers, and with them what they run

    def promise(self, groups: int) -> str:
        asked, room = f"each with {_listed(self._resources)} of Ray's cluster", self._room()
        return f"{asked}, " + (f"{min(room, groups)} at once" if room else "which is to grow first")

    def start(self, group: Group) -> "Task":
        arguments = child_arguments(group.folder.resolve(), group.id)
        # Where several groups share a device, none may take all its memory.
        is_shared = 0 < self._resources.get("GPU", 0) < 1
        sharing = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if is_shared else {}
        log, environment = str(group.log.resolve()), WIDE | sharing | said_to_jax()
        return Task(self._function.remote(arguments, str(Path.cwd()), log, environment))

    def _room(self) -> int:
        """How many groups the cluster, as it is, can train at once."""
        nodes = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
        wanted = self._resources.items()
        return sum(min(int(node.get(name, 0) // n) for name, n in wanted) for node in nodes)

    def _task(self) -> Any:
        """The function to submit, with what it needs of the cluster."""
        ray = _ray()
        # Or a worker would import it by its name, and with it this package and JAX, for seconds.
        ray.cloudpickle.register_pickle_by_value(ray_task)
        others = {name: n for name, n in self._resources.items() if name not in ("CPU", "GPU")}
        cpus, gpus = self._resources.get("CPU", 1), self._resources.get("GPU", 0)
        options = {"num_cpus": cpus, "num_gpus": gpus, "resources": others}
        try:
            return ray.remote(max_retries=RETRIES, **options)(ray_task.run_command)
        except ValueError as error:  # some accelerators come in certain numbers only
            raise UsageError(f"--resources={_listed(self._resources)}: {error}") from None

    def _refuse_silence(self) -> None:
        """Refuses an address where nothing answers: Ray itself would try for over a minute."""
        if self._address == HERE:
            return
        from ray._private.services import canonicalize_bootstrap_address

        try:
            host, _, port = str(canonicalize_bootstrap_address(self._address)).rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), ANSWERS_WITHIN_SECONDS).close()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--address={self._address}: no Ray cluster answers ({error}); give host:port,"
                f" {ANY} on a machine of the cluster, or {HERE} to start one here"
            ) from None


class Task:
    """Trains a group as a task of Ray; see `jobs.Training`."""

    def __init__(self, reference: Any):
        self._reference = reference

    def ending(self) -> str | None:
        ray = _ray()
        if not ray.wait([self._reference], timeout=0)[0]:
            return None
        try:
            return f"status {ray.get(self._reference)}"
        except ray.exceptions.RayError as error:
            return " ".join([type(error).__name__, *str(error).strip().splitlines()[-1:]])

    def stop(self) -> None:
        _ray().cancel(self._reference)


def _listed(resources: Resources) -> str:
    return ",".join(f"{name}={amount:g}" for name, amount in resources.items())


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # is read at the import
    import ray

    return ray
