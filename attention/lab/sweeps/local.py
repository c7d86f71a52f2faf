"""The engine `local`: processes on this machine, so many at once."""

import os
import subprocess
import sys
from pathlib import Path

from attention.lab.sweeps.folder import Group

CHILD = Path(__file__).with_name("sweep_group.py")
WIDE = {"COLUMNS": "200"}  # tables in a log


class Local:
    """Starts a process for each group; see `sweep_jobs.Engine`."""

    def __init__(self, at_once: int):
        self.at_once = at_once
        self._started: list[Process] = []

    def __enter__(self) -> "Local":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._started:
            process.kill()

    def promise(self, groups: int) -> str:
        return f"{min(self.at_once, groups)} at once"

    def start(self, group: Group) -> "Process":
        # Where several share a device, none may take all its memory.
        own = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if self.at_once > 1 else {}
        self._started.append(process := Process(group, own | os.environ | WIDE))
        return process


class Process:
    """Trains a group; see `sweep_jobs.Training`."""

    def __init__(self, group: Group, environment: dict[str, str]):
        with group.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-u", str(CHILD), str(group.folder), group.id],
                stdin=subprocess.PIPE,  # it ends when this closes
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us to tell
            )

    def ending(self) -> str | None:
        status = self._process.poll()
        if status is None:
            return None
        assert self._process.stdin is not None
        self._process.stdin.close()
        return f"status {status}"

    def stop(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
