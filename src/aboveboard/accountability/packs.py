"""Policy packs: what may be searched for, under which authority, at which threshold, and what follows. Pure: no clock, no disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import product
from typing import Any, Literal

import rfc8785

from aboveboard import strict
from aboveboard.accountability.rules import (
    ANY,
    EDITS,
    OFFENCES,
    PROBES,
    PURPOSES,
    ROLES,
    CandidatesRule,
    CertificateRule,
    DocumentRule,
    GalleryRule,
    LeadsRule,
    OffencesRule,
    ProbesRule,
    PurposesRule,
    ReportRule,
    RetentionRule,
    ReviewRule,
    RolesRule,
    SuspensionRule,
    ThresholdRule,
)  # fmt: skip
from aboveboard.errors import BadRequest


@dataclass(frozen=True)
class Pack:
    """A policy pack. Its `sha256` is that of its canonical JSON (RFC 8785), so that a record says which rules were in force.

    `status` unverified: a template after a law; it is in force nowhere before an authority has signed it. Dates are RFC 3339, or a day,
    which begins at midnight UTC; `effective_to` is the first moment after; empty: always.
    """

    id: str
    version: str
    title: str
    authority: str
    status: Literal["published", "unverified"]
    effective_from: str
    effective_to: str
    banner: str
    purposes: PurposesRule
    offences: OffencesRule
    documents: tuple[DocumentRule, ...]
    probes: ProbesRule
    threshold: ThresholdRule
    candidates: CandidatesRule
    leads: LeadsRule
    gallery: GalleryRule
    review: ReviewRule
    certificate: CertificateRule
    retention: RetentionRule
    reports: tuple[ReportRule, ...]
    suspension: SuspensionRule
    roles: RolesRule

    @cached_property
    def canonical(self) -> bytes:
        form: bytes = rfc8785.dumps(self.plain())
        return form

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.canonical).hexdigest()

    def plain(self) -> dict[str, Any]:
        """The pack as JSON has it; `read_pack` reads it."""
        shown: dict[str, Any] = plain(asdict(self))
        return shown

    @property
    def withholds_identities(self) -> bool:
        return self.review.reviewers > 0 and self.review.mode == "enforce"

    @property
    def dates(self) -> str:
        """When it is in force, in words."""
        parts = (f"from {self.effective_from}" * bool(self.effective_from), f"until {self.effective_to}" * bool(self.effective_to))
        return " ".join(filter(None, parts)) or "always"

    def is_effective(self, at: str) -> bool:
        """Whether it is in force at a time (RFC 3339)."""
        time = moment(at)
        starts = not self.effective_from or moment(self.effective_from) <= time
        return starts and (not self.effective_to or time < moment(self.effective_to))

    def document_for(self, purpose: str, offence: str) -> DocumentRule | None:
        """The rule that says which authority document is needed; the first that applies."""
        return next((rule for rule in self.documents if rule.applies(purpose, offence)), None)

    def is_at_least_as_strict_as(self, other: Pack) -> bool:
        """Whether nothing that `other` forbids is allowed here. Dates are another matter."""
        return not any(self.looser_than(other))

    def looser_than(self, other: Pack) -> Iterator[str]:
        """The rules that allow something which `other` forbids, each as a name."""
        yield from (name for name, is_as_strict in _compared(self, other) if not is_as_strict)


def _compared(one: Pack, other: Pack) -> Iterator[tuple[str, bool]]:
    """Each rule, and whether it forbids at least what the other pack's does."""

    def stands(name: str, *forbids: bool) -> tuple[str, bool]:
        """`forbids`: for each thing that the other rule forbids, whether this one does; where there is any, a mode may not be weaker."""
        rules = getattr(one, name), getattr(other, name)
        return name, all(forbids) and _RANK[rules[0].mode] >= _RANK[rules[1].mode]

    pairs = list(product(PURPOSES, ["", *OFFENCES]))
    mine, theirs = one.purposes, other.purposes
    if theirs.required or any(not theirs.allows(purpose) for purpose in PURPOSES):
        yield stands("purposes", mine.required >= theirs.required, all(theirs.allows(p) for p in PURPOSES if mine.allows(p)))
    if any(not other.offences.allows(*pair) for pair in pairs):
        yield stands("offences", all(other.offences.allows(*pair) for pair in pairs if one.offences.allows(*pair)))
    # A purpose that is only recorded as denied is allowed; looks without a case have neither purpose nor offence.
    possible = [("", ""), *(pair for pair in pairs if mine.mode != "enforce" or mine.allows(pair[0]))]
    yield "documents", all(_covers(one.document_for(*pair), other.document_for(*pair)) for pair in possible if pair[0])
    if set(PROBES) - set(other.probes.types) or set(EDITS) - set(other.probes.edits):
        types, edits = (set(getattr(one.probes, part)) <= set(getattr(other.probes, part)) for part in ("types", "edits"))
        yield stands("probes", types, edits)
    a, b = one.threshold, other.threshold
    floors = ((a.floor_for(*pair), b.floor_for(*pair)) for pair in possible)
    is_floor = all(f.similarity >= g.similarity and (not g.fpir or 0 < f.fpir <= g.fpir) for f, g in floors)
    # What none means must be what may be sent.
    is_absent = a.when_absent == "refuse" or (b.when_absent == "apply" and (a.absent >= b.floor if a.absent else b.allow_none))
    is_floored = any(floor.similarity or floor.fpir for floor in b.floors)
    if is_floored or b.floor or b.fpir or not b.allow_none or b.when_absent == "refuse":
        yield stands("threshold", is_floor, is_absent, a.allow_none <= b.allow_none)
    yield stands("candidates", one.candidates.maximum <= other.candidates.maximum)
    i, j = one.leads, other.leads
    wants_reason = i.mode != "record" or j.mode == "record"
    yield "leads", i.maximum == 0 or (i.maximum <= j.maximum and i.floor >= j.floor and wants_reason)
    if other.gallery.max_factor:
        yield stands("gallery", 0 < one.gallery.max_factor <= other.gallery.max_factor)
    if other.review.reviewers:
        yield stands("review", one.review.reviewers >= other.review.reviewers)
    if other.certificate.required:
        x, y = one.certificate, other.certificate
        is_as_young = not y.max_age_days or 0 < x.max_age_days <= y.max_age_days
        yield stands("certificate", x.required, is_as_young, x.least_score >= y.least_score)
    if other.retention.ledger_days or other.retention.expired_days:
        kept, gone = one.retention, other.retention
        is_as_soon = not gone.expired_days or 0 < kept.expired_days <= gone.expired_days
        yield stands("retention", kept.ledger_days >= gone.ledger_days, is_as_soon)
    yield "reports", all(any(rule.due == own.due and rule.title == own.title for own in one.reports) for rule in other.reports)
    if other.suspension.refusals or other.suspension.ledger:
        s, t = one.suspension, other.suspension
        is_as_soon = not t.refusals or (0 < s.refusals <= t.refusals and s.hours >= t.hours and (s.scope, t.scope) != ("operator", "unit"))
        yield stands("suspension", is_as_soon, s.ledger >= t.ledger)
    if other.roles.separate:
        yield stands("roles", set(one.roles.separate) >= set(other.roles.separate))


_RANK: Mapping[str, int] = {"record": 0, "reason": 1, "enforce": 2}


def _covers(one: DocumentRule | None, other: DocumentRule | None) -> bool:
    return other is None or (
        one is not None and _RANK[one.mode] >= _RANK[other.mode] and all(a >= b for a, b in zip(one.demand, other.demand, strict=True))
    )


_MOST = 100_000
"""The largest count in a pack: days and hours stay far from where dates end."""


def moment(text: str) -> datetime:
    """A time as RFC 3339 has it, or a day, which begins at midnight UTC; in UTC. Raises ValueError."""
    time = datetime.fromisoformat(text)
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError(f"'{text}' is beyond the years 1 to 9999") from error


def _day(text: str) -> None:
    """Raise ValueError for what is no day of every year."""
    if not re.fullmatch("[0-9]{2}-[0-9]{2}", text):
        raise ValueError(f"'{text[:40]}' is no day of a year")
    datetime.strptime(f"2001-{text}", "%Y-%m-%d")


def read_pack(raw: Mapping[str, Any], where: str) -> Pack:
    """A pack from its table; an unknown or missing key, a word that is none or a number out of range raises BadRequest naming it."""
    pack = strict.table(Pack, raw, where)
    for pair in pack.roles.separate:
        check_roles(pair)
    rule = pack.threshold
    listed = [(pack.purposes.allow, PURPOSES), (pack.purposes.deny, PURPOSES), (pack.offences.purposes, PURPOSES)]
    listed += [(pack.offences.allow, OFFENCES)]
    for part in pack.documents:
        listed += [(part.purposes, PURPOSES), (part.offences, OFFENCES)]
    for own in rule.floors:
        listed += [(own.purposes, PURPOSES), (own.offences, OFFENCES)]
    for words, known in listed:
        check_words(words, known, where, any_too=True)
    for floor in (*rule.floors, rule.floor_for("", "")):
        if not 0 <= floor.similarity <= 100 or not 0 <= floor.fpir < 1:
            raise BadRequest(f"{where}: a floor must be 0-100, and an fpir 0 or more and below 1")
    if not rule.floor <= rule.absent <= 100:
        raise BadRequest(f"{where}: the floor must be 0-100 and 'absent' not below it")
    if rule.absent == 0 and rule.when_absent == "apply" and not rule.allow_none:
        raise BadRequest(
            f"{where}: 'absent' 0 is no threshold, which 'allow_none' does not allow; let when_absent refuse, or name a threshold"
        )
    counts = {
        "candidates maximum": pack.candidates.maximum, "leads maximum": pack.leads.maximum, "review reviewers": pack.review.reviewers,
        "gallery max_factor": pack.gallery.max_factor, "certificate max_age_days": pack.certificate.max_age_days,
        "suspension refusals": pack.suspension.refusals, "suspension hours": pack.suspension.hours,
        "retention ledger_days": pack.retention.ledger_days, "retention expired_days": pack.retention.expired_days,
        **{f"documents[{i}] emergency_hours": rule.emergency_hours for i, rule in enumerate(pack.documents)},
    }  # fmt: skip
    if off := [name for name, count in counts.items() if not 0 <= count <= _MOST]:
        raise BadRequest(f"{where}: {off[0]} must be 0 or more, and at most {_MOST:,}")
    for name, value, most in (("leads floor", pack.leads.floor, 100), ("certificate least_score", pack.certificate.least_score, 1)):
        if not 0 <= value <= most:
            raise BadRequest(f"{where}: {name} must be 0-{most}")
    try:
        times = [moment(text) for text in (pack.effective_from, pack.effective_to) if text]
        for report in pack.reports:
            _day(report.due)
    except ValueError as error:
        raise BadRequest(f"{where}: {error}; write times like 2024-10-01 or 2024-10-01T00:00:00Z, and days of a year like 02-01") from error
    if times != sorted(set(times)):
        raise BadRequest(f"{where}: effective_to must be later than effective_from")
    return pack


def check_words(words: Iterable[str], known: Iterable[str], where: str, *, any_too: bool = False) -> None:
    """Raise BadRequest for a word that is not in its closed list; `any_too`: a pack's list may have `*`, what somebody does may not."""
    if unknown := sorted(set(words) - {*known, *([ANY] if any_too else [])}):
        raise BadRequest(f"{where}: '{unknown[0]}' is not one of {', '.join(known)}")


def check_roles(roles: Iterable[str]) -> None:
    """Raise BadRequest for a role that does not exist."""
    if unknown := sorted(set(roles) - set(ROLES)):
        raise BadRequest(f"there is no role '{unknown[0]}'; the roles are {', '.join(ROLES)}")


def plain(value: Any) -> Any:
    """Dataclasses' dictionaries with lists for tuples, as JSON has them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
