"""Objects of another process: answers and errors come back as themselves, what is held is let go of with its holder."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from aboveboard.errors import Busy, NoSuch, TooFast, Unavailable
from aboveboard.remote import Remote, answer, line
from aboveboard.vision.media import Room


class Store:
    """Something to ask."""

    def double(self, values, *, plus=0):
        return 2 * values + plus

    def process(self):
        return os.getpid()

    def fail(self, error):
        raise error

    def steps(self, count, progress):
        for i in range(count):
            count = progress(i, count)
        return count

    def end(self):
        os._exit(1)


@pytest.fixture
def asked(monkeypatch):
    """asked(): the asking end and the pid of a new process that answers; all end with the test."""
    monkeypatch.setattr(Room, "WAIT_S", 0.5)
    asking, answering = line()
    pids = []

    def begin():
        if pid := os.fork():
            pids.append(pid)
            return asking, pid
        asking.close()
        answer(answering, {"store": Store(), "room": Room(1, 100)})
        os._exit(0)

    yield begin
    answering.close()
    asking.close()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_it_answers_as_the_object_would(asked):
    """Arrays, names, from many threads at once; and in the other process."""
    asking, pid = asked()
    store = Remote(asking).stand_in("store")
    assert store.process() == pid
    values = np.arange(1000, dtype=np.float32)
    with ThreadPoolExecutor(8) as pool:
        for i, answered in enumerate(pool.map(lambda i: store.double(values, plus=i), range(100))):
            assert answered.dtype == np.float32
            assert (answered == 2 * values + i).all()


@pytest.mark.parametrize("error", [NoSuch("a"), Busy("b"), Unavailable("c"), TooFast("d", limit="rate")])
def test_an_error_comes_back_as_itself(asked, error):
    """With its words and facts; the next question is answered."""
    asking, pid = asked()
    store = Remote(asking).stand_in("store")
    with pytest.raises(type(error)) as raised:
        store.fail(error)
    assert (raised.value.message, raised.value.facts) == (error.message, error.facts)
    assert store.process() == pid


def test_a_defect_there_is_told_without_its_words(asked):
    """Its log has it."""
    asking, pid = asked()
    store = Remote(asking).stand_in("store")
    with pytest.raises(Unavailable) as raised:
        store.fail(ValueError("SECRET"))
    assert "SECRET" not in raised.value.message
    assert store.process() == pid


def test_functions_among_the_arguments_are_called_here(asked):
    """What they give goes back; one that raises ends the question, and the next one is answered."""
    asking, pid = asked()
    store, told = Remote(asking).stand_in("store"), []

    def progress(i, count):
        told.append((os.getpid(), i, count))
        return count + 1

    assert store.steps(3, progress) == 6
    assert told == [(os.getpid(), i, 3 + i) for i in range(3)]
    with pytest.raises(KeyError):
        store.steps(3, lambda *_: {}["none"])
    assert store.process() == pid


def test_a_process_that_dies_is_missed_and_its_successor_asked(asked, monkeypatch):
    """A question that kills whoever is asked fails; a later one goes to the next process."""
    monkeypatch.setattr("aboveboard.remote.PATIENCE_S", 0.3)
    asking, _ = asked()
    store = Remote(asking).stand_in("store")
    with pytest.raises(Unavailable):
        store.end()
    with pytest.raises(Unavailable, match="has not answered"):
        store.process()
    _, pid = asked()
    assert store.process() == pid


def test_room_that_another_process_holds_is_waited_for_and_freed_with_it(asked):
    """One picture at once, whoever asks; who dies holding it gives it back."""
    asking, _ = asked()
    inside, outside = os.pipe()
    holder = os.fork()
    if not holder:
        with Remote(asking).hold("room", "taken", 10):
            os.write(outside, b"+")
            threading.Event().wait()
    os.read(inside, 1)
    remote = Remote(asking)
    with pytest.raises(TooFast), remote.hold("room", "taken", 10):
        raise AssertionError("two hold it")
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    with remote.hold("room", "taken", 10):
        assert remote.call("room", "in_use") == (1, 10)
    assert remote.call("room", "in_use") == (0, 0)
