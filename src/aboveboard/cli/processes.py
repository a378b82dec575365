"""What the processes of `serve` do: answer requests, hold what workers share, show metrics."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import uvicorn
from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

from aboveboard import bootstrap, memory
from aboveboard.errors import Unavailable
from aboveboard.rekognition import telemetry
from aboveboard.rekognition.certificate import Certificate
from aboveboard.rekognition.limits import Rates
from aboveboard.rekognition.protocol import BACKLOG, configuration
from aboveboard.rekognition.server import MAX_BODY, Front
from aboveboard.remote import Remote, answer
from aboveboard.service.app import App
from aboveboard.service.erasure import Eraser
from aboveboard.service.record import served
from aboveboard.settings import Settings

GRACE_S = 30
"""How long a stop waits for requests in flight."""
LOOK_S = 2
"""How often the certificate's files are looked at."""
METRICS_TIMEOUT_S = 5
"""For each read and write of a connection to the metrics."""


@dataclass(frozen=True)
class Serving:
    """A deployment and how it is served; each method is what one process does until it ends."""

    app: App
    listener: socket.socket
    certificate: Certificate | None
    scrapes: Scrapes | None
    log: bool
    trace: bool
    workers: int = 1

    def alone(self, ready: Callable[[], None]) -> None:
        """Everything in one process; `ready` is called once requests are answered."""
        front = Front(self.app)
        if self.scrapes:
            registry = telemetry.of_deployment(self.app)
            registry.register(_counted(front))
            self.scrapes.show(registry)
        threading.Thread(target=self.app.gate.warm, name="warm", daemon=True).start()
        with served(self.app), Eraser(self.app):
            self._answer(front, self.app, ready)
        self.app.gate.close()
        self.app.database.close()

    def worker(self, asking: socket.socket, answering: socket.socket, parent: int) -> None:
        """Answer requests and ask the search process; tell it the metrics. Ends with the file `parent`, too."""
        remote = Remote(asking)
        app = replace(bootstrap.sharing(self.app, remote), settings=_share(self.app.settings, self.workers))
        front = Front(app, remote.stand_in("rates") if app.settings.requests_per_second else None)
        objects: dict[str, Any] = {"database": self.app.database}
        if self.scrapes:
            self.scrapes.server_close()
            objects["metrics"] = _counted(front)
        threading.Thread(target=answer, args=(answering, objects), daemon=True).start()
        self._answer(front, app, lambda: None, parent)
        app.database.close()

    def search(self, answering: socket.socket, asking: Mapping[str, socket.socket]) -> None:
        """Hold templates, room for images and requests a second for the workers; show everybody's metrics."""
        if self.scrapes:
            own = CollectorRegistry()
            ProcessCollector(registry=own)
            workers = {number: Remote(line).stand_in("metrics").collect for number, line in asking.items()}
            registry = telemetry.of_deployment(self.app)
            registry.register(telemetry.Gathered({"search": own.collect, **workers}))
            self.scrapes.show(registry)
        shared = bootstrap.shared(self.app, [Remote(line).stand_in("database") for line in asking.values()])
        app, overwrite = bootstrap.holding(self.app, shared), partial(memory.overwrite_kept, self.app.models.recogniser.dimensions)
        threading.Thread(target=shared["templates"].warm, name="warm", daemon=True).start()
        with served(app), Eraser(app):
            answer(answering, {**shared, "rates": Rates(self.app.settings.requests_per_second)}, overwrite)
        shared["templates"].close()
        self.app.database.close()

    def _answer(self, front: Front, app: App, ready: Callable[[], None], parent: int | None = None) -> None:
        if self.log:
            front.listeners.append(telemetry.line)
        provider = telemetry.traces() if self.trace else None
        if provider:
            front.listeners.append(telemetry.spans(provider))
        config = configuration(
            front,
            app.settings.connections,
            self.certificate.context if self.certificate else None,
            callback_notify=self.certificate.refresh if self.certificate else None,
            timeout_notify=LOOK_S,
            timeout_graceful_shutdown=GRACE_S,
            # Who accepts one connection at a time leaves a crowd's others to the other workers; `startup` makes the queue long again.
            backlog=BACKLOG if parent is None else 1,
        )
        _Server(config, ready, parent).run(sockets=[self.listener])
        if provider:
            provider.shutdown()


def _counted(front: Front) -> telemetry.Metrics:
    metrics = telemetry.Metrics(front.bodies, front.workers)
    front.listeners.append(metrics.count)
    return metrics


def _share(settings: Settings, workers: int) -> Settings:
    """One worker's share of what each bounds for itself, never less than one request needs."""
    room = max(settings.request_bytes_at_once // workers, MAX_BODY)
    return replace(settings, request_bytes_at_once=room, connections=-(-settings.connections // workers))


class _Server(uvicorn.Server):  # type: ignore[misc]
    """Uvicorn that says when it answers, and takes a signal as a wish to stop, not as a way to die: exit code 0. So it takes the end of
    the file `parent`."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], parent: int | None) -> None:
        super().__init__(config)
        self._ready, self._parent = ready, parent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self._parent is not None:
            for one in sockets or []:
                one.listen(BACKLOG)
            asyncio.get_running_loop().add_reader(self._parent, self._stop, self._parent)
        self._ready()

    def _stop(self, parent: int) -> None:
        asyncio.get_running_loop().remove_reader(parent)
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Scrape(WSGIRequestHandler):
    """One connection to the metrics, each in a thread: who says nothing is hung up upon."""

    timeout = METRICS_TIMEOUT_S

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Scrapes(ThreadingMixIn, WSGIServer):
    """Listens for Prometheus; `show` answers it in threads."""

    daemon_threads = True

    def show(self, registry: CollectorRegistry) -> None:
        """Answer with what the registry collects, from now on."""
        self.set_app(make_wsgi_app(registry))
        threading.Thread(target=self.serve_forever, daemon=True).start()


def listen_for_metrics(port: int) -> Scrapes:
    """A bound port of 127.0.0.1; raises Unavailable where it is taken."""
    try:
        return make_server("127.0.0.1", port, make_wsgi_app(CollectorRegistry()), Scrapes, _Scrape)
    except OSError as error:
        text = f"cannot listen for metrics on 127.0.0.1 port {port} ({error.strerror}); choose another --metrics-port"
        raise Unavailable(text) from error
