"""Why a pack allows or refuses something, rule by rule with citations, and how two packs differ. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aboveboard.accountability.packs import Pack
from aboveboard.accountability.policy import CASEWORK, Asked, Decision, bounds_of, breaches, decide
from aboveboard.accountability.rules import EDITS, PROBES, PURPOSES, Mode

Verdict = Literal["refuses", "wants a reason", "noted", "kept"]
_VERDICTS: Mapping[Mode, Verdict] = {"enforce": "refuses", "reason": "wants a reason", "record": "noted"}
OWN = "Aboveboard's own, under every pack."


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule, whether it is kept, what it says here, and where it comes from. `noted`: not kept, which is only recorded."""

    rule: str
    verdict: Verdict
    text: str
    citation: str


def explain(pack: Pack, asked: Asked) -> tuple[Decision, list[Finding]]:
    """The decision, and every rule of the pack that has to do with it: first those that are not kept, as they decide, then the others."""
    broken = []
    for mode, name, text in breaches(pack, asked):
        has_reason = mode == "reason" and asked.case is not None and asked.case.has_reason
        broken.append(Finding(f"{pack.id}/{name}", "noted" if has_reason else _VERDICTS[mode], text, _citation(pack, name, asked)))
    names = {one.rule.partition("/")[2].partition(".")[0] for one in broken}
    kept = [
        Finding(f"{pack.id}/{name}", "kept", text, _citation(pack, name, asked)) for name, text in _kept(pack, asked) if name not in names
    ]
    return decide(pack, asked), broken + kept


def _kept(pack: Pack, asked: Asked) -> Iterator[tuple[str, str]]:
    """What each rule that bears on a look asks for, if it is kept."""
    case, bounds = asked.case, bounds_of(pack, asked)
    if pack.effective_from or pack.effective_to:
        yield "effective", f"it is in force {pack.dates}"
    if pack.roles.separate:
        yield "roles", "the operator holds no roles that are kept apart"
    if asked.duty not in CASEWORK:
        return
    if pack.certificate.required and asked.certificate:
        yield "certificate", f"the operator's certificate of {asked.certificate.made_at} holds"
    if case:
        yield "purpose", f"people may be looked for to {PURPOSES.get(case.purpose, case.purpose)}"
        if case.offence and pack.offences.purposes:
            yield "offence", f"'{case.offence}' is an offence for which a {case.purpose} may be looked for"
        if document := pack.document_for(case.purpose, case.offence):
            yield (
                "documents",
                f"the {document.kind.replace('_', ' ')} that this needs is {document.state}, or its time for that is not over",
            )
        elif pack.documents:
            yield "documents", "this purpose and offence need no authority document"
        if set(pack.probes.types) != set(PROBES) or set(pack.probes.edits) != set(EDITS):
            yield "probe", f"a {case.probe} may be searched for{', edited as it is' if case.edits else ''}"
    found = "no threshold" if bounds.origin == "none" else f"threshold {bounds.threshold:.10g}"
    yield "threshold", f"{found}, origin {bounds.origin}; {f'the floor is {bounds.floor:.10g}' if bounds.floor else 'there is no floor'}"
    yield "candidates", f"at most {pack.candidates.maximum:,} candidates"
    if pack.review.reviewers:
        who = "one person has" if pack.review.reviewers == 1 else f"{pack.review.reviewers} people have"
        is_held = "withheld" if pack.withholds_identities else "not withheld, though the pack asks for it,"
        yield "review", f"identities are {is_held} until {who} reviewed a candidate"


def _citation(pack: Pack, name: str, asked: Asked) -> str:
    """Where a rule comes from."""
    purpose, offence = (asked.case.purpose, asked.case.offence) if asked.case else ("", "")
    document = pack.document_for(purpose, offence) or next(iter(pack.documents), None)
    cited = {
        "effective": pack.authority,
        "roles": pack.roles.citation if pack.roles.separate else OWN,
        "suspended": pack.suspension.citation,
        "certificate": pack.certificate.citation,
        "purpose": pack.purposes.citation,
        "offence": pack.offences.citation,
        "documents": document.citation if document else "",
        "probe": pack.probes.citation,
        "threshold": pack.threshold.floor_for(purpose, offence).citation,
        "candidates": pack.candidates.citation,
        "review": pack.review.citation,
    }
    return cited.get(name.partition(".")[0], OWN)


@dataclass(frozen=True, slots=True)
class Difference:
    """How one rule of two packs differs: which pack is stricter in it, and the keys whose values are not the same."""

    rule: str
    stricter: Literal["first", "second", "neither", "each in part"]
    values: tuple[tuple[str, Any, Any], ...]


def differences(one: Pack, other: Pack) -> list[Difference]:
    """Every rule in which two packs differ, dates first. Citations and names are no rules."""
    looser, tighter = set(one.looser_than(other)), set(other.looser_than(one))
    first, second, found = one.plain(), other.plain(), []
    dates = tuple((key, first[key], second[key]) for key in ("effective_from", "effective_to") if first[key] != second[key])
    if dates:
        found.append(Difference("dates", "neither", dates))
    for name in (name for name, value in first.items() if isinstance(value, (dict, list))):
        values = tuple(_changed(name, first[name], second[name]))
        if values or name in looser | tighter:
            sides = (name in looser, name in tighter)
            stricter: Mapping[tuple[bool, bool], Literal["first", "second", "neither", "each in part"]] = {
                (False, True): "first", (True, False): "second", (False, False): "neither", (True, True): "each in part",
            }  # fmt: skip
            found.append(Difference(name, stricter[sides], values))
    return found


def _changed(name: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one:
            if key != "citation":
                yield from _changed(f"{name}.{key}", one[key], other[key])
    elif _uncited(one) != _uncited(other):
        yield name, one, other


def _uncited(value: Any) -> Any:
    if isinstance(value, list):
        return [_uncited(item) for item in value]
    return {key: item for key, item in value.items() if key != "citation"} if isinstance(value, dict) else value
