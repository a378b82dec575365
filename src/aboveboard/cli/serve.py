"""The verb serve: the server, on one port, until it is told to stop."""

from __future__ import annotations

import ipaddress
import logging
import resource
import socket
from pathlib import Path
from typing import Annotated

import typer

from aboveboard.cli.common import Data, advice, first_words, key_lines, open_app, region_lines
from aboveboard.errors import BadRequest, Refused, Unavailable

SPARE_FILES = 500
"""Files beside the connections: the server's own, and connections accepted before those that make room for them have ended."""


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 7070,
    data: Data = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", metavar="FILE", help="Certificate with its chain, PEM: serve HTTPS. Read anew when it changes."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM, unencrypted.")] = None,
    plain_http_behind_proxy: Annotated[
        bool, typer.Option("--plain-http-behind-proxy", help="Listen on another address than this machine's own, without TLS.")
    ] = False,
    no_first_operator: Annotated[
        bool, typer.Option("--no-first-operator", help="Refuse a deployment without an operator; else one is made and his secret printed.")
    ] = False,
    log: Annotated[bool, typer.Option("--log", help="Write a line of JSON to stderr for each request, without names.")] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", min=0, max=65535, help="Port of 127.0.0.1 for Prometheus, without which there are no metrics."),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Send a span for each request, as OpenTelemetry's OTEL_* variables say.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, metavar="N", help="Processes that answer requests.")] = 1,
) -> None:
    """Serve the Amazon Rekognition API until Ctrl-C or SIGTERM; requests in flight are finished.

    The first start on a data folder makes the first operator and prints the lines that give an AWS SDK his key.
    """
    if (tls_cert is None) != (tls_key is None):
        raise BadRequest("--tls-cert and --tls-key belong together; give both")
    if tls_cert is None and not plain_http_behind_proxy and not _is_loopback(host):
        text = f"{host} can be reached from other machines, and photographs would travel in plain HTTP; "
        mend = "give --tls-cert and --tls-key, put a proxy with TLS before 127.0.0.1, or say --plain-http-behind-proxy"
        raise Refused(text + mend, rule="plain-http")
    listener = _listen(host, port)
    from aboveboard.cli.processes import Serving, listen_for_metrics
    from aboveboard.cli.supervisor import supervise
    from aboveboard.rekognition import telemetry
    from aboveboard.rekognition.certificate import Certificate
    from aboveboard.service import record

    handler = logging.StreamHandler()
    handler.setFormatter(telemetry.Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("aboveboard").setLevel(logging.INFO)
    certificate = Certificate(tls_cert, tls_key) if tls_cert and tls_key else None
    if trace:
        telemetry.traces().shutdown()  # says now what is missing; each process makes its own
    app = open_app(data, check=True)
    _allow_files(app.settings.connections)
    if no_first_operator and not app.operators.all():
        raise BadRequest(f"{app.settings.data} has no operator yet; add one with: {advice('operator add NAME --role admin', data)}")
    scrapes = None if metrics_port is None else listen_for_metrics(metrics_port)
    lines = [f"metrics on {_url('http', '127.0.0.1', scrapes.server_port)}/metrics"] if scrapes else []
    url = _url("https" if certificate else "http", host, listener.getsockname()[1])
    record.sign(app)  # the ledger as it was found; where that cannot be kept nobody is served
    made = app.operators.first(app.gate.policy_of(None))
    lines += [*first_words(made[0], app), "", *key_lines(made[1], app.settings.region)] if made else []
    if not made:
        lines += [
            f"Deployment in {app.settings.data}; its operators' secrets were shown when they were made and are not shown again.",
            f"A further key: {advice('operator add NAME --role ROLE', data)}",
            "",
            *region_lines(app.settings.region),
        ]
    lines += [f"export AWS_ENDPOINT_URL_REKOGNITION={url}", "", f"listening on {url}"]
    serving = Serving(app, listener, certificate, scrapes, log, trace, workers)

    def ready() -> None:
        typer.echo("\n".join(lines))

    if workers == 1:
        serving.alone(ready)
    else:
        app.database.close()  # no connection may be carried into another process
        supervise(workers, serving.search, serving.worker, listener, ready)


def _allow_files(connections: int) -> None:
    """Have the system allow so many connections at once; raises Unavailable where it does not: without files nobody is answered."""
    needed = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            mend = f"raise it (ulimit -Hn, LimitNOFILE=) to {needed}, or set 'connections' to {max(1, hard - SPARE_FILES)}"
            raise Unavailable(f"{connections} connections need {needed} open files, and the system allows {hard}; {mend}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


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
