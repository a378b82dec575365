"""What the ledger costs at a million entries: appending, checkpoints, proofs, export and verification.

python benchmarks/ledger.py [ENTRIES] builds a ledger of looks (1,000,000 entries; some 2 GB in a temporary folder) and measures on it.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import rfc8785
from report import write

from aboveboard import bootstrap, settings
from aboveboard.accountability.operators import Session
from aboveboard.service import record
from aboveboard.service.app import App
from aboveboard.storage.database import now
from aboveboard.storage.ledger import BLOCK
from aboveboard.storage.merkle import consistency_proof, grow, inclusion_proof, leaf_hash, root_over

SMALL = 1000


def look(n: int) -> tuple[dict[str, object], dict[str, object]]:
    """Intent and outcome as a search of a collection writes them."""
    audit_id = f"{n:08x}-1111-4222-8333-444455556666"
    who = {"operator": "first", "roles": ["investigator"], "via": "AKIAABCDEFGHIJKLMNOP", "request_id": audit_id[::-1]}
    intent = {
        **who, "audit_id": audit_id, "duty": "search.image", "policy": {"id": "general", "version": "1", "sha256": "a" * 64},
        "threshold": {"value": 80, "origin": "default", "floor": 0}, "limit": 5, "probe": {"commitments": ["b" * 64]},
        "model": {"pack": "yunet-sface", "version": "1.0", "sha256": ["c" * 64, "d" * 64]},
        "calibration": {"id": "yunet-sface-1", "sha256": "e" * 64},
        "collection": {"id": "people", "faces": 300_000 + n, "generation": n},
    }  # fmt: skip
    candidates = [{"face_id": f"{n:08x}-aaaa-4bbb-8ccc-{i:012d}", "similarity": 99.9 - i - n % 97 / 1e4} for i in range(3)]
    outcome = {
        "audit_id": audit_id, "looked": True, "gallery_size": 300_000 + n, "fmr": 2.15e-6, "expected_false": 0.645 + n * 1e-6,
        "fpir": 0.4753 + n * 1e-7, "fnir": 0.0365, "candidates": candidates, "identities_withheld": False,
    }  # fmt: skip
    return intent, outcome


def fill(app: App, size: int) -> None:
    """Append looks up to so many entries, in bulk: the rows and the state that `append` would have left."""
    at, root = app.ledger.checkpoint()
    subtrees = [leaf_hash(entry) for entry in app.ledger.entries()]
    assert (at, root) == (len(subtrees), root_over(subtrees))
    leaves, subtrees, blocks = subtrees, list[bytes](), list[tuple[int, bytes]]()
    for i, leaf in enumerate(leaves):
        subtrees = grow(subtrees, i, leaf)
    with app.database.write() as connection:
        raw = connection.connection.dbapi_connection
        while at < size:
            rows = []
            for facts in look(at):
                kind = "look.outcome" if rows else "look.intent"
                pair = {"intent": at - 1} if rows else {}
                entry = rfc8785.dumps({**facts, **pair, "seq": at, "time": now(), "type": kind})
                rows.append((at, entry))
                leaves.append(leaf_hash(entry))
                subtrees = grow(subtrees, at, leaves[-1])
                at += 1
                if at % BLOCK == 0:
                    blocks.append((at // BLOCK - 1, root_over(leaves[at - BLOCK : at])))
            raw.executemany("INSERT INTO ledger VALUES (?, ?)", rows)
        raw.executemany("INSERT INTO ledger_blocks VALUES (?, ?)", blocks)
        raw.execute("UPDATE ledger_state SET size = ?, subtrees = ?", (at, b"".join(subtrees)))


def ms(call: Callable[[], object], times: int) -> str:
    """Median of so many calls."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return f"{1000 * statistics.median(taken):.2f} ms"


def appended(app: App) -> str:
    numbers = iter(range(10**9))
    return ms(lambda: app.ledger.record("look.outcome", {"intent": -1, **look(next(numbers))[1], "looked": False}), 400)


def signing(app: App, work: Callable[[], str]) -> str:
    """While checkpoints are signed ten times a second, of a ledger that grows."""
    stopped = threading.Event()

    def sign() -> None:
        while not stopped.wait(0.1):
            app.checkpoints.write()

    thread = threading.Thread(target=sign)
    thread.start()
    try:
        return work()
    finally:
        stopped.set()
        thread.join()


def main(size: int) -> None:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        app = bootstrap.open_app(settings.load(folder / "data", {"ABOVEBOARD_PACK": "null", "HOME": temporary}))
        made = app.operators.first(app.gate.policy_of(None))
        assert made is not None
        session = Session(made[0], "cli", "benchmark", buckets=("*",))
        fill(app, SMALL)
        small = appended(app)
        old = app.checkpoints.write()
        with app.database.write() as connection:  # what was measured with has no intents
            connection.exec_driver_sql("DELETE FROM ledger WHERE seq >= ?", (SMALL,))
            connection.exec_driver_sql("DELETE FROM ledger_blocks")
            leaves = [leaf_hash(row.entry) for row in connection.exec_driver_sql("SELECT entry FROM ledger ORDER BY seq")]
            subtrees = list[bytes]()
            for i, leaf in enumerate(leaves):
                subtrees = grow(subtrees, i, leaf)
            connection.exec_driver_sql("UPDATE ledger_state SET size = ?, subtrees = ?", (len(leaves), b"".join(subtrees)))
        old.file.unlink()
        old = app.checkpoints.write()
        fill(app, size)
        checkpoint = ms(lambda: (app.ledger.record("refused", {}), app.checkpoints.write())[1], 100)
        entry = ms(lambda: app.ledger.record("refused", {}), 100)
        start = time.perf_counter()
        bundle = record.export(app, session, folder / "bundle")
        export_s = time.perf_counter() - start
        command = [sys.executable, str(folder / "bundle" / "verify_ledger.py"), str(folder / "bundle")]
        verify_s = []
        for _ in range(3):
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            verify_s.append(time.perf_counter() - start)
            assert done.stdout.endswith("whole\n"), done.stdout
        seconds = statistics.median(verify_s)
        cpu_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime / 3
        proofs = ms(lambda: inclusion_proof(app.ledger.root, bundle.size // 3, bundle.size), 50)
        consistency = ms(lambda: consistency_proof(app.ledger.root, old.size, bundle.size), 50)
        with app.database.write() as connection:
            connection.exec_driver_sql("DELETE FROM ledger_blocks")
        unaided = ms(lambda: inclusion_proof(app.ledger.root, bundle.size // 3, bundle.size), 1)
        quiet, busy = zip(*((appended(app), signing(app, lambda: appended(app))) for _ in range(3)), strict=True)
        megabytes = (folder / "bundle" / "entries.jsonl").stat().st_size / 1e6
        rows = [
            ["verify a bundle with its own program", f"{bundle.size / seconds:,.0f} entries/s, {seconds:.1f} s"],
            ["the same in CPU time", f"{bundle.size / cpu_s:,.0f} entries/s"],
            ["export it", f"{bundle.size / export_s:,.0f} entries/s"],
            [f"append an entry, at {SMALL:,} entries", small],
            [f"the same at {size:,}", ", ".join(quiet)],
            ["the same while ten checkpoints a second are signed", ", ".join(busy)],
            ["append an entry and sign a checkpoint, one after the other", f"{checkpoint} (the entry alone {entry})"],
            ["proof that an entry is in it", f"{proofs}, {unaided} without the roots of blocks"],
            ["proof that it begins with a checkpoint", consistency],
        ]
        app.database.close()
    note = f"A ledger of {size:,} entries of looks, {megabytes:,.0f} MB as JSON lines. Medians, each append synced."
    write("ledger", ["what", "figure"], rows, note)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
