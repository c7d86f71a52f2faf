import queue
import signal
import sys
import threading

import pytest

from attention.lab.parallel import hosts, interruption
from attention.lab.parallel.children import call
from attention.lab.parallel.interruption import (
    answered_interruptions,
    before_the_end,
    noticed_interruptions,
)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_first_signal_is_noted(name):
    with noticed_interruptions() as noticed:
        assert not noticed.signal
        signal.raise_signal(signal.Signals[name])
        assert noticed.signal == signal.Signals[name]
        assert noticed.name == name


def test_a_second_ctrl_c_acts_at_once():
    with noticed_interruptions():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_during_a_meeting_counts_at_the_next(monkeypatch):
    coming = [signal.SIGTERM]

    def greatest(value):
        if coming:
            signal.raise_signal(coming.pop())
        return value

    monkeypatch.setattr(hosts, "greatest", greatest)
    with noticed_interruptions() as noticed:
        assert not noticed.reached()
        assert noticed.reached()
        assert noticed.name == "SIGTERM"


def test_the_usual_handlers_come_back_after_an_error():
    usual = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt), noticed_interruptions():
        raise KeyboardInterrupt
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == usual


# Of a command


class Process:
    """What signals make of this process, were it a command."""

    def __init__(self):
        self.said, self.statuses = queue.SimpleQueue(), queue.SimpleQueue()

    def says_after(self, number):
        """What it says at a signal, which is not said by the main thread: that may be busy."""
        signal.raise_signal(number)
        line, thread = self.said.get(timeout=60)
        assert thread is not threading.main_thread()
        return line

    def status(self):
        """Its exit status, once it has ended."""
        return self.statuses.get(timeout=60)


@pytest.fixture
def process(monkeypatch):
    process = Process()
    monkeypatch.setattr(interruption.os, "_exit", process.statuses.put)
    monkeypatch.setattr(
        interruption, "_say", lambda line: process.said.put((line, threading.current_thread()))
    )
    with answered_interruptions():
        yield process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_has_nothing_to_save_ends_in_a_line(process, number, status):
    assert process.says_after(number) == f"interrupted ({number.name})"
    assert process.status() == status


def test_a_command_says_at_once_what_it_will_do_and_at_a_second_signal_quits(process):
    with noticed_interruptions() as noticed:
        noticed.answer = "stopping after step 7"
        told = process.says_after(signal.SIGINT)
        assert told == "SIGINT: stopping after step 7; again to quit without saving"
        assert noticed.signal == signal.SIGINT
        assert process.statuses.empty()
        assert process.says_after(signal.SIGTERM) == "quit without saving (SIGTERM)"
        assert process.status() == 143


def test_a_command_that_has_noted_signals_before_has_nothing_to_save_afterwards(process):
    with noticed_interruptions() as noticed:
        noticed.answer = "stopping"
    assert process.says_after(signal.SIGINT) == "interrupted (SIGINT)"
    assert process.status() == 130


def test_the_main_thread_is_spared_an_exception_that_it_might_lose(process):
    for _ in range(3):
        assert process.says_after(signal.SIGINT) == "interrupted (SIGINT)"


def test_a_signal_can_be_passed_on_to_a_process_that_answers_it(process):
    passed = []
    with noticed_interruptions() as noticed:
        noticed.answer, noticed.pass_on = "", passed.append
        signal.raise_signal(signal.SIGINT)
        assert process.says_after(signal.SIGINT) == "quit without saving (SIGINT)"
    assert passed == [signal.SIGINT]


def test_what_is_shown_is_put_in_order_before_the_end_the_innermost_first(process):
    done = []
    with before_the_end(lambda: done.append("outer")), before_the_end(lambda: 1 / 0):
        with before_the_end(lambda: done.append("inner")):
            process.says_after(signal.SIGINT)
        assert done == ["inner", "outer"]
        with before_the_end(lambda: done.append("over")):
            pass
        process.says_after(signal.SIGINT)
    assert done == ["inner", "outer", "outer"]


def test_a_process_ends_though_nobody_reads_what_it_says(monkeypatch):
    """As with a full pipe: its thread waits for ever, and so does its main thread."""
    statuses, over = queue.SimpleQueue(), threading.Event()
    monkeypatch.setattr(interruption.os, "_exit", statuses.put)
    monkeypatch.setattr(interruption, "_say", lambda line: over.wait(60))
    monkeypatch.setattr(interruption, "STUCK_SECONDS", 0)
    with answered_interruptions():
        signal.raise_signal(signal.SIGTERM)
        assert statuses.get(timeout=60) == 143
        over.set()


def test_the_usual_handlers_come_back_after_a_command():
    usual = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    count = threading.active_count()
    with answered_interruptions():
        assert [signal.getsignal(number) for number in interruption.SIGNALS] != usual
    assert [signal.getsignal(number) for number in interruption.SIGNALS] == usual
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == count


# A program that another waits for


KILL_ME = "import os, signal; os.kill(os.getppid(), signal.SIGTERM); signal.pause()"


def test_a_program_is_called_and_tells_its_status():
    assert call([sys.executable, "-S", "-c", "raise SystemExit(7)"]) == 7


def test_a_program_gets_the_signal_that_is_noted_here():
    with noticed_interruptions() as noticed:
        status = call([sys.executable, "-S", "-c", KILL_ME], noticed)
    assert (status, noticed.signal) == (-signal.SIGTERM, signal.SIGTERM)


def test_a_program_ends_with_who_called_it(process):
    assert call([sys.executable, "-S", "-c", KILL_ME]) == -signal.SIGKILL
    assert process.status() == 143
