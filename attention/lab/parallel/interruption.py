"""Ctrl-C and SIGTERM: finish the updates under way, save, then go."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from attention.lab.parallel import hosts


class Interruption:
    """Whether the process was asked to stop, and by which signal.

    Attributes:
      signal: its number; 0 while there is none.
    """

    signal: int = 0

    @property
    def name(self) -> str:
        """`SIGINT` or `SIGTERM`."""
        return signal.Signals(self.signal).name

    def reached(self) -> bool:
        """Whether any process was asked to stop. A collective call, so that all stop together."""
        agreed = hosts.greatest(self.signal)
        if agreed:  # if not, a signal that came during the call counts at the next call
            self.signal = agreed
        return agreed > 0


@contextmanager
def noticed_interruptions() -> Iterator[Interruption]:
    """Notes the first signal; a second signal of the same kind acts at once, as usual."""
    interruption = Interruption()
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        interruption.signal = number
        signal.signal(number, usual[signal.Signals(number)])

    for number in usual:
        signal.signal(number, note)
    try:
        yield interruption
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
