"""What became of photographs that were to be indexed: counted, as documents, in words, with a code for each reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from aboveboard.cli.common import DONE, NOTHING, SAMPLE, columns, out, printable
from aboveboard.cli.folders import SUFFIXES, Photograph, Unreadable
from aboveboard.cli.pictures import SHORTCOMINGS, box_json, save, short_place
from aboveboard.errors import BadRequest, BadSample, Error, SampleTooLarge, SampleUnreachable, UnsupportedSample

if TYPE_CHECKING:
    from aboveboard.biometrics.quality import UnifiedQuality
    from aboveboard.biometrics.vocabulary import Face
    from aboveboard.service.app import App
    from aboveboard.service.enrol import Indexed
    from aboveboard.service.quality import Shortcoming


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
        rows.add_row("indexed", f"{count(self.indexed, 'photograph')}, {count(self.new_faces, 'new face')}")
        if self.already:
            rows.add_row("passed over", f"{count(self.already, 'photograph')} that had been indexed before")
        if self.not_enrolled:
            rows.add_row("not enrolled", f"{count(self.not_enrolled, 'face')} below the quality asked for or over --max-faces")
        if self.without_face:
            rows.add_row("no face enrolled", _listed(self.without_face))
        if self.skipped:
            rows.add_row("not read", f"{count(len(self.skipped), 'file')} without {' '.join(SUFFIXES)}: {_listed(self.skipped)}")
        rows.add_row("collection", f"{collection} holds {count(faces, 'face')} now")
        console.print(rows)
        if self.failed:
            console.print(f"{count(len(self.failed), 'photograph')} could not be used:", style="yellow")
            for name, reason in self.failed[:20]:
                console.print(f"  {name}: {reason}")
            if len(self.failed) > 20:
                console.print(f"  and {len(self.failed) - 20} more; --json lists all")


def reason(outcome: Indexed | Error, bar: str, fitted: UnifiedQuality | None) -> tuple[str, str] | None:
    """Why a photograph was not enrolled, or not all of it, by its code and in words; None where it was."""
    if isinstance(outcome, Error):
        return next(code for kind, code in _CODES if isinstance(outcome, kind)), outcome.message
    if outcome.refused:
        return outcome.refused, REFUSALS[outcome.refused]
    if not outcome.failures_to_enrol:
        return None if outcome.enrolled or outcome.is_known else ("no_face", "no face was found")
    texts = list(dict.fromkeys(_lack_text(face, lacks[0], bar, fitted) for face, lacks in outcome.failures_to_enrol))
    if outcome.enrolled:
        return "partly", f"enrolled {count(len(outcome.enrolled), 'face')}, and not: {_listed(texts)}"
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


def outcome_json(photograph: Photograph, outcome: Indexed | Error) -> dict[str, Any]:
    """What became of a photograph, as `--json` prints it: its status, and its faces with places and qualities in 0 to 100."""
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


def show(photograph: Photograph, indexed: Indexed) -> None:
    """Prints a table of a photograph's faces: where each is, its quality in 0 to 100, its FaceId or why it has none."""
    table = columns("face", "FaceId", "ExternalImageId")
    for one in indexed.enrolled:
        table.add_row(_place_and_worth(one.face), one.face_id, photograph.external_image_id)
    for face, lacks in indexed.failures_to_enrol:
        why = Text("not enrolled: " + ", ".join(SHORTCOMINGS[lack] for lack in lacks), "yellow")
        table.add_row(_place_and_worth(face), why, "")
    if table.row_count:
        out().print(table)


def save_drawn(app: App, photograph: Photograph, draw: Path, several: bool, indexed: Indexed) -> None:
    """Draws what was indexed, and what was not and why, on a copy of the photograph at `draw`."""
    from aboveboard.cli import drawing

    marks = [(one.face, (one.face_id[:8],), drawing.FOUND) for one in indexed.enrolled]
    marks += [(face, (SHORTCOMINGS[lacks[0]],), drawing.MISSED) for face, lacks in indexed.failures_to_enrol]
    save(app, photograph, draw, several, marks)


def count(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
