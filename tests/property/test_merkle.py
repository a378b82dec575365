"""Proofs, notes and the canonical form: the product's, the offline verifier's, and those of somebody else's programs agree."""

from __future__ import annotations

import math

import pymerkle
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from kit import merkle_tree_hash

from aboveboard.accountability import verify_ledger
from aboveboard.storage.database import Database
from aboveboard.storage.ledger import BLOCK, Ledger
from aboveboard.storage.merkle import consistency_proof, inclusion_proof, is_consistent, is_included, leaf_hash, node_hash, root_over

ENTRIES = [f"entry {i}".encode() for i in range(70)]
TREE = pymerkle.InmemoryTree(algorithm="sha256")
for one in ENTRIES:
    TREE.append_entry(one)


def root(start: int, end: int) -> bytes:
    """By the definition."""
    return merkle_tree_hash(ENTRIES[start:end])


@given(st.integers(1, len(ENTRIES)), st.data())
def test_an_entrys_proof_leads_to_the_root_and_no_other_does(size, data):
    """pymerkle finds the same path, and it leads to pymerkle's root; another entry, place, size or step does not."""
    index = data.draw(st.integers(0, size - 1))
    leaf, proof, whole = leaf_hash(ENTRIES[index]), inclusion_proof(root, index, size), root(0, size)
    assert proof == TREE.prove_inclusion(index + 1, size).path[1:]
    assert whole == TREE.get_root(size)
    assert is_included(leaf, index, size, proof, whole)
    assert verify_ledger.climb(index, size - 1, b"", leaf, proof)[1] == whole
    other = data.draw(st.integers(0, size - 1).filter(lambda one: one != index)) if size > 1 else None
    assert other is None or not is_included(leaf, other, size, proof, whole)
    assert not is_included(leaf_hash(b"other"), index, size, proof, whole)
    assert not is_included(leaf, index, size, [*proof, whole], whole)
    assert not proof or not is_included(leaf, index, size, proof[1:], whole)
    assert not is_included(leaf, size, size, proof, whole)


@given(st.integers(1, len(ENTRIES)), st.data())
def test_a_tree_is_shown_to_begin_another_and_no_other_is(second, data):
    """The proof holds for the two roots of the definition alone."""
    first = data.draw(st.integers(1, second))
    old, new, proof = root(0, first), root(0, second), consistency_proof(root, first, second)
    assert is_consistent(first, old, second, new, proof)
    pymerkle.verify_consistency(old, new, TREE.prove_consistency(first, second))
    assert not is_consistent(first, leaf_hash(b""), second, new, proof)
    assert not is_consistent(first, old, second, leaf_hash(b""), proof)
    assert first == second or not is_consistent(first, old, second, new, proof[:-1])
    assert not is_consistent(first, old, second, new, [*proof, new])
    assert first == second or not is_consistent(second, new, first, old, proof)


def test_the_proofs_are_those_of_the_rfcs_example():
    """RFC 9162, section 2.1.5: a tree of seven."""
    leaves = [leaf_hash(entry) for entry in ENTRIES[:7]]
    a, b, c, d, e, f, j = leaves
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, l7 = node_hash(g, h), node_hash(i, j)
    assert root(0, 7) == node_hash(k, l7)
    paths = {index: inclusion_proof(root, index, 7) for index in (0, 3, 4, 6)}
    assert paths == {0: [b, h, l7], 3: [c, g, l7], 4: [f, j, k], 6: [i, k]}
    assert {first: consistency_proof(root, first, 7) for first in (3, 4, 6)} == {3: [c, d, g, l7], 4: [l7], 6: [i, j, k]}


def test_the_ledgers_blocks_give_the_roots_of_the_definition(tmp_path):
    """Whatever range a proof asks for, with blocks kept and with blocks of an older release that kept none."""
    database = Database(tmp_path / "a.db")
    ledger, size = Ledger(database), 3 * BLOCK + 5
    with database.write() as connection:
        for i in range(size):
            ledger.append(connection, "n", {"i": i})
    leaves = [leaf_hash(entry) for entry in ledger.entries()]
    for is_kept in (True, False):
        for first in (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 4, size):
            proof = consistency_proof(ledger.root, first, size)
            assert is_consistent(first, root_over(leaves[:first]), size, root_over(leaves), proof)
            assert is_included(leaves[first - 1], first - 1, size, inclusion_proof(ledger.root, first - 1, size), root_over(leaves))
        if is_kept:
            with database.write() as connection:
                assert connection.exec_driver_sql("DELETE FROM ledger_blocks WHERE n != 1").rowcount == 2
    database.close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))).filter(lambda text: "\0" not in text),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=3), inner),
    max_leaves=8,
)  # fmt: skip


@given(json_values)
def test_the_verifier_takes_what_rfc8785_writes(value):
    """An entry of any facts in canonical form is one, and another way to write the same is none."""
    entry = rfc8785.dumps({"facts": value, "seq": 0, "time": ""})
    assert verify_ledger.read_entry(entry)["seq"] == 0
    with pytest.raises(ValueError):
        verify_ledger.read_entry(entry.replace(b'"seq":0', b'"seq": 0'))


@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(1e-8, 1e-5) | st.floats(1e15, 1e23))
def test_the_verifier_writes_numbers_as_rfc8785_does(value):
    assert verify_ledger.number(value) == rfc8785.dumps(value).decode()
    assert math.isclose(float(verify_ledger.number(value)), value, rel_tol=0)


@pytest.mark.parametrize("text", [
    '{"seq":0,"seq":0,"time":""}', '{"time":"","seq":0}', '{"seq":0.0,"time":""}', '{"seq":0,"time":"\\u0041"}', '{"seq":-0,"time":""}',
    '{"seq":0,"time":"","x":NaN}', '{"seq":0,"time":"","x":1e999}', '{"seq":0,"time":"","x":1E2}', '{"seq":true,"time":""}', "[]", "",
    '{"seq":0,"time":"","x":1e-07}', '{"seq":0,"time":"","x":"\\ud800"}', '{"seq":0,"time":"\\/"}', '{"seq":0,"time":""} ',
])  # fmt: skip
def test_what_is_not_canonical_is_no_entry(text):
    with pytest.raises(ValueError):
        verify_ledger.read_entry(text.encode())


def test_a_note_of_the_formats_own_authors_is_opened():
    """The example of Go's golang.org/x/mod/sumdb/note; one changed letter and it is not signed."""
    key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signature = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    witness = "— somebody.else x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    assert verify_ledger.open_note(f"{text}\n{witness}{signature}".encode(), key) == text
    for wrong in (f"{text}\n{witness}", f"{text.replace('answer', 'Answer')}\n{signature}", text, "", "\n\n"):
        with pytest.raises(ValueError):
            verify_ledger.open_note(wrong.encode(), key)
    with pytest.raises(ValueError):
        verify_ledger.open_note(f"{text}\n{signature}".encode(), key.replace("c74f20a3", "c74f20a4"))
