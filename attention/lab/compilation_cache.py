"""Compiled programs, kept from one run to the next in the user's cache directory.

JAX can keep them by itself, but its files are written in place and trusted when they are read, its
bound on their size needs a further package and a lock, and a machine could be given the code of
another that has the same home. So JAX decides what is kept and by which key; the files are ours.
"""

import hashlib
import math
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

# A run of the copy task takes half a megabyte.
MOST_BYTES = 2**29
LOOKED_AFTER = 1 / 1024  # of these: to look at all files for each would take long
ENABLED = "JAX_ENABLE_COMPILATION_CACHE"  # JAX reads this at its start
DIGEST_BYTES = hashlib.sha256().digest_size
# What `/proc/cpuinfo` says of the code that a processor can run, on Intel's and on Arm's.
PROCESSOR = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU ")


def keep_compiled_programs(keep: bool = True) -> None:
    """Has JAX look in the user's cache directory before it compiles, and keep there what it made.

    What the user has said to JAX goes before: a directory for the cache, or to have none. Without a
    home, nothing is kept. Processes that this process starts do alike.

    Args:
      keep: False to compile everything anew, and keep nothing.
    """
    if not keep:
        os.environ[ENABLED] = "false"
        jax.config.update("jax_enable_compilation_cache", False)
    chosen = jax.config.values["jax_compilation_cache_dir"]
    if chosen is not None or not jax.config.values["jax_enable_compilation_cache"]:
        return
    folder = _folder()
    if folder is None or not _put_in_place():
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # these have no bound


def said_to_jax() -> dict[str, str]:
    """The environment of a process on another machine that is to keep programs, or not, as here."""
    return {ENABLED: os.environ[ENABLED]} if ENABLED in os.environ else {}


class ProgramFiles:
    """A file for each program: its SHA-256, then the program. What JAX asks of a cache.

    Any number of processes may use a folder: files appear whole, and may vanish at any time. A
    damaged file counts as none. Where nothing can be written, a line says so, once.

    Args:
      folder: where the files are; its parent is bounded by `MOST_BYTES`, beyond which the files go
        that were not used for the longest time.
    """

    def __init__(self, folder: Path):
        self._path = folder  # so JAX calls it
        self._is_writable = True
        self._bytes_written = math.inf  # since this process last looked for room, if it ever did

    def get(self, key: str) -> bytes | None:
        """The program of this key; None if there is none that is whole."""
        try:
            content = (self._path / key).read_bytes()
        except OSError:
            return None
        program = content[DIGEST_BYTES:]
        if hashlib.sha256(program).digest() != content[:DIGEST_BYTES]:
            return None
        with suppress(OSError):
            os.utime(self._path / key)  # it was used just now
        return program

    def put(self, key: str, program: bytes) -> None:
        """Keeps a program, also in the place of one that is damaged."""
        if not self._is_writable or len(program) > MOST_BYTES:
            return
        temporary = self._path / f".{key}.{os.getpid()}"
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(hashlib.sha256(program).digest() + program)
            os.replace(temporary, self._path / key)
            self._bytes_written += len(program)
            if self._bytes_written >= MOST_BYTES * LOOKED_AFTER:
                self._bytes_written = 0
                self._make_room()
        except FileNotFoundError:
            return  # another process made room, and took this for old
        except OSError as error:
            self._is_writable = False
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            print(
                f"compiled programs are not kept: {self._path}: {error.strerror or error}"
                " (--nocompilation_cache)",
                file=sys.stderr,
            )

    def _make_room(self) -> None:
        """Removes files of the folder and its neighbours, of other machines and versions."""
        files = []
        for file in self._path.parent.glob("*/*"):
            with suppress(FileNotFoundError):  # another process makes room, too
                status = file.stat()
                files.append((status.st_mtime, status.st_size, file))
        bytes_left = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if bytes_left <= MOST_BYTES:
                return
            file.unlink(missing_ok=True)
            bytes_left -= size


def _folder() -> Path | None:
    """Where programs for this machine are kept; None for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    except RuntimeError:
        return None
    machine = hashlib.sha256("\n".join(_machine()).encode()).hexdigest()[:12]
    return cache / "attention-lab" / "compiled" / f"jax-{jax.__version__}-{machine}"


def _machine() -> list[str]:
    """What compiled code depends on beside that of jaxlib, whose version JAX has in its keys."""
    versions = [jax.__version__, platform.machine(), sys.platform]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [*versions, platform.processor(), platform.node()]
    return versions + sorted({line for line in lines if line.startswith(PROCESSOR)})


def _put_in_place() -> bool:
    """Gives JAX our files; False if this version of JAX takes none.

    JAX has no public way to do so.
    """
    try:
        from jax._src import compilation_cache
    except ImportError:
        return False
    of_jax: Any = compilation_cache
    if not hasattr(of_jax, "get_file_cache"):
        return False
    of_jax.get_file_cache = lambda path: (ProgramFiles(Path(path)), path)
    return True
