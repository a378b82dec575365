"""Time and memory of an evaluation of all pairs: python benchmarks/evaluation.py FOLDER (of person/photograph.jpg)."""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from report import write

from aboveboard import settings
from aboveboard.evaluation import manifest, measure, scores, tables
from aboveboard.evaluation.protocol import read_folder
from aboveboard.vision.packs import PackFolder

DRAWS = 1000


def measured(folder: Path) -> dict[str, float]:
    """Photographs to score file: seconds for templates, then for scores and file."""
    began = done = time.monotonic()

    def note(at: int, total: int) -> None:
        nonlocal done
        done = time.monotonic() if at == total else done

    models = PackFolder(settings.load().models).load("yunet-sface")
    found = measure.in_process(manifest.read(folder), models, note)
    scores.save(found, folder / tables.SCORES)
    return {"templates_s": done - began, "scores_s": time.monotonic() - done, "rss_mb": peak_mb()}


def computed(folder: Path) -> dict[str, float]:
    """Score file to tables, with 1,000 draws over people."""
    began = time.monotonic()
    found = scores.load(folder / tables.SCORES)
    made = tables.tables(found, DRAWS)
    rates = sum(f"{rate}_low" in row for rows in made.values() for row in rows for rate in ("fmr", "fnmr"))
    assert found.all_pairs is not None
    facts = {"photographs": found.photograph.size, "people": found.people.size, "scores": found.all_pairs.size, "rates": rates}
    return {**facts, "seconds": time.monotonic() - began, "rss_mb": peak_mb()}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(step: str, folder: Path) -> dict[str, float]:
    """One step in a process of its own, so that its peak of memory is its own."""
    done = subprocess.run([sys.executable, __file__, step, str(folder)], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(photographs: Path) -> None:
    with TemporaryDirectory() as made:
        folder = Path(made)
        with (folder / manifest.ENROLLED).open("w") as text:
            writer = csv.writer(text)
            writer.writerow(["path", "subject", "initial"])
            for sample in read_folder(photographs):
                writer.writerow([os.path.relpath(sample.path, folder), sample.subject, "AFKQ"[sum(sample.subject >= one for one in "FKQ")]])
        first, second = child("measured", folder), child("computed", folder)
    write(
        "evaluation",
        ["", "seconds", "peak MB"],
        [
            ["templates of the photographs", f"{first['templates_s']:.0f}", ""],
            ["scores of all pairs, score file", f"{first['scores_s']:.1f}", f"{first['rss_mb']:.0f}"],
            [f"every table from the score file, {DRAWS:,} draws over people", f"{second['seconds']:.1f}", f"{second['rss_mb']:.0f}"],
        ],
        f"{second['photographs']:,.0f} photographs of {second['people']:,.0f} people, {second['scores']:,.0f} scores, "
        f"{second['rates']:,.0f} rates with intervals: all pairs, a DET, four groups and the pairs across them.",
    )


if __name__ == "__main__":
    if sys.argv[1] in ("measured", "computed"):
        print(json.dumps({"measured": measured, "computed": computed}[sys.argv[1]](Path(sys.argv[2]))))
    else:
        main(Path(sys.argv[1]))
