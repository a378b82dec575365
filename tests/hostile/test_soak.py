"""Half an hour of mixed traffic: acknowledged writes stay, nothing is a 500, and the process is as large at the end as at the start."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kit import ServerProcess, assert_ledger_whole, b64, null_settings, picture, process_serving
from mirror import NOBODY, Mirror
from mutating import mutated, seeds
from requesting import NAMES, ODD

from aboveboard import bootstrap, settings

MINUTES, MOST_REQUESTS = 30.0, 400_000
WRITERS, GALLERIES, FACES = 3, 3, 150
VERBS = {
    "index": 8, "search_by_image": 6, "search_by_face": 4, "remove": 4, "search_users": 3, "detect": 3, "compare": 2, "bad_request": 3,
    "bad_image": 3, "associate": 3, "disassociate": 1, "create_user": 2, "delete_user": 1, "tag": 1, "untag": 1, "create": 1, "delete": 1,
    "agree": 1,
}  # fmt: skip
DRAWN = {f"drawn-{i}": picture(i, i + 1) for i in range(4)}


@dataclass
class Course:
    """What all clients of one soak share: when it ends, what was counted, what went wrong first."""

    until: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[BaseException] = field(default_factory=list)

    def goes_on(self) -> bool:
        return time.monotonic() < self.until and not self.wrong and self.counts.total() < MOST_REQUESTS


class Client(threading.Thread):
    """One client with collections of its own, whose state only it changes: whatever it was told must still be so."""

    def __init__(
        self, server: ServerProcess, course: Course, number: int, photographs: Mapping[str, bytes], broken: dict[str, bytes]
    ) -> None:
        super().__init__(name=f"client {number}", daemon=True)
        self.server, self.course, self.chance = server, course, random.Random(number)
        self.mirror = Mirror(server.client(), photographs, lambda name, rank: f"{name}/{rank}", f"soak-{number}-", exact=False)
        self.mirror.client.meta.events.register("after-call.rekognition.*", lambda model, **_: course.counts.update([model.name]))
        self.broken = broken
        self.done: deque[str] = deque(maxlen=12)

    def run(self) -> None:
        try:
            shown = self.mirror.photographs
            self.faces = [name for name in shown if self.mirror.client.detect_faces(Image={"Bytes": shown[name]})["FaceDetails"]]
            self.mirror.create("g0")
            while self.course.goes_on():
                verb = self.chance.choices(list(VERBS), VERBS.values())[0]
                self.done.append(verb)
                getattr(self, verb)(self.chance.choice(sorted(self.mirror.galleries)))
            self.mirror.agree()
        except BaseException as error:
            error.add_note(f"{self.name}, after {', '.join(self.done)}")
            self.course.wrong.append(error)

    def some(self, name: str) -> list[str]:
        faces = list(self.mirror.galleries[name].faces)
        return self.chance.sample(faces, min(len(faces), self.chance.randrange(1, 12)))

    def index(self, name: str) -> None:
        if len(self.mirror.galleries[name].faces) < FACES:
            self.mirror.index(name, self.chance.choice(sorted(self.mirror.photographs)), f"e{self.chance.randrange(20)}")

    def remove(self, name: str) -> None:
        self.mirror.remove(name, self.some(name))

    def search_by_image(self, name: str) -> None:
        self.mirror.search_by_image(name, self.chance.choice(self.faces))

    def search_by_face(self, name: str) -> None:
        self.mirror.search_by_face(name, self.chance.choice([*self.some(name), NOBODY]))

    def search_users(self, name: str) -> None:
        self.mirror.search_users(name, self.chance.choice(self.faces))

    def create_user(self, name: str) -> None:
        self.mirror.create_user(name, f"u{self.chance.randrange(8)}")

    def delete_user(self, name: str) -> None:
        self.mirror.delete_user(name, f"u{self.chance.randrange(8)}")

    def associate(self, name: str) -> None:
        self.mirror.associate(name, f"u{self.chance.randrange(8)}", [*self.some(name), NOBODY])

    def disassociate(self, name: str) -> None:
        self.mirror.disassociate(name, f"u{self.chance.randrange(8)}", [*self.some(name), NOBODY])

    def tag(self, name: str) -> None:
        self.mirror.tag(name, {f"k{self.chance.randrange(50)}": str(self.chance.random())})

    def untag(self, name: str) -> None:
        self.mirror.untag(name, [f"k{self.chance.randrange(50)}"])

    def create(self, _: str) -> None:
        self.mirror.create(f"g{self.chance.randrange(GALLERIES)}")

    def delete(self, name: str) -> None:
        if len(self.mirror.galleries) > 1:
            self.mirror.delete(name)

    def agree(self, _: str) -> None:
        self.mirror.agree(self.chance.choice((7, 50, 1000)))

    def detect(self, _: str) -> None:
        self.mirror.client.detect_faces(Image={"Bytes": self.chance.choice(list(self.mirror.photographs.values()))}, Attributes=["ALL"])

    def compare(self, _: str) -> None:
        one = {"Bytes": self.mirror.photographs[self.chance.choice(self.faces)]}
        assert self.mirror.client.compare_faces(SourceImage=one, TargetImage=one)["FaceMatches"][0]["Similarity"] > 99

    def bad_request(self, _: str) -> None:
        self._refused(self.chance.choice(NAMES), self.chance.choice([*ODD, self.chance.randbytes(50), b'{"CollectionId": "no-such"}']))

    def bad_image(self, _: str) -> None:
        _, _, data = mutated(self.chance.randrange(5000), self.broken)
        self._refused("DetectFaces", b'{"Image": {"Bytes": "' + b64(data).encode() + b'"}}')

    def _refused(self, operation: str, body: bytes) -> None:
        reply = self.server.post(operation, body)
        assert reply.status != 500, (operation, body[:300], reply.body)
        self.course.counts[f"{operation}, hostile"] += 1


@dataclass(frozen=True)
class Sample:
    """The process and its files at one time: resident memory and files in MB, counts of threads and open descriptors."""

    rss: float
    threads: int
    descriptors: int
    database: float
    log: float

    @classmethod
    def of(cls, server: ServerProcess) -> Sample:
        process = Path(f"/proc/{server.pid}")
        threads, descriptors = (len(list((process / what).iterdir())) for what in ("task", "fd"))
        file = server.data / "aboveboard.db"
        log = file.with_name("aboveboard.db-wal")
        sizes = [file.stat().st_size / 2**20, log.stat().st_size / 2**20 if log.exists() else 0.0]
        return cls(server.memory_mb()[0], threads, descriptors, *sizes)


def soak(server: ServerProcess, photographs: Mapping[str, bytes], minutes: float) -> tuple[Course, list[Sample]]:
    """Let the clients loose for so long; the server, sampled at least a hundred times."""
    course, samples, broken = Course(), [], seeds()
    clients = [Client(server, course, number, photographs, broken) for number in range(WRITERS)]
    course.until = time.monotonic() + 60 * minutes
    for client in clients:
        client.start()
    while course.goes_on():
        time.sleep(min(0.6 * minutes, 5))
        samples.append(Sample.of(server))
    for client in clients:
        client.join(120)
        assert not client.is_alive(), f"{client.name} hangs in {client.done[-1]}"
    if course.wrong:
        raise course.wrong[0]
    return course, samples


def median(samples: list[Sample], start: float, end: float, what: str) -> float:
    """The median of a measure over a part of the course, given as shares of it."""
    chosen = samples[int(len(samples) * start) : max(int(len(samples) * end), int(len(samples) * start) + 1)]
    return statistics.median(getattr(sample, what) for sample in chosen)


def told(course: Course, samples: list[Sample], minutes: float, capsys: Any) -> None:
    requests = course.counts.total()
    with capsys.disabled():
        print(
            f"\nsoak of {minutes:g} min: {requests} requests, {requests / minutes / 60:.1f}/s; "
            f"resident {median(samples, 0.1, 0.2, 'rss'):.0f} MB after a tenth, {median(samples, 0.2, 0.5, 'rss'):.0f} MB then, "
            f"{median(samples, 0.8, 1, 'rss'):.0f} MB at the end, "
            f"most {max(sample.rss for sample in samples):.0f} MB; "
            f"threads {median(samples, 0.1, 0.2, 'threads'):g} -> {samples[-1].threads}; "
            f"descriptors {median(samples, 0.1, 0.2, 'descriptors'):g} -> {samples[-1].descriptors}; "
            f"database {samples[-1].database:.1f} MB, its log at most {max(sample.log for sample in samples):.1f} MB\n"
            + ", ".join(f"{count} {name}" for name, count in sorted(course.counts.items()))
        )


def assert_ledger(data: Path) -> None:
    app = bootstrap.open_app(null_settings(data))
    try:
        assert_ledger_whole(app)
    finally:
        app.database.close()


def test_seconds_of_mixed_traffic_leave_everything_in_its_place(tmp_path, capsys):
    """The soak itself, on drawn faces."""
    with process_serving(tmp_path / "data", log=tmp_path / "log") as server:
        course, samples = soak(server, DRAWN, 0.1)
        told(course, samples, 0.1, capsys)
    assert_ledger(tmp_path / "data")


@pytest.mark.long
def test_half_an_hour_of_mixed_traffic_leaves_everything_in_its_place(tmp_path, photographs, capsys):
    """On the default pack and photographs of people. Memory, threads and descriptors are flat, the files as large as the requests ask."""
    chosen = settings.load()
    with process_serving(tmp_path / "data", log=tmp_path / "log", pack=chosen.pack, models=str(chosen.models)) as server:
        course, samples = soak(server, photographs | DRAWN, MINUTES)
        told(course, samples, MINUTES, capsys)
        # The allocator keeps what the most images at once ever took: warm is who has met several such moments.
        assert median(samples, 0.8, 1, "rss") < 1.1 * median(samples, 0.2, 0.5, "rss") + 30
        assert median(samples, 0.9, 1, "threads") <= median(samples, 0.1, 0.2, "threads") + 2
        assert median(samples, 0.9, 1, "descriptors") <= median(samples, 0.1, 0.2, "descriptors") + 8
        assert max(sample.log for sample in samples) < 64
        assert samples[-1].database < 30 + course.counts.total() * 4096 / 2**20
        assert server.is_alive()
    assert_ledger(tmp_path / "data")
