"""What one access key may take: so many requests a second, and its share of what the server has room for."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anyio import Event, move_on_after

from aboveboard.errors import TooFast


class Rates:
    """A token bucket for each access key: `per_second` requests (0: no limit), of which a second's worth, at least one, may come at once.

    In the memory of one process. A request too many is not in the ledger: it did nothing and would let anybody with a key fill the disk.
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
    """So much of one thing (bytes, workers) for all requests; who holds least of it is served first, then who came first.

    So a key with a hundred requests waiting does not stand before another key's first. For one event loop.
    """

    def __init__(self, what: str, capacity: int) -> None:
        self.what, self.capacity = what, capacity
        self.in_use = 0
        self._held: Counter[str] = Counter()
        self._waiting: list[tuple[str, int, Event]] = []

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def take(self, owner: str, amount: int, wait_s: float) -> AsyncIterator[None]:
        """Hold `amount` (more than everything counts as everything) while the block runs; raises TooFast where none comes free in time."""
        amount = min(amount, self.capacity)
        turn = (owner, amount, Event())
        self._waiting.append(turn)
        self._serve()
        try:
            with move_on_after(wait_s):
                await turn[2].wait()
            if not turn[2].is_set():
                text = f"this server has had more {self.what} than it has room for, for {wait_s:.0f} s now; send the request again later"
                raise TooFast(text, limit=self.what)
            yield
        finally:
            if turn[2].is_set():
                self.in_use -= amount
                self._held[owner] -= amount
                self._held += Counter()  # forgets those who hold nothing
            else:
                self._waiting.remove(turn)
            self._serve()

    def _serve(self) -> None:
        while self._waiting:
            turn = min(self._waiting, key=lambda one: self._held[one[0]])
            owner, amount, event = turn
            if self.in_use + amount > self.capacity:
                return
            self._waiting.remove(turn)
            self.in_use += amount
            self._held[owner] += amount
            event.set()
