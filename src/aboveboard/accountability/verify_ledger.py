"""Verify an exported ledger of Aboveboard, offline: python verify_ledger.py [DIR] [--key KEY] [--checkpoints DIR] [--proof FILE]

Needs Python 3.11 and the package `cryptography`, nothing of Aboveboard. It checks the manifest; that each entry is canonical JSON (RFC
8785); that entries count up without gaps and time does not go back unsaid; that each look has an intent and an outcome; that one key has
signed every checkpoint (C2SP signed note, Ed25519); and that each has the root (RFC 9162) which the entries give at its size. All roots are
computed from the same entries, so that checkpoints which agree are consistent. `aboveboard ledger verify` makes the decisions again, too.

KEY is the deployment's verifier key, or a file with it; --checkpoints is a folder of checkpoints. Both should have been kept where the
deployment cannot change them: without them a bundle shows only that it agrees with itself. Exit code: 0 whole, 1 a fault, 2 wrong usage.
"""

import argparse
import base64
import hashlib
import json
import re
import sys
from collections import Counter
from decimal import Decimal
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ENTRIES, KEY, MANIFEST, CHECKPOINTS, NOTES = "entries.jsonl", "verifier-key.txt", "manifest.json", "checkpoints", "*.checkpoint"


class Report:
    """What was found, as (grade, kind, text): a fault, or a note, which is none. Of one kind 20 are kept and all are counted."""

    def __init__(self) -> None:
        self.findings, self.counts = list[tuple[str, str, str]](), Counter[str]()
        self.size, self.checkpoints, self.looks, self.root, self.key = 0, 0, 0, "", ""

    def tell(self, kind: str, text: str, grade: str = "fault") -> None:
        self.counts[kind] += 1
        self.findings += [(grade, kind, text)] * (self.counts[kind] <= 20)

    def faults(self) -> dict[str, str]:
        """The first fault of each kind."""
        return {kind: text for grade, kind, text in reversed(self.findings) if grade == "fault"}

    def lines(self) -> list[str]:
        lines = [f"{grade}, {kind}: {text}" for grade, kind, text in self.findings]
        lines += [f"and {count - 20} more: {kind}" for kind, count in self.counts.items() if count > 20]
        counts = f"{self.size} entries, {self.looks} looks, {self.checkpoints} checkpoints, root {self.root}"
        return [*lines, f"key {self.key}", counts, "FAULTY: see above" if self.faults() else "whole"]


def number(value: float) -> str:
    """A number as ECMAScript writes it."""
    text = repr(value)
    if "e" not in text:
        return text.removesuffix(".0") if value else "0"
    return format(Decimal(text), "f") if 1e-6 <= abs(value) < 1e21 else re.sub(r"e([+-])0", r"e\1", text)


def _float(text: str) -> str:
    """A number with a point or an exponent as marked text, so that it is written back as it was read."""
    if number(float(text)) != text:
        raise ValueError(f"the number {text[:40]} is not canonical")
    return f"\0{text}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """With its keys in the order of their UTF-16 code units."""
    return dict(sorted(pairs, key=lambda pair: pair[0].encode("utf-16-be", "surrogatepass")))


# Of ASCII alone that is the order of Python's own sorting, which is faster.
_DECODE = {True: json.JSONDecoder(parse_float=_float).decode, False: json.JSONDecoder(parse_float=_float, object_pairs_hook=_object).decode}
_ENCODE = {
    is_ascii: json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=is_ascii).encode
    for is_ascii in (True, False)
}


def read_entry(line: bytes) -> dict[str, Any]:
    """An entry in canonical form: written anew it is the same. Raises ValueError. Numbers with a point come back as marked text."""
    is_ascii = (text := line.decode()).isascii()
    entry: dict[str, Any] = _DECODE[is_ascii](text)
    if re.sub(r'"\\u0000([^"]*)"', lambda found: found[1], _ENCODE[is_ascii](entry)) != text:
        raise ValueError("written anew it is another text")
    if not isinstance(entry, dict) or not isinstance(entry.get("time"), str) or type(entry.get("seq")) is not int:
        raise ValueError("it lacks seq or time")
    return entry


class Checkpoint(NamedTuple):
    """A checkpoint whose signature holds."""

    size: int
    root: bytes
    name: str


def read_key(text: str) -> tuple[str, bytes, Ed25519PublicKey]:
    """Name, id and key of a verifier key `name+id+base64`. Raises ValueError."""
    name, key_id, encoded = [*text.strip().split("+", 2), "", ""][:3]
    raw = base64.b64decode(encoded, validate=True)
    if len(raw) != 33 or raw[0] != 1 or sha256(name.encode(), b"\n", raw)[:4].hex() != key_id:
        raise ValueError(f"{text[:80]!r} is no Ed25519 verifier key, of the form name+id+base64")
    return name, bytes.fromhex(key_id), Ed25519PublicKey.from_public_bytes(raw[1:])


def open_note(data: bytes, key: str) -> str:
    """The text of a note that `key` signed. Raises ValueError; other keys' signatures, such as witnesses', are passed over."""
    name, key_id, public = read_key(key)
    text, _, lines = data.decode().rpartition("\n\n")
    for line in lines.splitlines():
        dash, signer, encoded = [*line.split(" ", 2), "", ""][:3]
        signature = base64.b64decode(encoded, validate=True)
        if dash == "—" and signer == name and signature[:4] == key_id:
            try:
                public.verify(signature[4:], f"{text}\n".encode())
            except InvalidSignature as error:
                raise ValueError("its signature does not hold") from error
            return f"{text}\n"
    raise ValueError(f"it is not signed by the key {name}+{key_id.hex()}")


def read_checkpoint(data: bytes, key: str, name: str) -> Checkpoint:
    """A checkpoint of the log that the key is named for. Raises ValueError."""
    origin, size, root = [*open_note(data, key).split("\n"), "", ""][:3]
    if origin != read_key(key)[0] or not re.fullmatch(r"0|[1-9][0-9]{0,15}", size) or len(base64.b64decode(root, validate=True)) != 32:
        raise ValueError("its text is no checkpoint of this log")
    return Checkpoint(int(size), base64.b64decode(root), name)


def sha256(*parts: bytes) -> bytes:  # a leaf has the prefix 0, a node the prefix 1
    return hashlib.sha256(b"".join(parts)).digest()


def root_of(subtrees: list[bytes]) -> bytes:
    """The root from the roots of the full subtrees, largest first."""
    return reduce(lambda root, left: sha256(b"\1", left, root), reversed(subtrees)) if subtrees else sha256()


def climb(index: int, last: int, old: bytes, new: bytes, proof: list[bytes]) -> tuple[bytes, bytes]:
    """Where a proof leads (RFC 9162, 2.1.3.2 and 2.1.4.2): the root of the tree that ends at the start, and of the whole one."""
    for step in proof:
        if last == 0:
            raise ValueError("the proof is too long")
        if index & 1 or index == last:
            old, new = sha256(b"\1", step, old), sha256(b"\1", step, new)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            new = sha256(b"\1", new, step)
        index, last = index >> 1, last >> 1
    if last:
        raise ValueError("the proof is too short")
    return old, new


def check_proof(document: dict[str, Any], key: str, kept: bytes) -> str:
    """What a proof shows; `kept` is a checkpoint kept elsewhere, else the proof's own. Raises ValueError, LookupError or TypeError."""
    newest = read_checkpoint(document["checkpoint"].encode(), key, "")
    seq, line = document["seq"], document["entry"].encode()
    path, steps = ([base64.b64decode(step, validate=True) for step in document.get(name, [])] for name in ("inclusion", "consistency"))
    if read_entry(line)["seq"] != seq or not 0 <= seq < newest.size:
        raise ValueError("the entry is not the one that the proof speaks of")
    if climb(seq, newest.size - 1, b"", sha256(b"\0", line), path)[1] != newest.root:
        raise ValueError("the entry is not in the log that the checkpoint signs")
    shown = f"entry {seq} is in the log of {newest.size} entries with the root {newest.root.hex()}"
    if not kept and not document.get("against"):
        return shown
    old = read_checkpoint(kept or document["against"].encode(), key, "")
    if not 0 < old.size <= newest.size:
        raise ValueError(f"the kept checkpoint signs {old.size} entries, the newest {newest.size}: cut off, or put back")
    shared = (old.size & -old.size).bit_length() - 1  # up to here the older tree's last subtree is the newer one's, too
    start = old.root if old.size == 1 << shared or old.size == newest.size or not steps else steps.pop(0)
    found = (start, start) if old.size == newest.size else climb(old.size - 1 >> shared, newest.size - 1 >> shared, start, start, steps)
    if found != (old.root, newest.root):
        raise ValueError(f"the log does not begin with the {old.size} entries of the kept checkpoint")
    return f"{shown}; it begins with the {old.size} entries of the kept checkpoint"


class Entries:
    """What is true of the entries one by one: order, time, pairs, and the roots at the sizes that are asked for."""

    def __init__(self, report: Report, sizes: set[int]) -> None:
        self.report, self.sizes = report, sizes
        self.roots, self.subtrees, self.intents = dict[int, bytes](), list[bytes](), dict[str, tuple[int, str]]()
        self.size, self.expected, self.time = 0, 0, ""

    def add(self, line: bytes) -> None:
        if self.size in self.sizes:
            self.roots[self.size] = root_of(self.subtrees)
        self.subtrees.append(sha256(b"\0", line))
        size, self.size = self.size, self.size + 1
        while size & 1:
            self.subtrees[-2:] = [sha256(b"\1", *self.subtrees[-2:])]
            size >>= 1
        try:
            entry = read_entry(line)
        except (ValueError, RecursionError) as error:
            self.report.tell("canonical", f"entry {self.size - 1} is not an entry in canonical form: {error}")
            self.expected += 1
            return
        seq, time, look, kind = entry["seq"], entry["time"], str(entry.get("audit_id")), entry.get("type")
        if seq != self.expected:
            self.report.tell("sequence", f"entry {seq} stands where {self.expected} should: one was removed, added or moved")
        if time < self.time:
            is_said = kind == "clock.set.back" and entry.get("before") == self.time
            grade, what = ("note", "as the record says") if is_said else ("fault", "and no entry says why")
            self.report.tell("clock", f"entry {seq} is of {time}, the one before it of {self.time}, {what}", grade)
        self.expected, self.time = seq + 1, time
        if kind == "look.intent":
            self.report.looks += 1
            if look in self.intents:
                self.report.tell("pairing", f"entry {seq} is a second intent of the look {look}")
            self.intents[look] = seq, time
        elif kind == "look.outcome" and self.intents.pop(look, (-1, ""))[0] != entry.get("intent"):
            self.report.tell("pairing", f"entry {seq} is an outcome without the intent that it names, {entry.get('intent')}")


def check(folder: Path, kept: Path | None = None, key: str = "") -> Report:
    """Check a bundle; `key` and `kept`, a folder of checkpoints, kept elsewhere. Raises OSError, ValueError, LookupError, TypeError."""
    report, own, held = Report(), (folder / KEY).read_text().strip(), list[Checkpoint]()
    _check_manifest(folder, report)
    read_key(key or own)
    report.key = key or f"{own} (the bundle's own: compare it with one that was kept elsewhere)"
    if key and key != own:
        report.tell("key", f"the bundle is of another key than the one given: {own}")
    if kept and not any(kept.glob(NOTES)):
        raise ValueError(f"{kept} holds no checkpoint")
    for file in sorted([*(folder / CHECKPOINTS).glob(NOTES), *(kept.glob(NOTES) if kept else ())]):
        try:
            held.append(read_checkpoint(file.read_bytes(), key or own, str(file)))
        except ValueError as error:
            report.tell("signature", f"{file}: {error}")
    entries = Entries(report, {one.size for one in held})
    with (folder / ENTRIES).open("rb") as lines:
        while line := lines.readline(16_000_000):
            entries.add(line.removesuffix(b"\n"))
    entries.roots[entries.size] = root_of(entries.subtrees)
    report.size, report.root, report.checkpoints = entries.size, root_of(entries.subtrees).hex(), len(held)
    for seq, time in entries.intents.values():
        report.tell("unfinished", f"the look that entry {seq} of {time} announces has no outcome", "note")
    _check_checkpoints(entries, sorted(held), report)
    return report


def _check_manifest(folder: Path, report: Report) -> None:
    listed = json.loads((folder / MANIFEST).read_bytes())["files"]
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {MANIFEST}
    for name in sorted({*listed, *there}):
        if name not in there or name not in listed:
            report.tell("manifest", f"the file {name} is {'missing' if name in listed else 'not in the manifest'}")
            continue
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != listed[name]:
                report.tell("manifest", f"the file {name} is not the one that was exported")


def _check_checkpoints(entries: Entries, held: list[Checkpoint], report: Report) -> None:
    """Each checkpoint against the entries and against the others of its size; `held` smallest first."""
    good = [one.size for one in held if entries.roots.get(one.size) == one.root]
    for one, following in pairwise(held):
        if one.size == following.size and one.root != following.root:
            report.tell("fork", f"{one.name} and {following.name} sign two histories of {one.size} entries")
    for one in held:
        if one.size > entries.size:
            report.tell("missing", f"{one.name} signs {one.size} entries, here are {entries.size}: cut off, or put back")
        elif entries.roots[one.size] != one.root:
            since = max((size for size in good if size < one.size), default=0)
            kind, what = ("rewritten", "and signed anew") if max(good, default=0) > one.size else ("changed", "after that")
            report.tell(kind, f"{one.name} signs other entries from {since} to {one.size - 1}: they were changed {what}")
    if max(good, default=0) < entries.size:
        report.tell("unsigned", f"no checkpoint that agrees covers the entries {max(good, default=0)} to {entries.size - 1}")


def main() -> int:
    """Verify what the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description="Verify an exported ledger of Aboveboard, or a proof out of one, offline.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent, metavar="DIR")
    parser.add_argument("--checkpoints", type=Path, metavar="PATH", help="folder of checkpoints kept elsewhere; with --proof, one of them")
    parser.add_argument("--key", default="", help="the verifier key that was kept elsewhere, or a file with it")
    parser.add_argument("--proof", type=Path, metavar="FILE", help="check a proof instead of a bundle")
    given = parser.parse_args()
    try:
        key = Path(given.key).read_text().strip() if given.key and Path(given.key).is_file() else given.key
        if given.proof:
            kept = given.checkpoints.read_bytes() if given.checkpoints else b""
            lines, code = [check_proof(json.loads(given.proof.read_bytes()), key or (given.folder / KEY).read_text(), kept)], 0
        else:
            report = check(given.folder, given.checkpoints, key)
            lines, code = report.lines(), 1 if report.faults() else 0
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        lines, code = [f"error: {error}"], 1 if given.proof and isinstance(error, ValueError) else 2
    sys.stdout.write("\n".join([*lines, ""]))
    return code


if __name__ == "__main__":
    sys.exit(main())
