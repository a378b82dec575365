"""What one access key may take: so many requests a second, and its share of what the server has room for."""

from __future__ import annotations

import threading
import time
from asyncio import Future
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from anyio import Event, current_time, move_on_after

from aboveboard.errors import BadRequest, TooFast


class Rates:
    """A token bucket for each access key: `per_second` requests (0: no limit), of which a second's worth, at least one, may come at once.

    Counted in memory. A request too many is not in the ledger: it did nothing and would let anybody with a key fill the disk.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = per_second, clock
        self._burst = max(1.0, per_second)
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def spend(self, key_id: str) -> None:
        """Count a request of a key whose signature was verified: nobody else may spend it. Raises TooFast."""
        if not self._rate:
            return
        now = self._clock()
        with self._lock:
            tokens, then = self._buckets.get(key_id, (self._burst, now))
            tokens = min(self._burst, tokens + (now - then) * self._rate)
            self._buckets[key_id] = (tokens - 1 if tokens >= 1 else tokens, now)
        if tokens < 1:
            raise TooFast(f"this access key may send {self._rate:g} requests a second; send the request again later", limit="rate")


class Shares:
    """So much of one thing (bytes, workers) for all requests, `most` of it for one owner; who holds least is served first, then who
    came first.

    So a key with a hundred requests waiting does not stand before another key's first, and one whose requests do not end leaves
    something to the others, who pass him by. A request that is too large for what is free is passed by while the first half of its wait
    lasts; then what comes free is kept for it. For one event loop.
    """

    def __init__(self, what: str, capacity: int, most: int) -> None:
        self.what, self.capacity = what, capacity
        self.in_use = 0
        self._most = min(most, capacity)
        self._held: Counter[str] = Counter()
        self._waiting: list[_Turn] = []

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def take(self, owner: str, amount: int, wait_s: float, gone: Future[None] | None = None) -> AsyncIterator[None]:
        """Hold `amount` (more than an owner may hold counts as that) while the block runs; raises TooFast where it does not come free in
        time, BadRequest once `gone` is done: nobody waits for the answer any more."""
        turn = _Turn(owner, min(amount, self._most), current_time() + wait_s / 2)
        self._waiting.append(turn)
        self._serve()
        try:
            await _wait(turn.served, wait_s, gone)
            if not turn.served.is_set():
                if gone is not None and gone.done():
                    raise BadRequest("the client went away")
                text = f"this server has had more {self.what} than it has room for, for {wait_s:.0f} s now; send the request again later"
                raise TooFast(text, limit=self.what)
            yield
        finally:
            if turn.served.is_set():
                self.in_use -= turn.amount
                self._held[owner] -= turn.amount
                self._held += Counter()  # forgets those who hold nothing
            else:
                self._waiting.remove(turn)
            self._serve()

    def _serve(self) -> None:
        while (turn := self._next()) is not None:
            self._waiting.remove(turn)
            self.in_use += turn.amount
            self._held[turn.owner] += turn.amount
            turn.served.set()

    def _next(self) -> _Turn | None:
        now = current_time() if self._waiting else 0.0
        for turn in sorted(self._waiting, key=lambda one: self._held[one.owner]):
            if self._held[turn.owner] + turn.amount > self._most:
                continue
            if self.in_use + turn.amount <= self.capacity:
                return turn
            if now >= turn.patient_until:
                return None
        return None


@dataclass(frozen=True, eq=False)
class _Turn:
    owner: str
    amount: int
    patient_until: float
    served: Event = field(default_factory=Event)


async def _wait(event: Event, wait_s: float, gone: Future[None] | None) -> None:
    """Until the event, the time's end or `gone`."""
    with move_on_after(wait_s) as scope:

        def end(_: Future[None]) -> None:
            scope.cancel()

        if gone is None:
            await event.wait()
            return
        gone.add_done_callback(end)
        try:
            await event.wait()
        finally:
            gone.remove_done_callback(end)
