"""Keep a deployment: back it up while it is in use, put a backup in its place."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp

import sqlalchemy as sa

from aboveboard import __version__, strict
from aboveboard.accountability.gate import actor
from aboveboard.accountability.operators import Session
from aboveboard.errors import BadRequest, Unavailable
from aboveboard.service.app import App
from aboveboard.storage.database import Database, damage, now
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.schema import SCHEMA, VERSION

DATABASE, MASTER_KEY, SETTINGS, MANIFEST = "aboveboard.db", "master.key", "settings.toml", "manifest.json"
CACHE = "cache"
OWN = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", MASTER_KEY, SETTINGS, CACHE)
"""What of a data folder is a deployment's: whatever else lies there is left alone."""
ASIDE = "before-restore-"
"""What a restore puts aside what was there under, with the time."""
UNDER_WAY, UNREADY = ".restoring-", ".unready-restore-"
"""A restore that has begun to change the folder, and one that is only being prepared."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Kept:
    """A file of a backup."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a backup holds. `size` and `root` (hex) are the ledger's; `pack` is the model pack in use, which is not in it."""

    format: int
    made_at: str
    program: str
    schema: int
    pack: str
    size: int
    root: str
    files: tuple[Kept, ...]

    @property
    def has_key(self) -> bool:
        return any(one.file == MASTER_KEY for one in self.files)

    def dumps(self) -> bytes:
        return json.dumps(asdict(self), indent=2).encode() + b"\n"


# --- back up -----------------------------------------------------------------------------------------------------------------------


def backup(app: App, session: Session, to: Path, pack: str, *, with_keys: bool, progress: Progress) -> Manifest:
    """Copy the deployment as it is now into a new or empty folder, while others go on writing. `pack` is the model pack in use.

    The record says so before anything is copied, and again before the folder has its name. Raises BadRequest for a folder that holds
    something, Unavailable where the copy cannot be written or is not whole.
    """
    app.gate.authorise(session, "backup.make")
    _must_be_free(to)
    data = app.settings.data
    app.ledger.record("backup.begun", {**actor(session), "with_keys": with_keys})
    try:
        partial = Path(mkdtemp(prefix=f".{to.name}.", suffix=".unready", dir=to.parent))
    except OSError as error:
        raise Unavailable(f"{to.parent} cannot be written to ({error.strerror}); name a folder on another disk") from error
    try:
        app.database.snapshot(partial / DATABASE, progress)
        for name in (SETTINGS, *([MASTER_KEY] if with_keys else [])):
            if (data / name).exists():
                _copy(data / name, partial / name)
        schema, size, root = _whole(partial / DATABASE)
        files = tuple(_kept(file) for file in sorted(partial.iterdir()))
        manifest = Manifest(1, now(), __version__, schema, pack, size, root, files)
        _write(partial / MANIFEST, manifest.dumps())
        for file in (*partial.iterdir(), partial):
            _sync(file)
        facts = {"size": size, "root": root, "with_keys": with_keys, "manifest": hashlib.sha256(manifest.dumps()).hexdigest()}
        app.ledger.record("backup.made", {**actor(session), **facts})
        partial.rename(to)
        _sync(to.parent)
    except OSError as error:
        raise Unavailable(f"the backup {to} cannot be written ({error.strerror or error}); is its disk full?") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _must_be_free(to: Path) -> None:
    if not to.parent.is_dir():
        raise BadRequest(f"there is no folder {to.parent}; make it, or mount its disk, first")
    if to.is_symlink() or (to.exists() and (not to.is_dir() or any(to.iterdir()))):
        raise BadRequest(f"{to} is there already and holds something; name a new folder: a backup is never written over")
    if to.is_mount():
        raise BadRequest(f"{to} is a disk of its own; name a new folder in it")


# --- restore -----------------------------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup; raises BadRequest where it is none, or not one that this program can read."""
    file = folder / MANIFEST
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise BadRequest(f"{folder} is no backup, or half of one: {MANIFEST} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{file} is damaged or was changed ({error}); take another backup") from error
    if not isinstance(document, dict) or document.get("format") != 1 or document.get("schema") not in range(1, SCHEMA + 1):
        raise BadRequest(f"{file} is damaged, or of a newer release than this one; restore it with the release that made it")
    manifest = strict.table(Manifest, document, str(file))
    names = [one.file for one in manifest.files]
    if DATABASE not in names or len(set(names)) < len(names) or set(names) - {DATABASE, MASTER_KEY, SETTINGS}:
        raise BadRequest(f"{file} is damaged or was changed: it lists {', '.join(names) or 'nothing'}; take another backup")
    return manifest


@contextmanager
def prepared(backup_folder: Path, data: Path, master_key: Path | None, *, replace_old: bool) -> Iterator[tuple[Path, Manifest]]:
    """Copy a backup into a folder of its own within `data`, checked byte by byte; removed after the block, unless it was put in place.

    `master_key` is the key of a backup without one. Raises BadRequest, naming the file, for a backup that is not as it was made and for
    a data folder that holds a deployment, unless that is to be replaced.
    """
    manifest = read_manifest(backup_folder)
    for one in manifest.files:
        _must_be(backup_folder / one.file, one)
    if manifest.has_key == (master_key is not None):
        text = (
            "has its master key; leave --master-key out" if manifest.has_key else "was made without keys; name its key: --master-key FILE"
        )
        raise BadRequest(f"{backup_folder} {text}")
    if not replace_old and (there := [name for name in OWN if (data / name).exists()]):
        text = "say --replace, which puts it aside, or name another folder with --data"
        raise BadRequest(f"{data} holds a deployment already ({', '.join(there)}); {text}")
    is_new = not data.exists()
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        stage = Path(mkdtemp(prefix=UNREADY, dir=data))
    except OSError as error:
        raise Unavailable(f"{data} cannot be written to ({error.strerror})") from error
    try:
        for one in manifest.files:
            _copy(backup_folder / one.file, stage / one.file)
            _must_be(stage / one.file, one)
        if master_key:
            _copy(master_key, stage / MASTER_KEY)
        _, size, root = _whole(stage / DATABASE)
        if (size, root) != (manifest.size, manifest.root):
            raise BadRequest(f"{backup_folder / MANIFEST} names the ledger's root {manifest.root}, {DATABASE} has {root}; one was changed")
        yield stage, manifest
    except OSError as error:
        raise Unavailable(f"{error.filename or data} cannot be written or read ({error.strerror or error})") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if is_new and not any(data.iterdir()):
            data.rmdir()


def undone(data: Path, manifest: Manifest) -> Counter[str] | None:
    """What the record of the deployment in `data` says that was removed since a backup was made: it comes back with it.

    None where that record cannot be read, or is not the one that the backup's began.
    """
    removed = Counter[str]()
    try:
        with closing(Database(data / DATABASE, read_only=True)) as database:
            ledger = Ledger(database)
            if manifest.root != ledger.root_at(manifest.size).hex():
                return None
            for entry in map(json.loads, ledger.entries(manifest.size)):
                if entry["type"] == "faces.removed":
                    removed["faces"] += len(entry["face_ids"])
                elif entry["type"] == "collection.deleted":
                    removed["collections"] += 1
                elif entry["type"] == "subject.deleted":
                    removed["users"] += 1
                elif entry["type"] in ("operator.revoked", "operator.rotated"):
                    removed["access keys"] += len(entry.get("access_keys", entry.get("revoked", [])))
    except (Unavailable, ValueError, TypeError, KeyError):  # damaged
        return None
    return +removed  # without the zeros


def admit(app: App, session: Session, manifest: Manifest) -> None:
    """Have a prepared backup's own operator restore it, on its own record. Raises Unavailable where the master key is another's."""
    app.gate.authorise(session, "backup.restore")
    if app.operators.unopened():
        raise Unavailable(f"the {MASTER_KEY} does not open this backup's access keys; it is another deployment's")
    facts = {"made_at": manifest.made_at, "size": manifest.size, "root": manifest.root}
    app.ledger.record("backup.restored", {**actor(session), **facts})


def put_in_place(stage: Path, data: Path) -> Path | None:
    """Put a prepared deployment, closed, in the place of what is in `data`; returns where that is now, None where nothing was.

    From the moment that the prepared folder has its new name, no server opens `data` until all is done, after a crash by `finish`.
    Raises Unavailable, having changed nothing, while somebody has the old deployment open.
    """
    with _nobody_in(data):
        for file in (*stage.iterdir(), stage):
            _sync(file)
        ready = data / f"{UNDER_WAY}{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        stage.rename(ready)
        _sync(data)
        return _finish(data, ready)


def finish(data: Path) -> bool:
    """End a restore that was interrupted while it changed the folder; False where there is none."""
    pending = sorted(data.glob(f"{UNDER_WAY}*"))
    for ready in pending:
        _finish(data, ready)
    return bool(pending)


def _finish(data: Path, ready: Path) -> Path | None:
    """The same steps after a crash at any of them: a file that has left `ready` is in its place, so what stands there is not old."""
    aside = data / f"{ASIDE}{ready.name.removeprefix(UNDER_WAY)}"
    listed = ready / "names"
    if not listed.exists():
        names = [file.name for file in ready.iterdir() if file.name in OWN]
        _write(ready / ".names", json.dumps(names).encode())
        _sync(ready / ".names")
        (ready / ".names").rename(listed)
        _sync(ready)
    new = set(json.loads(listed.read_bytes()))
    for name in OWN:
        if (data / name).exists() and (name not in new or (ready / name).exists()):
            aside.mkdir(mode=0o700, exist_ok=True)
            (data / name).rename(aside / name)
    _sync(data)
    for name in new:
        if (ready / name).exists():
            (ready / name).rename(data / name)
    _sync(data)
    # By its name it is nothing any more that is under way, whatever becomes of removing it.
    done = ready.rename(data / f"{UNREADY}{ready.name.removeprefix(UNDER_WAY)}")
    shutil.rmtree(done)
    return aside if aside.exists() else None


@contextmanager
def _nobody_in(data: Path) -> Iterator[None]:
    """Holds the old database against others while the block runs; raises Unavailable where somebody has it open."""
    if not (data / DATABASE).exists():
        yield
        return
    with (data / DATABASE).open("rb+") as file:
        try:
            # The bytes that each connection of SQLite holds a lock on while it is open; damage in the file does not matter to them.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)
        except OSError as error:
            raise Unavailable(f"a server or a verb has {data} open; stop it first: nothing was changed") from error
        yield


# --- files ---------------------------------------------------------------------------------------------------------------------------


def _must_be(file: Path, wanted: Kept) -> None:
    try:
        is_right = file.is_file() and not file.is_symlink() and _kept(file) == wanted
    except OSError as error:
        raise BadRequest(f"{file} cannot be read ({error.strerror}); take another backup") from error
    if not is_right:
        raise BadRequest(f"{file} {'is not what the manifest says' if file.exists() else 'is missing'}; take another backup")


def _kept(file: Path) -> Kept:
    with file.open("rb") as content:
        return Kept(file.name, file.stat().st_size, hashlib.file_digest(content, "sha256").hexdigest())


def _copy(source: Path, to: Path) -> None:
    with source.open("rb") as content, os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)


def _write(file: Path, content: bytes) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as new:
        new.write(content)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _whole(file: Path) -> tuple[int, int, str]:
    """Schema, and the ledger's size and root, of a copy that nobody writes to; raises Unavailable where it is damaged."""
    with closing(Database(file, read_only=True)) as database, database.read() as connection:
        found = damage(connection, "integrity_check")
        if found or (fault := Ledger(database).fault(connection)):
            raise Unavailable(f"the database is damaged, and so is the copy: {'; '.join(found[:3]) or f'the ledger: {fault}'}")
        size, root = Ledger(database).checkpoint()
        return connection.execute(sa.select(VERSION.c.version)).scalar_one(), size, root.hex()
