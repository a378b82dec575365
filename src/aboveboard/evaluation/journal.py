"""What a run was answered so far: every answer is on the disk before the next question, so that a stopped run goes on where it was."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aboveboard.errors import BadRequest

FORMAT = "aboveboard-answers-1"
Key = tuple[str, int, int]
"""What was asked: "index", "search", "pair" or "template", and the photographs' numbers (-1 for none)."""
Answer = dict[str, Any]


class Journal:
    """Answers of an endpoint or a pack, a line of JSON each, as they came; the first line says to what run they belong. Mode 0600."""

    def __init__(self, file: Path, run: Mapping[str, Any]) -> None:
        """Open the journal of a run, or begin it. Raises BadRequest where the file belongs to another one."""
        self.answers: dict[Key, Answer] = {}
        self.is_closed = False
        self._lock = threading.Lock()
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("a+b")
        file.chmod(0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadRequest(f"another process writes {file}; wait for it, or name another folder with --out") from error
        self._file.seek(0)
        # A line that was not finished is one whose answer was never used.
        *whole, _ = self._file.read().split(b"\n")
        self._file.truncate(sum(len(line) + 1 for line in whole))
        try:
            entries = [json.loads(line) for line in whole]
            self.head = entries[0] if entries else {**run, "format": FORMAT, "collection": f"aboveboard-evaluate-{uuid.uuid4()}"}
            if {name: self.head[name] for name in run} != dict(run) or self.head["format"] != FORMAT:
                raise ValueError("it holds answers to other questions")
            for entry in entries[1:]:
                self._take(entry)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise BadRequest(f"{file} is not of this run ({error}); write into another folder with --out") from error
        if not entries:
            self._write(self.head)

    def add(self, key: Key, answer: Answer) -> None:
        """One answer; it is on the disk when this returns."""
        with self._lock:
            self._write({"asked": key, **answer})
            self.answers[key] = answer

    def close_collection(self) -> None:
        """Note that nothing is left at the endpoint."""
        self._write({"closed": True})
        self.is_closed = True

    def close(self) -> None:
        self._file.close()

    def _take(self, entry: dict[str, Any]) -> None:
        if entry.get("closed"):
            self.is_closed = True
            return
        kind, first, second = entry.pop("asked")
        self.answers[kind, first, second] = entry

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
