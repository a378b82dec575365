"""The verb index: folders of photographs into a collection, with several threads, stoppable and resumable."""

from __future__ import annotations

import hashlib
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from datetime import date
from functools import partial
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aboveboard.cli import manifest, outcomes
from aboveboard.cli.common import (
    DONE,
    INTERRUPTED,
    SAMPLE,
    Data,
    Json,
    OperatorName,
    check_id,
    counted,
    ctrl_c,
    existing,
    listing,
    open_as,
    out,
    printable,
    program,
    show_json,
)
from aboveboard.cli.folders import Photograph, Stored, gather, gather_stored
from aboveboard.cli.pictures import CollectionId, Draw, Quality, check_drawing
from aboveboard.errors import BadRequest, BadSample, Error, Exists, Unavailable

if TYPE_CHECKING:
    from aboveboard.accountability.operators import Session
    from aboveboard.service.app import App
    from aboveboard.service.enrol import Indexed, Prepared
    from aboveboard.storage.collections import Collection


_BATCH, _BATCH_SECONDS = 64, 0.5
"""Photographs stored in one transaction, and the longest that one of them waits for it."""
_AHEAD = 2 * _BATCH
"""Photographs begun while a transaction is written."""


def index(
    collection: CollectionId,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE|FOLDER...", help="Photographs, folders of them (JPEG, PNG, WebP, HEIC; recursive), or s3://bucket/prefix."
        ),
    ] = None,
    listed: Annotated[
        Path | None,
        typer.Option(
            "--manifest", metavar="CSV", help=f"Photographs listed with what is known of them; columns {', '.join(manifest.COLUMNS)}."
        ),
    ] = None,
    failures: Annotated[
        Path | None,
        typer.Option(
            "--failures", metavar="CSV", help="List those not enrolled, why and how to mend it.", show_default="beside the manifest"
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the manifest and whether its files are there.")] = False,
    create: Annotated[bool, typer.Option("--create", help="Make the collection if it does not exist.")] = False,
    policy: Annotated[
        str, typer.Option("--policy", metavar="PACK", help="With --create: the policy pack that the collection stands under.")
    ] = "",
    quality: Quality = "AUTO",
    max_faces: Annotated[int, typer.Option("--max-faces", min=1, max=100, metavar="N", help="Faces kept of each photograph.")] = 100,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Photographs worked on at once.", show_default="CPUs")
    ] = cpu_count() or 2,
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
    draw: Draw = None,
) -> None:
    """Enrol the faces of photographs in a collection; ExternalImageId is the path in the folder with ':' for '/'.

    May be stopped with Ctrl-C and started again: what is indexed already is passed over, and no face is enrolled twice.
    A manifest is checked whole before anything is enrolled. Where it names a subject, the photograph's largest face becomes his.
    Exit code 0 where a face of them is in the collection now, new or not, 1 where no face could be enrolled, 4 where none could be used.
    --json prints one line per photograph and, last, one line with the key "summary".
    """  # fmt: skip
    if bool(paths) == bool(listed):
        raise BadRequest("name either photographs and folders, or --manifest with a CSV file")
    photographs: Sequence[Photograph]
    skipped: list[str] = []
    stored: list[Stored] = []
    if listed:
        photographs, notes = manifest.read(listed)
        for note in notes:
            typer.echo(f"note: {note}", err=True)
    else:
        stored = [place for path in paths or [] if (place := Stored.named(str(path)))]
        files = [path for path in paths or [] if not Stored.named(str(path))]
        found, skipped = gather(files) if files else ([], [])
        photographs = found
    check_drawing(draw, photographs)
    if check:
        _check(photographs, as_json)
        return
    app, session = open_as(data, operator)
    if stored:
        objects, others = gather_stored(stored, app.objects)
        photographs, skipped = [*photographs, *objects], skipped + others
        check_drawing(draw, photographs)
    names_subjects = any(isinstance(one, manifest.Row) and one.subject for one in photographs)
    gallery = _gallery(app, session, collection, create, policy, data, names_subjects)
    tally = outcomes.Tally(skipped=skipped)
    several = len(photographs) > 1
    prepare = partial(_prepare, app, gallery, app.collections.marked_images(gallery), max_faces, quality)
    with manifest.failures(failures, listed) as report, counted("indexing", len(photographs)) as done, ctrl_c() as stopped:
        became = _stored(app, session, collection, _prepared(photographs, workers, stopped, prepare))
        try:
            for photograph, outcome in became:
                tally.add(photograph, outcome)
                if as_json:
                    show_json(outcomes.outcome_json(photograph, outcome))
                elif not several and not isinstance(outcome, Error):
                    outcomes.show(photograph, outcome)
                if report and (why := outcomes.reason(outcome, quality, app.models.quality)):
                    report.add(photograph, *why)
                    report.flush()
                if draw and not isinstance(outcome, Error) and not outcome.is_known:
                    outcomes.save_drawn(app, photograph, draw, several, outcome)
                done(tally.taken)
        except Unavailable:
            _to_go_on(tally.taken, len(photographs))
            raise
    faces = app.collections.get(gallery.id).face_count
    if as_json:
        show_json({"summary": tally.as_json(collection, faces, len(photographs))})
    else:
        tally.show(collection, faces)
        if report and report.count:
            out().print(
                f"{outcomes.count(report.count, 'photograph')} not enrolled, or not all of it; why, and how to mend it: {report.file}"
            )
    if tally.taken < len(photographs):
        _to_go_on(tally.taken, len(photographs))
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(tally.exit_code)


def _to_go_on(taken: int, photographs: int) -> None:
    again = f"{program()} {shlex.join(sys.argv[1:])}"
    typer.echo(f"stopped after {taken:,} of {photographs:,} photographs; all of them are kept. To go on: {again}", err=True)


def _check(photographs: Sequence[Photograph], as_json: bool) -> None:
    """Say which files of a manifest are not there; exit code 4 where one is not."""
    missing = [photograph for photograph in photographs if isinstance(photograph.path, Path) and not photograph.path.is_file()]
    if as_json:
        show_json({"photographs": len(photographs), "missing": [printable(one.name) for one in missing]})
    else:
        for one in missing[:20]:
            line = f"line {one.line}: " if isinstance(one, manifest.Row) else ""
            typer.echo(f"{line}{printable(one.name)}: there is no such file", err=True)
        if len(missing) > 20:
            typer.echo(f"and {len(missing) - 20:,} more; --json lists all", err=True)
        out().print(f"{outcomes.count(len(photographs), 'photograph')}, of which {len(missing):,} are not there; nothing was enrolled")
    raise typer.Exit(SAMPLE if missing else DONE)


def _gallery(app: App, session: Session, collection: str, create: bool, policy: str, data: Path | None, names_subjects: bool) -> Collection:
    """The collection to index into, made if asked for; raises before any photograph is read where it cannot be."""
    from aboveboard.accountability.gate import must_agree
    from aboveboard.accountability.policy import POLICY_TAG
    from aboveboard.service import galleries

    check_id(collection)
    if policy and not create:
        raise BadRequest("--policy belongs to --create; an existing collection keeps the policy it has")
    if create:
        try:
            galleries.create(app, session, collection, {POLICY_TAG: policy} if policy else {})
        except Exists:
            pack = app.gate.policy_of(app.collections.get(collection)).id
            if policy and pack != policy:
                raise BadRequest(
                    f"the collection {collection} exists and stands under '{pack}', not '{policy}'; leave --policy out"
                ) from None
    found = existing(app, collection, f"make it with --create, or {listing(data)}")
    app.gate.authorise(session, "face.enrol", found)
    if names_subjects:
        app.gate.authorise(session, "subject.create", found)
    must_agree(app.models.card, found)
    return found


def _prepare(app: App, gallery: Collection, known: Container[str], most: int, bar: str, photograph: Photograph) -> tuple[Prepared, bytes]:
    """A photograph's templates, and a digest by which another row's copy of it is told."""
    from aboveboard.service import enrol
    from aboveboard.storage.collections import Record

    row = photograph if isinstance(photograph, manifest.Row) else None
    if row and row.is_expired(date.today()):
        raise outcomes.Expired(f"it was to go by {row.cells['expires']}")
    original = photograph.original(app.objects)
    record = Record(photograph.source, **(row.known if row else {}))
    label = enrol.Label(photograph.external_image_id, row.subject if row else None, record)
    return enrol.prepare(app, gallery, original, label, most, bar, known), hashlib.sha256(original).digest()


def _prepared(
    photographs: Sequence[Photograph], workers: int, stopped: threading.Event, work: Callable[[Photograph], tuple[Prepared, bytes]]
) -> Iterator[tuple[Photograph, Prepared | Error]]:
    """Photographs with their templates, in order; once `stopped` is set, only those that were begun."""
    waiting: deque[tuple[Photograph, Future[tuple[Prepared, bytes]]]] = deque()
    rest = iter(photographs)
    seen: dict[bytes, manifest.Row] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="index") as pool:
        try:
            while True:
                while len(waiting) < _AHEAD + 4 * workers and not stopped.is_set() and (photograph := next(rest, None)):
                    waiting.append((photograph, pool.submit(work, photograph)))
                if stopped.is_set():
                    for _, future in waiting:
                        future.cancel()
                if not waiting:
                    return
                photograph, future = waiting.popleft()
                try:
                    prepared, digest = future.result()
                    if isinstance(photograph, manifest.Row) and (first := seen.setdefault(digest, photograph)) is not photograph:
                        raise outcomes.Duplicate(f"it is the photograph of line {first.line} ({printable(first.name)})")
                    yield photograph, prepared
                except CancelledError:
                    continue
                except (BadSample, BadRequest) as error:
                    yield photograph, error
        finally:
            for _, future in waiting:
                future.cancel()


def _stored(
    app: App, session: Session, collection: str, prepared: Iterable[tuple[Photograph, Prepared | Error]]
) -> Iterator[tuple[Photograph, Indexed | Error]]:
    """What became of each photograph, in order. Several are stored in one transaction: a disk's sync takes as long as a face."""
    from aboveboard.service import enrol

    batch: list[tuple[Photograph, Prepared | Error]] = []

    def flushed() -> Iterator[tuple[Photograph, Indexed | Error]]:
        ready = [one for _, one in batch if not isinstance(one, Error)]
        done = iter(enrol.store(app, session, collection, ready) if ready else [])
        yield from ((photograph, one if isinstance(one, Error) else next(done)) for photograph, one in batch)

    for item in prepared:
        if not batch:
            began = time.monotonic()
        batch.append(item)
        if len(batch) == _BATCH or time.monotonic() - began > _BATCH_SECONDS:
            yield from flushed()
            batch = []
    yield from flushed()
