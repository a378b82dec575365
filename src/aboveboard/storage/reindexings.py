"""Templates of another model, kept beside a collection's own until they replace them. Written, counted and moved, never read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from aboveboard.biometrics.vocabulary import Template
from aboveboard.storage.collections import Collection
from aboveboard.storage.database import Database, now
from aboveboard.storage.schema import COLLECTIONS, FACES, RECORDS, REINDEXINGS, SHADOW_TEMPLATES, TEMPLATES


@dataclass(frozen=True, slots=True)
class Reindexing:
    """A collection on its way to another model."""

    model_version: str
    model: str
    started_at: str


@dataclass(frozen=True, slots=True)
class Lacking:
    """An enrolled face without a new template. `source` is where its original is said to lie, if anybody said."""

    n: int
    face_id: str
    image_id: str
    external_image_id: str | None
    source: str | None


_OWN = sa.select(FACES.c.n).where(FACES.c.collection == sa.bindparam("collection"))
_IN_SHADOW = SHADOW_TEMPLATES.c.face.in_(_OWN)
_LACKING = (
    sa.select(FACES.c.n, FACES.c.face_id, FACES.c.image_id, FACES.c.external_image_id, RECORDS.c.source)
    .outerjoin(SHADOW_TEMPLATES, SHADOW_TEMPLATES.c.face == FACES.c.n)
    .outerjoin(RECORDS, sa.and_(RECORDS.c.collection == FACES.c.collection, RECORDS.c.image_id == FACES.c.image_id))
    .where(FACES.c.collection == sa.bindparam("collection"), SHADOW_TEMPLATES.c.face.is_(None))
    .order_by(FACES.c.n)
)


class Reindexings:
    """Reads open their own transaction unless given a connection; writes take the caller's, so that rows and ledger entry are one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, collection: Collection, connection: sa.Connection | None = None) -> Reindexing | None:
        """The re-indexing that a collection is in, if it is in one."""
        if connection is None:
            with self._database.read() as own:
                return self.of(collection, own)
        row = connection.execute(sa.select(REINDEXINGS).where(REINDEXINGS.c.collection == collection.n)).first()
        return None if row is None else Reindexing(row.model_version, row.model, row.started_at)

    def made(self, collection: Collection, connection: sa.Connection | None = None) -> int:
        """How many faces have their new template; counts them."""
        if connection is None:
            with self._database.read() as own:
                return self.made(collection, own)
        return int(connection.execute(sa.select(sa.func.count()).where(_IN_SHADOW), {"collection": collection.n}).scalar_one())

    def begin(self, connection: sa.Connection, collection: Collection, model_version: str, model: str) -> None:
        """Note to which model a collection is on its way."""
        values = {"collection": collection.n, "model_version": model_version, "model": model, "started_at": now()}
        connection.execute(sa.insert(REINDEXINGS).values(**values))

    def add(self, connection: sa.Connection, templates: Mapping[int, Template]) -> None:
        """Keep new templates by their faces' rows; those of faces that were removed meanwhile are passed over."""
        there = set(connection.execute(sa.select(FACES.c.n).where(FACES.c.n.in_(list(templates)))).scalars())
        rows = [{"face": n, "vector": np.ascontiguousarray(one.vector, "<f4").tobytes()} for n, one in templates.items() if n in there]
        if rows:
            connection.execute(sa.insert(SHADOW_TEMPLATES).prefix_with("OR IGNORE", dialect="sqlite"), rows)

    def lacking(self, collection: Collection, connection: sa.Connection | None = None) -> Iterator[Lacking]:
        """The faces without a new template, in the order of enrolment."""
        if connection is None:
            with self._database.read() as own:
                yield from self.lacking(collection, own)
        else:
            for row in connection.execute(_LACKING, {"collection": collection.n}):
                yield Lacking(*row)

    def switch(self, connection: sa.Connection, collection: Collection, to: Reindexing) -> None:
        """Put the new templates in place of the old and the collection on their model. Every face must have one."""
        new = sa.select(SHADOW_TEMPLATES.c.vector).where(SHADOW_TEMPLATES.c.face == TEMPLATES.c.face).scalar_subquery()
        own = sa.select(FACES.c.n).where(FACES.c.collection == collection.n)
        connection.execute(sa.update(TEMPLATES).where(TEMPLATES.c.face.in_(own)).values(vector=new))
        # Whoever holds the collection in memory sees another model and loads all of it anew.
        change = {"model_version": to.model_version, "model": to.model, "generation": COLLECTIONS.c.generation + 1}
        connection.execute(sa.update(COLLECTIONS).where(COLLECTIONS.c.n == collection.n).values(change))
        self.end(connection, collection)

    def end(self, connection: sa.Connection, collection: Collection) -> None:
        """Forget a re-indexing and the templates that it kept."""
        connection.execute(sa.delete(SHADOW_TEMPLATES).where(_IN_SHADOW), {"collection": collection.n})
        connection.execute(sa.delete(REINDEXINGS).where(REINDEXINGS.c.collection == collection.n))
