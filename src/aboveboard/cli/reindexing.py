"""The verb collection reindex: a collection's templates made anew with another model, from kept originals."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from os import cpu_count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aboveboard.cli.common import (
    INTERRUPTED,
    NOTHING,
    USAGE,
    Data,
    Json,
    OperatorName,
    advice,
    counted,
    ctrl_c,
    existing,
    listing,
    open_as,
    out,
    show_json,
    stop,
)
from aboveboard.cli.folders import Photograph, gather
from aboveboard.errors import BadRequest

if TYPE_CHECKING:
    from aboveboard.accountability.operators import Session
    from aboveboard.service.app import App
    from aboveboard.service.reindex import Left, Original, Reindexed

REASONS = {
    "no_original": "their photograph is not among the originals",
    "untried": "no photograph bears their name, and there are too many to try each under each id",
    "unreadable": "their photograph cannot be read any more",
    "not_found": "the new detector finds no face where they are",
    "no_template": "the new recogniser makes no template of them",
}
_SHOWN = 10


def reindex(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION")],
    originals: Annotated[
        list[Path] | None,
        typer.Option("--originals", metavar="PATH", help="Folder or file with the photographs that were indexed; may be repeated."),
    ] = None,
    pack: Annotated[str, typer.Option("--pack", metavar="PACK", help="The new model pack; without it the pack in use.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Only say which originals are there and how long it will take.")] = False,
    abandon: Annotated[bool, typer.Option("--abandon", help="Give up a re-indexing: delete its new templates.")] = False,
    drop_missing: Annotated[
        bool, typer.Option("--drop-missing", help="Remove the faces that cannot be carried over from the collection, on record.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --drop-missing: do not ask.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write each face that cannot be carried over, one JSON line each.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Photographs worked on at once.", show_default="CPUs")
    ] = cpu_count() or 2,
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Bring a collection to another model pack: faces keep their ids, their templates are made anew from the originals.

    The collection is searched with the old templates until every face has its new one, then it is switched over at once. May be
    stopped with Ctrl-C and started again. Where faces cannot be carried over it says which and changes nothing (exit code 2).
    """
    if abandon and (check or drop_missing or originals):
        raise BadRequest("--abandon stands alone")
    if drop_missing and check:
        raise BadRequest("--check writes nothing; leave --drop-missing out")
    from aboveboard.service import reindex as service

    app, session = open_as(data, operator, pack)
    existing(app, collection, listing(data))
    if abandon:
        gone = service.abandon(app, session, collection)
        if as_json:
            show_json({"collection": collection, "is_abandoned": True, **asdict(gone)})
        else:
            out().print(f"gave up the way to model version {gone.model_version}; the templates made for it are deleted")
        return
    if check:
        _check(app, session, collection, originals or [], workers, report, as_json)
        return
    result = _run(app, session, collection, originals or [], workers)
    if result.left and not result.is_switched and drop_missing:
        _confirm(collection, result, yes)
        result = _run(app, session, collection, originals or [], workers, result.left)
    _write(report, result.left, withheld=_withheld(app, collection))
    if as_json:
        show_json(_result_json(collection, result))
    if result.is_stopped:
        again = "the same command goes on; meanwhile nothing of the collection has changed"
        stop(f"stopped; {result.faces:,} faces have their new template. {again}", INTERRUPTED)
    if not result.is_switched:
        if not as_json:
            _show_left(result.left, report)
        stop(
            f"{len(result.left):,} of {result.faces + len(result.left):,} faces cannot be carried over; {collection} stays at model "
            f"version {result.from_version}. Name more originals with --originals, or remove these faces with --drop-missing, or --abandon",
            USAGE,
        )
    if not as_json:
        _show_done(app, collection, result, data)


def _run(app: App, session: Session, collection: str, paths: Sequence[Path], workers: int, dropping: Sequence[Left] = ()) -> Reindexed:
    from aboveboard.service import reindex as service

    agreed = {one.face.n for one in dropping}
    lacking = app.reindexings.lacking(app.collections.get(collection))
    images = len({face.image_id for face in lacking if face.n not in agreed})
    with counted("re-indexing", images) as done, ctrl_c() as stopped:
        return service.run(
            app,
            session,
            collection,
            lambda: _originals(app, paths),
            dropping=dropping,
            workers=workers,
            stopped=stopped,
            progress=lambda taken, _: done(taken),
        )


def _originals(app: App, paths: Sequence[Path]) -> list[Original]:
    return [_original(app, photograph) for photograph in gather(paths)[0]] if paths else []


def _original(app: App, photograph: Photograph) -> Original:
    """With the external ids that it was likely enrolled under: by this program, by a program of the user's, or under none."""
    from aboveboard.service.reindex import Original

    name = PurePosixPath(photograph.name)
    return Original(partial(photograph.original, app.objects), (photograph.external_image_id, name.name, name.stem, None))


def _check(app: App, session: Session, collection: str, paths: Sequence[Path], workers: int, report: Path | None, as_json: bool) -> None:
    from aboveboard.service import reindex as service

    found = service.check(app, session, collection, lambda: _originals(app, paths), workers)
    _write(report, found.left, withheld=_withheld(app, collection))
    if as_json:
        show_json(
            {
                "collection": collection,
                "images": found.images,
                "originals": found.located,
                "faces_done": found.done_faces,
                "faces_left": len(found.left),
                "reasons": dict(Counter(one.reason for one in found.left)),
                "seconds": round(found.seconds, 1),
            }
        )
        return
    out().print(f"{found.located:,} of {found.images:,} originals are there; about {_duration(found.seconds)} with {workers} workers")
    if found.done_faces:
        out().print(f"done already: {_faces(found.done_faces)}")
    _show_left(found.left, report)


def _confirm(collection: str, result: Reindexed, yes: bool) -> None:
    what = f"{len(result.left):,} of the {result.faces + len(result.left):,} faces of {collection}"
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadRequest(f"removing {what} needs --yes where nobody can be asked")
    if not typer.confirm(f"Remove {what}, which cannot be carried over?", err=True):
        raise typer.Exit(NOTHING)


def _withheld(app: App, collection: str) -> bool:
    return app.gate.policy_of(app.collections.get(collection)).withholds_identities


def _write(report: Path | None, left: Sequence[Left], *, withheld: bool) -> None:
    """The report names photographs, unless identities are withheld: it is for its owner alone."""
    if report is None:
        return
    with os.fdopen(os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        os.fchmod(file.fileno(), 0o600)
        for one in left:
            face = asdict(one.face)
            for key in ("n", *(("external_image_id", "source") if withheld else ())):
                del face[key]
            file.write(json.dumps({**face, "reason": one.reason}, ensure_ascii=False) + "\n")


def _show_left(left: Sequence[Left], report: Path | None) -> None:
    for reason, count in Counter(one.reason for one in left).most_common():
        out().print(f"{_faces(count)}: {REASONS[reason]}", style="yellow")
        for one in [one for one in left if one.reason == reason][:_SHOWN]:
            out().print(f"  face {one.face.face_id} of image {one.face.image_id}")
        if count > _SHOWN and report is None:
            out().print(f"  and {count - _SHOWN:,} more; --report FILE writes all of them, with their ExternalImageIds")
    if left and report is not None:
        out().print(f"all of them are in {report}")


def _show_done(app: App, collection: str, result: Reindexed, data: Path | None) -> None:
    from aboveboard import settings

    if result.from_version == result.to_version and not result.left:
        out().print(f"the collection {collection} is at model version {result.to_version}")
    else:
        out().print(f"the collection {collection} is at model version {result.to_version} now, with {result.faces:,} faces")
    if result.left:
        out().print(f"removed on record: {_faces(len(result.left))}")
    if settings.load(data).pack != app.settings.pack:
        text = f'set pack = "{app.settings.pack}" in {app.settings.data / "settings.toml"} and start the server again'
        out().print(f"a server on the pack '{settings.load(data).pack}' refuses it from now on: {text}")
    out().print(f"see: {advice(f'collection describe {collection}', data)}", style="dim")


def _result_json(collection: str, result: Reindexed) -> dict[str, Any]:
    return {
        "collection": collection,
        "is_switched": result.is_switched,
        "from": result.from_version,
        "to": result.to_version,
        "faces": result.faces,
        "faces_left": len(result.left),
        "reasons": dict(Counter(one.reason for one in result.left)),
    }


def _faces(count: int) -> str:
    return f"{count:,} face{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
