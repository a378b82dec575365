"""Answers of requests that came with a token: the same request sent again is answered again, and nothing is done twice."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from aboveboard.errors import TokenReused
from aboveboard.storage.collections import Collection
from aboveboard.storage.database import Database, now
from aboveboard.storage.schema import COLLECTIONS, REQUESTS

KEPT = timedelta(days=1)
_AT_ONCE = 1000


class Requests:
    """Answers by the keyed mark of their token, kept for a day. An answer is written in the transaction that it tells of."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def answered(self, token: bytes, request: bytes, connection: sa.Connection | None = None) -> Mapping[str, Any] | None:
        """The answer that a token's request was given; None for a new token. Raises TokenReused for another request."""
        if connection is None:
            with self._database.read() as own:
                return self.answered(token, request, own)
        stands = sa.exists().where(COLLECTIONS.c.n == REQUESTS.c.collection, COLLECTIONS.c.deleted_at.is_(None))
        row = connection.execute(sa.select(REQUESTS).where(REQUESTS.c.token == token, stands)).first()
        if row is None or row.created_at < _oldest():
            return None
        if not hmac.compare_digest(row.request, request):
            raise TokenReused("The ClientRequestToken you have supplied is already in use by another request; send a new one.")
        answer: Mapping[str, Any] = row.answer
        return answer

    def keep(self, connection: sa.Connection, collection: Collection, token: bytes, request: bytes, answer: Mapping[str, Any]) -> None:
        """Remember an answer as long as its collection stands; of those older than a day some go."""
        old = sa.select(REQUESTS.c.token).where(REQUESTS.c.created_at < _oldest()).limit(_AT_ONCE)
        connection.execute(sa.delete(REQUESTS).where(REQUESTS.c.token.in_(old)))
        values = {"token": token, "collection": collection.n, "request": request, "answer": dict(answer), "created_at": now()}
        # An old answer under this token may be there still.
        connection.execute(sa.insert(REQUESTS).prefix_with("OR REPLACE", dialect="sqlite").values(**values))


def _oldest() -> str:
    return (datetime.now(UTC) - KEPT).isoformat(timespec="milliseconds").replace("+00:00", "Z")
