"""The only reader of enrolled templates: searches them exactly, under a permit that the gate gave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from aboveboard.biometrics.matching import best_first, comparison_scores, pair_scores
from aboveboard.biometrics.vocabulary import Vector
from aboveboard.errors import Busy, NoSuch
from aboveboard.storage.database import COLLECTIONS, FACES, SUBJECTS, TEMPLATES, Database


@dataclass(frozen=True, slots=True)
class Permit:
    """What one recorded look may see: which collection, at which model (version, model), from which comparison score up, how many.

    Made by the gate only.
    """

    audit_id: str
    collection: int
    model: tuple[str, str]
    floor: float
    limit: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a search saw: face ids with their comparison scores, how many templates were looked at, and at which generation."""

    found: tuple[tuple[str, float], ...]
    size: int
    generation: int


@dataclass(frozen=True, slots=True)
class SubjectScan:
    """What a search of people saw: handles with the best comparison score of each and from how many comparisons it is, how many people
    were looked at, and at which generation."""

    found: tuple[tuple[str, float, int], ...]
    size: int
    generation: int
    comparisons: int
    """The most that were made with one person."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Two faces, their comparison score, and whether they have one id: a subject, or else an external id."""

    face_ids: tuple[str, str]
    score: float
    has_one_id: bool


@dataclass(frozen=True, slots=True)
class PairScan:
    """What comparing all faces with each other saw: the most alike pairs, how many reached the near score, how many others the floor
    under two ids, how many faces were looked at, and at which generation."""

    pairs: tuple[Alike, ...]
    near: int
    under_two_ids: int
    size: int
    generation: int


@dataclass(frozen=True, slots=True)
class Apart:
    """A face that no chain of scores at or above the floor joins to most of its subject's `faces`, and its best score with those."""

    face_id: str
    score: float
    faces: int


_STATE = sa.select(COLLECTIONS.c.generation, COLLECTIONS.c.touches, COLLECTIONS.c.model_version, COLLECTIONS.c.model).where(
    COLLECTIONS.c.n == sa.bindparam("n"), COLLECTIONS.c.deleted_at.is_(None)
)


@dataclass(frozen=True)
class _Gallery:
    """One collection in memory as of a generation. `matrix` is read-only for its readers: appending fills rows behind `face_ids`.

    `numbers` are the faces' rows in the database, ascending.
    """

    generation: int
    touched: tuple[int, str, str]
    numbers: NDArray[np.int64]
    matrix: NDArray[np.float32]
    face_ids: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class _Subjects:
    """Whose the rows of a gallery are: per row an index into `handles`, or -1."""

    state: tuple[int, int]
    of_row: NDArray[np.int64]
    handles: tuple[str, ...] = field(repr=False)


_PROBES = 16
"""Faces of a person that are searched for at once."""
_ROWS, _COLUMNS, _CHUNK = 1024, 8192, 65_536
"""Scores of one block (32 MiB), and pairs of it that are scored exactly at once."""


class _Best:
    """The best `limit` of many scored pairs of rows, ties in the order of the rows."""

    def __init__(self, limit: int) -> None:
        self._limit, self._waiting = limit, 0
        self._parts = [(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))]

    def add(self, scores: NDArray[np.float64], a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        self._parts.append((scores, a, b))
        self._waiting += len(scores)
        if self._waiting > max(self._limit, _CHUNK):
            self._trim()

    def rows(self) -> Iterator[tuple[float, int, int]]:
        self._trim()
        return zip(*(part.tolist() for part in self._parts[0]), strict=True)

    def _trim(self) -> None:
        scores, a, b = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        best = np.lexsort((b, a, -scores))[: self._limit]
        self._parts, self._waiting = [(scores[best], a[best], b[best])], 0


def _largest_group(linked: NDArray[np.bool_]) -> list[int]:
    """The largest set of rows of a symmetric (m, m) that links join, directly or through others."""
    left, groups = set(range(len(linked))), list[list[int]]()
    while left:
        group, reached = set[int](), {min(left)}
        while reached:
            group |= reached
            reached = {int(j) for i in reached for j in np.flatnonzero(linked[i])} - group
        left -= group
        groups.append(sorted(group))
    return max(groups, key=len)


class Templates:
    """Templates on the disk, and per collection a float32 matrix of them in memory that is brought up to date at each search."""

    # float32 sums of d <= 1,024 products of unit vectors err by less than this.
    _ROUNDING = 1e-4

    def __init__(self, database: Database) -> None:
        self._database = database
        self._galleries: dict[int, _Gallery] = {}
        self._subjects: dict[int, _Subjects] = {}
        self._lock = threading.Lock()

    def of_faces(self, permit: Permit, face_ids: Sequence[str]) -> NDArray[np.float32]:
        """The templates (n, d) of these faces in the permit's collection, a few hundred at most, for use in this look; raises NoSuch."""
        query = (
            sa.select(FACES.c.face_id, TEMPLATES.c.vector)
            .join(TEMPLATES, FACES.c.n == TEMPLATES.c.face)
            .where(FACES.c.collection == permit.collection, FACES.c.face_id.in_(list(face_ids)))
        )
        with self._database.read() as connection:
            _check_model(permit, connection.execute(_STATE, {"n": permit.collection}).first())
            found = {row.face_id: np.frombuffer(row.vector, "<f4") for row in connection.execute(query)}
        if len(found) < len(set(face_ids)):
            raise NoSuch("a face was removed from the collection while it was searched for; ask again")
        return np.stack([found[face_id] for face_id in face_ids])

    def search(self, permit: Permit, probe: Vector, excluded: Iterable[str] = ()) -> Scan:
        """Face ids and comparison scores at or above the permit's floor, best first, at most its limit.

        Exact, in float64; ties are ordered by face id. Sees every write that was acknowledged before the call, of any process.
        """
        gallery, _ = self._current(permit)
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

    def search_subjects(self, permit: Permit, probes: NDArray[np.float32], face_id: str = "", subject: str = "") -> SubjectScan:
        """People with the best of their faces' scores with any of the probes (p, d), of those at or above the permit's floor.

        Exact, as `search` is. A face or a person (by handle) may be left out. The permit's limit is for the gate to apply: a person's
        place depends on how many comparisons his best score is the best of.
        """
        gallery, whose = self._current(permit, with_subjects=True)
        assert whose is not None
        of_row = whose.of_row.copy()
        if face_id and face_id in gallery.face_ids:
            of_row[gallery.face_ids.index(face_id)] = -1
        if subject and subject in whose.handles:
            of_row[of_row == whose.handles.index(subject)] = -1
        rows = np.flatnonzero(of_row >= 0)
        people = of_row[rows]
        faces = np.bincount(people, minlength=len(whose.handles))
        best = np.full(len(whose.handles), -np.inf)
        for start in range(0, len(probes) if rows.size else 0, _PROBES):
            some = probes[start : start + _PROBES]
            rough = (gallery.matrix @ some.T)[rows]
            peak = np.full(len(whose.handles), -np.inf)
            np.maximum.at(peak, people, rough.max(axis=1))
            least = np.maximum(peak[people] - 2 * self._ROUNDING, permit.floor - self._ROUNDING)
            near, which = np.nonzero(rough >= least[:, None])
            np.maximum.at(best, people[near], pair_scores(gallery.matrix[rows[near]], some[which]))
        found = tuple((whose.handles[i], float(best[i]), int(faces[i]) * len(probes)) for i in np.flatnonzero(best >= permit.floor))
        most = int(faces.max(initial=0)) * len(probes)
        return SubjectScan(found, int(np.count_nonzero(faces)), gallery.generation, most)

    def pairs(self, permit: Permit, near: float, progress: Callable[[int, int], None]) -> PairScan:
        """Pairs of faces at or above the permit's floor under two ids, or under one and at or above `near`, at most its limit, best first.

        Exact, in float64; ties are in the order of enrolment. `progress` is told how many comparisons of how many are done. Memory is
        bounded: two blocks of scores and the pairs that are kept.
        """
        gallery, whose = self._current(permit, with_subjects=True)
        assert whose is not None
        matrix, n = gallery.matrix, len(gallery.face_ids)
        ids = self._ids(permit.collection, gallery, whose)
        kept = _Best(permit.limit)
        counts = np.zeros(2, np.int64)
        rough = np.empty((_ROWS, _COLUMNS), np.float32)
        for top in range(0, n, _ROWS):
            rows = matrix[top : top + _ROWS]
            for left in range(top, n, _COLUMNS):
                columns = matrix[left : left + _COLUMNS]
                scores = np.matmul(rows, columns.T, out=rough[: len(rows), : len(columns)])
                candidates = np.flatnonzero(scores >= permit.floor - self._ROUNDING)
                for start in range(0, candidates.size, _CHUNK):
                    a, b = np.divmod(candidates[start : start + _CHUNK], len(columns))
                    later = (b := b + left) > (a := a + top)
                    a, b = a[later], b[later]
                    exact = pair_scores(matrix[a], matrix[b])
                    is_near, is_one = exact >= near, ids[a] == ids[b]
                    chosen = (exact >= permit.floor) & (is_near | ~is_one)
                    counts += np.count_nonzero(chosen & is_near), np.count_nonzero(chosen & ~is_near)
                    kept.add(exact[chosen], a[chosen], b[chosen])
            done = min(top + _ROWS, n)
            progress(done * n - done * (done + 1) // 2, n * (n - 1) // 2)
        found = tuple(
            Alike((gallery.face_ids[a], gallery.face_ids[b]), float(score), bool(ids[a] == ids[b])) for score, a, b in kept.rows()
        )
        return PairScan(found, int(counts[0]), int(counts[1]), n, gallery.generation)

    def apart(self, permit: Permit) -> tuple[list[Apart], int]:
        """Faces that are unlike most of their subject's, in the order of enrolment, and how many faces have a subject with several.

        A subject's faces are linked where they reach the permit's floor; those outside the largest group that is linked so are answered
        (of equally large ones the earliest enrolled stays).
        """
        gallery, whose = self._current(permit, with_subjects=True)
        assert whose is not None
        rows = np.flatnonzero(whose.of_row >= 0)
        rows = rows[np.argsort(whose.of_row[rows], kind="stable")]
        found, judged = list[tuple[int, Apart]](), 0
        for group in np.split(rows, np.flatnonzero(np.diff(whose.of_row[rows])) + 1):
            if len(group) < 2:
                continue
            judged += len(group)
            scores = np.stack([comparison_scores(gallery.matrix[row], gallery.matrix[group]) for row in group])
            main = _largest_group(scores >= permit.floor)
            found += [
                (int(row), Apart(gallery.face_ids[row], float(scores[i, main].max()), len(group)))
                for i, row in enumerate(group)
                if i not in main
            ]
        return [one for _, one in sorted(found, key=lambda item: item[0])], judged

    def _ids(self, collection: int, gallery: _Gallery, whose: _Subjects) -> NDArray[np.int64]:
        """Per row a number for whose the face is: its subject's, else its external id's, else its own."""
        query = sa.select(FACES.c.face_id, FACES.c.external_image_id).where(FACES.c.collection == collection)
        with self._database.read() as connection:
            external = {row.face_id: row.external_image_id for row in connection.execute(query)}
        numbers: dict[str, int] = {}
        base = len(whose.handles)
        own = (numbers.setdefault(external.get(one) or f"/{one}", base + len(numbers)) for one in gallery.face_ids)
        return np.where(whose.of_row >= 0, whose.of_row, np.fromiter(own, np.int64, len(gallery.face_ids)))

    def forget(self, collection: int) -> None:
        """Drop a collection from memory."""
        with self._lock:
            self._galleries.pop(collection, None)
            self._subjects.pop(collection, None)

    def _current(self, permit: Permit, *, with_subjects: bool = False) -> tuple[_Gallery, _Subjects | None]:
        """The permit's collection as of now, and whose its faces are if asked for."""
        collection = permit.collection
        with self._lock, self._database.read() as connection:
            row = connection.execute(_STATE, {"n": collection}).first()
            if row is None:
                self._galleries.pop(collection, None)
                self._subjects.pop(collection, None)
                raise NoSuch("the collection was deleted while it was searched; ask again")
            _check_model(permit, row)
            gallery = self._brought_up(connection, collection, row)
            if not with_subjects:
                return gallery, None
            state = row.generation, row.touches
            whose = self._subjects.get(collection)
            if whose is None or whose.state != state:
                whose = self._subjects[collection] = self._load_subjects(connection, collection, gallery, state)
            return gallery, whose

    @staticmethod
    def _load_subjects(connection: sa.Connection, collection: int, gallery: _Gallery, state: tuple[int, int]) -> _Subjects:
        people = connection.execute(
            sa.select(SUBJECTS.c.n, SUBJECTS.c.handle).where(SUBJECTS.c.collection == collection).order_by(SUBJECTS.c.n)
        ).all()
        owned = sa.select(FACES.c.n, FACES.c.subject).where(FACES.c.collection == collection, FACES.c.subject.is_not(None))
        pairs = np.array(connection.execute(owned).all(), np.int64).reshape(-1, 2)
        of_row = np.full(len(gallery.face_ids), -1, np.int64)
        of_row[np.searchsorted(gallery.numbers, pairs[:, 0])] = np.searchsorted([n for n, _ in people], pairs[:, 1])
        return _Subjects(state, of_row, tuple(handle for _, handle in people))

    def _brought_up(self, connection: sa.Connection, collection: int, row: Any) -> _Gallery:
        """Nothing to do, the tail to load, or, after a removal, all of it."""
        known = self._galleries.get(collection)
        if known is not None and known.generation == row.generation:
            return known
        touched = row.touches, row.model_version, row.model
        if known is None or known.touched != touched:
            known = _Gallery(-1, touched, np.empty(0, np.int64), np.empty((0, 0), np.float32), ())
        # Templates of collections that another process deleted must not outlive them here.
        alive = {row.n for row in connection.execute(sa.select(COLLECTIONS.c.n))}
        self._galleries = {n: gallery for n, gallery in self._galleries.items() if n in alive}
        self._subjects = {n: whose for n, whose in self._subjects.items() if n in alive}
        gallery = self._load_tail(connection, collection, known, row.generation)
        self._galleries[collection] = gallery
        return gallery

    @staticmethod
    def _load_tail(connection: sa.Connection, collection: int, known: _Gallery, generation: int) -> _Gallery:
        query = (
            sa.select(FACES.c.n, FACES.c.face_id, TEMPLATES.c.vector)
            .join(TEMPLATES, TEMPLATES.c.face == FACES.c.n)
            .where(FACES.c.collection == collection, FACES.c.n > (known.numbers[-1].item() if known.numbers.size else 0))
            .order_by(FACES.c.n)
        )
        rows = connection.execute(query).all()
        if not rows:
            return _Gallery(generation, known.touched, known.numbers, known.matrix, known.face_ids)
        tail = np.frombuffer(b"".join(row.vector for row in rows), "<f4").reshape(len(rows), -1)
        have = len(known.face_ids)
        whole = known.matrix.base if isinstance(known.matrix.base, np.ndarray) and have else np.empty((0, tail.shape[1]), np.float32)
        if have + len(rows) > whole.shape[0]:
            grown = np.empty((max(1024, 2 * (have + len(rows))), tail.shape[1]), np.float32)
            grown[:have] = known.matrix if have else 0
            whole = grown
        whole[have : have + len(rows)] = tail
        face_ids = known.face_ids + tuple(row.face_id for row in rows)
        numbers = np.concatenate([known.numbers, [row.n for row in rows]])
        return _Gallery(generation, known.touched, numbers, whole[: len(face_ids)], face_ids)


def _check_model(permit: Permit, state: Any) -> None:
    """Raise Busy where the collection holds templates of another model than the look was permitted for: it was re-indexed meanwhile."""
    if state is not None and (state.model_version, state.model) != permit.model:
        raise Busy("the collection was re-indexed with another model while it was searched; ask again")
