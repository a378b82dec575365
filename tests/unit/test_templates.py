"""The template store: an exact search under its permit, equal to the definition in float64, through any row of writes."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aboveboard.biometrics import scan
from aboveboard.biometrics.matching import comparison_scores, normalise
from aboveboard.biometrics.vocabulary import Template
from aboveboard.errors import NoSuch
from aboveboard.storage import templates
from aboveboard.storage.collections import Collections
from aboveboard.storage.database import Database
from aboveboard.storage.subjects import Subjects
from aboveboard.storage.templates import Permit, Templates

DIMENSIONS = 8


class Gallery:
    """A collection on the disk, two stores over it, and the truth beside them."""

    def __init__(self, folder):
        self.database = Database(folder / "a.db")
        self.collections = Collections(self.database)
        self.stores = [Templates(self.database), Templates(Database(folder / "a.db"))]
        with self.database.write() as connection:
            self.n = self.collections.create(connection, "a", "1.0", "m", {})
        self.truth: dict[str, np.ndarray] = {}

    def add(self, vectors, external=None):
        with self.database.write() as connection:
            collection = self.collections.get("a", connection)
            for vector in vectors:
                face_id = str(uuid.UUID(int=len(self.truth) * 7919 % 2**64 + (int(abs(vector[0]) * 1e6) << 70)))
                row = {"image_id": "i", "external_image_id": external, "box": [0, 0, 1, 1], "confidence": 1.0}
                if self.collections.add_faces(connection, collection, {face_id: (row, Template(vector, "1.0"))}):
                    self.truth[face_id] = vector
            self.collections.touch(connection, collection, added=len(vectors))

    def remove(self, face_ids):
        with self.database.write() as connection:
            collection = self.collections.get("a", connection)
            self.collections.remove_faces(connection, collection, face_ids)
            for face_id in face_ids:
                self.truth.pop(face_id, None)
            self.collections.touch(connection, collection, removed=len(face_ids))

    def expected(self, probe, floor, limit, excluded=()):
        """Every cosine in float64, filtered, ordered, cut: the definition. Summed alone, to the last digit as among others."""
        scored = [(face_id, float(comparison_scores(probe, vector[None])[0])) for face_id, vector in self.truth.items()]
        exact = probe.astype(np.float64)
        assert all(score == pytest.approx(self.truth[face_id].astype(np.float64) @ exact, abs=1e-6) for face_id, score in scored)
        kept = [(face_id, score) for face_id, score in scored if score >= floor and face_id not in excluded]
        return sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:limit]

    def permit(self, floor, limit):
        return Permit("audit", self.n, ("1.0", "m"), floor, limit)


def directions(seed, n, spread):
    """Templates around a few directions: with a small spread many are nearly equal."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(3, DIMENSIONS))
    return normalise(centres[random.integers(0, 3, n)] + spread * random.normal(size=(n, DIMENSIONS)))


writes = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "remove"]), st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([1e-9, 1e-6, 1e-3, 1.0])
    ),
    min_size=1,
    max_size=5,
)


@given(writes, st.floats(-1, 1), st.integers(1, 60), st.integers(0, 10**6))
@settings(max_examples=40)
def test_the_search_is_the_definition_whatever_was_written_before(tmp_path_factory, written, floor, limit, seed):
    """Adds and removals in any order, near-ties and duplicates, any floor and limit: ids, order and float64 scores are the truth's,
    from a store that saw every step and from one that comes late."""
    gallery = Gallery(tmp_path_factory.mktemp("gallery"))
    late = gallery.stores[1]
    for kind, number, count, spread in written:
        if kind == "add":
            gallery.add(directions(number, count, spread))
        elif gallery.truth:
            ids = sorted(gallery.truth)
            gallery.remove(ids[number % len(ids) :][:count])
        probe = directions(seed, 1, 1.0)[0]
        assert check(gallery, gallery.stores[0], probe, floor, limit)
    assert check(gallery, late, probe, floor, limit)
    for vector in list(gallery.truth.values())[:2]:
        assert check(gallery, late, vector, floor, limit)
        assert check(gallery, late, vector, float(comparison_scores(vector, vector[None])[0]), limit), "a threshold is inclusive"


def worth_less(score, comparisons):
    """As a calibration has it: the best of many comparisons is worth a lower score."""
    return score - 0.05 * np.log10(comparisons)


def check(gallery, store, probe, floor, limit):
    """Whether a search gives what the definition gives, to the last digit: face ids, scores, order, and how many were looked at."""
    excluded = sorted(gallery.truth)[:1]
    answers = []
    for left_out in ([], excluded):
        seen = store.search(gallery.permit(floor, limit), probe, left_out)
        answers.append(
            ((list(seen.found), seen.size), (gallery.expected(probe, floor, limit, left_out), len(gallery.truth) - len(left_out)))
        )
    return all(answer == definition for answer, definition in answers)


def test_the_store_applies_the_permits_floor_and_limit_itself(tmp_path):
    """Lock 2: whatever the handler does afterwards, nothing below the permit's floor leaves the store, and no more than its limit."""
    gallery = Gallery(tmp_path)
    gallery.add(directions(1, 50, 1.0))
    probe = next(iter(gallery.truth.values()))
    for floor in (-1, 0, 0.5, 0.9, 1.1):
        for limit in (1, 3, 50):
            found = list(gallery.stores[0].search(gallery.permit(floor, limit), probe).found)
            assert all(score >= floor for _, score in found)
            assert len(found) == min(limit, len(gallery.expected(probe, floor, 50)))
    assert gallery.stores[0].search(gallery.permit(-1, 0), probe).found == ()


def test_a_permit_is_good_for_its_collection_only(tmp_path):
    """A face of another collection is neither found nor read; a deleted collection is gone at once."""
    gallery = Gallery(tmp_path)
    gallery.add(directions(1, 3, 1.0))
    face_id, vector = next(iter(gallery.truth.items()))
    with gallery.database.write() as connection:
        other = gallery.collections.create(connection, "b", "1.0", "m", {})
    permit = Permit("audit", other, ("1.0", "m"), -1, 10)
    assert gallery.stores[0].search(permit, vector).size == 0
    with pytest.raises(NoSuch):
        gallery.stores[0].of_faces(permit, [face_id])
    assert np.array_equal(gallery.stores[0].of_faces(gallery.permit(-1, 1), [face_id]), vector[None])
    gallery.stores[0].search(gallery.permit(-1, 10), vector)
    with gallery.database.write() as connection:
        gallery.collections.delete(connection, gallery.collections.get("a", connection))
    for store in gallery.stores:
        with pytest.raises(NoSuch):
            store.search(gallery.permit(-1, 10), vector)


@given(st.integers(0, 10**6), st.integers(0, 60), st.sampled_from([1e-9, 1e-3, 1.0]), st.floats(-1, 1), st.integers(1, 4))
@settings(max_examples=25)
def test_the_search_of_people_is_the_best_of_each_ones_faces(tmp_path_factory, seed, count, spread, floor, probes):
    """Any faces to any people, then taken away and given to others: handles, best float64 scores and numbers of comparisons are the
    truth's; a face or a person that is left out is not compared."""
    gallery = Gallery(tmp_path_factory.mktemp("gallery"))
    random = np.random.default_rng(seed)
    gallery.add(directions(seed, count, spread))
    vectors = directions(seed + 1, probes, 1.0)
    subjects = Subjects(gallery.database)
    with gallery.database.write() as connection:
        collection = gallery.collections.get("a", connection)
        people = [subjects.create(connection, collection, f"p{i}") for i in range(4)]
    owner: dict[str, str] = {}
    for _ in range(3):
        face_ids = [face_id for face_id in gallery.truth if random.random() < 0.4]
        person = people[random.integers(0, 4)] if random.random() < 0.8 else None
        with gallery.database.write() as connection:
            subjects.give(connection, collection, face_ids, person)
        owner.update((face_id, person.handle if person else "") for face_id in face_ids)
        for without_face, without_person in (("", ""), (next(iter(gallery.truth), ""), ""), ("", people[0].handle)):
            scores: dict[str, list[float]] = {}
            for face_id, handle in owner.items():
                if handle and face_id != without_face and handle != without_person:
                    row = gallery.truth[face_id].astype(np.float64)
                    scores.setdefault(handle, []).extend(float(row @ vector.astype(np.float64)) for vector in vectors)
            seen = gallery.stores[0].search_subjects(gallery.permit(floor, 4), vectors, worth_less, without_face, without_person)
            found = {handle: (score, m) for handle, score, m in seen.found}
            assert seen.size == len(scores)
            for handle, every in scores.items():
                if abs(max(every) - floor) > 1e-12:
                    assert (handle in found) == (max(every) >= floor)
                if handle in found:
                    assert found[handle] == (pytest.approx(min(max(every), 1), abs=1e-12), len(every))
            assert set(found) <= set(scores)


# --- all faces beside each other ----------------------------------------------------------------------------------------------


def crowd(rng, people, takes):
    """Unit vectors of `takes` noisy takes of each of `people`, in turn."""
    centres = rng.normal(size=(people, DIMENSIONS))
    return normalise(np.repeat(centres, takes, axis=0) + 0.35 * rng.normal(size=(people * takes, DIMENSIONS)))


@pytest.mark.parametrize("limit", [10_000, 7])
def test_pairs_are_those_of_the_definition(tmp_path, monkeypatch, limit):
    """Blocks that do not divide the gallery, ids that are shared: every cosine in float64, filtered, ordered, counted, cut."""
    monkeypatch.setattr(templates, "_TOGETHER", 13)
    monkeypatch.setattr(scan, "_BLOCK", 29)
    monkeypatch.setattr(templates, "_CHUNK", 50)
    gallery = Gallery(tmp_path)
    vectors = crowd(np.random.default_rng(5), 40, 3)
    for i, vector in enumerate(vectors):
        gallery.add([vector], external=f"id{i % 50}" if i % 7 else None)
    ids, rows = list(gallery.truth), vectors.astype(np.float64)
    external = [f"id{i % 50}" if i % 7 else f"only {i}" for i in range(len(ids))]
    floor, near = 0.8, 0.95
    scored = [
        (float(np.dot(rows[a], rows[b])), ids[a], ids[b], external[a] == external[b])
        for a in range(len(ids))
        for b in range(a + 1, len(ids))
    ]
    wanted = sorted((one for one in scored if one[0] >= floor and (one[0] >= near or not one[3])), key=lambda one: -one[0])
    told = []
    seen = gallery.stores[1].pairs(Permit("a", gallery.n, ("1.0", "m"), floor, limit), near, lambda done, total: told.append((done, total)))
    assert [one.face_ids for one in seen.pairs] == [(a, b) for _, a, b, _ in wanted[:limit]]
    np.testing.assert_allclose([one.score for one in seen.pairs], [one[0] for one in wanted[:limit]], atol=1e-12)
    assert [one.has_one_id for one in seen.pairs] == [one[3] for one in wanted[:limit]]
    assert seen.near == sum(one[0] >= near for one in wanted) > 3
    assert seen.under_two_ids == len(wanted) - seen.near > 7
    assert told[-1] == (len(scored), len(scored)) == (seen.size * (seen.size - 1) // 2,) * 2


def test_a_face_apart_is_named_and_a_chain_is_not(tmp_path):
    """Of a, b near a, c near b alone, and x: x is apart; a subject with one face, and faces of nobody, are not judged."""
    gallery = Gallery(tmp_path)
    chain = [[np.cos(angle), np.sin(angle), 0, 0, 0, 0, 0, 0] for angle in (0.0, 0.5, 1.0)]
    gallery.add(normalise(np.array([*chain, [0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0]])))
    ids = list(gallery.truth)
    with gallery.database.write() as connection:
        given = {"many": ids[:4], "one": ids[4:5]}
        Subjects(gallery.database).enrol(connection, gallery.collections.get("a", connection), given)
    found, judged = gallery.stores[0].apart(Permit("a", gallery.n, ("1.0", "m"), 0.8, 10))
    assert [(one.face_id, one.score, one.faces) for one in found] == [(ids[3], 0.0, 4)]
    assert judged == 4
