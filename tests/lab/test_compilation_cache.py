"""Compiled programs are kept from one process to the next; where that fails, all goes on."""

import errno
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from command_lines import COPY, TINY, run
from jax.experimental.compilation_cache import compilation_cache as of_jax

from attention.lab import compilation_cache
from attention.lab.compilation_cache import ProgramFiles, keep_compiled_programs, said_to_jax

NAMES = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
    "jax_persistent_cache_enable_xla_caches",
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's cache directory, and a JAX that keeps no programs yet."""
    usual = {name: jax.config.values[name] for name in NAMES}
    of_jax_alone = jax._src.compilation_cache.get_file_cache
    monkeypatch.setattr("jax._src.compilation_cache.get_file_cache", of_jax_alone)  # undone behind
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JAX_ENABLE_COMPILATION_CACHE", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    of_jax.reset_cache()
    yield tmp_path / "home"
    for name, value in usual.items():
        jax.config.update(name, value)
    of_jax.reset_cache()


def result():
    """What a program computes that is compiled anew, or found."""
    jax.clear_caches()
    return jax.jit(lambda x: 3 * x + 2)(jnp.arange(5)).tolist()


EXPECTED = [2, 5, 8, 11, 14]


def files(home):
    return sorted(path for path in home.rglob("*") if path.is_file())


class Events(list):
    """The names of the events of JAX's cache."""

    def hits(self):
        found = self.count("/jax/compilation_cache/cache_hits")
        self.clear()
        return found


@pytest.fixture(scope="module")
def all_events():
    events = Events()
    jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
    return events


@pytest.fixture
def events(all_events):
    all_events.clear()
    return all_events


def test_what_was_compiled_is_found(home, events, capfd):
    keep_compiled_programs()
    assert result() == EXPECTED
    assert events.hits() == 0
    kept = files(home)
    assert kept
    assert result() == EXPECTED
    assert events.hits() >= 1
    assert files(home) == kept
    assert capfd.readouterr().err == ""


def test_the_directory_is_for_the_user_alone(home):
    keep_compiled_programs()
    result()
    assert files(home)[0].parent.stat().st_mode & 0o77 == 0


def test_machines_and_versions_do_not_share(home, monkeypatch):
    def folder():
        return compilation_cache._folder()

    usual = folder()
    assert usual.parent == home / "attention-lab" / "compiled"
    read_text = pathlib.Path.read_text
    with monkeypatch.context() as patch:
        patch.setattr(
            pathlib.Path,
            "read_text",
            lambda path: read_text(path) + "flags : fma\n" if "cpuinfo" in str(path) else "",
        )
        assert folder() != usual
    with monkeypatch.context() as patch:
        patch.setattr(compilation_cache.jax, "__version__", "0.0.1")
        assert folder() != usual
    assert folder() == usual


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_file_is_compiled_and_written_anew(home, events, damage, capfd):
    keep_compiled_programs()
    result()
    kept = {path: path.read_bytes() for path in files(home)}
    for path, content in kept.items():
        flipped = content[:70] + bytes([content[70] ^ 1]) + content[71:]
        path.write_bytes({"flipped": flipped, "cut": content[:-1], "empty": b""}[damage])
    assert result() == EXPECTED
    assert events.hits() == 0
    assert result() == EXPECTED
    assert events.hits() >= 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("call", ["write_bytes", "mkdir"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_where_nothing_can_be_written_a_line_says_so(home, monkeypatch, call, number, capfd):
    def refuse(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(pathlib.Path, call, refuse)
    keep_compiled_programs()
    assert result() == result() == EXPECTED
    assert files(home) == []
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert os.strerror(number) in error
    assert "--nocompilation_cache" in error


def test_a_directory_that_can_only_be_read_is_read(home, events, monkeypatch, capfd):
    keep_compiled_programs()
    result()

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for module, name in ((os, "utime"), (os, "replace"), (pathlib.Path, "write_bytes")):
        monkeypatch.setattr(module, name, refuse)
    assert result() == EXPECTED
    assert events.hits() >= 1
    assert capfd.readouterr().err == ""


def test_a_file_in_the_place_of_the_directory(home, capfd):
    home.write_text("no directory")
    keep_compiled_programs()
    assert result() == EXPECTED
    assert capfd.readouterr().err.count("\n") == 1


def test_without_a_home_nothing_is_kept(home, monkeypatch):
    def no_home():
        raise RuntimeError("no home")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    monkeypatch.setattr(pathlib.Path, "home", no_home)
    keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_what_the_user_says_to_jax_goes_before(home, tmp_path):
    chosen = str(tmp_path / "chosen")
    jax.config.update("jax_compilation_cache_dir", chosen)
    keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"] == chosen


@pytest.mark.usefixtures("home")
def test_the_flag_holds_for_the_processes_that_are_started(monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    keep_compiled_programs(False)
    assert jax.config.values["jax_compilation_cache_dir"] is None
    assert not jax.config.values["jax_enable_compilation_cache"]
    assert os.environ["JAX_ENABLE_COMPILATION_CACHE"] == "false"  # for local workers of a sweep
    assert said_to_jax() == {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # for those of Ray


def test_a_jax_that_takes_no_files_of_ours_does_without(home, monkeypatch):
    monkeypatch.delattr("jax._src.compilation_cache.get_file_cache")
    keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"] is None
    assert result() == EXPECTED
    assert not home.exists()


# The files


def test_the_files_that_were_not_used_for_the_longest_time_go(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "MOST_BYTES", 1000)
    old, new = ProgramFiles(tmp_path / "other version"), ProgramFiles(tmp_path / "this")
    for number, key in enumerate("abcd"):
        folder = old if key in "ab" else new
        folder.put(key, bytes(200))
        os.utime(folder._path / key, (number, number))
    assert old.get("a") == bytes(200)  # so `b` is the one that was not used
    new.put("e", bytes(201))
    assert [old.get(key) is not None for key in "ab"] == [True, False]
    assert [new.get(key) is not None for key in "cde"] == [True, True, True]
    new.put("f", bytes(1001))
    assert new.get("f") is None
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 1000


def test_a_file_that_another_process_removed_is_none(tmp_path, monkeypatch, capfd):
    cache = ProgramFiles(tmp_path / "a")
    cache.put("gone", b"program")
    glob = pathlib.Path.glob

    def with_gone(path, pattern):
        yield path / "a" / "vanished"
        yield from glob(path, pattern)

    monkeypatch.setattr(pathlib.Path, "glob", with_gone)
    cache.put("kept", b"another")
    assert cache.get("kept") == b"another"
    (tmp_path / "a" / "gone").unlink()
    assert cache.get("gone") is None
    assert capfd.readouterr().err == ""


HAMMER = """
import random, sys
from pathlib import Path
from attention.lab import compilation_cache
compilation_cache.MOST_BYTES = 50_000
cache = compilation_cache.ProgramFiles(Path(sys.argv[1]) / "a")
for turn in range(300):
    key = random.choice("abcdefgh")
    content = key.encode() * 10_000
    assert cache.get(key) in (None, content)
    cache.put(key, content)
assert cache._is_writable
"""


def test_processes_do_not_disturb_each_other(tmp_path):
    command = [sys.executable, "-c", HAMMER, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == [b""] * 3
    assert [process.returncode for process in processes] == [0] * 3


# The commands


def test_training_keeps_programs_and_evaluation_finds_them(home, events, monkeypatch, tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    jax.clear_caches()
    assert run(monkeypatch, "train.py", COPY, *TINY, workdir)[0] == 0
    # Each further program, be it to copy a single number, takes its time in every run.
    assert events.count("/jax/compilation_cache/compile_requests_use_cache") <= 11
    kept = files(home)
    assert any("train_all" in path.name for path in kept)
    jax.clear_caches()
    events.clear()
    status, _, err = run(monkeypatch, "eval.py", workdir)
    assert (status, err) == (0, "")
    assert events.count("/jax/compilation_cache/cache_misses") == 0
    assert files(home) == kept


def test_without_the_cache_nothing_is_kept(home, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    workdir = f"--workdir={tmp_path / 'run'}"
    arguments = (COPY, *TINY, workdir, "--nocompilation_cache")
    assert run(monkeypatch, "train.py", *arguments)[0] == 0
    assert not home.exists()
