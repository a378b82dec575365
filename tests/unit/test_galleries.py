"""Galleries in memory and their files: caches that nobody notices but by the time they save."""

from __future__ import annotations

import logging
import shutil
from collections import Counter

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from test_templates import Gallery as Store
from test_templates import check, directions

from aboveboard.biometrics.gallery import Sample
from aboveboard.biometrics.matching import normalise
from aboveboard.biometrics.scan import Scanner
from aboveboard.errors import Unavailable
from aboveboard.storage import collections, galleries
from aboveboard.storage.database import Database
from aboveboard.storage.gallery import Gallery
from aboveboard.storage.schema import COLLECTIONS, FACES, TEMPLATES
from aboveboard.storage.subjects import Subjects
from aboveboard.storage.templates import Templates

PROBE = directions(99, 1, 1.0)[0]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A collection of 300 faces whose gallery is worth a file."""
    monkeypatch.setattr(galleries, "_WORTH_SAVING", 10)
    made = Store(tmp_path)
    made.add(directions(1, 300, 1.0))
    return made


def restarted(store):
    """Another process over the same folder, after this one ended."""
    store.stores[0].close()
    store.stores[0] = Templates(Database(store.database.file))
    return store.stores[0]


def files(store):
    return sorted(file.name for file in (store.database.file.parent / "cache").glob("*"))


def search(store):
    assert check(store, store.stores[0], PROBE, -1.0, 20)


def templates_read(store, monkeypatch):
    """How many templates were quantised, that is read from the database to be scanned, from now on."""
    read = []
    append = Gallery.append
    monkeypatch.setattr(Gallery, "append", lambda self, numbers, *rest: (read.append(len(numbers)), append(self, numbers, *rest))[1])
    return read


def test_the_next_start_reads_the_file_and_only_what_came_since(store, monkeypatch):
    search(store)
    restarted(store)
    assert files(store) == [f"{store.n}.gallery"]
    store.add(directions(2, 7, 1.0))
    read = templates_read(store, monkeypatch)
    search(store)
    assert read == [7]


def test_a_face_that_is_removed_stays_in_no_file(store):
    search(store)
    restarted(store)
    search(store)
    store.remove(sorted(store.truth)[:3])
    store.stores[0].refresh(store.n)
    assert files(store) == []
    restarted(store)
    search(store)


def test_removals_that_a_file_does_not_know_are_made_up_for(store, monkeypatch):
    """As after a crash between a removal and the deletion of the file: by the log, or, where that was cut, all anew."""
    for kept in (1000, 1):
        search(store)
        restarted(store)
        monkeypatch.setattr(collections, "TOUCHES_KEPT", kept)
        monkeypatch.setattr(collections, "TOUCHES_PER_TRIM", 1)
        store.remove(sorted(store.truth)[:5])
        read = templates_read(store, monkeypatch)
        search(store)
        assert read == ([] if kept > 1 else [len(store.truth)])


@pytest.mark.parametrize("damage", ["a byte", "the head", "a number in the head", "its end", "nothing left"])
def test_a_damaged_file_is_told_and_made_anew(store, damage, caplog):
    search(store)
    restarted(store)
    file = store.database.file.parent / "cache" / f"{store.n}.gallery"
    data = bytearray(file.read_bytes())
    if damage == "a byte":
        data[2000] ^= 1
    elif damage == "the head":
        data[:40] = b"x" * 40
    elif damage == "a number in the head":
        data[:512] = data[:512].replace(b'"touches": 0', b'"touches": 4')
    file.write_bytes({"its end": data[:-5], "nothing left": b""}.get(damage, data))
    with caplog.at_level(logging.WARNING):
        search(store)
    assert "made anew from the database" in caplog.text
    restarted(store)
    caplog.clear()
    search(store)
    assert not caplog.records


def test_a_file_of_another_past_is_not_used(store, caplog):
    """A database that was put back by hand and has come to the same generation and number of faces since, with other faces."""
    search(store)
    restarted(store)
    other = sorted(store.truth)[150:]
    fresh = dict(zip(other, directions(8, len(other), 1.0), strict=True))
    with store.database.write() as connection:
        for face_id, vector in fresh.items():
            n = connection.execute(sa.select(FACES.c.n).where(FACES.c.face_id == face_id)).scalar_one()
            connection.execute(sa.update(TEMPLATES).where(TEMPLATES.c.face == n).values(vector=vector.astype("<f4").tobytes()))
    store.truth |= fresh
    with caplog.at_level(logging.WARNING):
        search(store)
    assert "of other faces than the database" in caplog.text


def test_a_file_from_the_future_is_not_used(store, caplog):
    """A database that was put back to an earlier state by hand."""
    search(store)
    restarted(store)
    late = sorted(store.truth)[200:]
    with store.database.write() as connection:
        connection.execute(sa.delete(FACES).where(FACES.c.face_id.in_(late)))
        connection.execute(sa.update(COLLECTIONS).values(generation=0, face_count=200))
    store.truth = {face_id: vector for face_id, vector in store.truth.items() if face_id not in late}
    with caplog.at_level(logging.WARNING):
        search(store)
    assert "made anew from the database" in caplog.text


def test_files_of_collections_that_are_gone_go_too(store):
    search(store)
    restarted(store)
    search(store)
    with store.database.write() as connection:
        other = store.collections.create(connection, "b", "1.0", "m", {})
        store.collections.delete(connection, store.collections.get("a", connection))
    store.n = other
    store.truth = {}
    search(store)
    assert files(store) == []


def test_whose_faces_are_is_in_the_file_and_followed_face_by_face(store, monkeypatch):
    subjects, face_ids = Subjects(store.database), sorted(store.truth)
    with store.database.write() as connection:
        subjects.enrol(connection, store.collections.get("a", connection), {f"p{i}": face_ids[i : i + 1] for i in range(50)})

    def people():
        seen = store.stores[0].search_subjects(store.permit(-1, 500), PROBE[None], lambda score, _: score)
        return {handle: score for handle, score, _ in seen.found}

    before = people()
    assert len(before) == 50
    restarted(store)
    read = templates_read(store, monkeypatch)
    assert people() == before
    assert read == []
    with store.database.write() as connection:
        collection = store.collections.get("a", connection)
        subjects.give(connection, collection, face_ids[50:60], subjects.get(collection, "p3", connection))
        subjects.delete(connection, collection, subjects.get(collection, "p4", connection))
    after = people()
    assert len(after) == 49
    assert read == []
    assert before.keys() - after.keys()


def own_scores(templates, store):
    """Per sampled face, by its number, how its scores with all others lie; and whose it is."""
    own = templates.scores(store.permit(1, 0))
    return sorted(zip(own.owners.tolist(), own.counts.tolist(), strict=True)), own.size


def test_own_scores_are_a_recounts_whatever_came_and_went(tmp_path, monkeypatch):
    """Faces come, go, become people's and nobody's, more than are sampled; the store restarts in between, from its file."""
    monkeypatch.setattr(galleries, "_WORTH_SAVING", 10)
    store, subjects = Store(tmp_path), Subjects(Database(tmp_path / "a.db"))
    store.add(directions(1, 560, 1.0))
    for step in range(6):
        own_scores(store.stores[0], store)
        random = np.random.default_rng(step)
        face_ids = sorted(store.truth)
        chosen = [face_id for face_id in face_ids if random.random() < 0.03]
        with store.database.write() as connection:
            collection = store.collections.get("a", connection)
            subjects.enrol(connection, collection, {f"p{step}": chosen[:3], f"q{step}": [face_ids[step]]})
            if step > 2:
                subjects.delete(connection, collection, subjects.get(collection, f"p{step - 2}", connection))
        store.remove([one for one in chosen[3:] if random.random() < 0.7])
        store.add(directions(step + 50, 12, 1.0))
        if step % 2:
            own_scores(store.stores[0], store)
            restarted(store)
        kept = own_scores(store.stores[0], store)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        assert kept == own_scores(Templates(Database(tmp_path / "a.db")), store)


@pytest.mark.parametrize("change", ["removed", "another's"])
def test_a_sampled_face_that_changed_before_the_end_is_not_in_the_file(tmp_path, monkeypatch, change):
    monkeypatch.setattr(galleries, "_WORTH_SAVING", 10)
    store, subjects = Store(tmp_path), Subjects(Database(tmp_path / "a.db"))
    store.add(directions(1, 600, 1.0))
    sampled = set(sorted(store.truth)[:512])
    in_order = [face_id for face_id in store.truth if face_id in sampled]
    with store.database.write() as connection:
        subjects.enrol(connection, store.collections.get("a", connection), {"p": in_order[:50]})
    own_scores(store.stores[0], store)
    if change == "removed":
        store.remove([in_order[0], in_order[-1]])
    else:
        with store.database.write() as connection:
            subjects.enrol(connection, store.collections.get("a", connection), {"q": in_order[:1]})
    store.stores[0].refresh(store.n)
    restarted(store)
    of_the_file = own_scores(store.stores[0], store)
    shutil.rmtree(tmp_path / "cache")
    assert of_the_file == own_scores(Templates(Database(tmp_path / "a.db")), store)


def test_counts_that_broke_off_are_made_again(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.add(directions(1, 600, 1.0))

    def no_memory(*_):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Sample, "_count", no_memory)
        with pytest.raises(MemoryError):
            own_scores(store.stores[0], store)
    assert own_scores(store.stores[0], store) == own_scores(store.stores[1], store)


def test_a_template_of_another_length_hides_no_other(store):
    search(store)
    face_ids = set(store.truth)
    store.add(normalise(np.ones((1, 16))))
    for _ in range(2):
        with pytest.raises(Unavailable, match="a template is damaged"):
            search(store)
    store.remove(sorted(store.truth.keys() - face_ids))
    search(store)


def test_what_cannot_be_read_ahead_keeps_nothing_else_from_it(store, monkeypatch):
    first, face_ids = store.n, set(store.truth)
    search(store)
    store.add(normalise(np.ones((1, 16))))
    with store.database.write() as connection:
        store.n = store.collections.create(connection, "b", "1.0", "m", {})
        rows = sa.select(FACES.c.n).where(FACES.c.face_id.in_(face_ids))
        connection.execute(sa.update(FACES).where(FACES.c.n.in_(rows)).values(collection=store.n))
        connection.execute(sa.update(COLLECTIONS).where(COLLECTIONS.c.n == store.n).values(face_count=len(face_ids)))
        connection.execute(sa.update(COLLECTIONS).where(COLLECTIONS.c.n == first).values(face_count=1))
    store.truth = {face_id: store.truth[face_id] for face_id in face_ids}
    search(store)
    restarted(store)
    folder = store.database.file.parent / "cache"
    (folder / "copy of it.gallery").write_bytes(b"")
    store.stores[0].warm()
    read = templates_read(store, monkeypatch)
    search(store)
    assert read == []


def test_what_a_killed_process_had_begun_to_write_goes(store):
    search(store)
    left = store.database.file.parent / "cache" / f"{store.n}.gallery.1.new"
    restarted(store)
    for end in (lambda: search(store), lambda: store.stores[0].refresh(store.n), lambda: store.stores[0].forget(store.n)):
        left.write_bytes(b"templates")
        end()
        assert not left.exists()


@pytest.mark.parametrize("where", ["on removal", "after writing"])
def test_a_file_that_cannot_be_held_against_the_database_goes(store, monkeypatch, where):
    search(store)
    restarted(store)
    search(store)
    store.remove(sorted(store.truth)[:3])

    def no_disk(*_):
        raise Unavailable("the disk fails")

    monkeypatch.setattr(galleries.Galleries, "_bring_up", no_disk)
    if where == "on removal":
        with pytest.raises(Unavailable):
            store.stores[0].refresh(store.n)
    else:
        made = store.stores[0]._galleries
        with pytest.raises(Unavailable):
            made._write(store.n, made._galleries[store.n])
    assert files(store) == []


def test_where_there_is_no_memory_to_grow_a_gallery_stays_as_it_was():
    gallery = Gallery(("1", "m"), Scanner(1).tally)
    gallery.append(range(1, 11), [None] * 10, directions(1, 10, 1.0))
    before = gallery.rows.copy()
    for column in gallery._columns.values():
        with pytest.raises((OSError, MemoryError)):
            column.reach(1 << 50)
    np.testing.assert_array_equal(gallery.rows.codes, before.codes)


def test_where_no_file_can_be_written_searches_go_on(store):
    folder = store.database.file.parent / "cache"
    folder.write_text("in the way")
    search(store)
    restarted(store)
    search(store)
    assert folder.read_text() == "in the way"


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "move"]), st.integers(0, 10**6), st.integers(1, 30)), max_size=8))
@settings(max_examples=40, deadline=None)
def test_a_gallery_holds_what_came_and_nothing_of_what_went(steps):
    """Against a dictionary; and behind the last row there are only zeros."""
    gallery, truth, last = Gallery(("1", "m"), Scanner(1).tally), {}, 0
    for kind, seed, count in steps:
        random = np.random.default_rng(seed)
        if kind == "add":
            vectors = directions(seed, count, 1.0)
            owners = [int(one) or None for one in random.integers(0, 5, count)]
            numbers = list(range(last + 1, last + 1 + count))
            gallery.append(numbers, owners, vectors)
            truth.update(zip(numbers, zip(owners, vectors, strict=True), strict=True))
            last += count
        elif kind == "remove":
            gone = [n for n in truth if random.random() < 0.4]
            gallery.remove(gone)
            truth = {n: one for n, one in truth.items() if n not in gone}
        else:
            moved = {n: int(random.integers(1, 9)) for n in truth if random.random() < 0.3}
            gallery.give(moved)
            truth = {n: (moved.get(n, owner), vector) for n, (owner, vector) in truth.items()}
        assert sorted(gallery.numbers.tolist()) == sorted(truth)
        owned = Counter(owner for owner, _ in truth.values())
        assert gallery.owned().tolist() == [*(owned[subject] for subject in gallery.subjects), owned[None]]
        rows = gallery.rows
        for place, n in enumerate(gallery.numbers.tolist()):
            owner, vector = truth[n]
            assert (gallery.subjects[gallery.slots[place]] if gallery.slots[place] >= 0 else None) == owner
            code = rows.codes[place, : len(vector)].astype(np.float64) * np.float64(rows.scales[place])
            assert np.linalg.norm(code - vector.astype(np.float64)) <= rows.errors[place] < 0.02
        for column in gallery._columns.values():
            assert not column.all[gallery.size :].any()
