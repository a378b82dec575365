"""What `aboveboard index` adds to the two models, and how long 300,000 faces take: python benchmarks/index.py FOLDER [PHOTOGRAPHS].

Makes PHOTOGRAPHS different files (20,000 by default) out of FOLDER's: mirrored, cropped, each saved anew. They are indexed by the program
itself, from a manifest with a subject for each; every half minute it is stopped for a moment and the models alone are timed.
"""

from __future__ import annotations

import csv
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from report import write

from aboveboard import settings
from aboveboard.vision.packs import Models, PackFolder

WORKERS, ALONE, EVERY_S, WANTED = 2, 200, 30, 300_000


def make(source: Path, folder: Path, wanted: int) -> Path:
    """The photographs and their manifest, which is returned."""
    originals = sorted(source.rglob("*.jpg"))
    manifest = folder / "people.csv"
    with manifest.open("w", newline="") as text:
        rows = csv.writer(text)
        rows.writerow(["path", "subject", "legal_basis", "expires"])
        for i in range(wanted):
            version, which = divmod(i, len(originals))
            image = cv2.imread(str(originals[which]))
            edge = 4 * (version // 2)
            image = image[edge : image.shape[0] - edge, edge : image.shape[1] - edge]
            name = f"{i % 100:02d}/{i:06d}.jpg"
            (folder / name).parent.mkdir(exist_ok=True)
            cv2.imwrite(str(folder / name), image[:, ::-1] if version % 2 else image, [cv2.IMWRITE_JPEG_QUALITY, 92])
            rows.writerow([name, f"{originals[which].parent.name}.{which % 7}".replace(" ", "_"), "benchmark", "2099-12-31"])
    return manifest


def alone(models: Models) -> tuple[float, float]:
    """Photographs a second, with one face each, that the two models alone take, in two threads; and their CPU time each, in ms."""
    detector: Any = models.detector
    recogniser: Any = models.recogniser
    crop = np.random.default_rng(0).integers(0, 255, (1, 3, 112, 112)).astype(np.float32)
    blob = np.random.default_rng(1).integers(0, 255, (1, 3, 256, 256)).astype(np.float32)

    def one(_: int) -> None:
        detector.session.run(None, {"input": blob})
        recogniser.session.run(None, {recogniser.input: crop})

    start, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(one, range(ALONE)))
    return ALONE / (time.perf_counter() - start), 1e3 * (time.process_time() - cpu) / ALONE


def index(manifest: Path, data: Path, between: Callable[[], Any]) -> tuple[float, float, list[Any]]:
    """Seconds on the clock, seconds of CPU and what `between` gave, for a run that stands still while `between` is called."""
    command = [sys.executable, "-m", "aboveboard", "index", "--manifest", str(manifest), "-c", "c", "--create", "--workers", str(WORKERS)]
    environment = {**os.environ, "ABOVEBOARD_DATA": str(data)}
    start, still, found = time.perf_counter(), 0.0, []
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended = threading.Event()
    usage: list[Any] = []

    def reap() -> None:
        usage.append(os.wait4(process.pid, 0))
        ended.set()

    threading.Thread(target=reap, daemon=True).start()
    while not ended.wait(EVERY_S):
        os.kill(process.pid, signal.SIGSTOP)
        began = time.perf_counter()
        found.append(between())
        still += time.perf_counter() - began
        os.kill(process.pid, signal.SIGCONT)
    _, status, used = usage[0]
    assert os.waitstatus_to_exitcode(status) == 0
    return time.perf_counter() - start - still, used.ru_utime + used.ru_stime, found


def main(source: Path, wanted: int) -> None:
    models = PackFolder(settings.load().models).load("yunet-sface")
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        manifest = make(source, folder, wanted)
        clock, cpu, rounds = index(manifest, folder / "data", lambda: alone(models))
        listed = subprocess.run(
            [sys.executable, "-m", "aboveboard", "collection", "list", "--json"],
            env={**os.environ, "ABOVEBOARD_DATA": str(folder / "data")}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    faces = int(listed.split('"faces": ')[1].split(",")[0])
    rate, models_cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
    write(
        "index",
        ["what", "figure"],
        [
            ["photographs of a manifest indexed by the command line, two workers", f"{wanted / clock:.1f} photographs/s"],
            ["faces enrolled, one of each photograph with a subject", f"{faces / clock:.1f} faces/s"],
            ["the two models alone, one face each, two threads", f"{rate:.1f} photographs/s"],
            ["ratio", f"{100 * wanted / clock / rate:.0f} %"],
            ["CPU time of a photograph, start included", f"{1e3 * cpu / wanted:.1f} ms"],
            ["CPU time of the two models alone", f"{models_cpu:.1f} ms"],
            [f"{WANTED:,} faces at this rate", f"{WANTED * clock / faces / 60:.0f} minutes"],
        ],
        f"{wanted:,} photographs, {faces:,} faces, one run, the models alone {len(rounds)} times in between.",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20_000)
