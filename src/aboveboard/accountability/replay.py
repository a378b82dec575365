"""Make every decision of a bundle again, by the packs in it, and compare each look with what the entries before it say.

Needs no deployment. What is kept in memory grows with operators, cases, collections and looks under way, not with entries.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from aboveboard.accountability.catalogue import AUTHORITIES, statement
from aboveboard.accountability.history import SLACK_S, Entry, Gallery, History, Served, seconds
from aboveboard.accountability.packs import Pack, moment, read_pack
from aboveboard.accountability.policy import CASEWORK, LOOKS, WRITES, Asked, Decision, decide, judge_gallery, least_of_check
from aboveboard.accountability.verify_ledger import ENTRIES, Report, open_note
from aboveboard.biometrics.calibration import expected_false, fmr_at
from aboveboard.errors import BadRequest

POLICIES = "policies"
"""A bundle's folder of packs: their canonical JSON as SHA256.json, an authority's signed note as SHA256.sig."""
_LONGEST = 16_000_000
"""Bytes of an entry."""
_CLOCK_S = 2.0
"""By how much a clock may be set back between a decision and its entry without an entry that says so: no other was written meanwhile."""
_WRONG = (BadRequest, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading a document raises that is not as the program writes it."""

Tell = Callable[[str, str], None]
"""Told a kind of fault and a text."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many decisions were made again: to allow a look, and to refuse; how many looks of an older release do not say what was asked."""

    looks: int
    refusals: int
    older: int


def replay(folder: Path, report: Report, authorities: Sequence[str] = ()) -> Replayed:
    """Tell `report` what is wrong with the decisions in a bundle. `authorities`: verifier keys, kept elsewhere, of who signs packs."""
    one = Replay(read_packs(folder / POLICIES, report, authorities), report)
    with (folder / ENTRIES).open("rb") as lines:
        while line := lines.readline(_LONGEST):
            one.add(line)
    return one.end()


def read_packs(folder: Path, report: Report, authorities: Sequence[str] = ()) -> dict[str, Pack]:
    """The packs of a bundle by their sha256. Told and left out: what is not the pack that its name says, a template that nobody signed."""
    found, kept = dict[str, Pack](), folder / AUTHORITIES
    own = [line for line in kept.read_text().splitlines() if line.strip() and not line.startswith("#")] if kept.is_file() else []
    for file in sorted(folder.glob("*.json")):
        try:
            text = file.read_bytes()
            if hashlib.sha256(text).hexdigest() != file.stem:
                raise ValueError("its sha256 is not its name: it was changed")
            pack = read_pack(json.loads(text), file.name)
            if pack.canonical != text:
                raise ValueError("it is not in canonical form")
            if pack.status == "unverified":
                _check_signature(pack, file.with_suffix(".sig"), authorities or own)
        except _WRONG as error:
            report.tell("pack", f"{POLICIES}/{file.name}: {error}")
        else:
            found[pack.sha256] = pack
    if own and not authorities and any(pack.status == "unverified" for pack in found.values()):
        report.tell("authority", f"packs are signed by keys of the bundle's own {AUTHORITIES}: compare them with the authorities'", "note")
    return found


def _check_signature(pack: Pack, file: Path, keys: Sequence[str]) -> None:
    """Raise ValueError unless one of the keys signed a template."""
    if not file.is_file():
        raise ValueError("it is a template, and no authority has signed it")
    said = "no key of an authority is given"
    for key in keys:
        try:
            if open_note(file.read_bytes(), key).startswith(statement(pack)):
                return
            said = "what was signed is another pack"
        except ValueError as error:
            said = str(error)
    raise ValueError(f"it is a template, and its signature cannot be relied on: {said}")


@dataclass(frozen=True, slots=True)
class _Open:
    """A look that was announced and has no outcome yet."""

    seq: int
    at: float
    asked: Asked
    decided: tuple[Pack, Decision] | None
    operator: str
    case: str
    collection: str
    gallery: Gallery | None
    left_out: int


class Replay:
    """Takes the entries one by one."""

    def __init__(self, packs: Mapping[str, Pack], report: Report) -> None:
        self._packs, self._report, self._history = packs, report, History()
        self._open, self._as_strict = dict[str, _Open](), dict[tuple[str, str], bool]()
        self._looks, self._refusals, self._older, self._first = 0, 0, 0, -1

    def add(self, line: bytes) -> None:
        """The next entry. What is wrong with its form alone was told by who verified the ledger."""
        try:
            entry = json.loads(line)
            at, kind, seq = seconds(entry["time"]), entry["type"], entry["seq"]
        except _WRONG:
            return

        def tell(kind: str, text: str) -> None:
            self._report.tell(kind, f"entry {seq}: {text}")

        try:
            if kind == "look.intent":
                self._intent(entry, at, tell)
            elif kind == "look.outcome":
                self._outcome(entry, at, tell)
            elif kind == "refused":
                self._refused(entry, at, tell)
            elif kind in ("server.started", "policy.loaded"):
                for named in entry.get("policies", []):
                    self._pack(named, tell)
                self._history.apply(entry, at)
            elif said := self._history.apply(entry, at):
                tell(_KIND_OF.get(kind.partition(".")[0], "gallery"), said)
        except _WRONG as error:
            tell("entry", f"what this {str(kind)[:40]} says cannot be read, or speaks of what no entry made: {error!s:.200}")

    def end(self) -> Replayed:
        if self._older:
            self._report.tell("older", f"{self._older} looks of an older release do not say what was asked: not decided again", "note")
        return Replayed(self._looks, self._refusals, self._older)

    def _pack(self, named: Mapping[str, Any], tell: Tell) -> Pack | None:
        pack = self._packs.get(named["sha256"])
        if pack is None:
            tell("pack", f"the pack {named['id']} {named['version']} with the sha256 {named['sha256']} is not in the bundle")
        elif (pack.id, pack.version) != (named["id"], named["version"]):
            tell("pack", f"the pack {named['sha256']} is {pack.id} {pack.version}, not {named['id']} {named['version']}")
        return pack

    def _intent(self, entry: Entry, at: float, tell: Tell) -> None:
        if "asked" not in entry:
            self._older += 1
            if self._first >= 0:
                tell("asked", f"it does not say what was asked, as intents do since entry {self._first}")
            return
        seq = entry["seq"]
        self._first = seq if self._first < 0 else self._first
        self._looks += 1
        asked, pack = Asked.from_plain(entry["asked"]), self._pack(entry["policy"], tell)
        collection = entry["collection"]["id"] if "collection" in entry else ""
        self._claims(entry, asked, at, collection, tell)
        self._numbers(entry, asked, collection, tell)
        decided = None
        if pack is not None:
            self._tagged(pack, asked, collection, tell)
            if entry["via"] != "cli":  # which decides by the settings of that call
                self._served(pack, asked, collection, tell)
            decision = decide(pack, asked)
            if decision.is_allowed:
                decided = pack, decision
                _bounds(entry, decision, tell)
            else:
                tell("decision", f"the look was allowed, and by its pack it is refused by rule {decision.rule}")
        left_out = len(entry["probe"].get("face_ids", entry["probe"].get("commitments", ()) if asked.duty == "search.face" else ()))
        gallery, case = self._history.galleries.get(collection), entry.get("case", "")
        self._open[entry["audit_id"]] = _Open(seq, at, asked, decided, entry["operator"], case, collection, gallery, left_out)

    def _refused(self, entry: Entry, at: float, tell: Tell) -> None:
        if "asked" not in entry:  # not a decision of a pack's alone: a bucket, a missing calibration, a looser tag; or of an older release
            return
        self._refusals += 1
        asked, pack = Asked.from_plain(entry["asked"]), self._pack(entry["policy"], tell)
        self._claims(entry, asked, at, entry.get("collection", ""), tell)
        if entry.get("threshold") != asked.threshold:
            tell("asked", f"it says threshold {entry.get('threshold')}, and {asked.threshold} was asked")
        if pack is not None and (rule := decide(pack, asked).rule) != entry["rule"]:
            tell(
                "decision", f"it was refused by rule {entry['rule']}; by its pack it is {f'refused by rule {rule}' if rule else 'allowed'}"
            )

    def _claims(self, entry: Entry, asked: Asked, at: float, collection: str, tell: Tell) -> None:
        """Whether what a decision rests on agrees with its entry and with those before."""
        history, operator, decided = self._history, entry["operator"], seconds(asked.at)
        since = decided - SLACK_S
        # Leads are shown where the look that found them would be allowed still.
        duty = entry.get("made", entry["duty"]) if entry["duty"] == "case.leads" else entry["duty"]
        if asked.duty != duty:
            tell("asked", f"it says {duty}, and {asked.duty} was asked")
        if list(asked.roles) != entry["roles"] or history.roles.get(operator) != entry["roles"]:
            tell(
                "asked", f"{operator} acts as {entry['roles']}, asks as {list(asked.roles)}, and was added as {history.roles.get(operator)}"
            )
        if not at - SLACK_S <= decided <= at + _CLOCK_S and at > history.set_back:
            tell("asked", f"it was decided at {asked.at} and written at {entry['time']}")
        held = asked.certificate
        claimed = None if held is None else (held.made_at, held.until, held.score)
        if asked.duty in CASEWORK and (said := history.holds(operator, claimed, since)):
            tell("certificate", said)
        versions = [history.concerns(one, operator, collection) for one in history.suspended.since(since)]
        if asked.duty in LOOKS | WRITES and all(bool(one) != bool(asked.suspended) for one in versions):
            tell("suspension", f"{versions[0] or 'nothing'} is suspended, and it was decided as if {asked.suspended or 'nothing'} were")
        if asked.duty in CASEWORK:
            for said in self._case(entry, asked, since):
                tell("case", said)
        elif asked.case or asked.certificate:
            tell("asked", f"{asked.duty} has neither a case nor a certificate")

    def _case(self, entry: Entry, asked: Asked, since: float) -> Iterator[str]:
        """What does not agree with the case of a look, and with the key that it was made with."""
        handle, claimed, key = entry.get("case", ""), entry["asked"].get("case"), self._history.keys.get(entry["via"])
        if bool(handle) != (claimed is not None) or (key.case if key else handle) != handle:
            decided = "in a case" if claimed else "without one"
            yield f"it names the case {handle or 'none'}, its key is of {key.case if key else 'none'}, and it was decided {decided}"
            return
        if asked.case is None:
            return
        if handle not in self._history.cases:
            yield f"the case {handle} was never opened"
            return
        case = asked.case
        facts = {
            "purpose": case.purpose, "offence": case.offence, "expires_at": case.expires_at, "closed": bool(case.closed_at),
            "emergency_at": case.emergency_at, "documents": [asdict(one) for one in case.documents],
        }  # fmt: skip
        known = list(self._history.cases[handle].facts.since(since))
        if facts not in known:
            wrong = ", ".join(
                f"{name} {_json(value)} for {_json(known[0][name])}" for name, value in facts.items() if value != known[0][name]
            )
            yield f"of the case {handle} it claims {wrong}"
        declared = entry.get("declared")
        if declared is not None:
            mine = {"probe": case.probe, "edits": list(case.edits), "reason": case.has_reason}
            if mine != {"probe": declared["probe"], "edits": declared["edits"], "reason": "reason" in declared}:
                yield f"it declares {_json(declared)}, and was decided for {_json(mine)}"
            if key is not None and key.declared != declared:
                yield f"it declares {_json(declared)}, and its key {_json(key.declared)}"
        if entry["via"] != "cli" and (key is None or key.ends + SLACK_S <= seconds(asked.at)):
            yield f"its key {entry['via']} {'was made for no case' if key is None else 'had ended'}"

    def _numbers(self, entry: Entry, asked: Asked, collection: str, tell: Tell) -> None:
        """Whether the gallery, and the counts that thresholds rest on, follow from the entries before."""
        history, since = self._history, seconds(asked.at) - SLACK_S
        counts = [0]
        if collection:
            gallery = history.galleries[collection]
            counts = list(gallery.faces.since(since))
            if entry["collection"].get("commitment") != (made := gallery.commitment()) or entry["collection"]["faces"] != gallery.faces.now:
                tell("gallery", f"it commits to {_json(entry['collection'])}; the entries give {gallery.faces.now} faces, {_json(made)}")
        elif asked.duty == "compare":
            case = history.cases.get(entry.get("case", ""))
            counts = [1 + one for one in case.comparisons.since(since)] if case else [1]
        # In a case a comparison may be counted and, where the server was stopped, never answered.
        if asked.comparisons not in counts and (not asked.case or collection or asked.comparisons < min(counts)):
            tell("asked", f"it was decided for {asked.comparisons} comparisons; the entries give {counts[0]}")
        least = least_of_check(asked.comparisons) if asked.duty == "collection.check" else 0.0
        if not math.isclose(asked.least, least) or (asked.usual is not None and asked.duty != "subject.associate"):
            tell("asked", f"it was decided with least {asked.least} and usual {asked.usual}; least is {least}")

    def _tagged(self, pack: Pack, asked: Asked, collection: str, tell: Tell) -> None:
        """Whether a collection's pack is the one that its tag names, or a stricter one."""
        tags = list(self._history.galleries[collection].policy.since(seconds(asked.at) - SLACK_S)) if collection else [""]
        if "" in tags or pack.id in tags:
            return
        if not any(self._is_as_strict(pack, one) for one in self._packs.values() if one.id in tags):
            tell("policy", f"it was decided by the pack {pack.id}, and {collection} stands under {tags[0]}")

    def _served(self, pack: Pack, asked: Asked, collection: str, tell: Tell) -> None:
        """Whether a server that ran then decides by a pack: by its default where no tag names another, and by the version in force."""
        since = seconds(asked.at) - SLACK_S
        servers = [one for served in self._history.served.since(since) for one in served]
        gallery = self._history.galleries[collection] if collection else None
        is_tagged = gallery is not None and (gallery.is_older or any(gallery.policy.since(since)))
        if not servers or any(one is None or self._is_chosen(pack, asked.at, one, pack.id if is_tagged else "") for one in servers):
            return
        told = {f"{pack.id} {pack.version}" for one in servers if one for pack in self._in_force(one, one.default, asked.at)}
        other = "a version that was in force" if is_tagged else " or ".join(sorted(told))
        tell("policy", f"it was decided by the pack {pack.id} {pack.version}; by what the server said at its start it is {other}")

    def _is_chosen(self, pack: Pack, at: str, served: Served, tag: str) -> bool:
        """As `Policies.of` chooses, of the packs that the server named."""
        usual = self._in_force(served, tag or served.default, at)
        least = self._in_force(served, served.minimum, at)
        return pack in usual or (pack in least and not any(self._is_as_strict(one, pack) for one in usual))

    def _in_force(self, served: Served, name: str, at: str) -> list[Pack]:
        """The version of a pack that came into force last; of two on one day either."""
        found = [one for one in self._packs.values() if one.id == name and one.sha256 in served.packs and one.is_effective(at)]
        starts = [moment(one.effective_from or "0001-01-02") for one in found]
        return [one for one, start in zip(found, starts, strict=True) if start == max(starts)]

    def _is_as_strict(self, pack: Pack, other: Pack) -> bool:
        pair = pack.sha256, other.sha256
        if pair not in self._as_strict:
            self._as_strict[pair] = pack.is_at_least_as_strict_as(other)
        return self._as_strict[pair]

    def _outcome(self, entry: Entry, at: float, tell: Tell) -> None:
        look = self._open.pop(entry["audit_id"], None)
        if look is None or not entry["looked"]:
            return
        if "withheld" not in entry and look.asked.duty == "compare" and look.case:
            compared = self._history.cases[look.case].comparisons
            compared.change(max(compared.now, entry["gallery_size"]), at)
        if look.decided is None:
            return
        (pack, announced), case = look.decided, look.asked.case
        # How many faces a comparison has is known once they are found: it was decided again with that number.
        is_counted = look.asked.duty == "compare" and "gallery_size" in entry
        decision = decide(pack, look.asked.with_comparisons(entry["gallery_size"])) if is_counted else announced
        judged = judge_gallery(pack, entry.get("gallery_factor", {}).get("value"), has_reason=case is not None and case.has_reason)
        suspended = self._history.concerns(self._history.suspended.now, look.operator, look.collection)
        if "withheld" in entry:
            is_suspended = suspended and entry["withheld"].endswith("/suspended")
            if entry["withheld"] not in filter(None, (judged.rule, decision.rule)) and not is_suspended:
                tell("decision", f"it was withheld by rule {entry['withheld']}, which does not forbid it")
            return
        if suspended:
            tell("suspension", f"the look of entry {look.seq} was answered while {suspended} was suspended")
        departed = [one for one in (*decision.departures, *judged.departures) if one not in announced.departures]
        if (rule := decision.rule or judged.rule) or departed != entry.get("departures", []):
            tell("decision", f"once the faces were counted its pack gives {rule or departed}, and it was answered")
        changed = {"threshold": decision.threshold_facts()} if decision.threshold != announced.threshold else {}
        if entry.get("threshold") != changed.get("threshold"):
            tell("decision", f"it was answered at {_json(entry.get('threshold'))}; its pack gives {_json(changed.get('threshold'))}")
        if "gallery_size" in entry:
            for said in _answer(look, decision, entry):
                tell("outcome", said)


def _bounds(entry: Entry, decision: Decision, tell: Tell) -> None:
    """Whether an intent's bounds are those of the decision."""
    said = {"threshold": entry["threshold"], "limit": entry["limit"], "departures": entry.get("departures", [])}
    threshold = {"value": decision.threshold, "origin": decision.origin, "floor": decision.floor}
    made = {"threshold": threshold, "limit": decision.limit, "departures": list(decision.departures)}
    for name, value in made.items():
        if said[name] != value:
            tell("decision", f"it says {name} {_json(said[name])}; its pack gives {_json(value)}")


def _answer(look: _Open, decision: Decision, entry: Entry) -> Iterator[str]:
    """What cannot be so in an answer: its candidates, its rates, how many faces were compared."""
    size, duty = entry["gallery_size"], look.asked.duty
    similarities = [one["similarity"] for one in entry.get("candidates", [])]
    if any(not decision.threshold <= one <= 100 for one in similarities) or any(one < after for one, after in pairwise(similarities)):
        yield f"its candidates' similarities {_json(similarities[:20])} are not in order from 100 down to {decision.threshold}"
    leads = entry.get("below_threshold", 0) if duty in CASEWORK else 0
    if len(similarities) > decision.limit or leads > decision.leads_limit:
        yield f"it has {len(similarities)} candidates and {leads} leads; its limits are {decision.limit} and {decision.leads_limit}"
    if entry.get("identities_withheld", decision.withhold_identities) != decision.withhold_identities:
        yield f"identities were{'' if entry['identities_withheld'] else ' not'} withheld, against its pack"
    comparisons = entry.get("comparisons", size)
    fmr = fmr_at(decision.threshold) if decision.threshold > 0 else 1.0
    for name, rate in {"fmr": fmr, "expected_false": expected_false(fmr, comparisons)}.items():
        if not math.isclose(entry[name], rate, rel_tol=1e-9):
            yield f"it says {name} {entry[name]}; {rate} follows from its threshold and {comparisons} comparisons"
    if look.gallery and duty in ("search.face", "search.image", "collection.check"):
        # As they were compared, after the intent; a face that is searched for is left out.
        counts = list(look.gallery.faces.since(look.at))
        if not any(size == max(count - left, 0) for count in counts for left in (0, look.left_out)):
            yield f"{size} faces were compared; by the entries {look.collection} had {counts[0]}"


_KIND_OF = {"case": "case", "operator": "certificate", "suspension": "suspension"}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:400]
