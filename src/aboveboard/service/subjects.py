"""The people of a collection: make and delete them, give them faces and take them away."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa

from aboveboard.accountability.gate import actor
from aboveboard.accountability.looks import Probe
from aboveboard.accountability.operators import Session
from aboveboard.biometrics.vocabulary import Basis
from aboveboard.errors import Busy, Conflict, TooMuch
from aboveboard.service.app import App
from aboveboard.service.galleries import only_for_enrollers
from aboveboard.storage.collections import Collection
from aboveboard.storage.subjects import MOST_FACES, SubjectRow

USUAL_THRESHOLD = 75.0
"""What no threshold means when faces are given to a person (Amazon Rekognition's default)."""

Reason = Literal["unknown", "another's", "unlike"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A face that was not given or taken. `subject_id`: the person whose it is, unless that is withheld, or to whom it is unlike, with
    their similarity."""

    face_id: str
    reason: Reason
    similarity: float | None = None
    subject_id: str | None = None


@dataclass(frozen=True, slots=True)
class Associated:
    """What became of faces that were to be a person's. Faces that were his before are in neither list.

    `basis` is None where there was nothing to compare.
    """

    audit_id: str
    face_ids: tuple[str, ...]
    failures: tuple[Failure, ...]
    has_faces: bool
    basis: Basis | None


@dataclass(frozen=True, slots=True)
class Disassociated:
    """What became of faces that were to be a person's no longer."""

    face_ids: tuple[str, ...]
    failures: tuple[Failure, ...]
    has_faces: bool


def create(app: App, session: Session, collection_id: str, subject_id: str, token: str = "") -> None:
    """Make a person without faces; raises Conflict where the id is taken. `token`: the same request sent again does nothing more."""
    app.gate.authorise(session, "subject.create", app.collections.get(collection_id))
    with app.database.write() as connection:
        collection = app.collections.get(collection_id, connection)
        once = _Once(app, session, "subject.create", token, collection, subject_id)
        if once.answered(connection) is not None:
            return
        subject = app.subjects.create(connection, collection, subject_id)
        once.keep(connection, {})
        facts = {"collection": collection.id, "subject": subject.handle}
        app.ledger.append(connection, "subject.created", {**actor(session), **facts})


def delete(app: App, session: Session, collection_id: str, subject_id: str, token: str = "") -> None:
    """Delete a person; his faces stay in the collection."""
    app.gate.authorise(session, "subject.delete", app.collections.get(collection_id))
    with app.database.write() as connection:
        collection = app.collections.get(collection_id, connection)
        once = _Once(app, session, "subject.delete", token, collection, subject_id)
        if once.answered(connection) is not None:
            return
        subject = app.subjects.get(collection, subject_id, connection)
        app.subjects.delete(connection, collection, subject)
        once.keep(connection, {})
        facts = {"collection": collection.id, "subject": subject.handle}
        app.ledger.append(connection, "subject.deleted", {**actor(session), **facts})


def page(app: App, session: Session, collection: Collection, after: int, limit: int) -> list[SubjectRow]:
    """People in the order they were made, those behind row `after`; where identities are withheld, for enrollers alone."""
    app.gate.authorise(session, "subject.list", collection)
    # Beside the list of faces, which is in the order of enrolment, it would tell whose they are.
    only_for_enrollers(app, session, "subject.list", collection)
    return app.subjects.page(collection, after, limit)


def associate(
    app: App,
    session: Session,
    collection_id: str,
    subject_id: str,
    face_ids: Sequence[str],
    threshold: float | None = None,
    token: str = "",
) -> Associated:
    """Give faces of the collection to a person where they are alike enough: to his own, or where he has none to the first of them."""
    collection = app.collections.get(collection_id)
    app.gate.authorise(session, "subject.associate", collection, threshold)
    once = _Once(app, session, "subject.associate", token, collection, subject_id, list(face_ids), threshold)
    if (kept := once.answered()) is not None:
        return _associated(app, collection, subject_id, kept)
    subject = app.subjects.get(collection, subject_id)
    asked = tuple(dict.fromkeys(face_ids))
    with app.gate.associate(session, collection, threshold, USUAL_THRESHOLD, Probe(face_ids=asked, subject=subject.handle)) as look:
        own = app.subjects.faces_of(subject)
        fresh, failures = _sorted_out(app, collection, asked, subject_id)
        if len({*own, *fresh}) > MOST_FACES:
            raise TooMuch(
                f"a user has at most {MOST_FACES} faces; this one has {len(own)}, associate {MOST_FACES - len(own)} more or fewer"
            )
        judged = look.accepted(own, fresh) if fresh else None
        audit_id = look.look.audit_id
    accepted: tuple[str, ...] = ()
    if judged:
        accepted = judged.accepted
        failures += [Failure(face_id, "unlike", similarity) for face_id, similarity in judged.refused]
    done = Associated(audit_id, accepted, tuple(failures), bool(own or accepted), judged.basis if judged else None)
    with app.database.write() as connection:
        if (kept := once.answered(connection)) is not None:
            return _associated(app, collection, subject_id, kept)
        now = app.collections.get(collection_id, connection)
        if now.n != collection.n or app.gate.policy_of(now) is not app.gate.policy_of(collection):
            raise Busy("the collection's policy was changed while faces were compared; ask again")
        still = app.subjects.get(now, subject_id, connection)
        rows = app.collections.faces(now, accepted, connection)
        is_stale = still.n != subject.n or app.subjects.faces_of(still, connection) != own
        if is_stale or len(rows) < len(accepted) or any(row.subject_id is not None for row in rows):
            raise Conflict("the user or one of the faces was changed by another request at the same time; ask again")
        if accepted:
            app.subjects.give(connection, now, accepted, still)
            facts = {"collection": now.id, "subject": still.handle, "face_ids": list(accepted), "audit_id": audit_id}
            app.ledger.append(connection, "subject.associated", {**actor(session), **facts})
        once.keep(connection, asdict(done))
    return replace(done, failures=_named(app, collection, subject_id, done.failures))


def disassociate(
    app: App, session: Session, collection_id: str, subject_id: str, face_ids: Sequence[str], token: str = ""
) -> Disassociated:
    """Take faces away from a person; they stay in the collection."""
    app.gate.authorise(session, "subject.disassociate", app.collections.get(collection_id))
    with app.database.write() as connection:
        collection = app.collections.get(collection_id, connection)
        once = _Once(app, session, "subject.disassociate", token, collection, subject_id, list(face_ids))
        if (kept := once.answered(connection)) is not None:
            failures = tuple(Failure(**failure) for failure in kept["failures"])
            return Disassociated(tuple(kept["face_ids"]), _named(app, collection, subject_id, failures), kept["has_faces"])
        subject = app.subjects.get(collection, subject_id, connection)
        own = app.subjects.faces_of(subject, connection)
        asked = list(dict.fromkeys(face_ids))
        taken = [face_id for face_id in asked if face_id in own]
        owned = {row.face_id for row in app.collections.faces(collection, asked, connection) if row.subject_id is not None}
        failures = tuple(Failure(face_id, "another's" if face_id in owned else "unknown") for face_id in asked if face_id not in own)
        done = Disassociated(tuple(taken), failures, len(own) > len(taken))
        if taken:
            app.subjects.give(connection, collection, taken, None)
            facts = {"collection": collection.id, "subject": subject.handle, "face_ids": taken}
            app.ledger.append(connection, "subject.disassociated", {**actor(session), **facts})
        once.keep(connection, asdict(done))
    return replace(done, failures=_named(app, collection, subject_id, done.failures))


def _sorted_out(app: App, collection: Collection, face_ids: Sequence[str], subject_id: str) -> tuple[list[str], list[Failure]]:
    """Of these faces those that are nobody's yet, and those that cannot be this person's; his own are in neither list."""
    rows = {row.face_id: row for row in app.collections.faces(collection, face_ids)}
    fresh = [face_id for face_id in face_ids if face_id in rows and rows[face_id].subject_id is None]
    failures = [Failure(face_id, "unknown") for face_id in face_ids if face_id not in rows]
    others = [row for row in rows.values() if row.subject_id not in (None, subject_id)]
    return fresh, failures + [Failure(row.face_id, "another's") for row in others]


def _named(app: App, collection: Collection, subject_id: str, failures: Sequence[Failure]) -> tuple[Failure, ...]:
    """Failures with the ids of the people concerned: kept answers have none, so that nobody's id outlives him."""
    others = [failure.face_id for failure in failures if failure.reason == "another's"]
    withheld = app.gate.policy_of(collection).withholds_identities
    owners = {} if withheld else {row.face_id: row.subject_id for row in app.collections.faces(collection, others)}
    return tuple(
        replace(failure, subject_id=subject_id if failure.reason == "unlike" else owners.get(failure.face_id)) for failure in failures
    )


class _Once:
    """The answer to a request that came with a token, kept under marks of its operator, verb and token; without a token nothing is."""

    def __init__(self, app: App, session: Session, duty: str, token: str, collection: Collection, *request: Any) -> None:
        self._app, self._has_token, self._collection = app, bool(token), collection
        self._token = app.keyring.mark("request", session.operator.name.encode(), duty.encode(), token.encode())
        # What was answered under other rules is not answered again.
        rules = app.gate.policy_of(collection).sha256
        self._request = app.keyring.mark("request-body", json.dumps([collection.id, rules, *request]).encode())

    def answered(self, connection: sa.Connection | None = None) -> Mapping[str, Any] | None:
        """The answer that was given; None for the first of its token. Raises TokenReused."""
        return self._app.requests.answered(self._token, self._request, connection) if self._has_token else None

    def keep(self, connection: sa.Connection, answer: Mapping[str, Any]) -> None:
        if self._has_token:
            self._app.requests.keep(connection, self._collection, self._token, self._request, answer)


def _associated(app: App, collection: Collection, subject_id: str, kept: Mapping[str, Any]) -> Associated:
    basis = Basis(**kept["basis"]) if kept["basis"] else None
    failures = _named(app, collection, subject_id, [Failure(**failure) for failure in kept["failures"]])
    return Associated(kept["audit_id"], tuple(kept["face_ids"]), failures, kept["has_faces"], basis)
