"""Write a benchmark's table into docs/performance.md, with the machine's kind."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def machine() -> str:
    """The kind of machine: cores and processor."""
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return f"{os.cpu_count()} cores, {model[1] if model else platform.machine()}, Python {platform.python_version()}"


def cpu_ms(work: Callable[[], object], runs: int = 60) -> float:
    """Median CPU milliseconds of `work`; the first sixth of the runs only warms up."""
    times = []
    for _ in range(runs):
        began = time.process_time()
        work()
        times.append(1000 * (time.process_time() - began))
    return statistics.median(times[runs // 6 :])


def write(section: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str, page: str = "performance.md") -> None:
    """Replace the table of a section (between its two marks) of a page in docs/ and print it."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    text = "\n".join([*lines, "", f"{note} Measured {datetime.now(UTC):%Y-%m-%d} on {machine()}."])
    print(text)
    begin, end = f"<!-- {section} -->", f"<!-- /{section} -->"
    file = DOCS / page
    before = file.read_text()
    if begin not in before:
        before += f"\n{begin}\n{end}\n"
    file.write_text(re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", before, flags=re.DOTALL))
