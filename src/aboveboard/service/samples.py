"""A photograph as a request names it: its bytes, or the object that has them. An object is read after the gate has decided."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial

from aboveboard.accountability.operators import Session
from aboveboard.errors import Refused
from aboveboard.service.app import App
from aboveboard.storage.collections import Collection


@dataclass(frozen=True, slots=True)
class Stored:
    """A photograph in a bucket."""

    bucket: str
    name: str
    version: str | None = None


Sample = bytes | Stored


def read(app: App, session: Session, duty: str, sample: Sample, collection: Collection | None = None) -> bytes:
    """The bytes of a photograph, for a duty that was authorised before.

    Raises SampleUnreachable, SampleTooLarge. That the key may not have a bucket read is recorded, and answered as if nothing were there.
    """
    if isinstance(sample, bytes):
        return sample
    if sample.bucket not in session.buckets and "*" not in session.buckets:
        with suppress(Refused):
            app.gate.refuse(session, duty, "bucket", "not on the key's list of buckets", collection, bucket=sample.bucket)
    return app.objects.read(sample.bucket, sample.name, sample.version, session.buckets)


def reader(app: App, session: Session, duty: str, sample: Sample, collection: Collection | None = None) -> Callable[[], bytes]:
    """`read`, put off until somebody calls it; it reads once."""
    return cache(partial(read, app, session, duty, sample, collection))
