"""The store's part of benchmarks/search.py: ingest, memory, restart, removal, and searches through a real database."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from search_data import Vectors, plain
from search_engines import Found, K, figures

from aboveboard.biometrics.scan import Scanner
from aboveboard.biometrics.vocabulary import Template
from aboveboard.storage.collections import Collection, Collections
from aboveboard.storage.database import Database
from aboveboard.storage.gallery import Gallery
from aboveboard.storage.templates import Permit, Templates

MODEL = "1.0", "benchmark"
BATCH, WRITE = 1000, 4096
"""Faces of one transaction: when they are added, and as DeleteFaces may remove them."""
_ODD = 0x9E3779B97F4A7C15F39CC0605CEDC835


def face_id(row: int) -> str:
    """Ids in no order, as real ones are, that tell their row."""
    return str(uuid.UUID(int=row * _ODD % 2**128))


def row_of(face: str) -> int:
    return uuid.UUID(face).int * pow(_ODD, -1, 2**128) % 2**128


Faces = dict[str, tuple[dict[str, Any], Template]]


def faces_of(first: int, vectors: Vectors) -> Faces:
    """Faces as the store is given them, with ids from row `first` on."""
    plain_row = {"box": [0.1, 0.1, 0.5, 0.5], "confidence": 99.0, "external_image_id": None}
    return {
        face_id(row): ({**plain_row, "image_id": face_id(row + 2**40)}, Template(vector, MODEL[0]))
        for row, vector in enumerate(vectors, first)
    }


class Store:
    """A database with one collection, and the searches over it."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "aboveboard.db")
        self.collections = Collections(self.database)
        with self.database.write() as connection:
            self.collections.create(connection, "c", *MODEL, {})
        self.collection: Collection = self.collections.get("c")
        self.templates = Templates(self.database)

    def add(self, faces: Faces) -> None:
        with self.database.write() as connection:
            new = self.collections.add_faces(connection, self.collection, faces)
            self.collections.touch(connection, self.collection, added=len(new))

    def remove(self, rows: range) -> None:
        """As DeleteFaces does: gone from the disk, then from memory."""
        with self.database.write() as connection:
            self.collections.remove_faces(connection, self.collection, [face_id(row) for row in rows])
            self.collections.touch(connection, self.collection, removed=len(rows))
        self.templates.refresh(self.collection.n)

    def search(self, probe: Vectors) -> Found:
        found = self.templates.search(Permit("", self.collection.n, MODEL, -1, K), probe).found
        return np.array([row_of(face) for face, _ in found])

    def restart(self, *, keep_file: bool) -> None:
        """As another process would begin: nothing of the galleries in memory."""
        self.templates.close()
        self.database.close()
        if not keep_file:
            shutil.rmtree(self.database.file.parent / "cache", ignore_errors=True)
        gc.collect()
        self.database = Database(self.database.file)
        self.collections, self.templates = Collections(self.database), Templates(self.database)

    def close(self) -> None:
        self.templates.close()
        self.database.close()


def filled(folder: Path, blocks: Iterator[Vectors]) -> tuple[Store, float]:
    """A store with all templates, and how many rows a second it took of them, a thousand a transaction."""
    folder.mkdir()
    store, rows, seconds = Store(folder), 0, 0.0
    for block in blocks:
        batches = [faces_of(rows + at, block[at : at + BATCH]) for at in range(0, len(block), BATCH)]
        start = time.perf_counter()
        for faces in batches:
            store.add(faces)
        seconds += time.perf_counter() - start
        rows += len(block)
    return store, rows / seconds


def one_by_one(store: Store, first: int, vectors: Vectors) -> float:
    """Rows a second, each acknowledged on the disk before the next."""
    batches = [faces_of(row, vector[None]) for row, vector in enumerate(vectors, first)]
    start = time.perf_counter()
    for faces in batches:
        store.add(faces)
    return len(vectors) / (time.perf_counter() - start)


def syncs(folder: Path, count: int = 500) -> float:
    """What the disk does at most: writes of two pages with fsync, a second."""
    file = os.open(folder / "syncs", os.O_RDWR | os.O_CREAT)
    start = time.perf_counter()
    for i in range(count):
        os.pwrite(file, bytes(8192), 8192 * i)
        os.fsync(file)
    rate = count / (time.perf_counter() - start)
    os.close(file)
    return rate


def memory(n: int, d: int) -> float:
    """Bytes of resident memory a face that a gallery grows by, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (n, d))


def _memory(n: int, d: int) -> float:
    gallery = Gallery(MODEL, Scanner().tally)
    libc, process = ctypes.CDLL(None), psutil.Process()

    def fill(blocks: Iterator[Vectors], first: int) -> None:
        for block in blocks:
            gallery.append(range(first, first + len(block)), [None] * len(block), block)
            first += len(block)

    def resident() -> int:
        gc.collect()
        libc.malloc_trim(0)
        return int(process.memory_info().rss)

    fill(plain(1000, d), 0)
    before = resident()
    fill(plain(n, d), 1000)
    return (resident() - before) / n


def first_search(store: Store, probe: Vectors, *, keep_file: bool) -> float:
    """Seconds from a restart to the first answer."""
    store.restart(keep_file=keep_file)
    start = time.perf_counter()
    store.search(probe)
    return time.perf_counter() - start


def while_removing(store: Store, probes: Vectors, rows: range, size: int, limit_s: float) -> dict[str, float]:
    """Search times while another thread removes the rows, `size` in a write, beside those before; searches come every 30 ms."""

    def timed(goes_on: Callable[[int], bool]) -> list[float]:
        seconds: list[float] = []
        while goes_on(len(seconds)):
            time.sleep(0.03)
            start = time.perf_counter()
            store.search(probes[len(seconds) % len(probes)])
            seconds.append(time.perf_counter() - start)
        return seconds

    removed = [0]

    def remove() -> None:
        end = time.perf_counter() + limit_s
        for start in range(rows.start, rows.stop, size):
            if time.perf_counter() > end:
                return
            store.remove(rows[start - rows.start : start - rows.start + size])
            removed[0] += len(rows[start - rows.start : start - rows.start + size])

    usual = timed(lambda done: done < 60)
    writer = threading.Thread(target=remove)
    start = time.perf_counter()
    writer.start()
    meanwhile = timed(lambda done: writer.is_alive() or not done)
    writer.join()
    took = time.perf_counter() - start
    one = figures(meanwhile)
    return {
        "removed": removed[0],
        "removed_s": removed[0] / took,
        "searches": len(meanwhile),
        "usual_ms": figures(usual)["ms"],
        **one,
        "p95_ms": 1e3 * float(np.quantile(meanwhile, 0.95)),
        "worst_ms": 1e3 * max(meanwhile),
        "ratio": one["ms"] / figures(usual)["ms"],
    }
