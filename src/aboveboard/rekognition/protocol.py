"""uvicorn's HTTP/1.1 with the bounds that it has not: on a request's head, on slow clients, on connections."""

from __future__ import annotations

import logging
from asyncio import Future, Task, TimerHandle
from functools import partial
from ssl import SSLContext
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aboveboard.rekognition.server import Front

MAX_HEAD = 64 * 1024
MOST_PIPELINED = 8
HEAD_TIMEOUT_S = 20.0
"""For a request's head, from the connection's begin on (so with the TLS handshake) or from the end of the request before."""
ANSWER_TIMEOUT_S = 60.0
"""For an answer to leave: who does not read his answer is hung up upon."""
KEEP_ALIVE_S = 75
"""Longer than the idle time after which AWS's SDKs drop a connection themselves."""
BACKLOG = 100
"""Connections that wait to be accepted, and that asyncio accepts at a time."""

log = logging.getLogger("aboveboard.server")


class Bounded(HttpToolsProtocol):  # type: ignore[misc]
    """One connection. Head too large (as far as whole reads tell): 400; head too slow, answer not taken: hung up.

    Where there are more connections than `limit_concurrency` of the configuration, one makes room that has no whole request to be
    answered: the one that has been longest without a whole head, or silent in a body. So idle ones and attackers go before anybody who
    is being answered; where all are, the new one goes. With `tls` a connection counts, and may go, before its handshake too: asyncio's
    own TLS server would know it only afterwards.

    A request's scope has the extension "aboveboard.gone", a future that is done once the connection has ended.
    """

    def __init__(self, config: Config, *args: Any, tls: SSLContext | None = None, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._most, self.limit_concurrency = config.limit_concurrency, None  # uvicorn's own way is a 503 to the newest
        self._tls = tls
        self._handshake: Task[None] | None = None
        self._early: bytes | None = None
        self._gone: Future[None] = self.loop.create_future()
        self._head: int | None = None
        self._awaits_head = True
        self._idle_since: float | None = None
        self._head_timer: TimerHandle | None = None
        self._answer_timer: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self._tls is not None:
            self._early, self._handshake = b"", self.loop.create_task(self._shake_hands(transport, self._tls))
        self._idle_since = self.loop.time()
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, transport.abort)
        if self._most is not None and len(self.connections) > self._most:
            idle = [one for one in self.connections if one._idle_since is not None]
            longest = min(idle, key=lambda one: one._idle_since)
            longest._idle_since = None  # it is still among the connections for a moment
            longest.transport.abort()

    async def _shake_hands(self, transport: Any, context: SSLContext) -> None:
        try:
            secured = await self.loop.start_tls(transport, self, context, server_side=True, ssl_handshake_timeout=HEAD_TIMEOUT_S)
        except OSError:  # the other side's fault or its going away; start_tls has closed the connection
            secured = None
        except Exception as error:
            log.error("a TLS handshake failed: a defect (%s)", type(error).__name__)
            secured = None
        if secured is None or self._gone.done():
            self.connection_lost(None)
            return
        super().connection_made(secured)
        early, self._early = self._early, None
        if early:
            self.data_received(early)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self._gone.done():
            self._gone.set_result(None)
        for timer in (self._head_timer, self._answer_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._early is not None:  # it came with the handshake's last bytes, and an answer needs the transport that encrypts
            self._early += data
            return
        # Not at the message's begin: empty lines before it, and the rest of a body that was answered early, keep a connection too.
        if self._awaits_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)
        if self._idle_since is not None and not self._awaits_head:
            self._idle_since = self.loop.time()
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self.send_400_response(f"The request's headers are larger than {MAX_HEAD} bytes.")

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()
        self.scope["extensions"] = {"aboveboard.gone": self._gone}

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError("more requests than are answered ahead")
        self._head, self._awaits_head = None, False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.cycle.response_complete:
            self._idle_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._awaits_head = not self.pipeline
        if not self.pipeline or (len(self.pipeline) == 1 and self.cycle.more_body):  # the last one's body may be outstanding
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


def configuration(front: Front, connections: int, tls: SSLContext | None = None, **more: Any) -> Config:
    """How uvicorn serves it, over TLS where there is a context."""
    return Config(
        front,
        http=partial(Bounded, tls=tls),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.ERROR,  # its warnings are lines that anybody can have written
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        limit_concurrency=connections,
        forwarded_allow_ips="127.0.0.1",  # else a variable of uvicorn's own says whom to believe
        **{"backlog": BACKLOG, **more},
    )
