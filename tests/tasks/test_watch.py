"""Reading that takes too long is ended with the item named, or told; who uses the timer keeps it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

import pytest
import torch

from boildown.errors import DataError
from boildown.tasks import watch
from boildown.tasks.data import samples_from

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers")


class Slow(torch.utils.data.Dataset):
    """Eight items of which one takes long, and whose code tries again whatever happens."""

    def __init__(self, item=5, seconds=60.0):
        self.item, self.end = item, time.monotonic() + seconds

    def __len__(self):
        return 8

    def __getitem__(self, index):
        while index == self.item and time.monotonic() < self.end:
            with contextlib.suppress(Exception):
                time.sleep(0.01)
        return torch.zeros(2), 0


class AtOnce(Slow):
    """The same, read by the batch."""

    def __getitems__(self, indices):
        return [self[index] for index in indices]


@pytest.mark.parametrize(
    ("data", "size", "said"),
    [(Slow, 4, "Item 5 of Slow"), (Slow, 1, "Item 5 of Slow"), (AtOnce, 4, "A batch of AtOnce, from item 4 on,")],
)
def test_what_hangs_is_ended_and_named(data, size, said):
    start = time.monotonic()
    with (
        watch.watching(lambda: 0.1, least=0.05),
        pytest.raises(DataError, match=rf"{said} was not read in the 0 s that were left\.\n"),
    ):
        list(samples_from(data()).batches(size))
    assert time.monotonic() - start < 30
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_a_batch_has_the_least_of_time_however_little_is_left():
    with watch.watching(lambda: -1.0, least=30):
        assert len(list(samples_from(Slow(seconds=0.2)).batches(4))) == 2


def test_without_a_budget_it_is_told_once_and_goes_on(monkeypatch):
    monkeypatch.setattr(watch, "TOLD", 0.1)
    told = []
    with watch.watching() as watched:
        watched.told = told.append
        assert len(list(samples_from(Slow(seconds=0.5)).batches(4))) == 2
    assert told == ["Item 5 of Slow is still being read after 0.1 s: it may hang."]


def test_a_program_that_uses_the_timer_keeps_it():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with watch.watching(lambda: 0.05, least=0.05):
            assert len(list(samples_from(Slow(seconds=0.4)).batches(4))) == 2
        assert rung == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_other_threads_read_unwatched():
    read = []

    def reading():
        with watch.watching(lambda: 0.05, least=0.05):
            read.extend(samples_from(Slow(seconds=0.3)).batches(4))

    thread = threading.Thread(target=reading)
    thread.start()
    thread.join()
    assert len(read) == 2
