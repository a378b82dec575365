"""Compare two photographs, search a collection: each through the gate."""

from __future__ import annotations

from dataclasses import dataclass

from aboveboard.accountability.looks import Kind, Probe
from aboveboard.accountability.operators import Session
from aboveboard.biometrics.vocabulary import Candidate, Candidates, Face, Template
from aboveboard.errors import BadRequest
from aboveboard.service import analyse, samples
from aboveboard.service.app import App
from aboveboard.service.galleries import only_for_enrollers
from aboveboard.service.quality import Shortcoming
from aboveboard.service.samples import Sample
from aboveboard.storage.collections import Collection, FaceRow
from aboveboard.storage.subjects import SubjectRow

DEFAULT_CANDIDATES = 80
"""The length of a candidate list where none was asked for; Amazon documents no default."""

Other = tuple[Face, tuple[Shortcoming, ...]]
"""A face that was not searched for, and what it lacks; () where it is only smaller than the one that was."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The source's largest face, the target's faces that are candidates, best first, and those that are not, largest first."""

    source: Face
    candidates: Candidates
    similar: tuple[tuple[Candidate, Face], ...]
    others: tuple[Face, ...]


@dataclass(frozen=True, slots=True)
class Searched:
    """Candidates with their rows, best first. `probe` is the face that was searched for, None in a search by face id.

    Where identities are withheld, the rows carry neither external image id nor image id.
    """

    probe: Face | None
    candidates: Candidates
    rows: tuple[tuple[Candidate, FaceRow], ...]


@dataclass(frozen=True, slots=True)
class SearchedSubjects:
    """People who are candidates, best first, with their rows; `candidates` is None where there was nothing to compare.

    `probe` is the photograph's face that was searched for, `others` the rest, with what each lacks. Where identities are withheld, rows
    carry no id.
    """

    audit_id: str
    probe: Face | None
    others: tuple[Other, ...]
    candidates: Candidates | None
    rows: tuple[tuple[Candidate, SubjectRow], ...]


def compare(app: App, session: Session, source: Sample, target: Sample, threshold: float | None = None, bar: str = "NONE") -> Compared:
    """Compare the largest face of `source` with every face of `target` (at most 100). `bar` applies to both photographs."""
    images = samples.reader(app, session, "compare", source), samples.reader(app, session, "compare", target)
    with app.gate.compare(session, threshold, Probe(images)) as look:
        probe, template = analyse.probe(app, images[0](), bar, "the source image")
        references = _references(app, images[1](), bar)
        candidates = look.candidates(template, [reference for _, reference in references])
    similar = tuple((candidate, references[int(candidate.reference)][0]) for candidate in candidates)
    taken = {int(candidate.reference) for candidate in candidates}
    return Compared(probe, candidates, similar, tuple(face for i, (face, _) in enumerate(references) if i not in taken))


def by_image(
    app: App,
    session: Session,
    collection_id: str,
    sample: Sample,
    threshold: float | None = None,
    limit: int = DEFAULT_CANDIDATES,
    bar: str = "NONE",
) -> Searched:
    """Search a collection for the largest face of a photograph."""
    collection = app.collections.get(collection_id)
    image = samples.reader(app, session, "search.image", sample, collection)
    with app.gate.search(session, collection, threshold, limit, Probe((image,))) as look:
        probe, template = analyse.probe(app, image(), bar, "the image")
        candidates = look.candidates(template)
    return Searched(probe, candidates, _rows(app, collection, candidates))


def by_face(
    app: App,
    session: Session,
    collection_id: str,
    face_id: str,
    threshold: float | None = None,
    limit: int = DEFAULT_CANDIDATES,
) -> Searched:
    """Search a collection for a face that is enrolled in it; the face itself is not answered."""
    collection = app.collections.get(collection_id)
    candidates = _of_enrolled(app, session, collection, face_id, threshold, limit, "face")
    return Searched(None, candidates, _rows(app, collection, candidates))


def _references(app: App, data: bytes, bar: str) -> list[tuple[Face, Template]]:
    with analyse.faces(app, data) as found:
        analyse.largest(found, bar, "the target image")
        return [(one.face, analyse.template(app, one)) for one in analyse.passing_bar(found, bar)]


def subjects_by_image(
    app: App,
    session: Session,
    collection_id: str,
    sample: Sample,
    threshold: float | None = None,
    limit: int = DEFAULT_CANDIDATES,
    bar: str = "NONE",
) -> SearchedSubjects:
    """Search the people of a collection for the largest face of a photograph; without a face that passes the bar nobody is compared."""
    collection = app.collections.get(collection_id)
    image = samples.reader(app, session, "search.subjects.image", sample, collection)
    with app.gate.search(session, collection, threshold, limit, Probe((image,)), "subject") as look:
        probe, others = _probe_and_others(app, image(), bar)
        if probe is None:
            return SearchedSubjects(look.look.audit_id, None, others, None, ())
        candidates = look.candidates(probe[1])
    return SearchedSubjects(candidates.audit_id, probe[0], others, candidates, _subjects(app, collection, candidates))


def _probe_and_others(app: App, data: bytes, bar: str) -> tuple[tuple[Face, Template] | None, tuple[Other, ...]]:
    with analyse.faces(app, data) as found:
        place, chosen = next(((i, one) for i, one in enumerate(found) if not one.lacks(bar)), (len(found), None))
        probe = (chosen.face, analyse.template(app, chosen)) if chosen else None
        # What is smaller than the chosen one is not searched for because it is smaller; nothing else is asked of it.
        others: list[Other] = [(one.face, one.lacks(bar)) for one in found[:place]]
        others += [(one.face, ()) for one in found[place + 1 :]]
        return probe, tuple(others)


def subjects_by_face(
    app: App, session: Session, collection_id: str, face_id: str, threshold: float | None = None, limit: int = DEFAULT_CANDIDATES
) -> SearchedSubjects:
    """Search the people of a collection for an enrolled face, which itself is not compared."""
    collection = app.collections.get(collection_id)
    candidates = _of_enrolled(app, session, collection, face_id, threshold, limit, "subject")
    return SearchedSubjects(candidates.audit_id, None, (), candidates, _subjects(app, collection, candidates))


def subjects_by_subject(
    app: App, session: Session, collection_id: str, subject_id: str, threshold: float | None = None, limit: int = DEFAULT_CANDIDATES
) -> SearchedSubjects:
    """Search the people of a collection for the faces of one of them, who himself is not answered.

    Not where identities are withheld: the similarities of a person known by name would tell his face.
    """
    collection = app.collections.get(collection_id)
    only_for_enrollers(app, session, "search.subjects", collection)
    subject = app.subjects.get(collection, subject_id)
    probe = Probe(face_ids=tuple(app.subjects.faces_of(subject)), subject=subject.handle)
    with app.gate.search(session, collection, threshold, limit, probe, "subject") as look:
        if not probe.face_ids:
            return SearchedSubjects(look.look.audit_id, None, (), None, ())
        candidates = look.candidates()
    return SearchedSubjects(candidates.audit_id, None, (), candidates, _subjects(app, collection, candidates))


def _of_enrolled(
    app: App, session: Session, collection: Collection, face_id: str, threshold: float | None, limit: int, kind: Kind
) -> Candidates:
    with app.gate.search(session, collection, threshold, limit, Probe(face_ids=(face_id,)), kind) as look:
        if not app.collections.faces(collection, [face_id]):
            raise BadRequest("faceId was not found in the collection")
        return look.candidates()


def _subjects(app: App, collection: Collection, candidates: Candidates) -> tuple[tuple[Candidate, SubjectRow], ...]:
    found = app.subjects.by_handle(collection, [candidate.reference for candidate in candidates])
    rows = {handle: row.withheld() if candidates.identities_withheld else row for handle, row in found.items()}
    return tuple((candidate, rows[candidate.reference]) for candidate in candidates if candidate.reference in rows)


def _rows(app: App, collection: Collection, candidates: Candidates) -> tuple[tuple[Candidate, FaceRow], ...]:
    found = app.collections.faces(collection, [candidate.reference for candidate in candidates])
    rows = {row.face_id: row.withheld() if candidates.identities_withheld else row for row in found}
    return tuple((candidate, rows[candidate.reference]) for candidate in candidates if candidate.reference in rows)
