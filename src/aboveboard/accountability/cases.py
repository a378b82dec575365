"""Cases: what looks are for, under which authority, by whom. A case's own access keys carry it through any unmodified SDK."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from aboveboard import strict
from aboveboard.accountability.operators import AccessKey, Operators
from aboveboard.accountability.packs import check_words, moment
from aboveboard.accountability.policy import CaseFacts, Document
from aboveboard.accountability.rules import EDITS, KINDS, OFFENCES, PROBES, PURPOSES, Edit, Probe
from aboveboard.errors import BadRequest, Exists, NoSuch, Refused
from aboveboard.storage.database import Database, driver, now
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.schema import ACCESS_KEYS, CASE_LOOKS, CASE_REASONS, CASES
from aboveboard.storage.secrets import Keyring

LONGEST_KEY_S = 43_200
"""How long a key of a case works at most: AWS's own longest session of a role, 12 hours."""
_TIME = r"\d{4}-\d\d-\d\d(?:T[0-9:.]+(?:Z|[+-]\d\d:\d\d)?)?"
_DOCUMENT = re.compile(rf"([^:]*):(.+?):({_TIME})(?::([^:]*):({_TIME}))?")
_BY_NUMBER = sa.select(CASES).where(CASES.c.number == sa.bindparam("number"))
_BY_ROW = sa.select(CASES).where(CASES.c.n == sa.bindparam("row"))
_END_LOOK = "UPDATE case_looks SET outcome = ?, leads = ? WHERE audit_id = ?"
_ADD_LOOK = 'INSERT INTO case_looks ("case", intent, audit_id) VALUES (?, ?, ?)'


@dataclass(frozen=True, slots=True)
class PaperRef:
    """An authority document of a case as the agency has it: the facts that rules are about, and the agency's reference."""

    facts: Document
    reference: str


@dataclass(frozen=True, slots=True)
class Case:
    """A case. `handle` is what the ledger calls it, `key` what commitments about it are made with."""

    n: int
    number: str
    handle: str
    key: bytes
    purpose: str
    offence: str
    documents: tuple[PaperRef, ...]
    operator: str
    opened_at: str
    expires_at: str
    emergency_at: str
    closed_at: str
    comparisons: int

    def commitment(self, part: str, text: str) -> str:
        """The commitment of its number, a document's reference or a reason: checkable by who holds that part's key, and nobody else."""
        return commitment(self.key, part, text.encode())

    def facts(self, declared: Declared) -> CaseFacts:
        """What a rule may know of a look in this case."""
        return CaseFacts(
            self.purpose,
            self.expires_at,
            self.offence,
            self.closed_at,
            self.emergency_at,
            tuple(one.facts for one in self.documents),
            declared.probe,
            declared.edits,
            bool(declared.reason),
        )


@dataclass(frozen=True, slots=True)
class Declared:
    """What the looks of one key, or of one call of the command line, declare: what the probe is, how it was edited, a reason."""

    probe: Probe = "photograph"
    edits: tuple[Edit, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CaseSession:
    """A look's case, and what it declares."""

    case: Case
    declared: Declared

    @property
    def facts(self) -> CaseFacts:
        return self.case.facts(self.declared)


@dataclass(frozen=True, slots=True)
class Lead:
    """A candidate below the threshold: a FaceId or, of a search of people, a person's handle."""

    reference: str
    kind: Literal["face", "subject"]
    similarity: float


@dataclass(frozen=True, slots=True)
class LookRef:
    """A look of a case, and where the record has it: `outcome` None until it is written."""

    audit_id: str
    intent: int
    outcome: int | None


class Cases:
    """Cases in the database; each change is in the ledger, by the case's handle."""

    def __init__(self, database: Database, keyring: Keyring, ledger: Ledger, operators: Operators) -> None:
        self._database, self._keyring, self._ledger, self._operators = database, keyring, ledger, operators

    def open(
        self,
        number: str,
        purpose: str,
        operator: str,
        actor: Mapping[str, Any],
        *,
        offence: str = "",
        until: str = "",
        documents: Sequence[PaperRef] = (),
        is_emergency: bool = False,
    ) -> Case:
        """Open a case of an operator, for 30 days unless `until` says otherwise. Raises Exists, BadRequest."""
        if not 1 <= len(number) <= 100 or not number.isprintable() or number != number.strip():
            raise BadRequest("a case's number is 1 to 100 printable characters, without a space at either end")
        check_end(purpose, offence)
        opened = now()
        try:
            ends = moment(until) if until else moment(opened) + timedelta(days=30)
        except ValueError as error:
            raise BadRequest(f"'{until[:40]}' is no date; write one like 2027-06-30") from error
        if ends <= moment(opened):
            raise BadRequest(f"the case would have ended before it began, at {until}")
        key, handle = os.urandom(32), uuid.uuid4().hex
        row = {
            "number": number, "handle": handle, "key": key, "purpose": purpose, "offence": offence, "operator": operator,
            "opened_at": opened, "expires_at": _rfc(ends), "emergency_at": opened if is_emergency else None,
            "documents": [_document_row(one) for one in documents],
        }  # fmt: skip
        try:
            with self._database.write() as connection:
                connection.execute(sa.insert(CASES).values(**row))
                case = self._get(connection, number)
                facts = {
                    "case": handle, "number": case.commitment("number", number), "purpose": purpose, "offence": offence,
                    "opened_at": opened,
                    "expires_at": case.expires_at, "is_emergency": is_emergency, "documents": [_shown(case, one) for one in documents],
                }  # fmt: skip
                self._ledger.append(connection, "case.opened", {**actor, **facts})
        except sa.exc.IntegrityError as error:
            raise Exists(f"there is a case '{number}' already; choose another number") from error
        return case

    def add_document(self, number: str, document: PaperRef, actor: Mapping[str, Any]) -> Case:
        """Enter an authority document; one with the same kind and reference is replaced, so that a decision can follow its request."""
        with self._database.write() as connection:
            case = self._get(connection, number)
            _only_open(case)
            kept = [one for one in case.documents if (one.facts.kind, one.reference) != (document.facts.kind, document.reference)]
            rows = [_document_row(one) for one in (*kept, document)]
            connection.execute(sa.update(CASES).where(CASES.c.n == case.n).values(documents=rows))
            self._ledger.append(connection, "case.document", {**actor, "case": case.handle, "document": _shown(case, document)})
            return self._get(connection, number)

    def close(self, number: str, actor: Mapping[str, Any]) -> Case:
        """Close a case: its keys are refused from the next request on."""
        with self._database.write() as connection:
            case = self._get(connection, number)
            _only_open(case)
            connection.execute(sa.update(CASES).where(CASES.c.n == case.n).values(closed_at=now()))
            self._ledger.append(connection, "case.closed", {**actor, "case": case.handle})
            return self._get(connection, number)

    def get(self, number: str) -> Case:
        """The case of this number; raises NoSuch."""
        with self._database.read() as connection:
            return self._get(connection, number)

    def all(self) -> list[Case]:
        """Every case in the order they were opened."""
        with self._database.read() as connection:
            return [_case(row) for row in connection.execute(sa.select(CASES).order_by(CASES.c.n))]

    def credentials(self, number: str, declared: Declared, seconds: int, actor: Mapping[str, Any]) -> tuple[AccessKey, str]:
        """A key of the case's operator that works in the case alone, and when it ends (RFC 3339). Raises NoSuch, BadRequest, Refused."""
        check_declared(declared)
        if not 60 <= seconds <= LONGEST_KEY_S:
            raise BadRequest(f"a key of a case lasts 60 to {LONGEST_KEY_S} seconds")
        with self._database.write() as connection:
            case = self._get(connection, number)
            _only_open(case)
            ends = min(datetime.now(UTC) + timedelta(seconds=seconds), moment(case.expires_at))
            if ends <= datetime.now(UTC):
                raise Refused(f"Refused by rule case: the case ended at {case.expires_at}; open another.", rule="case")
            expires = ends.isoformat(timespec="seconds").replace("+00:00", "Z")
            shown = {"probe": declared.probe, "edits": list(declared.edits), "reason": declared.reason}
            key = self._operators.case_key(connection, case.operator, case.n, expires, shown)
            self._keep_reason(connection, case, declared.reason)
            facts = {"case": case.handle, "access_key": key.id, "expires_at": expires, **declaration(case, declared)}
            self._ledger.append(connection, "case.credentials", {**actor, **facts})
        return key, expires

    def session(self, n: int, declared: Mapping[str, Any]) -> CaseSession:
        """The case of a row, as of now, with what a key of it declares."""
        with self._database.read() as connection:
            row = connection.execute(_BY_ROW, {"row": n}).one()
        return CaseSession(_case(row), strict.table(Declared, dict(declared), "what a key declares"))

    @contextmanager
    def metering(self, n: int, comparisons: int) -> Iterator[int]:
        """Count faces that are about to be compared one to one in a case, unless the block raises; how many they make with those before.

        Nobody else counts while the block lasts.
        """
        counted = sa.update(CASES).where(CASES.c.n == n).values(comparisons=CASES.c.comparisons + comparisons)
        with self._database.write() as connection:
            yield int(connection.execute(counted.returning(CASES.c.comparisons)).scalar_one())

    def add_look(self, connection: sa.Connection, session: CaseSession, audit_id: str, intent: int) -> None:
        """Note, with its intent, that a look was made in a case."""
        driver(connection).execute(_ADD_LOOK, (session.case.n, intent, audit_id))
        self._keep_reason(connection, session.case, session.declared.reason)

    def end_look(self, connection: sa.Connection, audit_id: str, outcome: int, leads: Sequence[Lead]) -> None:
        """Note a look's outcome with it, and keep its leads, sealed until somebody asks for them with a reason."""
        sealed = self._keyring.seal(json.dumps([asdict(lead) for lead in leads]).encode(), "leads", audit_id) if leads else None
        driver(connection).execute(_END_LOOK, (outcome, sealed, audit_id))

    def looks(self, case: Case) -> list[LookRef]:
        """The looks of a case in their order."""
        chosen = sa.select(CASE_LOOKS).where(CASE_LOOKS.c.case == case.n).order_by(CASE_LOOKS.c.intent)
        with self._database.read() as connection:
            return [LookRef(row.audit_id, row.intent, row.outcome) for row in connection.execute(chosen)]

    def leads(self, case: Case) -> dict[str, list[Lead]]:
        """The leads of its looks by audit id, best first. Nobody is told of them before `disclose` has recorded it."""
        chosen = sa.select(CASE_LOOKS).where(CASE_LOOKS.c.case == case.n, CASE_LOOKS.c.leads.is_not(None))
        with self._database.read() as connection:
            rows = connection.execute(chosen.order_by(CASE_LOOKS.c.intent)).all()
        return {row.audit_id: [Lead(**one) for one in json.loads(self._keyring.unseal(row.leads, "leads", row.audit_id))] for row in rows}

    def disclose(self, session: CaseSession, leads: Sequence[tuple[str, int, Lead]], actor: Mapping[str, Any]) -> None:
        """Record, before they are shown, that leads of these looks (audit id, rank, lead) are disclosed, for the reason that was given."""
        case = session.case
        keys = {audit_id: self._ledger.commitment_key(audit_id) or b"" for audit_id, _, _ in leads}
        told = [
            {
                "audit_id": audit_id,
                "rank": rank,
                "commitment": commitment(keys[audit_id], f"lead {rank}", lead.reference.encode()),
                "similarity": lead.similarity,
            }
            for audit_id, rank, lead in leads
        ]
        facts = {"case": case.handle, "audit_ids": list(keys), "count": len(leads), "leads": told}
        with self._database.write() as connection:
            self._keep_reason(connection, case, session.declared.reason)
            reason = case.commitment("reason", session.declared.reason)
            self._ledger.append(connection, "leads.disclosed", {**actor, **facts, "reason": reason})

    def reasons(self, case: Case) -> list[tuple[str, str]]:
        """When a reason was first given in a case, and its words."""
        chosen = sa.select(CASE_REASONS).where(CASE_REASONS.c.case == case.n).order_by(CASE_REASONS.c.at)
        with self._database.read() as connection:
            return [(row.at, row.text) for row in connection.execute(chosen)]

    @staticmethod
    def _keep_reason(connection: sa.Connection, case: Case, text: str) -> None:
        if text:
            row = {"case": case.n, "commitment": case.commitment("reason", text), "text": text, "at": now()}
            connection.execute(sa.insert(CASE_REASONS).prefix_with("OR IGNORE").values(**row))

    def keys(self, case: Case) -> list[str]:
        """The ids of the keys that were made for a case."""
        with self._database.read() as connection:
            return list(
                connection.scalars(sa.select(ACCESS_KEYS.c.id).where(ACCESS_KEYS.c.case == case.n).order_by(ACCESS_KEYS.c.created_at))
            )

    @staticmethod
    def _get(connection: sa.Connection, number: str) -> Case:
        row = connection.execute(_BY_NUMBER, {"number": number}).first()
        if row is None:
            raise NoSuch("there is no case of this number; see which there are with: aboveboard case list")
        return _case(row)


def check_end(purpose: str, offence: str) -> None:
    """Raise BadRequest for a purpose or an offence that is not in its closed list; no offence is none."""
    check_words([purpose], PURPOSES, "purpose")
    check_words([offence] if offence else [], OFFENCES, "offence")


def check_declared(declared: Declared) -> None:
    """Raise BadRequest for a probe or an edit that is not in its closed list."""
    check_words([declared.probe], PROBES, "probe")
    check_words(declared.edits, EDITS, "edit")
    if len(declared.reason) > 1000:
        raise BadRequest("a reason has at most 1,000 characters")


def declaration(case: Case, declared: Declared) -> dict[str, Any]:
    """What a look declares, as an entry says it: a reason as a commitment alone."""
    shown: dict[str, Any] = {"probe": declared.probe, "edits": list(declared.edits)}
    return shown | ({"reason": case.commitment("reason", declared.reason)} if declared.reason else {})


def read_document(text: str) -> PaperRef:
    """A document from `KIND:REFERENCE:REQUESTED[:granted|refused:DECIDED]`, such as `warrant:24-117:2024-10-01:granted:2024-10-02`."""
    form = f"write a document as KIND:REFERENCE:REQUESTED or KIND:REFERENCE:REQUESTED:granted:DECIDED, KIND one of {', '.join(KINDS)}"
    shown = f"'{text[:80]}'"
    kind, reference, requested, state, decided = found.groups() if (found := _DOCUMENT.fullmatch(text)) else ("", "", "", None, None)
    if kind not in KINDS or state not in (None, "granted", "refused"):
        raise BadRequest(f"{shown}: {form}")
    if not reference.isprintable() or len(reference) > 200:
        raise BadRequest(f"{shown}: a document's reference is at most 200 printable characters")
    try:
        if decided and moment(decided) < moment(requested):
            raise BadRequest(f"{shown}: it was decided before it was requested; mend the dates")
        moment(requested)
    except ValueError as error:
        raise BadRequest(f"{shown}: {error}; {form}") from error
    facts = Document(next(one for one in KINDS if one == kind), requested, decided, None if state is None else state == "granted")
    return PaperRef(facts, reference)


def commitment(key: bytes, part: str, value: bytes) -> str:
    """HMAC-SHA256 of a value under a key of its own, which is HMAC-SHA256 of the part's name under the look's or the case's key.

    Who is given the part's key can check this value, and no other part; without it an entry is linkable by nobody.
    """
    return hmac.new(part_key(key, part), value, hashlib.sha256).hexdigest()


def part_key(key: bytes, part: str) -> bytes:
    """The key that one part is committed to with: `probe 1` for a look's first image, `candidate 1` for its first candidate."""
    return hmac.digest(key, part.encode(), "sha256")


def _only_open(case: Case) -> None:
    if case.closed_at:
        raise Refused("Refused by rule case: the case is closed; open another.", rule="case")


def _document_row(document: PaperRef) -> dict[str, Any]:
    facts = document.facts
    return {
        "kind": facts.kind, "requested_at": facts.requested_at, "decided_at": facts.decided_at, "granted": facts.granted,
        "reference": document.reference,
    }  # fmt: skip


def _shown(case: Case, document: PaperRef) -> dict[str, Any]:
    """A document as an entry says it: its reference as a commitment."""
    return {**_document_row(document), "reference": case.commitment("document", document.reference)}


def _case(row: Any) -> Case:
    documents = tuple(
        PaperRef(Document(one["kind"], one["requested_at"], one["decided_at"], one["granted"]), one["reference"]) for one in row.documents
    )
    values = {**row._mapping, "documents": documents, "emergency_at": row.emergency_at or "", "closed_at": row.closed_at or ""}
    return Case(**values)


def _rfc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
