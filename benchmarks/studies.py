"""Both studies from photographs to page, timed: python benchmarks/studies.py DATA OUT.

DATA holds congress-a with members.csv, lfw-a, and utkface-a with labels.csv. The studies' folders are written into OUT.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from report import DOCS, write

from aboveboard import settings
from aboveboard.bootstrap import open_app


@contextmanager
def serving() -> Iterator[tuple[str, dict[str, str]]]:
    """A server of the default packs on this machine, with the environment of a client."""
    with TemporaryDirectory() as folder:
        app = open_app(settings.load(Path(folder)))
        made = app.operators.first(app.gate.policy_of(None))
        assert made is not None
        keys = {"AWS_ACCESS_KEY_ID": made[1].id, "AWS_SECRET_ACCESS_KEY": made[1].secret, "AWS_DEFAULT_REGION": "us-east-1"}
        command = [sys.executable, "-m", "aboveboard", "serve", "--port", "0", "--data", folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            yield next(line.split()[-1] for line in server.stdout if "listening on" in line), keys
        finally:
            server.terminate()
            server.wait()


def studied(*arguments: object, environment: Mapping[str, str] | None = None) -> tuple[float, float]:
    """Seconds of wall clock and of processor (without the server's) that a study takes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "aboveboard", "study", *(str(one) for one in arguments)]
    subprocess.run(command, check=True, env={**os.environ, **(environment or {})})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(data: Path, out: Path) -> None:
    congress, faces = data / "congress-a", data / "utkface-a"
    by = ("--by", "gender", "--by", "ethnicity", "--policy", "public-safety", "--errata", DOCS / "studies" / "congress-in-lfw.csv")
    looked_up = ("false-matches", congress, data / "lfw-a", "--labels", congress / "members.csv", *by, "--out", out / "false-matches")
    labelled = ("--labels", faces / "labels.csv", "--truth", "gender", "--by", "race+gender")
    rows = []
    with serving() as (url, keys):
        analysed = ("facial-analysis", faces, *labelled, "--endpoint", url, "--out", out / "facial-analysis")
        wall, _ = studied(*analysed, environment=keys)
    count = sum(1 for _ in faces.glob("*.jpg"))
    rows.append(["facial analysis, at a server of the same machine", f"{count:,}", f"{wall / 60:.1f}", ""])
    wall, processor = studied(*looked_up)
    rows.append(["false matches, in process", "6,903", f"{wall / 60:.1f}", f"{processor / 60:.1f}"])
    note = "The default packs. Photographs are read, templates made or attributes told, tables computed, figures drawn, pages written."
    write("studies", ["study", "photographs", "minutes", "of processor"], rows, note)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
