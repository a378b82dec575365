"""A transparency report held against the ledger's entries: who has both counts again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from aboveboard.accountability.transparency import FORMAT, POLICIES, TITLE, Period, count, document, read
from aboveboard.accountability.verify_ledger import read_checkpoint


def recount(lines: Iterable[bytes], report: bytes, packs: Mapping[str, bytes], key: str) -> list[str]:
    """Where a report differs from a ledger's entries: a line for each number, none where all is as they say.

    `packs`: the policy packs that were published with it, by sha256; `key`: the deployment's verifier key. Raises ValueError, LookupError
    or TypeError for what is no report.
    """
    told = json.loads(report)
    if told["format"] != FORMAT or told["title"] != TITLE:
        raise ValueError("it is no transparency report that this version reads")
    period, shows = Period(str(told["from"]), str(told["to"])), told["shows"]
    is_shown = {name: shows[name] is True for name in ("operators", "collections")}
    size, sha256 = told["ledger"]["size"], hashlib.sha256(report).hexdigest()
    seen = _Seen(lines, size, sha256, period)
    counted = count(seen.counted(), period, **is_shown)
    made = document(counted, period, str(told["agency"]), str(told["ledger"]["checkpoint"]), packs, **is_shown)
    found = list(_differences(made, told, ""))
    try:
        signed = read_checkpoint(made["ledger"]["checkpoint"].encode(), key, "")
        if (signed.size, signed.root) != (counted.size, counted.root):
            found.append(f"ledger.checkpoint: it signs {signed.size} entries with the root {signed.root.hex()}, not these")
    except ValueError as error:
        found.append(f"ledger.checkpoint: {error}")
    return found + seen.faults()


def published(folder: Path) -> dict[str, bytes]:
    """The policy packs that lie beside a report, by the sha256 that they have."""
    found = (file.read_bytes() for file in sorted((folder / POLICIES).glob("*.json")))
    return {hashlib.sha256(text).hexdigest(): text for text in found}


class _Seen:
    """The entries after those that a report counts: do they say that it was made, and was anything left out?"""

    def __init__(self, lines: Iterable[bytes], size: int, sha256: str, period: Period) -> None:
        self._lines, self._size, self._sha256, self._period = iter(lines), size, sha256, period

    def counted(self) -> Iterator[bytes]:
        return islice(self._lines, self._size)

    def faults(self) -> list[str]:
        left_out = 0
        for line in self._lines:
            entry = read(line)
            if not isinstance(entry, dict):
                continue
            time = str(entry.get("time"))
            if entry.get("type") == "report.made" and entry.get("sha256") == self._sha256:
                # While the period lasts others go on writing beside the report.
                is_over = time >= self._period.end
                return [f"ledger.size: {left_out} more entries are of the period"] if left_out and is_over else []
            left_out += self._period.has(time)
        return [f"no entry says that this report, sha256 {self._sha256}, was made"]


def _differences(here: Any, told: Any, path: str) -> Iterator[str]:
    """Each leaf of two documents that is not the same in both."""
    if isinstance(here, dict) and isinstance(told, dict):
        for name in sorted({*here, *told}):
            yield from _differences(here.get(name), told.get(name), f"{path}.{name}" if path else name)
    elif here != told or type(here) is not type(told):
        yield f"{path}: the report says {_shown(told)}, the entries {_shown(here)}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)[:200]
