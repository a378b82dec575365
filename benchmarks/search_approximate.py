"""What an approximate index misses: HNSW graphs beside the exact scan, on real templates among face-like ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np
import usearch.index
from numpy.typing import NDArray
from search_data import Vectors
from search_engines import Found, K, figures, identical, interleaved, truth


def held_out(people: NDArray[np.int64], most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Probes, one real photograph of each of `most` people that have others, drawn; and the photographs that are enrolled."""
    random = np.random.default_rng(2)
    several = np.flatnonzero(np.bincount(people) > 1)
    chosen = random.choice(several, min(most, len(several)), replace=False)
    probes = np.array([random.choice(np.flatnonzero(people == person)) for person in chosen])
    return probes, np.setdiff1d(np.arange(len(people)), probes)


def in_usearch(matrix: Vectors) -> tuple[Callable[[int], Callable[[Vectors], Found]], Sequence[int]]:
    index = usearch.index.Index(ndim=matrix.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=128)
    index.add(np.arange(len(matrix)), matrix, threads=0)

    def at(ef: int) -> Callable[[Vectors], Found]:
        def search(probe: Vectors) -> Found:
            index.expansion_search = ef
            return index.search(probe, K).keys.astype(np.int64)

        return search

    return at, (64, 256, 1024)


def in_faiss(matrix: Vectors) -> tuple[Callable[[int], Callable[[Vectors], Found]], Sequence[int]]:
    index = faiss.IndexHNSWFlat(matrix.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.add(matrix)

    def at(ef: int) -> Callable[[Vectors], Found]:
        def search(probe: Vectors) -> Found:
            index.hnsw.efSearch = ef
            return index.search(probe[None], K)[1][0]

        return search

    return at, (16, 64, 256)


GRAPHS = {"usearch HNSW, M 16": in_usearch, "faiss HNSW, M 32": in_faiss}


def compared(matrix: Vectors, people: NDArray[np.int64], probes: Vectors, owners: NDArray[np.int64], ours: Any) -> list[dict[str, Any]]:
    """Rows for each graph at each breadth of search, and for the exact scan: `people` (n,) whose each row is, -1 for nobody's.

    A true mate is a row of the probe's person among the truth's ten best; missed is one that was not found.
    """
    true = truth(matrix, probes)
    works, builds = {"Aboveboard, exact": ours}, {"Aboveboard, exact": 0.0}
    for graph, made in GRAPHS.items():
        start = time.perf_counter()
        at, breadths = made(matrix)
        for ef in breadths:
            works[f"{graph}, ef {ef}"], builds[f"{graph}, ef {ef}"] = at(ef), time.perf_counter() - start
    seconds, found = interleaved(works, list(probes))
    mates = [set(rows[people[rows] == owner].tolist()) for rows, owner in zip(true, owners, strict=True)]
    first = [rows[0] in own for rows, own in zip(true, mates, strict=True)]
    made_rows = []
    for name in works:
        sets = [set(rows.tolist()) for rows in found[name]]
        made_rows.append({
            "section": "approximate", "engine": name, "n": len(matrix), "d": matrix.shape[1], "k": K, **figures(seconds[name]),
            "build_s": builds[name], **identical(found[name], true), "queries": len(probes),
            "recall": float(np.mean([len(a & set(b.tolist())) / K for a, b in zip(sets, true, strict=True)])),
            "mates": sum(map(len, mates)), "mates_missed": sum(len(own - a) for own, a in zip(mates, sets, strict=True)),
            "first": sum(first), "first_missed": sum(mate and rows[0] not in a for mate, rows, a in zip(first, true, sets, strict=True)),
        })  # fmt: skip
    return made_rows
