"""The verb serve: the server, on one port, until it is told to stop."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import socket
from collections.abc import Iterator
from typing import Annotated

import typer
import uvicorn

from aboveboard.cli.common import Data, advice, first_words, key_lines, open_app, region_lines
from aboveboard.errors import BadRequest, Refused, Unavailable

GRACE_S = 30
"""How long a stop waits for requests in flight."""
KEEP_ALIVE_S = 75
"""Longer than the idle time after which AWS's SDKs drop a connection themselves."""


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 7070,
    data: Data = None,
    plain_http_behind_proxy: Annotated[
        bool, typer.Option("--plain-http-behind-proxy", help="Listen on another address than this machine's own, without TLS.")
    ] = False,
    no_first_operator: Annotated[
        bool, typer.Option("--no-first-operator", help="Refuse a deployment without an operator; else one is made and his secret printed.")
    ] = False,
) -> None:
    """Serve the Amazon Rekognition API until Ctrl-C or SIGTERM; requests in flight are finished.

    The first start on a data folder makes the first operator and prints the lines that give an AWS SDK his key.
    """
    if not plain_http_behind_proxy and not _is_loopback(host):
        text = f"{host} can be reached from other machines, and photographs would travel in plain HTTP; "
        mend = "put a proxy with TLS before 127.0.0.1, or say --plain-http-behind-proxy"
        raise Refused(text + mend, rule="plain-http")
    listener = _listen(host, port)
    app = open_app(data)
    if no_first_operator and not app.operators.all():
        raise BadRequest(f"{app.settings.data} has no operator yet; add one with: {advice('operator add NAME --role admin', data)}")
    from aboveboard.rekognition import server
    from aboveboard.rekognition.protocol import BoundedHead

    # Root's handler writes warnings and errors to stderr; requests are not logged: the ledger is the record.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    made = app.operators.first(app.gate.policies.default)
    lines = [*first_words(made[0], app), "", *key_lines(made[1], app.settings.region)] if made else []
    if not made:
        lines = [
            f"Deployment in {app.settings.data}; its operators' secrets were shown when they were made and are not shown again.",
            f"A further key: {advice('operator add NAME --role ROLE', data)}",
            "",
            *region_lines(app.settings.region),
        ]
    lines += [f"export AWS_ENDPOINT_URL_REKOGNITION={url}", "", f"listening on {url}"]
    config = uvicorn.Config(
        server.build(app),
        http=BoundedHead,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    _Server(config, lines).run(sockets=[listener])
    app.database.close()


class _Server(uvicorn.Server):  # type: ignore[misc]
    """Uvicorn that says when it answers, and takes a signal as a wish to stop, not as a way to die: exit code 0."""

    def __init__(self, config: uvicorn.Config, lines: list[str]) -> None:
        super().__init__(config)
        self._lines = lines

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        typer.echo("\n".join(self._lines))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket; raises Unavailable where the port is taken or the address is not this machine's."""
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening now makes a second server on the port fail here, before it opens anything.
        listener.listen(2048)
    except OSError as error:
        if listener is not None:
            listener.close()
        mend = "is another server running? choose another with --port, or 0 for a free one" if port else "name another with --host"
        raise Unavailable(f"cannot listen on {host} port {port} ({error.strerror}); {mend}") from error
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
