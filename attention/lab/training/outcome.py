"""How training ended."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finished:
    """The run is finished.

    Attributes:
      result: what its `result.json` holds.
    """

    result: dict[str, Any]

    @property
    def failed(self) -> list[int]:
        """The numbers of the replicas whose loss or gradient was not finite."""
        replicas = self.result["test"]["replicas"]
        return [number for number, replica in enumerate(replicas) if replica["failed"]]

    @property
    def exit_status(self) -> int:
        """1 if some replicas failed, else 0."""
        return 1 if self.failed else 0


@dataclass(frozen=True)
class Interrupted:
    """A signal ended it; the state is saved, and the same request goes on from there.

    Attributes:
      signal: its number.
    """

    signal: int

    @property
    def exit_status(self) -> int:
        """As a shell tells of a process that died of the signal."""
        return 128 + self.signal


Outcome = Finished | Interrupted
