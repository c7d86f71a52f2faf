"""The engine `local`: processes on this machine, a given number of them at once."""

import os
import subprocess
import sys
from pathlib import Path

from attention.lab.sweeps.folder import Group

WIDE = {"COLUMNS": "200"}  # of the tables in a log


class Local:
    """Starts a process for each group; see `jobs.Engine`."""

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
        # Where several processes share a device, none may take all its memory.
        sharing = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if self.at_once > 1 else {}
        self._started.append(process := Process(group, sharing | os.environ | WIDE))
        return process


class Process:
    """Trains a group in a process of its own; see `jobs.Training`."""

    def __init__(self, group: Group, environment: dict[str, str]):
        with group.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, *child_arguments(group.folder, group.id)],
                stdin=subprocess.PIPE,  # the process ends when this closes
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
        """Ends the process at once, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()


def child_arguments(folder: Path, group_id: str) -> list[str]:
    """The arguments with which Python trains a group of a sweep, whatever the engine.

    As a module: so the current directory, where a user's own scores may be, can be imported from.
    """
    return ["-u", "-m", "attention.lab.sweeps.train_group", str(folder), group_id]
