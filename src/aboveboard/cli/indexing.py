"""The verb index: folders of photographs into a collection, with several threads, stoppable and resumable."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

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
    existing,
    listing,
    open_as,
    out,
    printable,
    program,
    show_json,
)
from aboveboard.cli.folders import SUFFIXES, Photograph, gather
from aboveboard.cli.pictures import SHORTCOMINGS, CollectionId, Draw, Pictures, Quality, box_json, check_drawing, save, short_place
from aboveboard.errors import BadRequest, BadSample, Error, Exists

if TYPE_CHECKING:
    from aboveboard.accountability.operators import Session
    from aboveboard.service.app import App
    from aboveboard.service.enrol import Indexed
    from aboveboard.storage.collections import Collection

ALREADY = "already"


def index(
    paths: Pictures,
    collection: CollectionId,
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
    Exit code 0 where a face of them is in the collection now, new or not, 1 where no face could be enrolled, 4 where none could be used.
    --json prints one line per photograph and, last, one line with the key "summary".
    """  # fmt: skip
    photographs, skipped = gather(paths)
    check_drawing(draw, photographs)
    app, session = open_as(data, operator)
    gallery = _gallery(app, session, collection, create, policy, data)
    tally = Tally(skipped=skipped)
    several = len(photographs) > 1
    with counted("indexing", len(photographs)) as done, ctrl_c() as stopped:
        outcomes = _outcomes(photographs, workers, stopped, lambda one: _enrol(app, session, collection, one, max_faces, quality))
        for i, (photograph, outcome) in enumerate(outcomes, 1):
            tally.add(photograph, outcome)
            if as_json:
                show_json(_outcome_json(photograph, outcome))
            elif not several and not isinstance(outcome, str | Error):
                _show_indexed(photograph, outcome)
            if draw and not isinstance(outcome, str | Error):
                _save_indexed(app, photograph, draw, several, outcome)
            done(i)
    faces = app.collections.get(gallery.id).face_count
    if as_json:
        show_json({"summary": tally.as_json(collection, faces, len(photographs))})
    else:
        tally.show(collection, faces)
    if tally.taken < len(photographs):
        again = f"{program()} {shlex.join(sys.argv[1:])}"
        typer.echo(f"stopped after {tally.taken:,} of {len(photographs):,} photographs; all of them are kept. To go on: {again}", err=True)
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(tally.exit_code)


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

    def add(self, photograph: Photograph, outcome: Indexed | str | Error) -> None:
        self.taken += 1
        name = printable(photograph.name)
        if isinstance(outcome, Error):
            self.failed.append((name, outcome.message))
        elif isinstance(outcome, str):
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
            rows.add_row("no face", _listed(self.without_face))
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


def _gallery(app: App, session: Session, collection: str, create: bool, policy: str, data: Path | None) -> Collection:
    """The collection to index into, made if asked for; raises before any photograph is read where it cannot be."""
    from aboveboard.accountability.gate import POLICY_TAG, must_agree
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
    must_agree(app.models.card, found)
    return found


def _enrol(app: App, session: Session, collection: str, photograph: Photograph, most: int, bar: str) -> Indexed | str:
    from aboveboard.service import enrol

    data, external = photograph.read(), photograph.external_image_id
    if enrol.is_indexed(app, collection, data, external):
        return ALREADY
    return enrol.index(app, session, collection, data, external, most, bar)


def _outcomes(
    photographs: Sequence[Photograph], workers: int, stopped: threading.Event, work: Callable[[Photograph], Indexed | str]
) -> Iterator[tuple[Photograph, Indexed | str | Error]]:
    """What became of each photograph, in order; once `stopped` is set, only of those that were begun."""
    waiting: deque[tuple[Photograph, Future[Indexed | str]]] = deque()
    rest = iter(photographs)
    with ThreadPoolExecutor(workers, thread_name_prefix="index") as pool:
        try:
            while True:
                while len(waiting) < 4 * workers and not stopped.is_set() and (photograph := next(rest, None)):
                    waiting.append((photograph, pool.submit(work, photograph)))
                if stopped.is_set():
                    for _, future in waiting:
                        future.cancel()
                if not waiting:
                    return
                photograph, future = waiting.popleft()
                try:
                    yield photograph, future.result()
                except CancelledError:
                    continue
                except (BadSample, BadRequest) as error:
                    yield photograph, error
        finally:
            for _, future in waiting:
                future.cancel()


@contextmanager
def ctrl_c() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one ends the program at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(_: int, __: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)
        typer.echo("stopping: finishing the photographs at hand", err=True)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _status(indexed: Indexed) -> str:
    if not indexed.enrolled:
        return "no_face"
    return "indexed" if any(one.is_new for one in indexed.enrolled) else "already_indexed"


def _outcome_json(photograph: Photograph, outcome: Indexed | str | Error) -> dict[str, Any]:
    document: dict[str, Any] = {"photograph": printable(photograph.name), "external_image_id": photograph.external_image_id}
    if isinstance(outcome, Error):
        return {**document, "status": "failed", "error": outcome.message}
    if isinstance(outcome, str):
        return {**document, "status": "already_indexed"}
    return {
        **document,
        "status": _status(outcome),
        "faces": [{"face_id": one.face_id, "is_new": one.is_new, "box": box_json(one.face.box)} for one in outcome.enrolled],
        "failures_to_enrol": [{"reasons": list(lacks), "box": box_json(face.box)} for face, lacks in outcome.failures_to_enrol],
    }


def _show_indexed(photograph: Photograph, indexed: Indexed) -> None:
    table = columns("face", "FaceId", "ExternalImageId")
    for one in indexed.enrolled:
        table.add_row(short_place(one.face), one.face_id, photograph.external_image_id)
    for face, lacks in indexed.failures_to_enrol:
        table.add_row(short_place(face), Text("not enrolled: " + ", ".join(SHORTCOMINGS[lack] for lack in lacks), "yellow"), "")
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
