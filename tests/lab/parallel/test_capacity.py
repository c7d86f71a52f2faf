from types import SimpleNamespace

import pytest

from attention.lab.parallel import capacity
from attention.lab.parallel.capacity import machine_memory, memory_of

MEMINFO = "MemTotal: 97 kB\nMemAvailable: 23 kB\nSwapFree: 5 kB\n"


def system(root, files):
    """A directory with files of the system, and that directory."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_a_machine_has_what_is_free_and_what_it_can_swap_to(tmp_path):
    assert machine_memory(system(tmp_path, {"proc/meminfo": MEMINFO})) == 28 * 1024


@pytest.mark.parametrize(
    ("groups", "file", "limit", "expected"),
    [
        ("0::/job/7", "sys/fs/cgroup/job/7/memory.max", "4096", 4096),
        ("0::/job/7", "sys/fs/cgroup/job/memory.max", "4096", 4096),
        ("0::/job/7", "sys/fs/cgroup/memory.max", "max", 28 * 1024),
        ("4:cpu,memory:/job", "sys/fs/cgroup/memory/memory.limit_in_bytes", "4096", 4096),
        ("4:memory:/job", "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "4096", 4096),
        ("4:cpu:/job", "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "4096", 28 * 1024),
        ("4:memory:/", "sys/fs/cgroup/memory/memory.limit_in_bytes", str(2**63), 28 * 1024),
    ],
)
def test_a_control_group_limits_a_machine(tmp_path, groups, file, limit, expected):
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": f"{groups}\n", file: f"{limit}\n"}
    assert machine_memory(system(tmp_path, files)) == expected


def test_a_system_that_is_not_linux_is_asked_otherwise(tmp_path, monkeypatch):
    sizes = {"SC_PHYS_PAGES": 7, "SC_PAGE_SIZE": 11}
    monkeypatch.setattr(capacity.os, "sysconf", sizes.__getitem__)
    assert machine_memory(tmp_path) == 77
    monkeypatch.delattr(capacity.os, "sysconf")
    assert machine_memory(tmp_path) is None


@pytest.mark.parametrize(
    ("platform", "stats", "expected"),
    [
        ("gpu", {"bytes_limit": 13, "bytes_in_use": 5}, 13),
        ("cpu", None, 17),
        ("tpu", None, None),
    ],
)
def test_a_device_says_what_it_has_or_is_part_of_a_machine(monkeypatch, platform, stats, expected):
    monkeypatch.setattr(capacity, "machine_memory", lambda: 17)
    device = SimpleNamespace(platform=platform, memory_stats=lambda: stats)
    assert memory_of(device) == expected
