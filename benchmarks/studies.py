"""Both studies from photographs to page, timed: python benchmarks/studies.py DATA OUT.

DATA holds congress-a with members.csv, lfw-a, and utkface-a with labels.csv. The studies' folders are written into OUT.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from report import DOCS, write


def studied(out: Path, *arguments: object) -> list[str]:
    """A study's photographs, and the minutes of wall clock and of processor that it takes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "aboveboard", "study", *(str(one) for one in (*arguments, "--out", out))]
    subprocess.run(command, check=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    data = json.loads((out / "manifest.json").read_text())["parameters"]["data"]
    photographs = sum(one["photographs"] for one in ([data] if "photographs" in data else data.values()))
    return [f"{photographs:,}", f"{wall / 60:.1f}", f"{processor / 60:.1f}"]


def main(data: Path, out: Path) -> None:
    congress, faces = data / "congress-a", data / "utkface-a"
    by = ("--by", "gender", "--by", "ethnicity", "--policy", "public-safety", "--errata", DOCS / "studies" / "congress-in-lfw.csv")
    looked_up = ("false-matches", congress, data / "lfw-a", "--labels", congress / "members.csv", *by)
    analysed = ("facial-analysis", faces, "--labels", faces / "labels.csv", "--truth", "gender", "--by", "race+gender")
    rows = [
        ["facial analysis, 1,600 faces", *studied(out / "facial-analysis", *analysed)],
        ["false matches, 264 members of Congress among LFW", *studied(out / "false-matches", *looked_up)],
    ]
    note = "In process, the default packs, while other programs ran on the same machine."
    write("studies", ["study", "photographs", "minutes", "of processor"], rows, note)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
