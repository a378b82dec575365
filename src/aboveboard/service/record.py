"""The ledger for others: checkpoints, bundles that an outsider verifies, proofs of single entries, the server's own start and stop."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aboveboard import __version__
from aboveboard.accountability import replay, verify_ledger
from aboveboard.accountability.catalogue import AUTHORITIES, Policies
from aboveboard.accountability.gate import actor, pack_facts
from aboveboard.accountability.operators import Session
from aboveboard.accountability.packs import Pack
from aboveboard.errors import BadRequest, Unavailable
from aboveboard.service.app import App
from aboveboard.storage import commitments
from aboveboard.storage.checkpoints import Checkpoint
from aboveboard.storage.database import Database, now
from aboveboard.storage.ledger import BLOCK, Ledger
from aboveboard.storage.merkle import consistency_proof, inclusion_proof
from aboveboard.storage.schema import PACKS

EVERY_S = 600
"""How often a server signs a checkpoint, where there are new entries."""
BLOCKS = 256
"""Blocks of entries that a server hashes again as often: a million entries in two and a half hours."""

log = logging.getLogger("aboveboard.ledger")


def sign(app: App) -> Checkpoint:
    """Sign the ledger as it is now, having held it against what was signed before; a fault is dealt with, and signed all the same."""
    if fault := _fault(app):
        _distrust(app, fault)
    return app.checkpoints.write()


def _fault(app: App) -> str:
    """Where the ledger departs from its own root, or from the checkpoint that was kept last; empty where it does not.

    Cheap: blocks of entries are not hashed again (`_walk` does that).
    """
    kept = _kept(app)
    try:
        size, root = app.ledger.checkpoint()
        if kept and kept.size > size:
            return f"it has {size} entries, and {kept.name} signs {kept.size}: it was cut off, or an older one was put in its place"
        if app.ledger.root(0, size) != root:
            return f"the entries from {size // BLOCK * BLOCK} on are not those of its root"
        if kept and app.ledger.root(0, kept.size) != kept.root:
            return f"its first {kept.size} entries are not those that {kept.name} signs"
    except Unavailable as error:
        return error.message
    except TypeError:
        return "an entry is damaged"
    return ""


def _kept(app: App) -> verify_ledger.Checkpoint | None:
    """The checkpoint that was kept last. One that was cut off in a crash is passed over, as one of another deployment is."""
    dated = []
    for file in app.checkpoints.files():
        with suppress(OSError):  # removed this moment
            dated.append((file.stat().st_mtime_ns, file))
    for _, file in sorted(dated, reverse=True):
        with suppress(OSError, ValueError, LookupError):
            return verify_ledger.read_checkpoint(file.read_bytes(), app.checkpoints.verifier_key, file.name)
    return None


def _walk(app: App, start: int) -> int:
    """Hash some blocks of entries again, from `start` on; where to go on, 0 after the last."""
    if fault := app.ledger.block_fault(start, start + BLOCKS):
        _distrust(app, fault)
    size, _ = app.ledger.checkpoint()
    return start + BLOCKS if (start + BLOCKS) * BLOCK <= size else 0


def _distrust(app: App, fault: str) -> None:
    """Tell the log that the ledger is not whole and, where the deployment's pack says so, suspend the system."""
    log.error("the ledger is not whole: %s", fault)
    pack = app.gate.policy_of(None)
    if pack.suspension.ledger and pack.suspension.mode == "enforce":
        app.standing.suspend_by_itself(f"{pack.id}/suspension: {fault}")


def checkpoint(app: App, session: Session) -> Checkpoint:
    """Sign the ledger as it is now."""
    app.gate.authorise(session, "ledger.read")
    return sign(app)


def export(app: App, session: Session, to: Path) -> Checkpoint:
    """Write a bundle into a new or empty folder: entries, checkpoints, packs, key, verifier and, last, the manifest. It is an entry.

    Raises BadRequest for a folder that holds something, Unavailable where the bundle cannot be written.
    """
    app.gate.authorise(session, "ledger.read")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BadRequest(f"{to} is not an empty folder; name one that is, or is not there yet")
    app.ledger.record("ledger.exported", actor(session))
    last = sign(app)
    try:
        checkpoints = to / verify_ledger.CHECKPOINTS
        checkpoints.mkdir(parents=True)
        for file in app.checkpoints.files():
            shutil.copyfile(file, checkpoints / file.name)
        with (to / verify_ledger.ENTRIES).open("xb") as entries:
            # What was put there by hand may be no bytes; the verifier names it.
            entries.writelines((one if isinstance(one, bytes) else str(one).encode()) + b"\n" for one in app.ledger.entries(0, last.size))
        _export_packs(app, to / replay.POLICIES)
        (to / verify_ledger.KEY).write_text(f"{app.checkpoints.verifier_key}\n")
        shutil.copyfile(verify_ledger.__file__, to / "verify_ledger.py")
        hashes = {file.relative_to(to).as_posix(): _sha256(file) for file in sorted(to.rglob("*")) if file.is_file()}
        facts = {"format": 1, "exported_at": now(), "program": __version__, "size": last.size, "root": last.root.hex(), "files": hashes}
        (to / verify_ledger.MANIFEST).write_text(json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise Unavailable(f"the bundle in {to} is not whole ({error.strerror}); remove it and name a folder with room") from error
    return last


def _export_packs(app: App, to: Path) -> None:
    """Every pack that was ever in force, as it was hashed, with its signature; and whose signatures count here."""
    to.mkdir()
    with app.database.read() as connection:
        for row in connection.execute(sa.select(PACKS)):
            (to / f"{row.sha256}.json").write_bytes(row.text)
            if row.signature is not None:
                (to / f"{row.sha256}.sig").write_bytes(row.signature)
    if (keys := app.settings.policies / AUTHORITIES).is_file():
        shutil.copyfile(keys, to / AUTHORITIES)


def prove(app: App, session: Session, seq: int, against: bytes) -> dict[str, Any]:
    """That an entry is in the log that a new checkpoint signs and, where an older one is given, that this log begins with that one's.

    Raises BadRequest where there is no such entry, or the older checkpoint is not one of this log as it is.
    """
    app.gate.authorise(session, "ledger.read")
    newest = sign(app)
    if not 0 <= seq < newest.size:
        raise BadRequest(f"there is no entry {seq}: the ledger has {newest.size}, from 0 on")

    def encoded(steps: list[bytes]) -> list[str]:
        return [base64.b64encode(step).decode() for step in steps]

    proof: dict[str, Any] = {
        "seq": seq,
        "entry": next(app.ledger.entries(seq, seq + 1), b"").decode(),
        "checkpoint": newest.note.decode(),
        "inclusion": encoded(inclusion_proof(app.ledger.root, seq, newest.size)),
    }
    try:
        if against:
            old = verify_ledger.read_checkpoint(against, app.checkpoints.verifier_key, "").size
            steps = consistency_proof(app.ledger.root, old, newest.size) if 0 < old <= newest.size else []
            proof |= {"against": against.decode(), "consistency": encoded(steps)}
        verify_ledger.check_proof(proof, app.checkpoints.verifier_key, b"")
    except ValueError as error:
        raise BadRequest(f"nothing can be proven: {error}; export the ledger and see what verify says") from error
    return proof


def keep_packs(database: Database, ledger: Ledger, policies: Policies) -> None:
    """Keep every pack that may be in force here, so that its decisions can be made again; after the first time new ones are an entry."""
    loadable = {pack.sha256: pack for pack in policies.all() if policies.is_loadable(pack)}
    with database.read() as connection:
        known = set(connection.scalars(sa.select(PACKS.c.sha256)))
    if not set(loadable) - known:
        return
    with database.write() as connection:
        known = set(connection.scalars(sa.select(PACKS.c.sha256)))
        new = [pack for sha256, pack in sorted(loadable.items()) if sha256 not in known]
        for pack in new:
            signature = policies.signatures.get(pack.sha256)
            row = {"sha256": pack.sha256, "id": pack.id, "version": pack.version, "text": pack.canonical, "first_at": now()}
            connection.execute(sa.insert(PACKS).values(**row, signature=signature.note if signature else None))
        if known and new:
            ledger.append(connection, "policy.loaded", {"policies": [_pack_facts(pack, policies) for pack in new]})


def commit_galleries(database: Database, ledger: Ledger) -> None:
    """Begin the logs of face ids for the collections of an older release; an entry of each says from where on a verifier can count."""
    with database.read() as connection:
        if not commitments.has_uncommitted(connection):
            return
    with database.write() as connection:
        for facts in commitments.commit(connection):
            ledger.append(connection, "collection.committed", facts)


def _pack_facts(pack: Pack, policies: Policies) -> dict[str, str]:
    signature = policies.signatures.get(pack.sha256)
    return pack_facts(pack) | ({"signed_by": signature.authority} if signature else {})


@contextmanager
def served(app: App) -> Iterator[None]:
    """While the block runs a server serves: its start and its stop are entries, and checkpoints are signed by a thread of their own."""
    settings = "\n".join(f"{one.name}={getattr(app.settings, one.name)}" for one in fields(app.settings)).encode()
    chosen = {name: getattr(app.settings, name) for name in ("pack", "default_policy", "minimum_policy")}
    policies = app.gate.policies
    packs = [_pack_facts(pack, policies) for pack in policies.all() if policies.is_loadable(pack)]
    facts = {"version": __version__, **chosen, "settings": hashlib.sha256(settings).hexdigest(), "policies": packs}
    app.ledger.record("server.started", facts)
    stopped = threading.Event()
    thread = threading.Thread(target=_sign, args=(app, stopped), name="checkpoints", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        try:
            app.ledger.record("server.stopped", {"version": __version__})
            sign(app)
        except Unavailable as error:
            log.error("%s", error.message)


def _sign(app: App, stopped: threading.Event) -> None:
    at = wait_s = 0
    while not stopped.wait(wait_s):
        try:
            at = _walk(app, at)
            if wait_s:  # the ledger as it was found is signed already
                sign(app)
        except Unavailable as error:
            log.error("%s", error.message)
        wait_s = EVERY_S


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
