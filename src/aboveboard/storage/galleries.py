"""Which collections' galleries are in memory: brought up to date before each look, written to files for the next start.

Nothing tells a gallery of a write: it asks the database, so that it sees the writes of every process.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from aboveboard.biometrics.gallery import Tally
from aboveboard.biometrics.scan import quantise
from aboveboard.errors import Busy, Error, NoSuch, Unavailable
from aboveboard.memory import wipe
from aboveboard.storage.database import MEND, Database
from aboveboard.storage.gallery import Gallery
from aboveboard.storage.schema import COLLECTIONS, FACES, TEMPLATES, TOUCHED

log = logging.getLogger("aboveboard.galleries")

STATE = sa.select(
    COLLECTIONS.c.generation, COLLECTIONS.c.touches, COLLECTIONS.c.face_count, COLLECTIONS.c.model_version, COLLECTIONS.c.model
).where(COLLECTIONS.c.n == sa.bindparam("n"), COLLECTIONS.c.deleted_at.is_(None))
_TAIL = (
    sa.select(FACES.c.n, FACES.c.subject, TEMPLATES.c.vector)
    .join(TEMPLATES, TEMPLATES.c.face == FACES.c.n)
    .where(FACES.c.collection == sa.bindparam("collection"), FACES.c.n > sa.bindparam("last"))
    .order_by(FACES.c.n)
)
_TOUCHES = sa.select(TOUCHED.c.face).where(TOUCHED.c.collection == sa.bindparam("collection"), TOUCHED.c.touch > sa.bindparam("last"))
_ALIVE = sa.select(COLLECTIONS.c.n).where(COLLECTIONS.c.deleted_at.is_(None))
# One parameter for any number of rows: the statement is prepared once.
THESE = sa.func.json_each(sa.bindparam("numbers")).table_valued("value")
_SOME = sa.select(TEMPLATES.c.face, TEMPLATES.c.vector).select_from(THESE).join(TEMPLATES, TEMPLATES.c.face == THESE.c.value)
_SUBJECTS_OF = sa.select(FACES.c.n, FACES.c.subject).select_from(THESE).join(FACES, FACES.c.n == THESE.c.value)

_READ = 8192
"""Templates that are read from the database at once."""
_WORTH_SAVING = 20_000
"""Below so many faces a gallery is made of the database as fast as it is read from its file."""
_PAUSE_S = 60
"""Between two writings of one gallery's file."""


@dataclass(frozen=True, slots=True)
class _Saved:
    """Of how many faces, and of which generation, a gallery's file was last written, and when (monotonic seconds)."""

    size: int = 0
    generation: int = -1
    at: float = -math.inf


class Galleries:
    """The galleries of one process."""

    def __init__(self, database: Database, tally: Tally) -> None:
        self._database, self._tally = database, tally
        self._folder = database.file.parent / "cache"
        self._galleries: dict[int, Gallery] = {}
        self._lock = threading.Lock()
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="gallery")
        self._saved: dict[int, _Saved] = {}

    @contextmanager
    def opened(self, collection: int, model: tuple[str, str]) -> Iterator[tuple[Gallery, sa.Connection]]:
        """A collection's gallery as of now, its lock held, and a connection that sees the same state."""
        with self._lock:
            if collection not in self._galleries:
                self._galleries[collection] = Gallery(model, self._tally)
            gallery = self._galleries[collection]
        with gallery.lock, self._database.read() as connection:
            # Read with the lock held, or the gallery could be ahead of what the connection sees.
            state = connection.execute(STATE, {"n": collection}).first()
            if state is None:
                self.forget(collection)
                raise NoSuch("the collection was deleted while it was searched; ask again")
            check_model(model, state)
            self._bring_up(connection, collection, gallery, state)
            yield gallery, connection
        self._save(collection, gallery, _PAUSE_S)

    def refresh(self, collection: int) -> None:
        """Bring a collection's gallery up to date, if it is in memory; whoever removed a face calls it before that is acknowledged."""
        gallery = self._galleries.get(collection)
        try:
            if gallery is not None:
                with gallery.lock, self._database.read() as connection:
                    state = connection.execute(STATE, {"n": collection}).first()
                    if state is not None:
                        self._bring_up(connection, collection, gallery, state)
                self._saved[collection] = _Saved(at=time.monotonic())
        finally:
            self._discard_files(collection)

    def warm(self) -> bool:
        """Read the galleries that have files, so that no look has to wait for that; returns whether there is one."""
        collections = [int(file.stem) for file in sorted(self._folder.glob("*.gallery")) if file.stem.isdecimal()]
        for n in collections:
            try:
                with self._database.read() as connection:
                    state = connection.execute(STATE, {"n": n}).first()
                if state is not None:
                    with self.opened(n, (state.model_version, state.model)):
                        pass
            except Error as error:  # whoever looks at it is told; the others are read all the same
                log.warning("a gallery was not read before the first look at it: %s", error.message)
        return bool(collections)

    def forget(self, collection: int) -> None:
        """Drop a collection from memory, and its file."""
        with self._lock:
            self._galleries.pop(collection, None)
            self._saved.pop(collection, None)
        self._discard_files(collection)

    def close(self) -> None:
        """Write the files of galleries that have changed, for the next start."""
        for collection, gallery in list(self._galleries.items()):
            self._save(collection, gallery, pause_s=0)
        self._saver.shutdown()

    def _bring_up(self, connection: sa.Connection, collection: int, gallery: Gallery, state: Any) -> None:
        """Have a gallery, whose lock is held, as of a state: from its file, by what was touched and what is new since, or all anew."""
        model = state.model_version, state.model
        if gallery.state.model != model:
            gallery.clear(model)
        if gallery.state.generation < 0:
            self._load(connection, collection, gallery, state)
        if gallery.state.generation == state.generation:
            return
        if state.touches != gallery.state.touches and gallery.size:
            faces = connection.execute(_TOUCHES, {"collection": collection, "last": gallery.state.touches}).scalars().all()
            if len(faces) < state.touches - gallery.state.touches:  # the log was cut
                gallery.clear(model)
            else:
                subjects = {row.n: row.subject for row in rows_of(connection, _SUBJECTS_OF, list(set(faces)))}
                gallery.remove([n for n in set(faces) if n not in subjects])
                gallery.give(subjects)
        self._append(connection, collection, gallery)
        if gallery.size != state.face_count:
            log.warning("the gallery in memory did not have its collection's number of faces; it was made anew from the database")
            gallery.clear(model)
            self._append(connection, collection, gallery)
        gallery.state = replace(gallery.state, generation=state.generation, touches=state.touches)
        self._drop_deleted(connection)

    @staticmethod
    def _append(connection: sa.Connection, collection: int, gallery: Gallery) -> None:
        rows = connection.execute(_TAIL, {"collection": collection, "last": gallery.state.last})
        while some := rows.fetchmany(_READ):
            numbers, subjects, vectors = zip(*some, strict=True)
            try:
                if len(set(map(len, vectors))) > 1:
                    raise ValueError("it is not as long as others")
                gallery.append(numbers, subjects, np.frombuffer(b"".join(vectors), "<f4").reshape(len(some), -1))
            except ValueError as error:
                raise Unavailable(f"a template is damaged ({error}); {MEND}") from error
            wipe(vectors)
            gallery.state = replace(gallery.state, last=numbers[-1])

    def _load(self, connection: sa.Connection, collection: int, gallery: Gallery, state: Any) -> None:
        """Read a gallery's file, if there is one that can be of this collection's past."""
        file = self._file(collection)
        # What a process that was killed had begun to write; one that is at it now fails, and tries again later.
        for left in self._folder.glob(f"{file.name}.*"):
            _discard(left)
        try:
            gallery.load(file)
            if gallery.state.generation > state.generation:
                raise ValueError("it is ahead of the database")
            if gallery.size and not _is_of(connection, gallery, state):
                raise ValueError("it is of other faces than the database")
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("a gallery's file in %s is not used (%s); the gallery is made anew from the database", file.parent, error)
            _discard(file)
            gallery.clear(gallery.state.model)
            return
        self._saved[collection] = _Saved(gallery.size, gallery.state.generation, time.monotonic())

    def _drop_deleted(self, connection: sa.Connection) -> None:
        """Templates of collections that another process deleted must not outlive them here."""
        alive = set(connection.execute(_ALIVE).scalars())
        names = {str(n) for n in alive}
        left = [file for file in self._folder.glob("*.gallery*") if file.name.partition(".")[0] not in names]
        for n in self._galleries.keys() - alive:
            self.forget(n)
        for file in left:
            _discard(file)

    def _save(self, collection: int, gallery: Gallery, pause_s: float) -> None:
        """Have a gallery's file written if it is worth it: the first time, when it has grown much, and with `pause_s` 0 at any change."""
        saved = self._saved.get(collection, _Saved())
        is_due = gallery.size > saved.size * 9 // 8 if pause_s else gallery.state.generation != saved.generation
        if gallery.size < _WORTH_SAVING or not is_due or time.monotonic() < saved.at + pause_s:
            return
        self._saved[collection] = _Saved(gallery.size, gallery.state.generation, time.monotonic())
        self._saver.submit(self._write, collection, gallery)

    def _write(self, collection: int, gallery: Gallery) -> None:
        removals, is_written, is_sound = gallery.removals, False, False
        try:
            is_written = gallery.save(self._file(collection))
            # A face that another process removed meanwhile must not stay in a file that it could not see.
            with gallery.lock, self._database.read() as connection:
                state = connection.execute(STATE, {"n": collection}).first()
                if state is not None:
                    self._bring_up(connection, collection, gallery, state)
                    is_sound = gallery.removals == removals
        finally:
            if not is_sound:
                self._discard_files(collection)
            if not (is_written and is_sound):
                self._saved[collection] = _Saved(at=time.monotonic())

    def _discard_files(self, collection: int) -> None:
        """Remove a gallery's file, and what is being written, by whomever: it cannot be put in its place any more."""
        for file in self._folder.glob(f"{self._file(collection).name}*"):
            _discard(file)

    def _file(self, collection: int) -> Path:
        return self._folder / f"{collection}.gallery"


def _is_of(connection: sa.Connection, gallery: Gallery, state: Any) -> bool:
    """Whether a gallery is of these faces: its last and some others are looked at. A database that was put back by hand may have gone
    another way since, and have come to the same numbers."""
    places = np.unique([gallery.numbers.argmax(), *np.random.default_rng().integers(0, gallery.size, 63)])
    numbers = gallery.numbers[places].tolist()
    there = {row.face: row.vector for row in rows_of(connection, _SOME, numbers)}
    if len(there) < len(numbers) and state.touches == gallery.state.touches:
        return False
    if not there:
        return True
    known = np.array([n in there for n in numbers])
    codes = quantise(np.stack([np.frombuffer(there[n], "<f4") for n in numbers if n in there])).codes
    wipe(there.values())
    return np.array_equal(codes, gallery.rows.codes[places[known]])


def _discard(file: Path) -> None:
    try:
        file.unlink()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        log.warning("%s holds templates and cannot be removed (%s); remove it by hand", file, error.strerror)


def rows_of(connection: sa.Connection, query: sa.Select[Any], numbers: Sequence[int]) -> list[Any]:
    return list(connection.execute(query, {"numbers": json.dumps(numbers)}))


def check_model(model: tuple[str, str], state: Any) -> None:
    """Raise Busy where the collection holds templates of another model than the look was permitted for: it was re-indexed meanwhile."""
    if state is not None and (state.model_version, state.model) != model:
        raise Busy("the collection was re-indexed with another model while it was searched; ask again")
