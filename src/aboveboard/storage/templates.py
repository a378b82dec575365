"""The only reader of enrolled templates: searches them exactly, under a permit that the gate gave."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from aboveboard.biometrics.matching import best_first, comparison_scores
from aboveboard.biometrics.vocabulary import Vector
from aboveboard.errors import NoSuch
from aboveboard.storage.database import COLLECTIONS, FACES, TEMPLATES, Database


@dataclass(frozen=True, slots=True)
class Permit:
    """What one recorded look may see: which collection, from which comparison score up, how many. Made by the gate only."""

    audit_id: str
    collection: int
    floor: float
    limit: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a search saw: face ids with their comparison scores, how many templates were looked at, and at which generation."""

    found: tuple[tuple[str, float], ...]
    size: int
    generation: int


_STATE = sa.select(COLLECTIONS.c.generation, COLLECTIONS.c.removals).where(COLLECTIONS.c.n == sa.bindparam("n"))


@dataclass(frozen=True)
class _Gallery:
    """One collection in memory as of a generation. `matrix` is read-only for its readers: appending fills rows behind `face_ids`."""

    generation: int
    removals: int
    last: int
    matrix: NDArray[np.float32]
    face_ids: tuple[str, ...] = field(repr=False)


class Templates:
    """Templates on the disk, and per collection a float32 matrix of them in memory that is brought up to date at each search."""

    # float32 sums of d <= 1,024 products of unit vectors err by less than this.
    _ROUNDING = 1e-4

    def __init__(self, database: Database) -> None:
        self._database = database
        self._galleries: dict[int, _Gallery] = {}
        self._lock = threading.Lock()

    def of_face(self, permit: Permit, face_id: str) -> Vector:
        """The template of one face in the permit's collection, to be used as probe in this look; raises NoSuch."""
        query = (
            sa.select(TEMPLATES.c.vector)
            .join(FACES, FACES.c.n == TEMPLATES.c.face)
            .where(FACES.c.collection == permit.collection, FACES.c.face_id == face_id)
        )
        with self._database.read() as connection:
            vector = connection.execute(query).scalar()
        if vector is None:
            raise NoSuch("the face was removed from the collection while it was searched for; ask again")
        return np.frombuffer(vector, "<f4")

    def search(self, permit: Permit, probe: Vector, excluded: Iterable[str] = ()) -> Scan:
        """Face ids and comparison scores at or above the permit's floor, best first, at most its limit.

        Exact, in float64; ties are ordered by face id. Sees every write that was acknowledged before the call, of any process.
        """
        gallery = self._current(permit.collection)
        left_out = set(excluded)
        size = len(gallery.face_ids) - len(left_out)
        if size < 1 or permit.limit < 1:
            return Scan((), max(size, 0), gallery.generation)
        rough = gallery.matrix @ probe
        near = np.flatnonzero(rough >= permit.floor - self._ROUNDING)
        reach = permit.limit + len(left_out)
        if near.size > reach:
            # The last of the best `reach` rough scores: whatever is exactly among the best lies at most two roundings below it.
            least = np.partition(rough[near], near.size - reach)[near.size - reach]
            near = near[rough[near] >= least - 2 * self._ROUNDING]
        exact = comparison_scores(probe, gallery.matrix[near])
        pairs = [
            (gallery.face_ids[i], float(score))
            for i, score in zip(near, exact, strict=True)
            if score >= permit.floor and gallery.face_ids[i] not in left_out
        ]
        order = best_first([score for _, score in pairs], [face_id for face_id, _ in pairs], permit.limit)
        return Scan(tuple(pairs[i] for i in order), size, gallery.generation)

    def forget(self, collection: int) -> None:
        """Drop a collection from memory."""
        with self._lock:
            self._galleries.pop(collection, None)

    def _current(self, collection: int) -> _Gallery:
        """The collection as of now: nothing to do, the tail to load, or, after a removal, all of it."""
        with self._lock, self._database.read() as connection:
            row = connection.execute(_STATE, {"n": collection}).first()
            if row is None:
                self._galleries.pop(collection, None)
                raise NoSuch("the collection was deleted while it was searched; ask again")
            known = self._galleries.get(collection)
            if known is not None and known.generation == row.generation:
                return known
            if known is None or known.removals != row.removals:
                known = _Gallery(-1, row.removals, 0, np.empty((0, 0), np.float32), ())
            # Templates of collections that another process deleted must not outlive them here.
            alive = {row.n for row in connection.execute(sa.select(COLLECTIONS.c.n))}
            self._galleries = {n: gallery for n, gallery in self._galleries.items() if n in alive}
            gallery = self._load_tail(connection, collection, known, row.generation)
            self._galleries[collection] = gallery
            return gallery

    @staticmethod
    def _load_tail(connection: sa.Connection, collection: int, known: _Gallery, generation: int) -> _Gallery:
        query = (
            sa.select(FACES.c.n, FACES.c.face_id, TEMPLATES.c.vector)
            .join(TEMPLATES, TEMPLATES.c.face == FACES.c.n)
            .where(FACES.c.collection == collection, FACES.c.n > known.last)
            .order_by(FACES.c.n)
        )
        rows = connection.execute(query).all()
        if not rows:
            return _Gallery(generation, known.removals, known.last, known.matrix, known.face_ids)
        tail = np.frombuffer(b"".join(row.vector for row in rows), "<f4").reshape(len(rows), -1)
        have = len(known.face_ids)
        whole = known.matrix.base if isinstance(known.matrix.base, np.ndarray) and have else np.empty((0, tail.shape[1]), np.float32)
        if have + len(rows) > whole.shape[0]:
            grown = np.empty((max(1024, 2 * (have + len(rows))), tail.shape[1]), np.float32)
            grown[:have] = known.matrix if have else 0
            whole = grown
        whole[have : have + len(rows)] = tail
        face_ids = known.face_ids + tuple(row.face_id for row in rows)
        return _Gallery(generation, known.removals, rows[-1].n, whole[: len(face_ids)], face_ids)
