"""uvicorn's HTTP/1.1 with the bounds that it has not: on a request's head, on slow clients, on connections."""

from __future__ import annotations

from asyncio import TimerHandle
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aboveboard.rekognition.server import Front

MAX_HEAD = 64 * 1024
MOST_PIPELINED = 8
HEAD_TIMEOUT_S = 20.0
"""For a request's head, from the connection's first byte on or from the end of the request before."""
ANSWER_TIMEOUT_S = 60.0
"""For an answer to leave: who does not read his answer is hung up upon."""
KEEP_ALIVE_S = 75
"""Longer than the idle time after which AWS's SDKs drop a connection themselves."""


class Bounded(HttpToolsProtocol):  # type: ignore[misc]
    """One connection. Head too large (as far as whole reads tell): 400; head too slow, answer not taken: hung up.

    Where there are more connections than `limit_concurrency` of the configuration, the one that has been longest without a
    request's whole head makes room: idle ones and attackers go before anybody who is being answered. Where all are, the new one goes.
    """

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._most, self.limit_concurrency = config.limit_concurrency, None  # uvicorn's own way is a 503 to the newest
        self._head: int | None = None
        self._idle_since: float | None = None
        self._head_timer: TimerHandle | None = None
        self._answer_timer: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, transport.abort)
        if self._most is not None and len(self.connections) > self._most:
            idle = [one for one in self.connections if one._idle_since is not None]
            longest = min(idle, key=lambda one: one._idle_since)
            longest._idle_since = None  # it is still among the connections for a moment
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._head_timer, self._answer_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        # Not at the message's begin: empty lines before it, and the rest of a body that was answered early, keep a connection too.
        if self._idle_since is not None and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self.send_400_response(f"The request's headers are larger than {MAX_HEAD} bytes.")

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError("more requests than are answered ahead")
        self._head = self._idle_since = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        if not self.pipeline:
            self._idle_since = self.loop.time()
        self._expect_reading()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._expect_reading()
        super().pause_writing()

    def _expect_reading(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
        self._answer_timer = self.loop.call_later(ANSWER_TIMEOUT_S, self._hang_up_on_a_full_buffer)

    def _hang_up_on_a_full_buffer(self) -> None:
        if self.transport.get_write_buffer_size() > 0:
            self.transport.abort()


def configuration(front: Front, connections: int, **more: Any) -> Config:
    """How uvicorn serves it."""
    return Config(
        front,
        http=Bounded,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        limit_concurrency=connections,
        **more,
    )
