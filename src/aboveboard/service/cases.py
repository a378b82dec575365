"""Cases for those who work in them: an investigator opens, uses and reads his own; who supervises reads all and uses none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

from aboveboard.accountability.cases import Case, CaseSession, Declared, Lead, LookRef, PaperRef, check_declared, check_end
from aboveboard.accountability.gate import actor
from aboveboard.accountability.operators import AccessKey, Session
from aboveboard.accountability.packs import Pack, moment
from aboveboard.accountability.policy import Decision, judge_case
from aboveboard.biometrics.calibration import expected_false, fmr_at
from aboveboard.errors import BadRequest, NoSuch, Refused
from aboveboard.service.app import App
from aboveboard.storage.collections import Collection
from aboveboard.storage.database import now

READERS = {"admin", "reviewer", "auditor"}
"""The roles that read every case."""


@dataclass(frozen=True, slots=True)
class ShownLead:
    """A candidate below the threshold: who is, at most, worth a second look. `expected_false`: N x FMR at its similarity.

    `reference` is a FaceId or, in a search of people, their handle; `name` an ExternalImageId or UserId, None where it is withheld.
    """

    rank: int
    reference: str
    kind: Literal["face", "subject"]
    similarity: float
    fmr: float
    expected_false: float
    name: str | None


@dataclass(frozen=True, slots=True)
class LeadsOfLook:
    """The leads of one look, between `floor` and its threshold, and how many false ones chance brings there: N x (FMR - FMR)."""

    look: int
    audit_id: str
    time: str
    duty: str
    collection: str
    policy: str
    threshold: float
    floor: float
    gallery_size: int
    expected_false: float
    identities_withheld: bool
    leads: tuple[ShownLead, ...]


@dataclass(frozen=True, slots=True)
class Leads:
    """The leads of a case by look, and how many looks with leads were left out because they would be refused now."""

    looks: tuple[LeadsOfLook, ...]
    left_out: int


def open_case(
    app: App,
    session: Session,
    number: str,
    purpose: str,
    *,
    offence: str = "",
    documents: Sequence[PaperRef] = (),
    until: str = "",
    is_emergency: bool = False,
    collection: str = "",
) -> Case:
    """Open a case of who acts. What the pack of the deployment, or of `collection`, would refuse at each look is refused here."""
    chosen = app.collections.get(collection) if collection else None
    app.gate.authorise(session, "case.open", chosen)
    check_end(purpose, offence)  # a slip of the pen is no refusal
    judged = judge_case(app.gate.policy_of(chosen), purpose, offence)
    if not judged.is_allowed:
        app.gate.refuse(session, "case.open", judged.rule, judged.message, chosen)
    return app.cases.open(
        number, purpose, session.operator.name, actor(session), offence=offence, until=until, documents=documents, is_emergency=is_emergency
    )


def add_document(app: App, session: Session, number: str, document: PaperRef) -> Case:
    """Enter an authority document of an open case of one's own, or what became of it."""
    _own(app, session, "case.change", number)
    return app.cases.add_document(number, document, actor(session))


def close(app: App, session: Session, number: str) -> Case:
    """Close a case of one's own: nobody searches in it any more."""
    _own(app, session, "case.change", number)
    return app.cases.close(number, actor(session))


def read(app: App, session: Session, number: str) -> Case:
    """A case of one's own or, for who supervises, anybody's."""
    app.gate.authorise(session, "case.list")
    case = app.cases.get(number)
    if case.operator != session.operator.name and not READERS & set(session.operator.roles):
        _refuse_other(app, session, "case.list", case)
    return case


def all_cases(app: App, session: Session) -> list[Case]:
    """One's own cases or, for who supervises, all, in the order they were opened."""
    app.gate.authorise(session, "case.list")
    reads_all = READERS & set(session.operator.roles)
    return [case for case in app.cases.all() if reads_all or case.operator == session.operator.name]


def credentials(app: App, session: Session, number: str, declared: Declared, seconds: int) -> tuple[AccessKey, str]:
    """A key that works in an open case of one's own, and when it ends (RFC 3339)."""
    case = _own(app, session, "case.change", number)
    if moment(case.expires_at) <= moment(now()):
        _refuse(app, session, "case.change", case, "case/ended", f"the case ended at {case.expires_at}; open another")
    return app.cases.credentials(number, declared, seconds, actor(session))


def enter(app: App, session: Session, number: str, declared: Declared) -> Session:
    """The session inside an open case of one's own: its looks are the case's."""
    check_declared(declared)
    return replace(session, case=CaseSession(_own(app, session, "case.list", number), declared))


def leads(app: App, session: Session, number: str, reason: str) -> Leads:
    """What the looks of a case found below their threshold, once the record says that it was disclosed, and why.

    Each look is decided again, as of now and as what it declared, before its leads are told; faces that were removed since are left out,
    and so are looks that would be refused now, on record. Raises Refused where all would be.
    """
    if not reason.strip():
        raise BadRequest("leads are shown for a reason; give it with --reason")
    inside = enter(app, session, number, Declared(reason=reason))
    assert inside.case is not None
    case = inside.case.case
    app.gate.authorise(inside, "case.leads")
    looks = [_made(app, one, i) for i, one in enumerate(app.cases.looks(case), 1)]
    asked_for = [one.collection for one in looks] or [None]
    if not any(_pack(app, collection).leads.maximum for collection in asked_for):
        rule = f"{_pack(app, asked_for[0]).id}/leads"
        _refuse(app, inside, "case.leads", case, rule, "it keeps no candidates below the threshold, and has none to show")
    sealed, found = app.cases.leads(case), list[tuple[_Made, Decision, list[tuple[int, Lead]], dict[str, str]]]()
    refusals: list[Refused] = []
    for one in looks:
        if one.intent["audit_id"] in sealed and _pack(app, one.collection).leads.maximum:
            try:
                decision = app.gate.still_allowed(_as_declared(inside, one.intent["declared"]), one.intent["duty"], one.collection)
            except Refused as refusal:
                refusals.append(refusal)
                continue
            kept, names = _there(app, one, sealed[one.intent["audit_id"]])
            kept = [(rank, lead) for rank, lead in kept if lead.similarity >= decision.leads_floor][: decision.leads_limit]
            found.append((one, decision, kept, names))
    if refusals and not found:
        raise refusals[0]
    told = [(one.intent["audit_id"], rank, lead) for one, _, kept, _ in found for rank, lead in kept]
    app.cases.disclose(inside.case, told, actor(session))
    return Leads(tuple(_shown(*each) for each in found if each[2]), len(refusals))


def _as_declared(session: Session, declared: Mapping[str, Any]) -> Session:
    """The session inside a case, as if with the probe and the edits that a look declared."""
    assert session.case is not None
    same = replace(session.case.declared, probe=declared["probe"], edits=tuple(declared["edits"]))
    return replace(session, case=replace(session.case, declared=same))


@dataclass(frozen=True, slots=True)
class _Made:
    """A look of a case by what the record says of it; `collection` as it is now, None where it is gone or there was none."""

    n: int
    intent: dict[str, Any]
    outcome: dict[str, Any]
    collection: Collection | None


def _made(app: App, look: LookRef, n: int) -> _Made:
    intent = _entry(app, look.intent)
    try:
        collection = app.collections.get(intent["collection"]["id"]) if "collection" in intent else None
    except NoSuch:
        collection = None
    return _Made(n, intent, {} if look.outcome is None else _entry(app, look.outcome), collection)


def _entry(app: App, seq: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(next(app.ledger.entries(seq, seq + 1)))
    return found


def _pack(app: App, collection: Collection | None) -> Pack:
    return app.gate.policy_of(collection)


def _there(app: App, look: _Made, leads: Sequence[Lead]) -> tuple[list[tuple[int, Lead]], dict[str, str]]:
    """Those of a look's leads that are still enrolled, with their ranks, and what they are called. Of a photograph, all."""
    ranked = list(enumerate(leads, 1))
    if look.intent["duty"] == "compare":
        return ranked, {}
    if look.collection is None:
        return [], {}
    references = [lead.reference for lead in leads]
    faces = {row.face_id: row.external_image_id or "" for row in app.collections.faces(look.collection, references)}
    people = {handle: row.subject_id or "" for handle, row in app.subjects.by_handle(look.collection, references).items()}
    return [(rank, lead) for rank, lead in ranked if lead.reference in (faces if lead.kind == "face" else people)], {**faces, **people}


def _shown(look: _Made, decision: Decision, kept: Sequence[tuple[int, Lead]], names: Mapping[str, str]) -> LeadsOfLook:
    intent, outcome = look.intent, look.outcome
    size, threshold = outcome["gallery_size"], outcome.get("threshold", intent["threshold"])["value"]
    shown = tuple(
        ShownLead(
            rank,
            lead.reference,
            lead.kind,
            lead.similarity,
            fmr_at(lead.similarity),
            expected_false(fmr_at(lead.similarity), size),
            None if decision.withhold_identities else names.get(lead.reference) or None,
        )
        for rank, lead in kept
    )
    return LeadsOfLook(
        look.n,
        intent["audit_id"],
        intent["time"],
        intent["duty"],
        look.collection.id if look.collection else "",
        intent["policy"]["id"],
        threshold,
        decision.leads_floor,
        size,
        expected_false(fmr_at(decision.leads_floor) - fmr_at(threshold), size),
        decision.withhold_identities,
        shown,
    )


def _own(app: App, session: Session, duty: str, number: str) -> Case:
    """An open case of who acts; else refused, on record."""
    app.gate.authorise(session, duty)
    case = app.cases.get(number)
    if case.operator != session.operator.name:
        _refuse_other(app, session, duty, case)
    if case.closed_at:
        _refuse(app, session, duty, case, "case/closed", "the case is closed; open another")
    return case


def _refuse_other(app: App, session: Session, duty: str, case: Case) -> NoReturn:
    _refuse(app, session, duty, case, "case/own", "the case is another operator's; act as him who opened it, or open one of your own")


def _refuse(app: App, session: Session, duty: str, case: Case, rule: str, text: str) -> NoReturn:
    app.gate.refuse(session, duty, rule, f"Refused by rule {rule}: {text}.", case=case.handle)
