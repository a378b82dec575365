"""Erase the rows of deleted collections, so that nobody waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from aboveboard.errors import Error
from aboveboard.service.app import App
from aboveboard.storage.erasures import Erasure

LOOK_S = 1
"""How often the server looks for deleted collections, of any process."""
log = logging.getLogger("aboveboard.erasure")


def erase(
    app: App,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    stopped: threading.Event | None = None,
) -> None:
    """Erase the rows of every collection that was deleted, in short transactions with pauses as long as they, so that nobody waits.

    `progress` gets rows done and, roughly, rows in all of the collection at hand. Returns when nothing is left, or soon after `stopped`.
    """
    stop = stopped or threading.Event()
    for erasure in app.erasures.pending():
        app.gate.forget(erasure.n)
        done = 0
        while not stop.is_set() and (rows := _slice(app, erasure)):
            done += rows
            progress(min(done, erasure.faces), erasure.faces)


def _slice(app: App, erasure: Erasure) -> int:
    """Erase a slice and wait as long as that took; 0 when nothing is left anywhere, and then the ledger says so."""
    start = time.monotonic()
    with app.database.write() as connection:
        rows = app.erasures.slice(connection, erasure)
    if rows:
        time.sleep(time.monotonic() - start)
        return rows
    app.scrub()
    with app.database.write() as connection:
        if app.erasures.end(connection, erasure):
            facts = {"collection": erasure.collection_id, "deleted_at": erasure.deleted_at, "faces": erasure.faces}
            app.ledger.append(connection, "collection.erased", facts)
    return 0


class Eraser:
    """Erases deleted collections in a thread of its own while the block runs; at its start what an earlier process left."""

    def __init__(self, app: App) -> None:
        self._app, self._stop = app, threading.Event()
        self._thread = threading.Thread(target=self._run, name="eraser", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                erase(self._app, stopped=self._stop)
            except Error as error:
                log.error("erasing a deleted collection failed and is tried again: %s", error.message)
            self._stop.wait(LOOK_S)
