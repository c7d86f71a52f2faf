"""How training ended: the run is finished, or a signal interrupted it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finished:
    """The run is finished.

    Attributes:
      result: what the run's `result.json` holds.
    """

    result: dict[str, Any]

    @property
    def failed(self) -> list[int]:
        """The numbers of the replicas whose loss or gradient was not finite."""
        replicas = self.result["test"]["replicas"]
        return [number for number, replica in enumerate(replicas) if replica["failed"]]

    @property
    def exit_status(self) -> int:
        """The exit status of the program: 1 if some replicas failed, else 0."""
        return 1 if self.failed else 0


@dataclass(frozen=True)
class Interrupted:
    """A signal interrupted training. The state is saved; the same request goes on from there.

    Attributes:
      signal: the number of the signal.
    """

    signal: int

    @property
    def exit_status(self) -> int:
        """The exit status that a shell reports for a process that died of the signal."""
        return 128 + self.signal


Outcome = Finished | Interrupted
