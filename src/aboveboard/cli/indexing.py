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
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from aboveboard.cli import manifest
from aboveboard.cli.common import (
    DONE,
    INTERRUPTED,
    NOTHING,
    SAMPLE,
    Data,
    Json,
    OperatorName,
    check_id,
    columns,
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
from aboveboard.cli.folders import SUFFIXES, Photograph, Stored, Unreadable, gather, gather_stored
from aboveboard.cli.pictures import SHORTCOMINGS, CollectionId, Draw, Quality, box_json, check_drawing, save, short_place
from aboveboard.errors import BadRequest, BadSample, Error, Exists, SampleTooLarge, SampleUnreachable, Unavailable, UnsupportedSample

if TYPE_CHECKING:
    from aboveboard.accountability.operators import Session
    from aboveboard.biometrics.quality import UnifiedQuality
    from aboveboard.biometrics.vocabulary import Face
    from aboveboard.service.app import App
    from aboveboard.service.enrol import Indexed, Prepared
    from aboveboard.service.quality import Shortcoming
    from aboveboard.storage.collections import Collection


class Expired(BadRequest):
    """The photograph was to go before today."""


class Duplicate(BadRequest):
    """Another row of the manifest names the same photograph."""


_CODES: tuple[tuple[type[Error], str], ...] = (
    (Expired, "expired"),
    (Duplicate, "duplicate"),
    (SampleUnreachable, "missing"),
    (SampleTooLarge, "too_large"),
    (UnsupportedSample, "unsupported_format"),
    (Unreadable, "unreadable"),
    (BadSample, "broken"),
    (BadRequest, "too_small"),
)
REFUSALS = {
    "subject_full": "the subject has as many faces as one may have",
    "other_subject": "the face is another subject's",
    "ambiguous": "several faces of it were enrolled before, without a subject",
}
_UNITS = {"unsure": " % sure", "poor": " of 100", "small": " px", "pose": " degrees", "dark": " of 100", "blurred": " of 100"}
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
    tally = Tally(skipped=skipped)
    several = len(photographs) > 1
    prepare = partial(_prepare, app, gallery, app.collections.marked_images(gallery), max_faces, quality)
    with manifest.failures(failures, listed) as report, counted("indexing", len(photographs)) as done, ctrl_c() as stopped:
        outcomes = _stored(app, session, collection, _prepared(photographs, workers, stopped, prepare))
        try:
            for photograph, outcome in outcomes:
                tally.add(photograph, outcome)
                if as_json:
                    show_json(_outcome_json(photograph, outcome))
                elif not several and not isinstance(outcome, Error):
                    _show_indexed(photograph, outcome)
                if report and (reason := _reason(outcome, quality, app.models.quality)):
                    report.add(photograph, *reason)
                    report.flush()
                if draw and not isinstance(outcome, Error) and not outcome.is_known:
                    _save_indexed(app, photograph, draw, several, outcome)
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
            out().print(f"{_count(report.count, 'photograph')} not enrolled, or not all of it; why, and how to mend it: {report.file}")
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
        out().print(f"{_count(len(photographs), 'photograph')}, of which {len(missing):,} are not there; nothing was enrolled")
    raise typer.Exit(SAMPLE if missing else DONE)


@dataclass
class Tally:
    """What became of the photographs of a folder."""

    skipped: list[str]
    taken: int = 0
    indexed: int = 0
    already: int = 0
    new_faces: int = 0
    without_face: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    not_enrolled: int = 0

    def add(self, photograph: Photograph, outcome: Indexed | Error) -> None:
        self.taken += 1
        name = printable(photograph.name)
        if isinstance(outcome, Error):
            self.failed.append((name, outcome.message))
        elif outcome.is_known:
            self.already += 1
        else:
            self.not_enrolled += len(outcome.failures_to_enrol)
            new = sum(one.is_new for one in outcome.enrolled)
            self.new_faces += new
            if not outcome.enrolled:
                self.without_face.append(name)
            elif new:
                self.indexed += 1
            else:
                self.already += 1

    @property
    def exit_code(self) -> int:
        if self.indexed or self.already:
            return DONE
        return NOTHING if self.without_face else SAMPLE

    def as_json(self, collection: str, faces: int, photographs: int) -> dict[str, Any]:
        return {
            "collection": collection,
            "faces": faces,
            "photographs": photographs,
            "taken": self.taken,
            "indexed": self.indexed,
            "already_indexed": self.already,
            "new_faces": self.new_faces,
            "failures_to_enrol": self.not_enrolled,
            "without_face": self.without_face,
            "failed": [{"photograph": name, "error": reason} for name, reason in self.failed],
            "skipped": self.skipped,
        }

    def show(self, collection: str, faces: int) -> None:
        console = out()
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="dim", no_wrap=True)
        rows.add_column(overflow="fold")
        rows.add_row("indexed", f"{_count(self.indexed, 'photograph')}, {_count(self.new_faces, 'new face')}")
        if self.already:
            rows.add_row("passed over", f"{_count(self.already, 'photograph')} that had been indexed before")
        if self.not_enrolled:
            rows.add_row("not enrolled", f"{_count(self.not_enrolled, 'face')} below the quality asked for or over --max-faces")
        if self.without_face:
            rows.add_row("no face enrolled", _listed(self.without_face))
        if self.skipped:
            rows.add_row("not read", f"{_count(len(self.skipped), 'file')} without {' '.join(SUFFIXES)}: {_listed(self.skipped)}")
        rows.add_row("collection", f"{collection} holds {_count(faces, 'face')} now")
        console.print(rows)
        if self.failed:
            console.print(f"{_count(len(self.failed), 'photograph')} could not be used:", style="yellow")
            for name, reason in self.failed[:20]:
                console.print(f"  {name}: {reason}")
            if len(self.failed) > 20:
                console.print(f"  and {len(self.failed) - 20} more; --json lists all")


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
        raise Expired(f"it was to go by {row.cells['expires']}")
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
                        raise Duplicate(f"it is the photograph of line {first.line} ({printable(first.name)})")
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


def _reason(outcome: Indexed | Error, bar: str, fitted: UnifiedQuality | None) -> tuple[str, str] | None:
    """Why a photograph was not enrolled, or not all of it, by its code and in words; None where it was."""
    if isinstance(outcome, Error):
        return next(code for kind, code in _CODES if isinstance(outcome, kind)), outcome.message
    if outcome.refused:
        return outcome.refused, REFUSALS[outcome.refused]
    if not outcome.failures_to_enrol:
        return None if outcome.enrolled or outcome.is_known else ("no_face", "no face was found")
    texts = list(dict.fromkeys(_lack_text(face, lacks[0], bar, fitted) for face, lacks in outcome.failures_to_enrol))
    if outcome.enrolled:
        return "partly", f"enrolled {_count(len(outcome.enrolled), 'face')}, and not: {_listed(texts)}"
    return "ambiguous" if outcome.failures_to_enrol[0][1][0] == "ambiguous" else "low_quality", _listed(texts)


def _lack_text(face: Face, lack: Shortcoming, bar: str, fitted: UnifiedQuality | None) -> str:
    """What a face lacks, with the measure and its bound."""
    from aboveboard.service.quality import bounds, measured

    text = SHORTCOMINGS[lack]
    if lack in _UNITS:
        side = "at most" if lack == "pose" else "at least"
        text += f" ({measured(face)[lack]:.1f}{_UNITS[lack]}, {side} {bounds(bar, fitted)[lack]:g})"
    return text


def _status(indexed: Indexed) -> str:
    if not indexed.enrolled:
        return "no_face"
    return "indexed" if any(one.is_new for one in indexed.enrolled) else "already_indexed"


def _outcome_json(photograph: Photograph, outcome: Indexed | Error) -> dict[str, Any]:
    document: dict[str, Any] = {"photograph": printable(photograph.name), "external_image_id": photograph.external_image_id}
    if isinstance(outcome, Error):
        return {**document, "status": "failed", "error": outcome.message}
    if outcome.is_known:
        return {**document, "status": "already_indexed"}
    return {
        **document,
        "status": _status(outcome),
        "faces": [{"face_id": one.face_id, "is_new": one.is_new, **_place_and_quality(one.face)} for one in outcome.enrolled],
        "failures_to_enrol": [{"reasons": list(lacks), **_place_and_quality(face)} for face, lacks in outcome.failures_to_enrol],
    }


def _place_and_quality(face: Face) -> dict[str, Any]:
    return {"box": box_json(face.box), "quality": face.unified}


def _place_and_worth(face: Face) -> str:
    return short_place(face) + ("" if face.unified is None else f"\nquality {face.unified:.0f}")


def _show_indexed(photograph: Photograph, indexed: Indexed) -> None:
    table = columns("face", "FaceId", "ExternalImageId")
    for one in indexed.enrolled:
        table.add_row(_place_and_worth(one.face), one.face_id, photograph.external_image_id)
    for face, lacks in indexed.failures_to_enrol:
        why = Text("not enrolled: " + ", ".join(SHORTCOMINGS[lack] for lack in lacks), "yellow")
        table.add_row(_place_and_worth(face), why, "")
    if table.row_count:
        out().print(table)


def _save_indexed(app: App, photograph: Photograph, draw: Path, several: bool, indexed: Indexed) -> None:
    from aboveboard.cli import drawing

    marks = [(one.face, (one.face_id[:8],), drawing.FOUND) for one in indexed.enrolled]
    marks += [(face, (SHORTCOMINGS[lacks[0]],), drawing.MISSED) for face, lacks in indexed.failures_to_enrol]
    save(app, photograph, draw, several, marks)


def _count(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
