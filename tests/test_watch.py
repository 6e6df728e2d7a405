"""Processes show signs of life, and whoever shows none is named."""

import pytest

from fluxseg.watch import LEFT, Watch


class Store(dict):
    """The key-value store of the first process, as JAX's client gives access to it."""

    answers = True

    def write(self, key, text):
        self.check()
        self[key] = text

    def read(self, key):
        self.check()
        if key not in self:
            raise RuntimeError(f"NOT_FOUND: Config key {key} not found.")
        return self[key]

    def check(self):
        if not self.answers:
            raise RuntimeError("UNAVAILABLE: failed to connect to all addresses")


class Job:
    def __init__(self, count, timeout=10):
        self.store, self.now, self.ended = Store(), 0.0, []
        self.watches = [
            Watch(
                index,
                count,
                timeout,
                self.store.write,
                self.store.read,
                end=self.ended.append,
                clock=lambda: self.now,
            )
            for index in range(count)
        ]

    def pass_time(self, seconds, alive):
        for _ in range(seconds):
            self.now += 1
            for index in alive:
                self.watches[index].beat()


def test_nobody_is_silent_while_all_beat():
    job = Job(3)
    job.pass_time(100, alive=[0, 1, 2])
    assert [watch.silent() for watch in job.watches] == [None] * 3


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_silent_process_is_named_after_the_timeout_and_not_before(dead):
    job = Job(3)
    job.pass_time(20, alive=[0, 1, 2])
    others = [index for index in range(3) if index != dead]
    job.pass_time(10, alive=others)
    assert [job.watches[index].silent() for index in others] == [None, None]
    # A sign of life may have been seen one beat after it was given.
    job.pass_time(2, alive=others)
    assert [job.watches[index].silent() for index in others] == [dead, dead]


def test_a_process_that_never_spoke_is_named():
    job = Job(2)
    job.pass_time(11, alive=[0])
    assert job.watches[0].silent() == 1


def test_a_store_that_does_not_answer_is_the_first_process():
    job = Job(3)
    job.pass_time(5, alive=[0, 1, 2])
    job.store.answers = False
    job.now += 11
    with pytest.raises(RuntimeError, match="UNAVAILABLE"):
        job.watches[2].beat()
    assert job.watches[2].silent() == 0


def test_a_process_that_has_left_is_not_missed():
    job = Job(2)
    job.pass_time(5, alive=[0, 1])
    job.watches[1].leave()
    assert job.store["fluxseg/alive/1"] == LEFT
    job.pass_time(100, alive=[0])
    assert job.watches[0].silent() is None
    job.store.answers = False
    job.watches[0].leave()
    assert job.ended == []


def test_waiting_ends_the_process_once():
    job = Job(2)
    job.pass_time(1, alive=[0, 1])
    job.now += 11
    job.watches[1].wait_for_store()
    job.watches[1].beat_for_ever()
    assert job.ended == [0]
