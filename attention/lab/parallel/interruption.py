"""Ctrl-C and SIGTERM: finish the updates under way, save, then go; a second time, go at once.

Python runs a handler of signals in the main thread, which may be in the compiler, or in a compiled
program, for minutes; and an exception that a handler raises may come up in a function that
swallows it. So a handler here only notes a signal. While a command runs, a thread answers: it reads
from a pipe, into which Python writes a signal's number as soon as the signal comes.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from attention.lab.parallel import hosts

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STUCK_SECONDS = 2  # within which a process ends, though nobody reads what it prints


class Interruption:
    """Whether the process was asked to stop, and by which signal.

    Attributes:
      signal: its number; 0 while there is none.
      answer: what a command says at the first signal, of what it will do now; empty where another
        process says so; None where there is nothing to save, and the command ends at once.
      answered: whether it has said so.
      pass_on: called with the number of the first signal, as soon as the main thread can.
    """

    signal: int = 0
    answer: str | None = None
    answered: bool = False
    pass_on: Callable[[int], object] | None = None

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


_noticing: list[Interruption] = []  # the last is that of the innermost context
_before_the_end: list[Callable[[], object]] = []


@contextmanager
def noticed_interruptions() -> Iterator[Interruption]:
    """Notes the first signal; a second signal of the same kind acts at once, as usual."""
    interruption = Interruption()
    usual = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        interruption.signal = number
        signal.signal(number, usual[signal.Signals(number)])
        if interruption.pass_on is not None:
            interruption.pass_on(number)

    for number in usual:
        signal.signal(number, note)
    _noticing.append(interruption)
    try:
        yield interruption
    finally:
        _noticing.remove(interruption)
        for number, handler in usual.items():
            signal.signal(number, handler)


@contextmanager
def answered_interruptions() -> Iterator[None]:
    """Answers signals at once, whatever the main thread does. For a process that is a command.

    A signal that is noted, the first of `noticed_interruptions`, is answered by what happens now;
    any other ends the process, in one line and with the exit status of a process that died of it.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    usual = {number: signal.signal(number, _leave_to_the_thread) for number in SIGNALS}
    usual_wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_answer_all, args=(reading,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(usual_wakeup)
        for number, handler in usual.items():
            signal.signal(number, handler)
        os.close(writing)
        thread.join()
        os.close(reading)


@contextmanager
def before_the_end(act: Callable[[], object]) -> Iterator[None]:
    """Does something, such as to show the cursor again, should the process be ended meanwhile."""
    _before_the_end.append(act)
    try:
        yield
    finally:
        _before_the_end.remove(act)


def _leave_to_the_thread(number: int, frame: FrameType | None) -> None:
    del number, frame


def _answer_all(pipe: int) -> None:
    while byte := os.read(pipe, 1):  # nothing, when the other end is closed
        if byte[0] in SIGNALS:
            _answer(signal.Signals(byte[0]))


def _answer(number: signal.Signals) -> None:
    noticed = _noticing[-1] if _noticing else Interruption()
    if noticed.answered:
        _end(number, f"quit without saving ({number.name})")
    if noticed.answer is None:
        _end(number, f"interrupted ({number.name})")
    noticed.answered = True
    if noticed.answer:
        _say(f"{number.name}: {noticed.answer}; again to quit without saving")


def _end(number: signal.Signals, told: str) -> None:
    """Ends the process without an exception, which could be lost, and without a traceback."""
    status = 128 + number
    timer = threading.Timer(STUCK_SECONDS, os._exit, [status])
    timer.daemon = True
    timer.start()
    for act in reversed(_before_the_end):
        with suppress(Exception):
            act()
    with suppress(Exception):
        sys.stdout.flush()
    _say(told)
    os._exit(status)


def _say(line: str) -> None:
    with suppress(Exception):
        over_the_echo = "\r" if sys.stderr.isatty() else ""  # of Ctrl-C, which is ^C
        print(f"{over_the_echo}{line}", file=sys.stderr, flush=True)
