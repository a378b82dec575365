"""Room for decoded pictures, shares of what the server has, requests a second: who waits, who goes first, who is refused."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest
from kit import picture

from aboveboard.errors import BadRequest, BadSample, TooFast
from aboveboard.rekognition.limits import Rates, Shares
from aboveboard.vision.media import Room

SMALL, LARGE = picture(1, width=160, height=160), picture(1, width=400, height=400)


@pytest.mark.parametrize(("pictures", "pixels"), [(3, 10**9), (100, 50_000), (100, 160_000), (1, 1)])
def test_no_more_pictures_and_pixels_are_decoded_than_there_is_room_for(pictures, pixels):
    """Forty threads, two sizes; each gets its turn. A picture larger than all the room is decoded alone."""
    room, now, most, lock = Room(pictures, pixels), [], [], threading.Lock()

    def one(data):
        with room.decoded(data, 10**6) as image:
            with lock:
                now.append(image.shape[0] * image.shape[1])
                most.append((len(now), sum(now)))
            threading.Event().wait(0.002)
            with lock:
                now.remove(image.shape[0] * image.shape[1])

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(one, [SMALL, LARGE] * 20))
    assert len(most) == 40
    assert all(count <= pictures and (total <= pixels or count == 1) for count, total in most)
    assert room.in_use() == (0, 0)


def test_a_picture_that_cannot_be_decoded_takes_no_room():
    """Neither one without a header nor one cut short."""
    room = Room(1, 10**6)
    for data in (b"", b"x", SMALL[:60]):
        with pytest.raises(BadSample), room.decoded(data, 10**6):
            pass
    with room.decoded(SMALL, 10**6):
        assert room.in_use() == (1, 160 * 160)


def test_who_waits_too_long_for_room_is_refused_and_holds_up_nobody(monkeypatch):
    """TooFast; the next one gets in once there is room."""
    monkeypatch.setattr(Room, "WAIT_S", 0.05)
    room = Room(1, 10**6)
    with room.decoded(SMALL, 10**6), pytest.raises(TooFast), room.decoded(SMALL, 10**6):
        pass
    with room.decoded(SMALL, 10**6):
        pass


def in_turns(capacity, requests, most=None, wait_s=10):
    """The order in which (owner, amount) requests, all sent at once, are served."""
    shares, order = Shares("things", capacity, most or capacity), []

    async def one(owner, amount):
        async with shares.take(owner, amount, wait_s):
            assert shares.in_use <= capacity
            order.append(owner)
            await anyio.sleep(0.001)

    async def all_of_them():
        async with anyio.create_task_group() as group:
            for request in requests:
                group.start_soon(one, *request)

    anyio.run(all_of_them)
    assert (shares.in_use, shares.waiting) == (0, 0)
    return order


def test_who_holds_least_is_served_first():
    """A hundred of one key and one of another, who comes last: he waits for one to end, not for ninety-nine."""
    order = in_turns(4, [("many", 1)] * 100 + [("one", 1)])
    assert order.index("one") <= 5
    assert len(order) == 101


def test_a_large_one_is_passed_by_for_half_of_its_wait():
    """Small ones do not wait for what it waits for, nor do they keep it waiting for ever."""
    assert in_turns(10, [("a", 4), ("b", 10), ("c", 4)]) == ["a", "c", "b"]
    assert in_turns(10, [("a", 99), ("b", 1)]) == ["a", "b"]

    async def later():
        shares, order = Shares("things", 10, 10), []

        async def one(owner, amount, wait_s):
            async with shares.take(owner, amount, wait_s):
                order.append(owner)

        async with anyio.create_task_group() as group, shares.take("a", 4, 1):
            group.start_soon(one, "large", 10, 1)
            await anyio.sleep(0.6)
            group.start_soon(one, "small", 4, 10)
            await anyio.sleep(0.1)
            assert order == []
        assert order == ["large", "small"]

    anyio.run(later)


def test_one_key_leaves_something_to_the_others():
    """Who has his part is passed by; within a key the first is served first."""
    assert in_turns(4, [("a", 1), ("a", 1), ("a", 1), ("b", 1), ("b", 1)], most=2) == ["a", "a", "b", "b", "a"]
    assert in_turns(4, [("a", 9), ("b", 9)], most=2) == ["a", "b"]


def test_nobody_waits_for_who_went_away():
    """Neither one who goes while he waits nor one who went before."""

    async def held():
        shares = Shares("things", 1, 1)
        gone = asyncio.get_running_loop().create_future()
        async with shares.take("a", 1, 1):
            asyncio.get_running_loop().call_later(0.01, gone.set_result, None)
            for _ in range(2):
                with pytest.raises(BadRequest, match="went away"):
                    async with shares.take("b", 1, 1000, gone):
                        pass
            assert shares.waiting == 0

    anyio.run(held)


def test_who_waits_too_long_for_his_share_is_refused():
    """TooFast, and nothing of it stays behind."""

    async def held():
        shares = Shares("things", 1, 1)
        async with shares.take("a", 1, 1):
            with pytest.raises(TooFast, match="more things than"):
                async with shares.take("b", 1, 0.01):
                    pass
        async with shares.take("b", 1, 0):
            assert (shares.in_use, shares.waiting) == (1, 0)

    anyio.run(held)


@pytest.mark.parametrize(("rate", "at_once"), [(0.5, 1), (1, 1), (5, 5), (2.5, 2)])
def test_a_bucket_holds_a_second_of_requests_and_fills_again(rate, at_once):
    """By the clock: what may come at once, and over a minute no more than the rate."""
    now = [100.0]
    rates = Rates(rate, lambda: now[0])

    def passes():
        try:
            rates.spend("key")
        except TooFast:
            return False
        return True

    assert [passes() for _ in range(at_once + 1)] == [True] * at_once + [False]
    rates.spend("another key")
    passed = 0
    for _ in range(480):
        now[0] += 0.125
        passed += passes()
    assert passed == pytest.approx(60 * rate, abs=1)
