"""The ledger's tree against the definition of RFC 9162, and its entries under concurrent writers and failing ones."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import merkle_tree_hash

from aboveboard.errors import Unavailable
from aboveboard.storage.database import Database
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.merkle import grow, leaf_hash, root_of


@pytest.fixture
def ledger(tmp_path):
    database = Database(tmp_path / "a.db")
    yield Ledger(database)
    database.close()


def whole(ledger):
    """Entries without gaps whose root is the definition's; returns them."""
    raw = list(ledger.entries())
    assert ledger.checkpoint() == (len(raw), merkle_tree_hash(raw))
    entries = [json.loads(entry) for entry in raw]
    assert [entry["seq"] for entry in entries] == list(range(len(entries)))
    return entries


@given(st.lists(st.binary(max_size=20), max_size=70))
@settings(max_examples=200)
def test_growing_leaf_by_leaf_gives_the_root_of_the_definition(entries):
    """RFC 9162, section 2.1.1: MTH, whatever the entries and however many, at every size on the way."""
    subtrees: list[bytes] = []
    for size, entry in enumerate(entries):
        assert root_of(subtrees) == merkle_tree_hash(entries[:size])
        subtrees = grow(subtrees, size, leaf_hash(entry))
    assert root_of(subtrees) == merkle_tree_hash(entries)


def test_the_root_is_that_of_the_rfcs_own_vectors():
    """The test vectors of RFC 9162's reference implementations (certificate-transparency, merkle_tree_test)."""
    leaves = [bytes.fromhex(text) for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )]  # fmt: skip
    roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    subtrees: list[bytes] = []
    for size, (leaf, root) in enumerate(zip(leaves, roots, strict=True)):
        subtrees = grow(subtrees, size, leaf_hash(leaf))
        assert root_of(subtrees).hex() == root


@given(st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=40), st.data())
@settings(max_examples=100)
def test_any_tampering_changes_the_root(entries, data):
    """Changing, dropping, adding or swapping an entry gives another root."""
    at = data.draw(st.integers(0, len(entries) - 1))
    other = data.draw(st.integers(0, len(entries) - 1))
    changed = [*entries[:at], entries[at] + b"x", *entries[at + 1 :]]
    dropped = entries[:at] + entries[at + 1 :]
    doubled = [*entries[: at + 1], entries[at], *entries[at + 1 :]]
    swapped = list(entries)
    swapped[at], swapped[other] = swapped[other], swapped[at]

    def root(leaves):
        subtrees: list[bytes] = []
        for size, leaf in enumerate(leaves):
            subtrees = grow(subtrees, size, leaf_hash(leaf))
        return root_of(subtrees)

    for tampered in (changed, dropped, doubled, swapped):
        assert (root(tampered) == root(entries)) == (tampered == entries)


facts = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6).filter(lambda key: key not in ("seq", "time", "type")),
    st.one_of(st.text(st.characters(exclude_categories=("Cs",)), max_size=8), st.integers(-(2**53) + 1, 2**53 - 1), st.booleans(),
              st.floats(allow_nan=False, allow_infinity=False), st.lists(st.integers(0, 9), max_size=3)),
    max_size=4,
)  # fmt: skip


@given(st.lists(facts, max_size=5))
@settings(max_examples=20)
def test_what_is_recorded_is_read_back(tmp_path_factory, given_facts):
    """Any facts: the entry holds them, canonically, with seq, time and type."""
    database = Database(tmp_path_factory.mktemp("ledger") / "a.db")
    ledger = Ledger(database)
    for seq, one in enumerate(given_facts):
        assert ledger.record("kind", one) == seq
    for entry, one in zip(whole(ledger), given_facts, strict=True):
        assert {key: entry[key] for key in one} == one
        assert entry["type"] == "kind"
        assert entry["time"].endswith("Z")
    database.close()


def test_concurrent_writers_leave_no_gap(tmp_path):
    """Eight threads over two openings of one file: every entry is there once, in one order, under one root."""
    databases = [Database(tmp_path / "a.db") for _ in range(2)]
    ledgers = [Ledger(database) for database in databases]
    barrier = threading.Barrier(8)

    def write(worker):
        barrier.wait()
        return [ledgers[worker % 2].record("n", {"worker": worker, "i": i}) for i in range(15)]

    with ThreadPoolExecutor(8) as pool:
        seqs = [seq for found in pool.map(write, range(8)) for seq in found]
    assert sorted(seqs) == list(range(120))
    entries = whole(ledgers[0])
    assert {(entry["worker"], entry["i"]) for entry in entries} == {(worker, i) for worker in range(8) for i in range(15)}
    for worker in range(8):
        assert [entry["i"] for entry in entries if entry["worker"] == worker] == list(range(15))
    for database in databases:
        database.close()


def test_an_entry_is_in_the_log_if_and_only_if_the_callers_rows_are(ledger):
    """append() inside a transaction that fails leaves nothing: the next entry takes its number."""
    ledger.record("a", {})

    def failing():
        with ledger._database.write() as connection:
            ledger.append(connection, "lost", {})
            raise LookupError("the caller's own failure")

    with pytest.raises(LookupError):
        failing()
    assert ledger.record("b", {}) == 1
    assert [entry["type"] for entry in whole(ledger)] == ["a", "b"]


def test_an_entry_changed_in_the_file_no_longer_gives_the_root(ledger):
    """Who edits the database by hand is seen: the kept root is not that of the entries any more."""
    for i in range(5):
        ledger.record("n", {"i": i})
    with ledger._database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE ledger SET entry = CAST(replace(CAST(entry AS TEXT), '\"i\":3', '\"i\":4') AS BLOB) WHERE seq = 3"
        )
    raw = list(ledger.entries())
    assert ledger.checkpoint()[1] != merkle_tree_hash(raw)


def test_facts_that_are_no_json_are_refused_and_leave_nothing(ledger):
    """NaN has no canonical form: nothing is written."""
    with pytest.raises((ValueError, Unavailable)):
        ledger.record("n", {"x": float("nan")})
    assert whole(ledger) == []
