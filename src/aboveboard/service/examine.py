"""Examine a deployment, changing nothing: what is found, and how to mend it. No similarity, no template and no name is told."""

from __future__ import annotations

import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from aboveboard.accountability.operators import Operators
from aboveboard.errors import BadRequest, Error, NoSuch, Unavailable
from aboveboard.service.keep import ASIDE, CACHE, DATABASE, MASTER_KEY, OWN, SETTINGS, UNDER_WAY, UNREADY
from aboveboard.settings import Settings
from aboveboard.storage import templates
from aboveboard.storage.database import Database, damage
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.schema import COLLECTIONS, FACES, METADATA, SCHEMA, SUBJECTS, VERSION
from aboveboard.storage.secrets import Keyring
from aboveboard.vision.packs import PackFolder

LITTLE_ROOM = 100_000_000
"""Free bytes of a disk below which it is said that it fills up."""
RESTORE = "aboveboard restore DIR --replace puts a backup in its place"
State = Literal["well", "wrong", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was examined: how it is, what was found and, where something is to be done, what; `rule`: of which pack."""

    check: str
    state: State
    found: str
    mend: str = ""
    rule: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything that a deployment rests on, changing nothing; safe beside a server and on a copy that can only be read."""
    data = settings.data
    yield from _files(data)
    yield _pack(settings)
    yield from _further_packs(settings)
    if not (data / DATABASE).is_file():
        yield Finding("database", "wrong", f"{data / DATABASE} is not there", "aboveboard restore DIR puts a backup in its place")
        return
    with closing(Database(data / DATABASE, read_only=True)) as database:
        for name, check in {
            "database": _structure,
            "ledger": _ledger,
            "keys": _keys,
            "rows": _rows,
            "values": _values,
            "templates": _templates,
        }.items():
            try:
                with database.read() as connection:
                    yield from check(settings, database, connection)
            except Unavailable as error:
                yield Finding(name, "wrong", error.message)
                if check is _structure:
                    return
            except (TypeError, ValueError) as error:  # a value of a kind that no release writes
                yield Finding(name, "wrong", f"a damaged value ({type(error).__name__})", RESTORE)


def _files(data: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(data).free if data.is_dir() else 0
    text = f"{free / 1e9:,.1f} GB are free"
    yield _judged("room", text, text if free < LITTLE_ROOM else "", "make room: on a full disk nothing is written, and so nothing searched")
    files = [file for name in OWN if name != SETTINGS for file in (data / name, *(data / name).glob("*")) if file.is_file()]
    folders = [folder for folder in (data, data / CACHE) if folder.is_dir()]
    loose = [file for file in files if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)]
    loose += [folder for folder in folders if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)]
    names = ", ".join(map(str, loose))
    yield _judged(
        "modes", "nobody but the owner may read what is in it", f"others may read or change {names}" * bool(loose), f"chmod go= {names}"
    )
    if pending := sorted(data.glob(f"{UNDER_WAY}*")):
        yield Finding("leftovers", "wrong", f"a restore was interrupted: {pending[0]}", "aboveboard restore DIR ends it")
    if left := sorted(file for pattern in (f"{UNREADY}*", f".{MASTER_KEY}.*") for file in data.glob(pattern)):
        text = "remove them, unless a restore is running now"
        yield Finding("leftovers", "wrong", f"something was interrupted and left {', '.join(map(str, left))}", text)
    if old := sorted(data.glob(f"{ASIDE}*")):
        text = "remove them once you do not need them: they hold faces and names"
        yield Finding("leftovers", "note", f"restores put aside {', '.join(map(str, old))}", text)


def _pack(settings: Settings) -> Finding:
    try:
        if PackFolder(settings.models).is_installed(settings.pack):
            return Finding("model pack", "well", f"'{settings.pack}' is installed")
        return Finding("model pack", "wrong", f"'{settings.pack}' is not installed in {settings.models}", "aboveboard models install")
    except NoSuch as error:
        return Finding("model pack", "wrong", error.message, "correct the setting 'pack'")


def _further_packs(settings: Settings) -> Iterator[Finding]:
    """The packs that only some operations need: without one of them these answer less; one that cannot be loaded is broken."""
    packs = PackFolder(settings.models)
    kinds: tuple[tuple[str, str, Callable[[str], object], Callable[[str], object]], ...] = (
        ("attribute pack", settings.attribute_pack, packs.attribute_card, packs.load_attributes),
        ("label pack", settings.label_pack, packs.label_card, packs.load_labels),
    )
    for name, pack, card, load in kinds:
        try:
            if not pack:
                yield Finding(name, "well", "none is wanted")
            elif card(pack) and packs.is_installed(pack):
                load(pack)
                yield Finding(name, "well", f"'{pack}' is installed")
            else:
                yield Finding(name, "note", f"'{pack}' is not installed in {settings.models}", f"aboveboard models install {pack}")
        except (NoSuch, BadRequest, Unavailable) as error:
            yield Finding(name, "wrong", error.message, f"install it again, or correct the setting '{name.replace(' ', '_')}'")


def _structure(_: Settings, database: Database, connection: sa.Connection) -> Iterator[Finding]:
    found = damage(connection, "integrity_check")
    yield _judged("database", f"{database.file} is whole", "; ".join(found[:10]))
    version = connection.execute(sa.select(VERSION.c.version)).scalar_one_or_none()
    if version != SCHEMA:
        mend = "a start of `aboveboard serve` brings it up" if (version or 0) < SCHEMA else "use the release that wrote it"
        yield Finding("schema", "wrong", f"it is {version}, this program's is {SCHEMA}", mend)


def _ledger(_: Settings, database: Database, connection: sa.Connection) -> Iterator[Finding]:
    ledger = Ledger(database)
    size, root = ledger.checkpoint(connection)
    mend = f"it was changed or is damaged: keep a copy of this folder to show; {RESTORE}"
    yield _judged("ledger", f"{size:,} entries, root {root.hex()}", ledger.fault(connection), mend)


def _keys(settings: Settings, database: Database, _: sa.Connection) -> Iterator[Finding]:
    mend = "put the master.key of this deployment in its place"
    try:
        unopened = Operators(database, Keyring.open(settings.data / MASTER_KEY, create=False), Ledger(database)).unopened()
    except Unavailable as error:
        yield Finding("keys", "wrong", error.message, mend)
    else:
        bad = f"access keys that do not open with {MASTER_KEY}: {len(unopened):,}" if unopened else ""
        yield _judged("keys", f"every access key opens with {MASTER_KEY}", bad, mend)


def _rows(_: Settings, __: Database, connection: sa.Connection) -> Iterator[Finding]:
    faces = sa.select(sa.func.count()).where(FACES.c.collection == COLLECTIONS.c.n).scalar_subquery()
    people = sa.select(sa.func.count()).where(SUBJECTS.c.collection == COLLECTIONS.c.n).scalar_subquery()
    counts = sa.or_(COLLECTIONS.c.face_count != faces, COLLECTIONS.c.subject_count != people)
    # One that was deleted loses its rows bit by bit.
    wrong = sa.select(sa.func.count()).where(COLLECTIONS.c.deleted_at.is_(None), counts)
    strays = sa.select(sa.func.count()).join_from(FACES, SUBJECTS).where(FACES.c.collection != SUBJECTS.c.collection)
    found = {
        "rows that refer to rows that are not there": len(connection.exec_driver_sql("PRAGMA foreign_key_check").all()),
        "collections with another number of faces or users than they say": connection.execute(wrong).scalar_one(),
        "faces of a user of another collection": connection.execute(strays).scalar_one(),
    }
    yield _judged("rows", "counts and references agree", _counted(found))


def _values(_: Settings, __: Database, connection: sa.Connection) -> Iterator[Finding]:
    """Every text and every JSON document is read: SQLite's own check does not look into values."""
    for table in METADATA.sorted_tables:
        kept = [column for column in table.c if not isinstance(column.type, sa.LargeBinary)]
        try:
            for rows in connection.execution_options(yield_per=1000).execute(sa.select(*kept)).partitions():
                del rows
        except ValueError:
            yield Finding("values", "wrong", f"{table.name}: a value that cannot be read", RESTORE)
            return
    yield Finding("values", "well", "each can be read")


def _templates(settings: Settings, _: Database, connection: sa.Connection) -> Iterator[Finding]:
    found, size = Counter[str](), 0
    for row in connection.execute(sa.select(COLLECTIONS.c.n, COLLECTIONS.c.model, COLLECTIONS.c.face_count)).all():
        size += row.face_count
        missing, misfits, unsound = templates.examine(connection, row.n, _dimensions(settings, row.model))
        found["faces without a template"] += missing
        found["templates of another length than their model's"] += misfits
        found["templates that are not finite or not of unit length"] += unsound
    yield _judged("templates", f"each of {size:,} faces has one that is sound", _counted(found))


def _counted(found: Mapping[str, int]) -> str:
    return "; ".join(f"{what}: {count:,}" for what, count in found.items() if count)


def _judged(check: str, well: str, wrong: str, mend: str = RESTORE) -> Finding:
    return Finding(check, "wrong", wrong, mend) if wrong else Finding(check, "well", well)


def _dimensions(settings: Settings, model: str) -> int:
    """The length of a model's templates; 0 where no pack on this machine makes them."""
    packs = PackFolder(settings.models)
    try:
        card = packs.face_card(model.partition(" ")[0])
    except Error:
        return 0
    return card.recogniser.dimensions if card.model == model else 0
