import signal

import pytest

from attention.lab.parallel import hosts
from attention.lab.parallel.interruption import noticed_interruptions


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_first_signal_is_noted(name):
    with noticed_interruptions() as interruption:
        assert not interruption.signal
        signal.raise_signal(signal.Signals[name])
        assert interruption.signal == signal.Signals[name]
        assert interruption.name == name


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
    with noticed_interruptions() as interruption:
        assert not interruption.reached()
        assert interruption.reached()
        assert interruption.name == "SIGTERM"


def test_the_usual_handlers_come_back_after_an_error():
    usual = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt), noticed_interruptions():
        raise KeyboardInterrupt
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == usual
