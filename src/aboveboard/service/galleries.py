"""Make, describe, list and delete collections; list their faces; keep their tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import sqlalchemy as sa

from aboveboard.accountability.gate import actor
from aboveboard.accountability.operators import Session
from aboveboard.accountability.packs import Pack
from aboveboard.accountability.policy import POLICY_TAG
from aboveboard.errors import BadRequest, NoSuch, TooMuch
from aboveboard.service.app import App
from aboveboard.storage.collections import Collection, FaceRow
from aboveboard.storage.database import now

RESERVED = "aboveboard:"
MOST_TAGS = 200


def create(app: App, session: Session, collection_id: str, tags: Mapping[str, str]) -> Collection:
    """Make an empty collection, pinned to the model version in use; its policy is the tag `aboveboard:policy`, if it has one."""
    app.gate.authorise(session, "collection.create")
    pack = _policy_named(app, tags)
    minimum = app.gate.minimum()
    if pack and not pack.is_at_least_as_strict_as(minimum):
        _refuse_looser(app, session, "collection.create", pack, minimum, None)
    with app.database.write() as connection:
        app.collections.create(connection, collection_id, app.models.card.model_version, app.models.card.model, tags)
        collection = app.collections.get(collection_id, connection)
        facts: dict[str, Any] = {
            "collection": collection_id,
            "policy": app.gate.policy_of(collection).id,
            "model_version": collection.model_version,
        }
        facts |= {"tags": {POLICY_TAG: tags[POLICY_TAG]}} if pack else {}
        app.ledger.append(connection, "collection.created", {**actor(session), **facts})
    return collection


def describe(app: App, session: Session, collection_id: str) -> Collection:
    collection = app.collections.get(collection_id)
    app.gate.authorise(session, "collection.list", collection)
    return collection


def delete(app: App, session: Session, collection_id: str) -> None:
    """Delete a collection with all its faces and templates: at once for every reader; `erasure.erase` takes up its rows."""
    app.gate.authorise(session, "collection.delete", app.collections.get(collection_id))
    with app.database.write() as connection:
        collection = app.collections.get(collection_id, connection)
        app.collections.delete(connection, collection)
        facts = {"collection": collection_id, "faces": collection.face_count}
        app.ledger.append(connection, "collection.deleted", {**actor(session), **facts})
    app.gate.forget(collection.n)
    app.scrub()


def page(app: App, session: Session, after: int, limit: int) -> list[tuple[int, str, str]]:
    """Row, id and model version of collections in the order they were made, those behind row `after`."""
    app.gate.authorise(session, "collection.list")
    return app.collections.page(after, limit)


def faces(
    app: App, session: Session, collection: Collection, after: int, limit: int, face_ids: Sequence[str], subject_id: str | None = None
) -> list[FaceRow]:
    """Faces in the order of enrolment behind row `after`; of `face_ids` and of a person, if given, those that are there.

    Where identities are withheld, only an enroller learns which faces are a person's.
    """
    decision = app.gate.authorise(session, "face.list", collection)
    if subject_id is not None:
        only_for_enrollers(app, session, "face.list", collection)
        own = app.subjects.faces_of(app.subjects.get(collection, subject_id))
        face_ids = [face_id for face_id in own if not face_ids or face_id in face_ids]
        if not face_ids:
            return []
    if face_ids:
        rows = sorted(app.collections.faces(collection, face_ids), key=lambda row: row.n)
        rows = [row for row in rows if row.n > after][:limit]
    else:
        rows = app.collections.face_page(collection, after, limit)
    return [row.withheld() for row in rows] if decision.withhold_identities else rows


def only_for_enrollers(app: App, session: Session, duty: str, collection: Collection) -> None:
    """Where identities are withheld, refuse on record what would tell whose a face is, except to an enroller, who keeps the records."""
    pack = app.gate.policy_of(collection)
    if pack.withholds_identities and "enroller" not in session.operator.roles:
        rule = f"{pack.id}/review"
        text = f"Refused by rule {rule}: which faces are a person's is withheld until people have reviewed a candidate."
        app.gate.refuse(session, duty, rule, text, collection)


def tag(app: App, session: Session, collection_id: str, tags: Mapping[str, str]) -> None:
    """Add tags or overwrite them. `aboveboard:policy` may only name a stricter pack than the one in force."""
    app.gate.authorise(session, "collection.tag", app.collections.get(collection_id))
    pack = _policy_named(app, tags)
    with app.database.write() as connection:
        collection = app.collections.get(collection_id, connection)
        if len({*collection.tags, *tags}) > MOST_TAGS:
            raise TooMuch(f"a collection holds at most {MOST_TAGS} tags; remove some first")
        in_force = app.gate.policy_of(collection)
        is_allowed = pack is None or pack.is_at_least_as_strict_as(in_force)
        if is_allowed:
            app.collections.set_tags(connection, collection.n, tags)
            _record(app, session, connection, collection, {key: tags[key] for key in tags if key.startswith(RESERVED)})
    if pack and not is_allowed:
        _refuse_looser(app, session, "collection.tag", pack, in_force, collection)


def untag(app: App, session: Session, collection_id: str, keys: Sequence[str]) -> None:
    """Remove tags. `aboveboard:policy` may go only where the deployment's default is at least as strict."""
    app.gate.authorise(session, "collection.tag", app.collections.get(collection_id))
    default = app.gate.policy_of(None)
    with app.database.write() as connection:
        collection = app.collections.get(collection_id, connection)
        in_force = app.gate.policy_of(collection)
        is_allowed = POLICY_TAG not in keys or default.is_at_least_as_strict_as(in_force)
        if is_allowed:
            app.collections.remove_tags(connection, collection.n, keys)
            gone = {key: "" for key in keys if key in collection.tags and key.startswith(RESERVED)}
            _record(app, session, connection, collection, gone)
    if not is_allowed:
        _refuse_looser(app, session, "collection.tag", default, in_force, collection)


def tags(app: App, session: Session, collection_id: str) -> Mapping[str, str]:
    return describe(app, session, collection_id).tags


def _policy_named(app: App, tags: Mapping[str, str]) -> Pack | None:
    """The pack that tags name, if they name one; raises BadRequest for another reserved tag or an unknown pack."""
    for key in tags:
        if key.startswith(RESERVED) and key != POLICY_TAG:
            raise BadRequest(f"the tag '{key}' is reserved; of '{RESERVED}' tags there is {POLICY_TAG}")
    try:
        if POLICY_TAG not in tags:
            return None
        app.gate.policies.check(tags[POLICY_TAG])
        return app.gate.policies.get(tags[POLICY_TAG], now())
    except NoSuch as error:
        raise BadRequest(error.message) from error


def _refuse_looser(app: App, session: Session, duty: str, wanted: Pack, least: Pack, collection: Collection | None) -> NoReturn:
    rule = f"{least.id}/policy.tighten"
    text = f"Refused by rule {rule}: policy '{wanted.id}' is looser than '{least.id}'; a policy may only be made stricter."
    app.gate.refuse(session, duty, rule, text, collection)


def _record(app: App, session: Session, connection: sa.Connection, collection: Collection, changed: Mapping[str, str]) -> None:
    if changed:
        # A search that was decided before must notice that its policy may be another now.
        app.collections.touch(connection, collection)
        facts = {"collection": collection.id, "tags": dict(changed)}
        app.ledger.append(connection, "collection.tagged", {**actor(session), **facts})
