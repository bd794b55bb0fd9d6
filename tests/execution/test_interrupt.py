"""Ctrl-C once stops in order, twice at once."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from boildown.errors import Cancelled
from boildown.execution.interrupt import Stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_asks_the_second_interrupts(number):
    told = []
    with Stop(lambda: told.append(True)) as stop:
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.asked
        assert told == [True]
        with pytest.raises(Cancelled, match="Stopped"):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert told == [True]


def test_previous_answers_come_back_even_after_an_error():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def fail():
        assert signal.getsignal(signal.SIGINT) != before[0]
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"), Stop():
        fail()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_off_the_main_thread_only_asking_works():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def run():
        with Stop() as stop:
            seen.append(signal.getsignal(signal.SIGINT) == before)
            stop.ask()
            with pytest.raises(Cancelled):
                stop.check()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [True]
