"""What the gate adds to a search: decision, record and outcome, beside the same search's scan.

python benchmarks/gate.py [ENTRIES] builds a ledger of looks (1,000,000 entries by default; some 2 GB in a temporary folder) and searches
on the null pack, in one process, under `general` and, in a case, under `public-safety`. First as a server has it: the intent is written
while the models work, for which a pause of 10 ms stands here, less than the default pack takes; what is left is what a search waits for.
Then with the template made before, so that nothing of the gate hides behind the models.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rfc8785
import sqlalchemy as sa
from ledger import SMALL, look
from report import write

from aboveboard import bootstrap, settings
from aboveboard.accountability.cases import Declared
from aboveboard.accountability.looks import Probe
from aboveboard.accountability.operators import Operator, Session
from aboveboard.accountability.policy import POLICY_TAG
from aboveboard.biometrics.vocabulary import Template
from aboveboard.service import galleries
from aboveboard.service.app import App
from aboveboard.storage.collections import Collection
from aboveboard.storage.database import driver, now
from aboveboard.storage.ledger import BLOCK
from aboveboard.storage.merkle import grow, leaf_hash, root_over
from aboveboard.storage.templates import Templates

LOOKS = 300
MODELS_S = 0.010
FACES = 1000


class Timed:
    """The template store; what its searches take, in seconds of the wall's clock and of CPU time, is added up."""

    def __init__(self, templates: Templates) -> None:
        self._templates, self.wall_s, self.cpu_s = templates, 0.0, 0.0

    def search(self, *given: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return self._templates.search(*given)
        finally:
            self.wall_s += time.perf_counter() - wall
            self.cpu_s += time.process_time() - cpu

    def __getattr__(self, name: str) -> Any:
        return getattr(self._templates, name)


def fill(app: App, size: int) -> None:
    """Append entries up to so many, in bulk: as large as a look's, with the rows and the state that `append` would have left."""
    at, _ = app.ledger.checkpoint()
    leaves = [leaf_hash(entry) for entry in app.ledger.entries()]
    subtrees = list[bytes]()
    for i, leaf in enumerate(leaves):
        subtrees = grow(subtrees, i, leaf)
    forms = [rfc8785.dumps({**facts, "seq": 0, "time": now(), "type": "test"}).split(b'"seq":0') for facts in look(1)]
    blocks = []
    with app.database.write() as connection:
        raw = driver(connection)
        for start in range(at, size, 10_000):
            rows = []
            for n in range(start, min(start + 10_000, size)):
                before, after = forms[n % 2]
                entry = b'%s"seq":%d%s' % (before, n, after)
                rows.append((n, entry))
                leaves.append(leaf_hash(entry))
                subtrees = grow(subtrees, n, leaves[-1])
                if (n + 1) % BLOCK == 0:
                    blocks.append((n // BLOCK, root_over(leaves[n + 1 - BLOCK :])))
            raw.executemany("INSERT INTO ledger VALUES (?, ?)", rows)
        raw.executemany("INSERT INTO ledger_blocks VALUES (?, ?)", blocks)
        raw.execute("UPDATE ledger_state SET size = ?, subtrees = ?", (size, b"".join(subtrees)))


class Bench:
    """A deployment with a gallery under each policy, and who searches it."""

    def __init__(self, folder: Path) -> None:
        chosen = settings.load(folder / "data", {"ABOVEBOARD_PACK": "null", "HOME": str(folder)})
        app = bootstrap.open_app(chosen)
        self.timed = Timed(Templates(app.database))
        self.app = app = bootstrap.holding(app, {"templates": self.timed, "scrubber": app.database})
        self.is_synced = True
        self._engine: sa.Engine = app.database._engine
        sa.event.listen(self._engine, "connect", lambda raw, _: raw.execute(f"PRAGMA synchronous={'FULL' if self.is_synced else 'OFF'}"))
        made = app.operators.first(app.gate.policy_of(None))
        assert made is not None
        self.first = Session(made[0], "cli", "benchmark", buckets=("*",))
        app.operators.add("dana", ("investigator",), "first", app.gate.policy_of(None), (), "robbery-squad")
        app.standing.certify("dana", "examiner", 1.0, "2999-01-01", "first")
        self.case = app.cases.open("24-1", "suspect", "dana", {"operator": "dana"}, offence="robbery", until="2999-01-01")
        app.cases.credentials("24-1", Declared(), 3600, {"operator": "dana"})
        vectors = np.random.default_rng(1).normal(size=(FACES, app.models.recogniser.dimensions)).astype(np.float32)
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.galleries = {pack: self._gallery(pack) for pack in ("general", "public-safety")}

    def _gallery(self, pack: str) -> Collection:
        collection = galleries.create(self.app, self.first, pack, {POLICY_TAG: pack})
        row = {"image_id": "00000000-0000-4000-8000-000000000000", "external_image_id": None, "box": [0, 0, 1, 1], "confidence": 1.0}
        faces = {f"{i:08x}-0000-4000-8000-000000000000": (row, Template(one, "")) for i, one in enumerate(self.vectors)}
        with self.app.database.write() as connection:
            self.app.collections.add_faces(connection, collection, faces)
            self.app.collections.touch(connection, collection, added=FACES)
        return self.app.collections.get(pack)

    @contextmanager
    def synced(self, is_synced: bool) -> Iterator[None]:
        """Whether commits wait for the disk."""
        self.is_synced = is_synced
        self._engine.dispose()
        yield

    def search(self, pack: str, n: int, models_s: float = 0.0) -> tuple[float, float]:
        """What the gate took of one search beside models and scan: seconds of the wall's clock, and of CPU time in all threads."""
        vector, timed = Template(self.vectors[n % FACES], ""), self.timed
        timed.wall_s = timed.cpu_s = 0.0
        wall, cpu = time.perf_counter(), time.process_time()
        if pack == "general":
            session = self.first
        else:
            case = self.app.cases.session(self.case.n, {"probe": "photograph", "edits": [], "reason": ""})
            session = Session(Operator("dana", ("investigator",), "robbery-squad"), "cli", "benchmark", case=case)
        with self.app.gate.search(session, self.galleries[pack], None, 10, Probe((lambda: b"a photograph",))) as look:
            before = time.perf_counter()
            time.sleep(models_s)
            slept = time.perf_counter() - before
            candidates = look.candidates(vector)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        assert candidates.items
        return wall - timed.wall_s - slept, cpu - timed.cpu_s

    def measured(self, pack: str) -> tuple[str, ...]:
        """Median ms of the gate: beside models, alone, without waiting for the disk, and the mean of its CPU time. In rounds in turn."""
        taken: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        beside: list[float] = []
        for turn in range(6):
            with self.synced(turn % 2 == 0):
                self.search(pack, 0)
                taken[self.is_synced] += [self.search(pack, n) for n in range(LOOKS // 3)]
                if self.is_synced:
                    beside += [self.search(pack, n, MODELS_S)[0] for n in range(LOOKS // 3)]
        walls = [1000 * statistics.median(wall for wall, _ in taken[synced]) for synced in (True, False)]
        cpu = 1000 * statistics.mean(cpu for _, cpu in taken[False])
        return tuple(f"{ms:.2f} ms" for ms in (1000 * statistics.median(beside), *walls, cpu))


def main(size: int) -> None:
    with TemporaryDirectory() as temporary:
        bench, rows = Bench(Path(temporary)), []
        for entries in (SMALL, size):
            fill(bench.app, entries)
            for pack, where in (("general", ""), ("public-safety", ", in a case")):
                rows.append([f"`{pack}`{where}, at {entries:,} entries", *bench.measured(pack)])
        bench.app.database.close()
    note = f"{LOOKS} searches of {FACES:,} faces in each cell, the scan left out. Load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores."
    write(
        "gate",
        [
            "the gate of a search",
            "added beside models of 10 ms",
            "alone, two commits synced",
            "without waiting for the disk",
            "its CPU time",
        ],
        rows,
        note,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
