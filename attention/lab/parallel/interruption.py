"""Ctrl-C and SIGTERM: finish the updates under way, save, then go."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from attention.lab.parallel import hosts


class Interruption:
    """Whether, and by which signal, the process was asked to stop."""

    signal: int = 0

    @property
    def name(self) -> str:
        """`SIGINT` or `SIGTERM`."""
        return signal.Signals(self.signal).name

    def reached(self) -> bool:
        """Whether any process was asked to stop; a meeting of all, for them to stop together."""
        agreed = hosts.greatest(self.signal)
        if agreed:  # or else one that came during the meeting counts at the next
            self.signal = agreed
        return agreed > 0


@contextmanager
def noticed_interruptions() -> Iterator[Interruption]:
    """Notes the first signal; a second one of its kind acts at once, as usual."""
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
