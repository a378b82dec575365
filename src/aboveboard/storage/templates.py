"""The only reader of enrolled templates: searches them exactly, under a permit that the gate gave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from aboveboard.biometrics.gallery import BINS, LEAST_MATED, LEAST_MATED_PEOPLE, SAMPLE, OwnScores, histogram
from aboveboard.biometrics.matching import best_first, comparison_scores, pair_scores
from aboveboard.biometrics.scan import Scanner
from aboveboard.biometrics.vocabulary import Vector
from aboveboard.errors import NoSuch
from aboveboard.memory import wipe
from aboveboard.storage.database import Database
from aboveboard.storage.galleries import STATE, THESE, Galleries, check_model, rows_of
from aboveboard.storage.gallery import Gallery
from aboveboard.storage.schema import FACES, SUBJECTS, TEMPLATES


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
    """What a search saw: face ids with their comparison scores, how many templates were looked at, at which generation, and how all
    their scores lie: a histogram over [-1, 1], within a template's quantisation error."""

    found: tuple[tuple[str, float], ...]
    size: int
    generation: int
    histogram: NDArray[np.int64]
    own: OwnScores | None
    """The scores among the gallery's own faces; None where it is too small."""
    owners: tuple[tuple[int, int], ...] = ()
    """Of each face that was found its user, as a number of this search (-1: none), and how many of these faces he has."""
    people: int | None = None
    """Of how many people the templates are, a face without a user for one; None where none has a user."""


@dataclass(frozen=True, slots=True)
class SubjectScan:
    """What a search of people saw: handles with the best comparison score of each and from how many comparisons it is, how many people
    were looked at, and at which generation."""

    found: tuple[tuple[str, float, int], ...]
    size: int
    generation: int
    comparisons: int
    """The most that were made with one person."""
    own: OwnScores | None


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


Alone = Callable[[float, int], float]
"""The score that one comparison must give to be worth as much as this score as the best of so many."""

_VECTORS = (
    sa.select(FACES.c.n, FACES.c.face_id, TEMPLATES.c.vector)
    .select_from(THESE)
    .join(TEMPLATES, TEMPLATES.c.face == THESE.c.value)
    .join(FACES, FACES.c.n == TEMPLATES.c.face)
)
_HANDLES = sa.select(SUBJECTS.c.n, SUBJECTS.c.handle).select_from(THESE).join(SUBJECTS, SUBJECTS.c.n == THESE.c.value)
_OF_FACES = (
    sa.select(FACES.c.face_id, TEMPLATES.c.vector)
    .join(TEMPLATES, FACES.c.n == TEMPLATES.c.face)
    .where(FACES.c.collection == sa.bindparam("collection"), FACES.c.face_id.in_(sa.bindparam("face_ids", expanding=True)))
)
_NUMBERS_OF = sa.select(FACES.c.n).where(
    FACES.c.collection == sa.bindparam("collection"), FACES.c.face_id.in_(sa.bindparam("face_ids", expanding=True))
)
_SUBJECTS_OF = _NUMBERS_OF.with_only_columns(FACES.c.subject)
_SMALLEST = sa.select(FACES.c.n).where(FACES.c.collection == sa.bindparam("collection")).order_by(FACES.c.face_id).limit(SAMPLE)
_NUMBER_OF_SUBJECT = sa.select(SUBJECTS.c.n).where(SUBJECTS.c.handle == sa.bindparam("handle"))

_TOGETHER = 256
"""Faces that are compared with all others at once."""
MATED_PEOPLE, MATED_FACES = 4_096, 32
"""Of how many people with several faces, and of how many faces of each, the mated scores are counted."""
_CHUNK = 65_536
"""Pairs that are scored exactly at once."""


class _Best:
    """The best `limit` of many scored pairs of faces, by their numbers, ties in the order of the numbers."""

    def __init__(self, limit: int) -> None:
        self._limit, self._waiting = limit, 0
        self._parts = [(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_))]

    def add(self, scores: NDArray[np.float64], a: NDArray[np.int64], b: NDArray[np.int64], is_one: NDArray[np.bool_]) -> None:
        self._parts.append((scores, a, b, is_one))
        self._waiting += len(scores)
        if self._waiting > max(self._limit, _CHUNK):
            self._trim()

    def rows(self) -> list[tuple[float, int, int, bool]]:
        self._trim()
        return list(zip(*(part.tolist() for part in self._parts[0]), strict=True))

    def _trim(self) -> None:
        scores, a, b, is_one = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        best = np.lexsort((b, a, -scores))[: self._limit]
        self._parts, self._waiting = [(scores[best], a[best], b[best], is_one[best])], 0


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
    """Templates on the disk, and per collection that is searched a gallery in memory that is brought up to date before each look.

    Galleries show which few templates can be answers; those are read from the database, in the transaction that the gallery was brought
    up in, and scored in float64. A look at a gallery holds its lock: a scan takes all processors and all of the memory's bandwidth,
    so that two side by side would gain nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._scanner = Scanner()
        self._galleries = Galleries(database, self._scanner.tally)

    def of_faces(self, permit: Permit, face_ids: Sequence[str]) -> NDArray[np.float32]:
        """The templates (n, d) of these faces in the permit's collection, a few hundred at most, for use in this look; raises NoSuch."""
        with self._database.read() as connection:
            check_model(permit.model, connection.execute(STATE, {"n": permit.collection}).first())
            rows = connection.execute(_OF_FACES, {"collection": permit.collection, "face_ids": list(face_ids)})
            found = {row.face_id: row.vector for row in rows}
        if len(found) < len(set(face_ids)):
            raise NoSuch("a face was removed from the collection while it was searched for; ask again")
        return _matrix([found[face_id] for face_id in face_ids])

    def scores(self, permit: Permit) -> OwnScores | None:
        """The scores among the permit's collection's own faces, counted; None where it is too small to say anything."""
        with self._galleries.opened(permit.collection, permit.model) as (gallery, connection):
            return self._own_scores(connection, permit.collection, gallery)

    @staticmethod
    def _own_scores(connection: sa.Connection, collection: int, gallery: Gallery) -> OwnScores | None:
        return gallery.own_scores(lambda: connection.execute(_SMALLEST, {"collection": collection}).scalars().all())

    def search(self, permit: Permit, probe: Vector, excluded: Iterable[str] = ()) -> Scan:
        """Face ids and comparison scores at or above the permit's floor, best first, at most its limit.

        Exact, in float64; ties are ordered by face id. Sees every write that was acknowledged before the call, of any process.
        """
        left_out = set(excluded)
        with self._galleries.opened(permit.collection, permit.model) as (gallery, connection):
            size = gallery.size - len(left_out)
            if not gallery.size:
                return Scan((), 0, gallery.state.generation, np.zeros(BINS, np.int64), None)
            rough = self._scanner.scan(gallery.rows, probe)
            near = rough.best(permit.limit + len(left_out), permit.floor) if permit.limit > 0 else np.empty(0, np.int64)
            face_ids, vectors = _read(connection, gallery.numbers[near])
            scored = zip(face_ids, comparison_scores(probe, vectors).tolist() if face_ids else [], strict=True)
            kept = [(face_id, score) for face_id, score in scored if score >= permit.floor and face_id not in left_out]
            order = best_first([score for _, score in kept], [face_id for face_id, _ in kept], permit.limit)
            own = self._own_scores(connection, permit.collection, gallery)
            found = tuple(kept[i] for i in order)
            slots = dict(zip(face_ids, gallery.slots[near].tolist(), strict=True))
            counts = self._owned(connection, permit.collection, gallery, left_out)
            owners = tuple((slots[face_id], int(counts[slots[face_id]]) if slots[face_id] >= 0 else 1) for face_id, _ in found)
            people = int(np.count_nonzero(counts[:-1]) + counts[-1]) if counts[:-1].any() else None
            return Scan(found, max(size, 0), gallery.state.generation, rough.histogram, own, owners, people)

    def search_subjects(
        self, permit: Permit, probes: NDArray[np.float32], alone: Alone, face_id: str = "", subject: str = ""
    ) -> SubjectScan:
        """People with the best of their faces' scores with any of the probes (p, d), of those at or above the permit's floor.

        Exact, as `search` is. A face or a person (by handle) may be left out. Among them are all that can be among the permit's limit of
        best; their order is for the gate to make, because it depends on how many comparisons a score is the best of.
        """
        with self._galleries.opened(permit.collection, permit.model) as (gallery, connection):
            slots = gallery.slots
            if face_id or subject:
                slots = slots.copy()
                slots[self._left_out(connection, permit.collection, gallery, face_id, subject)] = -1
            faces = np.bincount(slots[slots >= 0], minlength=len(gallery.subjects))
            size, most = int(np.count_nonzero(faces)), int(faces.max(initial=0)) * len(probes)
            if not size:
                return SubjectScan((), 0, gallery.state.generation, 0, None)
            near, reach, peaks = self._scanner.best_of_groups(gallery.rows, probes, slots, len(faces), permit.floor)
            peaks = peaks[faces > 0]
            if size > permit.limit > 0:
                least = float(np.partition(peaks, size - permit.limit)[size - permit.limit])
                near = near[reach >= min(least, alone(least, most))]
            _, vectors = _read(connection, gallery.numbers[near])
            best: dict[int, float] = {}
            for slot, score in zip(slots[near].tolist(), _best_scores(probes, vectors), strict=True):
                best[slot] = max(best.get(slot, -1.0), score)
            handles = _handles(connection, [gallery.subjects[slot] for slot in best])
            found = tuple(
                (handles[gallery.subjects[slot]], score, int(faces[slot]) * len(probes))
                for slot, score in best.items()
                if score >= permit.floor
            )
            return SubjectScan(found, size, gallery.state.generation, most, self._own_scores(connection, permit.collection, gallery))

    def pairs(self, permit: Permit, near: float, progress: Callable[[int, int], None]) -> PairScan:
        """Pairs of faces at or above the permit's floor under two ids, or under one and at or above `near`, at most its limit, best first.

        Exact, in float64; ties are in the order of enrolment. `progress` is told how many comparisons of how many are done. It looks at a
        copy of the gallery, so that searches go on; pairs of faces that are removed meanwhile are left out.
        """
        with self._galleries.opened(permit.collection, permit.model) as (gallery, connection):
            rows, numbers, state = gallery.rows.copy(), gallery.numbers.copy(), gallery.state
            ids = self._ids(connection, permit.collection, gallery)
        n, kept, counts = len(numbers), _Best(permit.limit), np.zeros(2, np.int64)
        for top in range(0, n, _TOGETHER):
            here, probes = self._still_there(numbers[top : top + _TOGETHER])
            for right, left in self._scanner.near(rows.part(slice(top, None)), probes, permit.floor) if len(here) else ():
                a, b = top + here[left], top + right
                later = b > a
                a, b = a[later], b[later]
                for start in range(0, a.size, _CHUNK):
                    a, b, exact = self._scored(numbers, a[start : start + _CHUNK], b[start : start + _CHUNK])
                    is_near, is_one = exact >= near, ids[a] == ids[b]
                    chosen = (exact >= permit.floor) & (is_near | ~is_one)
                    counts += np.count_nonzero(chosen & is_near), np.count_nonzero(chosen & ~is_near)
                    both = np.sort(numbers[np.stack([a[chosen], b[chosen]])], axis=0)
                    kept.add(exact[chosen], both[0], both[1], is_one[chosen])
            done = min(top + _TOGETHER, n)
            progress(done * n - done * (done + 1) // 2, n * (n - 1) // 2)
        best = kept.rows()
        with self._database.read() as connection:
            there = {row.n: row.face_id for row in rows_of(connection, _VECTORS, [one for _, a, b, _ in best for one in (a, b)])}
        found = tuple(Alike((there[a], there[b]), score, is_one) for score, a, b, is_one in best if a in there and b in there)
        return PairScan(found, int(counts[0]), int(counts[1]), n, state.generation)

    def apart(self, permit: Permit) -> tuple[list[Apart], int]:
        """Faces that are unlike most of their subject's, in the order of enrolment, and how many faces have a subject with several.

        A subject's faces are linked where they reach the permit's floor; those outside the largest group that is linked so are answered
        (of equally large ones the earliest enrolled stays).
        """
        found, judged = list[tuple[int, Apart]](), 0
        for group in self._groups(permit):
            judged += len(group)
            there, vectors = self._read_group(group)
            scores = np.stack([comparison_scores(vector, vectors) for vector in vectors])
            main = _largest_group(scores >= permit.floor)
            found += [(row.n, Apart(row.face_id, float(scores[i, main].max()), len(there))) for i, row in enumerate(there) if i not in main]
        return [one for _, one in sorted(found, key=lambda item: item[0])], judged

    def mated_scores(self, permit: Permit, near: float) -> tuple[NDArray[np.int64], int]:
        """How the scores of people's faces with one another lie, (BINS,), and of how many people: at most `MATED_PEOPLE`, by lot.

        Of a person the first `MATED_FACES` enrolled count; scores from `near` on, of copies, do not. Zeros for fewer than `LEAST_MATED`
        scores or `LEAST_MATED_PEOPLE` people: they would be the scores of single pairs, and of no use.
        """
        groups = list(self._groups(permit))
        by_lot = np.random.default_rng(0).permutation(len(groups))[:MATED_PEOPLE]
        counts, people = np.zeros(BINS, np.int64), 0
        for n in sorted(by_lot.tolist()):
            _, vectors = self._read_group(np.sort(groups[n])[:MATED_FACES])
            scores = [np.empty(0), *(comparison_scores(vector, vectors[i:]) for i, vector in enumerate(vectors[:-1], 1))]
            own = np.concatenate(scores)
            counts += histogram(own[own < near])
            people += bool((own < near).any())
        return (counts, people) if counts.sum() >= LEAST_MATED and people >= LEAST_MATED_PEOPLE else (np.zeros(BINS, np.int64), 0)

    def _groups(self, permit: Permit) -> Iterator[NDArray[np.int64]]:
        """The numbers of the faces of each subject that has several."""
        with self._galleries.opened(permit.collection, permit.model) as (gallery, _):
            order = np.lexsort((gallery.numbers, gallery.slots))
            numbers, slots = gallery.numbers[order], gallery.slots[order]
        numbers, slots = numbers[slots >= 0], slots[slots >= 0]
        return (group for group in np.split(numbers, np.flatnonzero(np.diff(slots)) + 1) if len(group) > 1)

    def _read_group(self, group: NDArray[np.int64]) -> tuple[list[Any], NDArray[np.float32]]:
        """The rows of these faces that are still there, in the order of enrolment, and their templates."""
        with self._database.read() as connection:
            there = rows_of(connection, _VECTORS, group.tolist())
        there.sort(key=lambda row: int(row.n))
        return there, _matrix([row.vector for row in there])

    def warm(self) -> None:
        """Do now what the first look at a large gallery would have to wait for."""
        if self._galleries.warm():
            self._scanner.warm()

    def refresh(self, collection: int) -> None:
        """See what was written to a collection now; whoever removed a face calls it before that is acknowledged."""
        self._galleries.refresh(collection)

    def forget(self, collection: int) -> None:
        """Drop a collection from memory, and its file."""
        self._galleries.forget(collection)

    def close(self) -> None:
        """Keep what is in memory for the next start."""
        self._galleries.close()
        self._scanner.close()

    @staticmethod
    def _owned(connection: sa.Connection, collection: int, gallery: Gallery, left_out: Iterable[str]) -> NDArray[np.int64]:
        """How many faces each of the gallery's subjects has, without those that are left out, and last how many are nobody's."""
        counts = gallery.owned()
        if chosen := list(left_out):
            counts = counts.copy()
            for subject in connection.execute(_SUBJECTS_OF, {"collection": collection, "face_ids": chosen}).scalars():
                counts[-1 if subject is None else gallery.slot_of(subject)] -= 1
        return counts

    @staticmethod
    def _left_out(connection: sa.Connection, collection: int, gallery: Gallery, face_id: str, subject: str) -> NDArray[np.bool_]:
        """The rows of a face, or of a person by handle."""
        if face_id:
            n = connection.execute(_NUMBERS_OF, {"collection": collection, "face_ids": [face_id]}).scalar()
            return np.asarray(gallery.numbers == (-1 if n is None else n))
        n = connection.execute(_NUMBER_OF_SUBJECT, {"handle": subject}).scalar()
        return np.asarray(gallery.slots == gallery.slot_of(n))

    @staticmethod
    def _ids(connection: sa.Connection, collection: int, gallery: Gallery) -> NDArray[np.int64]:
        """Per row a number for whose the face is: its subject's, else its external id's, else its own."""
        query = sa.select(FACES.c.n, FACES.c.external_image_id).where(
            FACES.c.collection == collection, FACES.c.subject.is_(None), FACES.c.external_image_id.is_not(None)
        )
        external = {row.n: row.external_image_id for row in connection.execute(query)}
        numbers: dict[str, int] = {}
        base = len(gallery.subjects)
        own = (numbers.setdefault(external.get(n) or f"/{n}", base + len(numbers)) for n in gallery.numbers.tolist())
        return np.where(gallery.slots >= 0, gallery.slots, np.fromiter(own, np.int64, gallery.size))

    def _still_there(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Which of these faces are in the database still, by their place, and their templates."""
        with self._database.read() as connection:
            there = {row.n: row.vector for row in rows_of(connection, _VECTORS, numbers.tolist())}
        places = [i for i, n in enumerate(numbers.tolist()) if n in there]
        return np.array(places, np.int64), _matrix([there[n] for n in numbers[places].tolist()])

    def _scored(
        self, numbers: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Those of the pairs of which both faces are there still, with their scores."""
        named, where = np.unique(np.concatenate([a, b]), return_inverse=True)
        there, vectors = self._still_there(numbers[named])
        place = np.full(len(named), -1)
        place[there] = np.arange(len(there))
        left, right = place[where[: a.size]], place[where[a.size :]]
        both = (left >= 0) & (right >= 0)
        return a[both], b[both], pair_scores(vectors[left[both]], vectors[right[both]])


def _read(connection: sa.Connection, numbers: NDArray[np.int64]) -> tuple[list[str], NDArray[np.float32]]:
    """Face ids and templates (n, d) of faces by their numbers, in that order."""
    found = {row.n: row for row in rows_of(connection, _VECTORS, numbers.tolist())}
    rows = [found[n] for n in numbers.tolist()]
    return [row.face_id for row in rows], _matrix([row.vector for row in rows])


def _matrix(vectors: Sequence[bytes]) -> NDArray[np.float32]:
    """Templates (n, d) out of what the database keeps, which is overwritten."""
    matrix = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), len(vectors[0]) // 4 if vectors else 0).copy()
    wipe(vectors)
    return matrix


def _handles(connection: sa.Connection, subjects: Sequence[int]) -> dict[int, str]:
    return {row.n: row.handle for row in rows_of(connection, _HANDLES, subjects)}


def _best_scores(probes: NDArray[np.float32], vectors: NDArray[np.float32]) -> list[float]:
    """The best comparison score of each of (n, d) with any of the probes (p, d)."""
    best = np.full(len(vectors), -1.0)
    for probe in probes if len(vectors) else ():
        np.maximum(best, comparison_scores(probe, vectors), out=best)
    return best.tolist()


def examine(connection: sa.Connection, collection: int, dimensions: int) -> tuple[int, int, int]:
    """How many of a collection's faces have no template, one of another length than `dimensions`, one that is no finite unit vector.

    0 dimensions stand for those of the first template.
    """
    missing = misfits = unsound = 0
    query = sa.select(TEMPLATES.c.vector).select_from(FACES).outerjoin(TEMPLATES, TEMPLATES.c.face == FACES.c.n)
    found = connection.execution_options(yield_per=1024).execute(query.where(FACES.c.collection == collection).order_by(FACES.c.n))
    for rows in found.partitions():
        vectors = [row.vector for row in rows if row.vector is not None]
        dimensions = dimensions or (len(vectors[0]) // 4 if vectors else 0)
        fitting = [one for one in vectors if isinstance(one, bytes) and len(one) == 4 * dimensions > 0]
        lengths = np.linalg.norm(np.frombuffer(b"".join(fitting), "<f4").reshape(len(fitting), -1).astype(np.float64), axis=1)
        missing += len(rows) - len(vectors)
        misfits += len(vectors) - len(fitting)
        unsound += int(np.count_nonzero(~(np.abs(lengths - 1) < 1e-3)))
    return missing, misfits, unsound
