"""The exact search against its peers and its store: python benchmarks/search.py --json FILE [--quick] [--photographs FOLDER].

FILE gets every row. A full run rewrites its tables in docs/; `--quick` takes small galleries, under a minute, and writes none.
FOLDER (of person/photograph.jpg, LFW's) is `lfw-a` in $TEST_PHOTOGRAPHS unless told; without it the real templates' part is left out.
Needs the extra `bench`, 7 GB of memory for the full run, and a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import search_approximate as approximate
import search_data as data
import search_engines as engines
import search_store as stores
from report import machine, write
from search_data import Vectors
from search_engines import PAUSE_S, K, figures, identical, interleaved

from aboveboard.biometrics.scan import Rows, Scanner, width

BATCH, OURS, STORE, NUMPY = 64, "Aboveboard", "Aboveboard, with its store", "numpy float32"
FULL: dict[str, Any] = {
    "sizes": [(300_000, 512), (1_000_000, 128), (1_000_000, 512)],
    "queries": 20,
    "batches": 3,
    "scale": [100_000, 300_000, 1_000_000, 5_000_000],
    "memory": [(1_000_000, 128), (300_000, 512)],
    "stored": [(300_000, 512), (1_000_000, 128)],
    "removed": 100_000,
    "removing_s": 12,
    "single": 1000,
    "photographs": None,
    "faces": 30_000,
    "people": 150,
    "read": 2 << 30,
}
QUICK: dict[str, Any] = {
    "sizes": [(30_000, 512), (50_000, 128)],
    "queries": 8,
    "batches": 2,
    "scale": [20_000, 40_000],
    "memory": [(50_000, 128)],
    "stored": [(50_000, 128)],
    "removed": 8192,
    "removing_s": 1,
    "single": 50,
    "photographs": 30,
    "faces": 3000,
    "people": 10,
    "read": 256 << 20,
}
"""`stored`: the last of them is restarted from and removed from. `photographs`: at most so many of the folder's."""

Row = dict[str, Any]


def bandwidth(size: int) -> list[Row]:
    """GB/s of reading anonymous memory on huge pages (numpy asks for them), best of 5."""

    def total(numbers: Any) -> int:
        found = np.int64(0)
        for i in range(numbers.size):
            found += numbers[i]
        return int(found)

    one = numba.njit(nogil=True)(total)
    numbers, rows = np.ones(size // 8, np.int64), []
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            parts, seconds = np.array_split(numbers, 64), []
            for _ in range(6):
                start = time.perf_counter()
                list(pool.map(one, parts))
                seconds.append(time.perf_counter() - start)
        best = size / min(seconds[1:]) / 1e9
        rows.append({"section": "bandwidth", "engine": f"{threads} threads", **figures(seconds[1:], size), "best_gb_s": best})
    return rows


def gallery(n: int, d: int, queries: int) -> tuple[Vectors, Vectors]:
    """A gallery, and probes: further images of people of it, by turns with strangers."""
    everything = data.gathered(data.plain(n + 30_000, d), n + 30_000, d)
    strangers = everything[n + 2 :]
    random = np.random.default_rng(5)
    probes = strangers[random.integers(0, len(strangers), queries)].copy()
    known = everything[random.integers(0, n, queries)] + 0.6 * random.standard_normal((queries, d)).astype(np.float32) * d**-0.5
    probes[::2] = data.unit(known)[::2]
    return everything[:n], probes


def single(n: int, d: int, options: Row, scanner: Scanner, bounds: Sequence[Row], folder: Path) -> list[Row]:
    """One query and batches of many at one size: every engine, in one run."""
    matrix, probes = gallery(n, d, options["queries"])
    rows = data.quantised((matrix[i : i + data.STEP] for i in range(0, n, data.STEP)), n, d)
    made = {OURS: engines.ours(matrix, rows, scanner), **{name: make(matrix) for name, make in engines.PEERS.items()}}
    works = {name: engine.search for name, engine in made.items() if engine.search}
    store, found = None, []
    if (n, d) in options["stored"]:
        store, rate = stores.filled(folder / f"{n}-{d}", (matrix[i : i + data.STEP] for i in range(0, n, data.STEP)))
        works[STORE] = store.search
        found.append({"section": "ingest", "engine": "batched", "n": n, "d": d, "rows_s": rate})
    true, limit = engines.truth(matrix, probes), max(row["best_gb_s"] for row in bounds)
    for pause in (0, PAUSE_S):
        seconds, answers = interleaved(works, list(probes), pause)
        usual = figures(seconds[NUMPY])["ms"]
        for name in works:
            size = made.get(name, made[OURS]).bytes
            one = figures(seconds[name], n * size)
            found.append({
                "section": "single", "engine": name, "n": n, "d": d, "k": K, "pause_ms": 1e3 * pause, "bytes": size, **one,
                "ratio": usual / one["ms"], "of_bandwidth": one["gb_s"] / limit, "queries": len(probes), **identical(answers[name], true),
            })  # fmt: skip
    if (n, d) != (1_000_000, 512):
        many = matrix[np.random.default_rng(7).integers(0, n, (options["batches"], BATCH))]
        seconds, answers = interleaved({name: engine.batch for name, engine in made.items() if engine.batch}, list(many))
        true = [row for probes in many for row in engines.truth(matrix, probes)]
        for name, taken in seconds.items():
            one = figures([second / BATCH for second in taken])
            same = identical([row for batch in answers[name] for row in batch], true)
            ratio = figures(seconds[NUMPY])["ms"] / BATCH / one["ms"]
            found.append({"section": "batch", "engine": name, "n": n, "d": d, "k": K, "batch": BATCH, **one, "ratio": ratio, **same})
    found += grouped(matrix, rows, probes, scanner)
    if store:
        found += stored(store, n, d, probes, options, folder)
        store.close()
    return found


def grouped(matrix: Vectors, rows: Rows, probes: Vectors, scanner: Scanner) -> list[Row]:
    """The best face of each person, in the same scan."""
    slots = (np.arange(len(matrix)) // data.IMAGES).astype(np.int32)
    groups = int(slots[-1]) + 1
    works = {OURS: engines.groups_ours(matrix, rows, slots, groups, scanner), NUMPY: engines.groups_numpy(matrix, slots, groups)}
    seconds, answers = interleaved(works, list(probes))
    true = []
    for probe in probes:
        peaks = np.full(groups, -2.0)
        np.maximum.at(
            peaks, slots, np.concatenate([matrix[i : i + 20_000].astype(np.float64) @ probe for i in range(0, len(matrix), 20_000)])
        )
        true.append(np.argsort(-peaks, kind="stable")[:K])
    usual = figures(seconds[NUMPY])["ms"]
    return [
        {"section": "people", "engine": name, "n": len(matrix), "d": matrix.shape[1], "k": K, "people": groups, **figures(taken),
         "ratio": usual / figures(taken)["ms"], **identical(answers[name], true)}
        for name, taken in seconds.items()
    ]  # fmt: skip


def stored(store: stores.Store, n: int, d: int, probes: Vectors, options: Row, folder: Path) -> list[Row]:
    """Single acknowledged rows, restarts and removal, in a full store."""
    at: Row = {"n": n, "d": d}
    added = data.gathered(data.plain(options["single"], d, seed=9), options["single"], d)
    found: list[Row] = [
        {"section": "ingest", "engine": "one by one", **at, "rows_s": stores.one_by_one(store, n, added)},
        {"section": "ingest", "engine": "the disk's writes with fsync", **at, "rows_s": stores.syncs(folder)},
    ]
    store.search(probes[0])
    for name, keep_file in (("with the gallery's file", True), ("without", False)):
        found.append({"section": "restart", "engine": name, **at, "s": stores.first_search(store, probes[0], keep_file=keep_file)})
    if (n, d) == options["stored"][-1]:
        half = options["removed"] // 2
        for size, rows, limit_s in ((stores.WRITE, range(2 * half), 600), (1, range(2 * half, 4 * half), options["removing_s"])):
            found.append(
                {"section": "removal", "engine": f"{size} a write", **at, **stores.while_removing(store, probes, rows, size, limit_s)}
            )
    return found


def scaling(sizes: Sequence[int], d: int, scanner: Scanner) -> list[Row]:
    """Cost against N: the scan and what it proves, on the codes alone."""
    rows = data.quantised(data.plain(sizes[-1], d), sizes[-1], d)
    probes = data.gathered(data.plain(30, d, seed=3), 30, d)
    found = []
    for n in sizes:
        part = rows.part(slice(0, n))
        seconds, answers = interleaved({OURS: lambda probe, part=part: scanner.scan(part, probe).best(K, -1)}, list(probes))
        one = figures(seconds[OURS], n * (width(d) + 8))
        near = float(np.mean([len(rows) for rows in answers[OURS]]))
        found.append(
            {"section": "scale", "engine": OURS, "n": n, "d": d, "k": K, **one, "ns_a_row": 1e6 * one["ms"] / n, "candidates": near}
        )
    return found


def errors(name: str, rows: Rows, probes: Vectors, scanner: Scanner) -> Row:
    """Quantisation errors and how many rows are left to score exactly."""
    near = [len(scanner.scan(rows, probe).best(K, -1)) for probe in probes]
    return {
        "section": "errors", "engine": name, "n": len(rows.codes), "d": rows.codes.shape[1], "k": K,
        "median": float(np.median(rows.errors)), "p99_95": float(np.quantile(rows.errors, 0.9995)), "worst": float(rows.errors.max()),
        "candidates": float(np.mean(near)), "most_candidates": max(near),
    }  # fmt: skip


def photographs(folder: Path, options: Row, scanner: Scanner) -> list[Row]:
    """Real templates among face-like ones: what graphs miss; and how well real ones quantise."""
    features, people = data.real(folder, options["photographs"])
    probes, enrolled = approximate.held_out(people, options["people"])
    n, d = options["faces"] + len(enrolled), features.shape[1]
    matrix = np.concatenate([features[enrolled], data.gathered(data.face_like(features, people, options["faces"]), options["faces"], d)])
    owners = np.concatenate([people[enrolled], np.full(options["faces"], -1)])
    rows = data.quantised((matrix[i : i + data.STEP] for i in range(0, n, data.STEP)), n, d)
    search = engines.ours(matrix, rows, scanner).search
    found = approximate.compared(matrix, owners, features[probes], people[probes], search)
    return [{"real": len(enrolled), **row} for row in found] + [
        errors("real templates", rows.part(slice(0, len(enrolled))).copy(), features[probes], scanner),
        errors("real among face-like ones", rows, features[probes], scanner),
    ]


def measure(options: Row, folder: Path, source: Path | None) -> list[Row]:
    scanner = Scanner()
    found = bandwidth(options["read"])

    def tell(rows: list[Row]) -> None:
        found.extend(rows)
        for row in rows:
            print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}), flush=True)

    for n, d in options["memory"]:
        tell([{"section": "memory", "n": n, "d": d, "bytes_a_face": stores.memory(n, d), "aim": d + 24}])
    for name, tails in (("normal numbers", False), ("Student's t, 3 degrees", True)):
        n, d = options["scale"][1], 512
        probes = data.gathered(data.plain(50, d, seed=4, tails=tails), 50, d)
        tell([errors(name, data.quantised(data.plain(n, d, tails=tails), n, d), probes, scanner)])
    for n, d in options["sizes"]:
        tell(single(n, d, options, scanner, found[:2], folder))
    tell(scaling(options["scale"], 512, scanner))
    if source and source.is_dir():
        tell(photographs(source, options, scanner))
    else:
        print("No photographs: the real templates' part is left out; give --photographs or set TEST_PHOTOGRAPHS.")
    scanner.close()
    return found


def report(found: Sequence[Row]) -> None:
    """The tables of docs/performance.md and docs/search.md."""

    def of(section: str) -> list[Row]:
        return [row for row in found if row["section"] == section]

    def size(row: Row) -> str:
        return f"{row['n']:,} x {row['d']}"

    def same(row: Row) -> str:
        return f"{100 * row['same_set']:.0f} %; {100 * row['same_order']:.0f} %"

    def time_of(row: Row) -> str:
        return f"{row['ms']:.2f} ({row['best_ms']:.2f})"

    read = ", ".join(f"{row['engine']} {row['best_gb_s']:.1f} GB/s" for row in of("bandwidth"))
    write(
        "search",
        ["templates", "engine", "bytes a template", "pause", "ms (best)", "over numpy", "GB/s", "of the limit", "as float64: set; order"],
        [[size(row), row["engine"], str(row["bytes"]), f"{row['pause_ms']:.0f} ms", time_of(row), f"{row['ratio']:.2f} x",
          f"{row['gb_s']:.1f}", f"{100 * row['of_bandwidth']:.0f} %", same(row)] for row in of("single")],
        f"One query, k = {K}, engines interleaved at random. Memory is read at: {read} (the limit is the best of these).",
    )  # fmt: skip
    write(
        "search-batch",
        ["what", "templates", "engine", "ms a query (best)", "over numpy", "as float64: set; order"],
        [[f"{BATCH} at once" if row["section"] == "batch" else "best face of each person", size(row), row["engine"], time_of(row),
          f"{row['ratio']:.2f} x", same(row)] for row in [*of("batch"), *of("people")]],
        f"k = {K}; three faces a person.",
    )  # fmt: skip
    write(
        "search-scale",
        ["templates", "ms (best)", "GB/s", "ns a template", "scored exactly"],
        [[size(row), time_of(row), f"{row['gb_s']:.1f}", f"{row['ns_a_row']:.1f}", f"{row['candidates']:.0f}"] for row in of("scale")],
        "The scan and its proof, without reading the templates that are scored exactly.",
    )
    removal = [
        [f"removing {row['removed']:,}, {row['engine']}, {row['removed_s']:,.0f} a second: a search's median; p95; worst", size(row),
         f"{row['ms']:.1f}; {row['p95_ms']:.1f}; {row['worst_ms']:.1f} ms, usually {row['usual_ms']:.1f} ms: {row['ratio']:.2f} x"]
        for row in of("removal")
    ]  # fmt: skip
    write(
        "search-store",
        ["what", "templates", "figure"],
        [
            ["memory of a face", size(row), f"{row['bytes_a_face']:.1f} bytes (aim {row['aim']}); float32 stays on the disk"]
            for row in of("memory")
        ]
        + [[f"ingest, {row['engine']}", size(row), f"{row['rows_s']:,.0f} a second"] for row in of("ingest")]
        + [[f"first search after a start, {row['engine']}", size(row), f"{row['s']:.2f} s"] for row in of("restart")]
        + removal,
        f"Batches of {stores.BATCH:,} rows. The database lies in the page cache.",
    )
    graphs = of("approximate")
    if graphs:
        write(
            "search-approximate",
            ["index", "ms (best)", "built in", "recall at 10", "true mates missed", "best mate missed", "as float64: set; order"],
            [[row["engine"], time_of(row), f"{row['build_s']:.0f} s", f"{row['recall']:.3f}", f"{row['mates_missed']} of {row['mates']}",
              f"{row['first_missed']} of {row['first']}", same(row)] for row in graphs],
            f"{graphs[0]['real']:,} real templates of {graphs[0]['n']:,}, {graphs[0]['queries']} real probes.",
            page="search.md",
        )  # fmt: skip
    write(
        "search-errors",
        ["templates", "how many", "error: median", "99.95 %", "worst", "scored exactly: mean", "most"],
        [[row["engine"], size(row), f"{row['median']:.4f}", f"{row['p99_95']:.4f}", f"{row['worst']:.4f}", f"{row['candidates']:.0f}",
          f"{row['most_candidates']:,}"] for row in of("errors")],
        f"k = {K}.",
        page="search.md",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--photographs", type=Path)
    arguments = parser.parse_args()
    kept = os.environ.get("TEST_PHOTOGRAPHS")
    source = arguments.photographs or (Path(kept) / "lfw-a" if kept else None)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(QUICK if arguments.quick else FULL, Path(folder), source)
    arguments.json.write_text(json.dumps({"machine": machine(), "quick": arguments.quick, "rows": found}, indent=1))
    if not arguments.quick:
        report(found)


if __name__ == "__main__":
    main()
