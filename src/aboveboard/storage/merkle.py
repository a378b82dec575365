"""Merkle trees (RFC 9162, section 2.1): roots, and proofs that an entry is in a tree and that one tree begins another. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

Range = Callable[[int, int], bytes]
"""The root over the leaves from `start` up to, without, `end`."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 || entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def grow(subtrees: list[bytes], size: int, leaf: bytes) -> list[bytes]:
    """The roots of the full subtrees, largest first, after `leaf` joins a tree of `size` leaves."""
    grown = [*subtrees, leaf]
    while size & 1:
        right, left = grown.pop(), grown.pop()
        grown.append(node_hash(left, right))
        size >>= 1
    return grown


def root_of(subtrees: list[bytes]) -> bytes:
    """The tree's root from the roots of its full subtrees; the hash of nothing for an empty tree."""
    if not subtrees:
        return hashlib.sha256(b"").digest()
    root = subtrees[-1]
    for left in reversed(subtrees[:-1]):
        root = node_hash(left, root)
    return root


def root_over(leaves: Iterable[bytes]) -> bytes:
    """The root over leaves that are hashes already: of entries, or of full subtrees of one size."""
    subtrees: list[bytes] = []
    for size, leaf in enumerate(leaves):
        subtrees = grow(subtrees, size, leaf)
    return root_of(subtrees)


def inclusion_proof(root: Range, index: int, size: int) -> list[bytes]:
    """PATH(index, D[size]) of section 2.1.3.1: the hashes that lead from that leaf to the root, lowest first."""
    return _path(root, index, 0, size)


def consistency_proof(root: Range, first: int, second: int) -> list[bytes]:
    """PROOF(first, D[second]) of section 2.1.4.1, for 0 < first <= second: the first tree is the beginning of the second."""
    return _subproof(root, first, 0, second, True)


def is_included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof leads from the leaf's hash to the root (section 2.1.3.2)."""
    if index >= size:
        return False
    n, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if n & 1 or n == last:
            found = node_hash(step, found)
            while n and not n & 1:
                n, last = n >> 1, last >> 1
        else:
            found = node_hash(found, step)
        n, last = n >> 1, last >> 1
    return last == 0 and found == root


def is_consistent(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the tree of `first` leaves begins that of `second` (section 2.1.4.2)."""
    if first == second:
        return not proof and first_root == second_root
    if not 0 < first < second or not proof:
        return False
    steps = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    n, last = first - 1, second - 1
    while n & 1:
        n, last = n >> 1, last >> 1
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if n & 1 or n == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while n and not n & 1:
                n, last = n >> 1, last >> 1
        else:
            new = node_hash(new, step)
        n, last = n >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _path(root: Range, index: int, start: int, end: int) -> list[bytes]:
    if end - start == 1:
        return []
    middle = start + _split(end - start)
    if index < middle:
        return [*_path(root, index, start, middle), root(middle, end)]
    return [*_path(root, index, middle, end), root(start, middle)]


def _subproof(root: Range, first: int, start: int, end: int, is_whole: bool) -> list[bytes]:
    if first == end:
        return [] if is_whole else [root(start, end)]
    middle = start + _split(end - start)
    if first <= middle:
        return [*_subproof(root, first, start, middle, is_whole), root(middle, end)]
    return [*_subproof(root, first, middle, end, False), root(start, middle)]
