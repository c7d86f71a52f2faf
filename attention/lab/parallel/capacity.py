"""Capacity: how much memory a device has."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any


def memory_of(device: Any) -> int | None:
    """The bytes that arrays on a device of JAX can take in all; None where nobody says.

    Of a GPU or a TPU, what JAX may use of it. The memory of a CPU is that of its machine.
    """
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None and device.platform == "cpu":
        return machine_memory()
    return limit


def machine_memory(root: Path = Path("/")) -> int | None:
    """The bytes that this process can take on its machine; None where the system does not say.

    What is free, or is a cache that can be dropped, and what is free to swap to; but no more than
    the control groups of the process allow, by which containers and schedulers share a machine.

    Args:
      root: where the files of the system are.
    """
    free = _free(root)
    return min([*_limits(root), *([] if free is None else [free])], default=None)


def _free(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return 1024 * (kilobytes["MemAvailable"] + kilobytes["SwapFree"])
    except (OSError, KeyError, ValueError, IndexError):  # not Linux, or an old one
        return _whole()


def _whole() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _limits(root: Path) -> Iterator[int]:
    """The limits of the control groups of this process, and of the groups that those are in."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        for group in (inner, *inner.parents):
            try:
                yield int((top / group / name).read_text())
            except (OSError, ValueError):  # not mounted here, or "max"
                continue
