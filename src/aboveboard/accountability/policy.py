"""The one decision that stands before every look. Pure: no clock, no disk, no state, so that anybody can make it again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

from aboveboard import strict
from aboveboard.accountability.packs import Pack, moment, plain
from aboveboard.accountability.rules import KINDS, OFFENCES, PURPOSES, ROLES, CertificateRule, DocumentRule, Edit, Kind, Mode, Origin, Probe
from aboveboard.biometrics.calibration import similarity_for

DUTIES: Mapping[str, tuple[str, ...]] = {
    "detect": ROLES,
    "collection.list": ROLES,
    "collection.create": ("admin",),
    "collection.delete": ("admin",),
    "collection.tag": ("admin",),
    "collection.reindex": ("admin",),
    "collection.check": ("admin", "enroller"),
    "collection.scores": ("admin", "auditor"),
    "face.list": ROLES,
    "face.enrol": ("enroller",),
    "face.remove": ("enroller",),
    "subject.list": ROLES,
    "subject.create": ("enroller",),
    "subject.delete": ("enroller",),
    "subject.associate": ("enroller",),
    "subject.disassociate": ("enroller",),
    "compare": ("investigator",),
    "search.face": ("investigator",),
    "search.image": ("investigator",),
    "search.subjects": ("investigator",),
    "search.subjects.image": ("investigator",),
    "case.open": ("investigator",),
    "case.change": ("investigator",),
    "case.leads": ("investigator",),
    "case.list": ROLES,
    "case.packet": ("admin", "reviewer", "auditor"),
    "operator.add": ("admin",),
    "operator.list": ("admin", "auditor"),
    "operator.rotate": ("admin",),
    "operator.rotate.own": ROLES,
    "operator.revoke": ("admin",),
    "operator.revoke.own": ROLES,
    "operator.certify": ("admin",),
    "suspension.make": ("admin", "auditor"),
    "suspension.lift": ("admin", "auditor"),
    "suspension.list": ROLES,
    "policy.explain": ROLES,
    "report": ("admin", "auditor"),
    "ledger.read": ("admin", "auditor"),
    "backup.make": ("admin",),
    "backup.restore": ("admin",),
}
"""Which roles may do what; one of them suffices."""
CASEWORK = frozenset({"compare", "search.face", "search.image", "search.subjects", "search.subjects.image"})
"""The duties that look for a person: they have a purpose."""
LOOKS = CASEWORK | {"collection.check", "subject.associate"}
"""The duties that compare templates: a threshold applies to them."""
WRITES = frozenset(
    {
        "collection.create", "collection.reindex", "collection.scores", "face.enrol", "subject.create", "subject.associate",
        "case.open", "case.change", "case.leads",
    }
)  # fmt: skip
"""What somebody who is suspended, or may not work on what is, cannot do besides looks: taking away and reading remain."""
UPKEEP = frozenset(
    {
        "collection.tag", "operator.add", "operator.rotate", "operator.revoke", "operator.certify", "suspension.make", "suspension.lift",
        "backup.restore",
    }
)  # fmt: skip
"""What nobody does who is suspended himself, or with his unit. While the system is suspended others may: the way back leads here."""


POLICY_TAG = "aboveboard:policy"
"""The tag that says under which pack a collection stands."""


@dataclass(frozen=True, slots=True)
class Document:
    """An authority document of a case. Times are RFC 3339; `granted` None: not decided."""

    kind: Kind
    requested_at: str
    decided_at: str | None = None
    granted: bool | None = None


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """What a case says of a look in it: nothing that names it, or anybody. `emergency_at`: when an emergency began; empty: none."""

    purpose: str
    expires_at: str
    offence: str = ""
    closed_at: str = ""
    emergency_at: str = ""
    documents: tuple[Document, ...] = ()
    probe: Probe = "photograph"
    edits: tuple[Edit, ...] = ()
    has_reason: bool = False


@dataclass(frozen=True, slots=True)
class Certificate:
    """That an operator passed a test: when, until when it holds, and the share of it that he had right."""

    made_at: str
    until: str
    score: float


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants to do. `threshold` None means that the request named none.

    `usual` is what none means for this duty where the pack leaves it at the API's default, if that is not the pack's own number.
    `least` is the threshold below which none never lies, because of how many comparisons are made. `comparisons`: with how many faces,
    so far in this case where they come one by one. `suspended`: who or what is, if any.
    """

    duty: str
    roles: tuple[str, ...]
    at: str
    threshold: float | None = None
    limit: int = 0
    usual: float | None = None
    least: float = 0.0
    comparisons: int = 0
    case: CaseFacts | None = None
    certificate: Certificate | None = None
    suspended: str = ""

    def plain(self) -> dict[str, Any]:
        """As an entry says it; what is as it would be anyway is left out. `from_plain` reads it."""
        return _without_defaults(self, plain(asdict(self)))

    def with_comparisons(self, comparisons: int) -> Asked:
        """The same, once it is known how many comparisons it is in full."""
        return replace(self, comparisons=comparisons)

    @staticmethod
    def from_plain(raw: Mapping[str, Any]) -> Asked:
        """Raises BadRequest where it is no such document."""
        return strict.table(Asked, raw, "what was asked")


@dataclass(frozen=True, slots=True)
class Decision:
    """Allowed with these bounds, or refused by `rule` with a message that says how to comply.

    `departures`: rules that were not kept, where the pack only asks for a reason or records it. `leads_floor`: from which similarity on
    candidates below the threshold are kept, 100 where none are.
    """

    rule: str = ""
    message: str = ""
    threshold: float = 0.0
    origin: Origin = "none"
    floor: float = 0.0
    limit: int = 0
    withhold_identities: bool = False
    departures: tuple[str, ...] = ()
    leads_limit: int = 0
    leads_floor: float = 100.0

    @property
    def is_allowed(self) -> bool:
        return not self.rule

    def threshold_facts(self) -> dict[str, Any]:
        """Its threshold as an entry says it."""
        return {"value": self.threshold, "origin": self.origin, "floor": self.floor}


Breach = tuple[Mode, str, str]
"""A rule that is not kept: its mode, its name, and a text that says why and how to comply."""


def decide(pack: Pack, asked: Asked) -> Decision:
    """Whether the pack allows what is asked, and within which bounds."""
    has_reason, departures = asked.case is not None and asked.case.has_reason, []
    for mode, name, text in breaches(pack, asked):
        if mode == "enforce":
            return _refusal(pack, name, text)
        if mode == "reason" and not has_reason:
            return _refusal(pack, name, f"{text}; or give a reason with the case's credentials")
        departures.append(f"{pack.id}/{name}")
    if asked.duty not in LOOKS:
        return Decision(withhold_identities=pack.withholds_identities)
    bounds = bounds_of(pack, asked)
    leads = pack.leads if bounds.origin != "none" and asked.case is not None else None
    is_cut = pack.candidates.mode == "enforce"
    return Decision(
        threshold=bounds.threshold,
        origin=bounds.origin,
        floor=bounds.floor,
        limit=min(asked.limit, pack.candidates.maximum) if is_cut else asked.limit,
        withhold_identities=pack.withholds_identities,
        departures=tuple(departures),
        leads_limit=leads.maximum if leads else 0,
        leads_floor=leads.floor if leads and leads.maximum else 100.0,
    )


def least_of_check(faces: int) -> float:
    """The lowest threshold that none means where so many faces are compared with each other: chance brings one false pair."""
    return math.ceil(10 * similarity_for(1, faces * (faces - 1) // 2)) / 10


def breaches(pack: Pack, asked: Asked) -> Iterator[Breach]:
    """Every rule that is not kept by what is asked, in the order in which they decide."""
    allowed_roles = DUTIES[asked.duty]
    if not set(asked.roles) & set(allowed_roles):
        yield "enforce", "roles", f"'{asked.duty}' needs the role {' or '.join(allowed_roles)}; ask an admin for it"
    if asked.suspended and asked.duty in LOOKS | WRITES | UPKEEP:
        yield "enforce", "suspended", f"{asked.suspended} is suspended; two others lift that with: aboveboard suspension lift"
    if asked.duty in LOOKS:
        yield from _standing(pack, asked)
        yield from _case(pack, asked)
        yield from _threshold(pack, asked, bounds_of(pack, asked))


def judge_gallery(pack: Pack, factor: float | None, *, has_reason: bool) -> Decision:
    """Whether the scores of a gallery with this gallery factor may be answered; None: too small to have one."""
    rule = pack.gallery
    if factor is None or not rule.max_factor or factor <= rule.max_factor:
        return Decision()
    if rule.mode == "record" or (rule.mode == "reason" and has_reason):
        return Decision(departures=(f"{pack.id}/gallery",))
    text = (
        f"the gallery factor is {factor:.3g}, above {rule.max_factor:g}: its scores do not mean what they say; see docs/gallery-factor.md"
    )
    return _refusal(pack, "gallery", text)


def judge_case(pack: Pack, purpose: str, offence: str) -> Decision:
    """Whether looks may be made for this purpose and offence at all: what `decide` would refuse at each of them is refused here."""
    broken = next((breach for breach in _purpose(pack, purpose, offence) if breach[0] == "enforce"), None)
    return _refusal(pack, *broken[1:]) if broken else Decision()


@dataclass(frozen=True, slots=True)
class Bounds:
    """The threshold that applies and where it comes from, the floor at this N, and what naming none means."""

    threshold: float
    origin: Origin
    floor: float
    absent: float


def bounds_of(pack: Pack, asked: Asked) -> Bounds:
    """Which threshold a look has under a pack; whether it may have it is another question."""
    rule = pack.threshold
    purpose, offence = (asked.case.purpose, asked.case.offence) if asked.case else ("", "")
    own = rule.floor_for(purpose, offence)
    floor = own.at(asked.comparisons)
    # Where the pack has a floor for this purpose or this N, that is what none means, too.
    has_other = own.fpir > 0 or any(one.applies(purpose, offence) for one in rule.floors)
    absent = floor if has_other else rule.absent
    if asked.usual is not None and rule.absent_origin == "default":
        absent = max(asked.usual, floor)
    origin: Origin = "none" if absent == 0 else rule.absent_origin if asked.least <= absent else "gallery"
    absent = max(absent, asked.least)
    if asked.threshold is None:
        return Bounds(absent, "gallery" if asked.least and origin == "none" else origin, floor, absent)
    return Bounds(asked.threshold, "request" if asked.threshold > 0 else "none", floor, absent)


def _standing(pack: Pack, asked: Asked) -> Iterator[Breach]:
    """Whether the pack is in force, and the operator may act under it."""
    if not pack.is_effective(asked.at):
        yield "enforce", "effective", f"it is in force {pack.dates}, not at {asked.at}; an admin can put the collection under another pack"
    if pair := pack.roles.conflict(asked.roles):
        instead = f"act as an operator who holds {' or '.join(DUTIES[asked.duty])} alone"
        yield "enforce", "roles", f"one operator may not hold the roles {pair[0]} and {pair[1]}; {instead}"
    rule = pack.certificate
    if rule.required and asked.duty in CASEWORK and (text := uncertified(rule, asked.certificate, asked.at)):
        yield rule.mode, "certificate", f"{text}; an admin enters one with: aboveboard operator certify"


def uncertified(rule: CertificateRule, held: Certificate | None, at: str) -> str:
    """Why somebody's certificate does not do at a time; empty where it does."""
    if held is None:
        return "who searches needs a certificate, and this operator has none"
    end, most, made = moment(held.until), timedelta(days=rule.max_age_days), moment(held.made_at)
    if rule.max_age_days and end - made > most:  # so that the sum is a date
        end = made + most
    if moment(at) >= end:
        return f"the operator's certificate ended at {end.isoformat().replace('+00:00', 'Z')}"
    return f"the operator's certificate says {held.score:g}, less than {rule.least_score:g}" if held.score < rule.least_score else ""


def _case(pack: Pack, asked: Asked) -> Iterator[Breach]:
    """Whether a look for a person has a purpose that the pack allows, the authority for it, and a probe that may be searched for."""
    if asked.duty not in CASEWORK:
        return
    case, rule = asked.case, pack.purposes
    if case is None:
        if rule.required:
            text = "who searches or compares does so in a case: aboveboard case open, then use what aboveboard case credentials prints"
            yield rule.mode, "purpose", text
        return
    if case.closed_at and moment(case.closed_at) <= moment(asked.at):
        yield "enforce", "case", "the case is closed; open another"
    elif moment(case.expires_at) <= moment(asked.at):
        yield "enforce", "case", f"the case ended at {case.expires_at}; open another"
    yield from _purpose(pack, case.purpose, case.offence)
    document = pack.document_for(case.purpose, case.offence)
    if document and (text := _undocumented(document, case, asked.at)):
        yield document.mode, "documents", text
    if case.probe not in pack.probes.types:
        yield pack.probes.mode, "probe", f"a {case.probe} may not be searched for; {' and '.join(pack.probes.types)} may"
    if edits := [edit for edit in case.edits if edit not in pack.probes.edits]:
        yield pack.probes.mode, "probe", f"a probe may not be edited by {edits[0]}; search for the picture as it was taken"


def _purpose(pack: Pack, purpose: str, offence: str) -> Iterator[Breach]:
    """Whether anybody may be looked for to this end."""
    if not pack.purposes.allows(purpose):
        allowed = ", ".join(one for one in PURPOSES if pack.purposes.allows(one))
        text = f"nobody may be looked for to {PURPOSES.get(purpose, purpose)}; the purposes are {allowed}"
        yield pack.purposes.mode, "purpose", text
    if not pack.offences.allows(purpose, offence):
        allowed = ", ".join(one for one in OFFENCES if pack.offences.allows(purpose, one))
        given = f"'{offence}' is not an offence" if offence else "the case names no offence"
        yield pack.offences.mode, "offence", f"{given} for which a {purpose} may be looked for; these are: {allowed}"


def _undocumented(rule: DocumentRule, case: CaseFacts, at: str) -> str:
    """Why the case lacks the authority document that it needs; empty where it has it."""
    now = moment(at)
    requested = [one for one in case.documents if moment(one.requested_at) <= now]
    fitting = [one for one in requested if KINDS.index(one.kind) >= KINDS.index(rule.kind)]
    decided = [one for one in requested if one.decided_at and moment(one.decided_at) <= now]
    if any(one.granted for one in decided if one in fitting):
        return ""
    needed = rule.kind.replace("_", " ")
    # Of whatever kind: who was refused may not go on by asking somebody else.
    if refused := next((one for one in decided if not one.granted), None):
        return f"the {refused.kind.replace('_', ' ')} was refused: stop, and delete what rests on it"
    if fitting and rule.state == "requested":
        return ""
    if case.emergency_at and timedelta(0) <= now - moment(case.emergency_at) < timedelta(hours=rule.emergency_hours):
        return ""
    add = "enter it with: aboveboard case document"
    return f"a case of this purpose needs a {needed} that is {rule.state}; {add}"


def _threshold(pack: Pack, asked: Asked, bounds: Bounds) -> Iterator[Breach]:
    rule, floor, absent = pack.threshold, bounds.floor, bounds.absent
    least = max(floor, absent) if rule.when_absent == "apply" else floor
    or_none = f", or none for {absent:.10g}" if rule.when_absent == "apply" and absent else ""
    if asked.threshold is None and rule.when_absent == "refuse":
        yield rule.mode, "threshold.absent", f"a search names its threshold; send {least:.10g} or more"
    elif bounds.origin == "none" and not rule.allow_none:
        send = f"{floor:.10g} or more" if floor else "one above 0"
        yield rule.mode, "threshold.none", f"a search needs a threshold; send {send}{or_none}"
    elif bounds.origin != "none" and bounds.threshold < floor:
        text = f"threshold {bounds.threshold:.10g} is below the floor of {floor:.10g}; send {floor:.10g} or more{or_none}"
        yield rule.mode, "threshold.floor", text
    if pack.candidates.mode != "enforce" and asked.limit > pack.candidates.maximum:
        yield pack.candidates.mode, "candidates", f"a list has at most {pack.candidates.maximum} candidates; ask for as many or fewer"


def _refusal(pack: Pack, rule: str, text: str) -> Decision:
    return Decision(rule=f"{pack.id}/{rule}", message=f"Refused by rule {pack.id}/{rule}: {text}.")


def _without_defaults(value: Any, shown: Mapping[str, Any]) -> dict[str, Any]:
    """`shown` without the fields of a dataclass that have their default."""
    kept: dict[str, Any] = {}
    for name, part in type(value).__dataclass_fields__.items():
        own = getattr(value, name)
        if own == part.default:
            continue
        kept[name] = _without_defaults(own, shown[name]) if hasattr(own, "__dataclass_fields__") else shown[name]
    return kept
