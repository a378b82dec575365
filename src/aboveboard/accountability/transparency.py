"""What a transparency report counts, out of the ledger's entries alone: one pass, memory that does not grow with the ledger. Pure."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from aboveboard.accountability.policy import CASEWORK
from aboveboard.errors import BadRequest
from aboveboard.storage.merkle import grow, leaf_hash, root_of

TITLE = "transparency"
FORMAT = 1
POLICIES = "policies"
"""The folder beside a report with the policy packs that it names, each as SHA256.json."""
NONE = "none named"
"""Purpose and offence of who searches outside a case."""
STATES = ("made", "answered", "withheld", "not_looked", "unfinished", "refused")
"""What became of a search: refused, or made; of those made each is answered, withheld, without a look, or without an outcome."""
LISTS = ("0", "1", "2-5", "6 or more")
"""How long a candidate list was."""

_ALWAYS: tuple[tuple[str, ...], ...] = (
    *(("searches", "all", state) for state in STATES),
    ("thresholds", "with"), ("thresholds", "without"), *(("candidates", "lists", length) for length in LISTS),
    ("candidates", "returned"), ("candidates", "returned_without_threshold"), ("candidates", "searches_without_identities"),
    ("below_threshold", "searches"), ("below_threshold", "kept"), ("below_threshold", "asked_for"), ("below_threshold", "disclosed"),
    ("certificates", "entered"), ("certificates", "ended"), ("suspensions", "lift_asked"), ("suspensions", "lifted"),
    ("cases", "opened"), ("cases", "emergencies"), ("cases", "closed"), ("cases", "keys"),
    ("galleries", "collections_created"), ("galleries", "collections_deleted"), ("galleries", "collections_erased"),
    ("galleries", "collections_reindexed"), ("galleries", "policy_changes"), ("galleries", "faces_enrolled"),
    ("galleries", "faces_removed"), ("galleries", "faces_of_deleted_collections"),
    ("handed_out", "ledgers"), ("handed_out", "packets"), ("handed_out", "reports"), ("handed_out", "backups"),
    ("handed_out", "restores"), ("gaps", "looks_without_outcome"), ("gaps", "outcomes_without_intent"), ("gaps", "clock_set_back"),
    ("gaps", "server_starts"), ("gaps", "server_starts_without_a_stop_before"), ("gaps", "unreadable_entries"),
    ("gaps", "sequence_breaks"),
)  # fmt: skip
"""Numbers that stand in every report, also where they are 0."""
_EACH = {
    "operator.certified": ("certificates", "entered"), "operator.uncertified": ("certificates", "ended"),
    "suspension.lift.asked": ("suspensions", "lift_asked"), "suspension.lifted": ("suspensions", "lifted"),
    "case.closed": ("cases", "closed"), "case.credentials": ("cases", "keys"), "packet.made": ("handed_out", "packets"),
    "collection.created": ("galleries", "collections_created"), "collection.deleted": ("galleries", "collections_deleted"),
    "collection.erased": ("galleries", "collections_erased"), "collection.reindexed": ("galleries", "collections_reindexed"),
    "ledger.exported": ("handed_out", "ledgers"), "report.made": ("handed_out", "reports"), "backup.made": ("handed_out", "backups"),
    "backup.restored": ("handed_out", "restores"), "clock.set.back": ("gaps", "clock_set_back"),
    "server.started": ("gaps", "server_starts"),
}  # fmt: skip
"""Types of entries of which each is one more."""


@dataclass(frozen=True, slots=True)
class Period:
    """Whole days in UTC, the last one included. Raises BadRequest for what are no days, or stand the wrong way round."""

    first: str
    last: str

    def __post_init__(self) -> None:
        try:
            is_ordered = date.fromisoformat(self.first) <= date.fromisoformat(self.last)
        except ValueError as error:
            raise BadRequest(f"{error}; write days like 2027-01-31") from error
        if not is_ordered or (len(self.first), len(self.last)) != (10, 10) or self.last == "9999-12-31":
            raise BadRequest(f"the period {self.first} to {self.last} has no days; write the first and the last like 2027-01-31")

    @property
    def end(self) -> str:
        """The first day after it. RFC 3339 times in UTC compare with days as texts do."""
        return (date.fromisoformat(self.last) + timedelta(days=1)).isoformat()

    def has(self, time: str) -> bool:
        return self.first <= time < self.end


@dataclass(frozen=True, slots=True)
class _Begun:
    """A look whose outcome has not come yet. `groups`: what it is counted under; none for a look that belongs to another period."""

    groups: tuple[tuple[str, ...], ...]
    is_search: bool
    has_threshold: bool


class Tally:
    """Counts entries in their order, from the ledger's first on; those before the period say how things stood when it began."""

    def __init__(self, period: Period, *, operators: bool = False, collections: bool = False) -> None:
        self.period = period
        self._by = [("operator", operators), ("collection", collections)]
        self._counts: Counter[tuple[str, ...]] = Counter(dict.fromkeys(_ALWAYS, 0))
        self._expected: dict[str, float] = {"all": 0.0}
        self._begun: dict[str, _Begun] = {}
        self._policies: dict[str, dict[str, Any]] = {}
        self._in_force: dict[str, str] = {}
        self._is_serving = False
        self._expected_seq = 0

    def add(self, entry: Any) -> bool:
        """Count one entry, as JSON; what is none is counted as unreadable. Whether the period is told by it: it is not later.

        The outcome of a look belongs to the period of its intent.
        """
        kind, time = (entry.get("type"), entry.get("time")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(time, str):
            self._counts["gaps", "unreadable_entries"] += 1
            self._expected_seq += 1
            return True
        is_in_order = entry.get("seq") == self._expected_seq
        self._expected_seq = entry["seq"] + 1 if type(entry.get("seq")) is int else self._expected_seq + 1
        if kind == "look.outcome" and (look := self._begun.pop(_word(entry.get("audit_id")), None)):
            self._outcome(entry, look)
            return bool(look.groups) or time < self.period.end
        if time >= self.period.end:
            return False
        is_inside = self.period.has(time)
        if is_inside:
            self._counts["gaps", "sequence_breaks"] += not is_in_order
            self._counts["gaps", "outcomes_without_intent"] += kind == "look.outcome"
            self._counts["entries", kind] += 1
            if kind in _EACH:
                self._counts[_EACH[kind]] += 1
        if kind == "look.intent":
            self._intent(entry, time, is_inside=is_inside)
        elif kind == "refused":
            self._refused(entry, time, is_inside=is_inside)
        elif kind.startswith("server."):
            self._server(entry, kind, time, is_inside=is_inside)
        elif kind == "policy.loaded":
            self._loaded(entry, time)
        elif is_inside:
            self._other(entry, kind)
        return True

    def totals(self) -> dict[str, Any]:
        """Every number, as nested tables; keys in the order of the alphabet."""
        counts = Counter(self._counts)
        for look in self._begun.values():
            for group in look.groups:
                counts[*group, "unfinished"] += 1
            counts["gaps", "looks_without_outcome"] += bool(look.groups)
        tree: dict[str, Any] = {}
        for path, count in sorted(counts.items()):
            inner = tree
            for part in path[:-1]:
                inner = inner.setdefault(part, {})
            inner[path[-1]] = count
        tree["expected_false_candidates"] = {name: round(total, 6) for name, total in sorted(self._expected.items())}
        tree["policies"] = dict(sorted(self._policies.items()))
        tree["settings"] = self._in_force
        return tree

    def _intent(self, entry: dict[str, Any], time: str, *, is_inside: bool) -> None:
        duty, policy, threshold = _word(entry.get("duty")), _part(entry, "policy"), _part(entry, "threshold")
        self._used(policy, time, is_inside=is_inside)
        is_search, groups = duty in CASEWORK, tuple[tuple[str, ...], ...]()
        value = threshold.get("value")
        value = value if isinstance(value, int | float) else 0
        if is_inside:
            groups = self._groups(entry, duty, policy, time) if is_search else (("other_looks", duty),)
            for group in groups:
                self._counts[*group, "made"] += 1
            self._departures(entry, is_search=is_search)
        if is_inside and is_search:
            origin = _word(threshold.get("origin")) if value > 0 else "none"
            # In tenths, never rounded up: 98.97 is not 99.
            shown = f"{math.floor(min(value, 100) * 10 + 1e-9) / 10:.1f}" if value > 0 else "none"
            self._counts["thresholds", "with" if value > 0 else "without"] += 1
            self._counts["thresholds", "by_origin", origin] += 1
            self._counts["thresholds", "histogram", *_purpose(entry), origin, shown] += 1
        self._begun[_word(entry.get("audit_id"))] = _Begun(groups, is_search, value > 0)

    def _outcome(self, entry: dict[str, Any], look: _Begun) -> None:
        withheld = entry.get("withheld")
        state = "withheld" if withheld else "answered" if entry.get("looked") is True else "not_looked"
        if not look.groups:
            return
        self._counts["entries", "look.outcome"] += 1
        for group in look.groups:
            self._counts[*group, state] += 1
        self._departures(entry, is_search=look.is_search)
        if withheld:
            self._counts["withheld", _word(withheld)] += 1
        if look.is_search and state == "not_looked":
            self._counts["not_looked", _word(entry.get("reason"))] += 1
        if look.is_search and state == "answered":
            self._answered(entry, look)

    def _answered(self, entry: dict[str, Any], look: _Begun) -> None:
        candidates = entry.get("candidates")
        returned = len(candidates) if isinstance(candidates, list) else 0
        length = "0" if returned == 0 else "1" if returned == 1 else "2-5" if returned <= 5 else "6 or more"
        self._counts["candidates", "lists", length] += 1
        self._counts["candidates", "returned"] += returned
        self._counts["candidates", "searches_without_identities"] += entry.get("identities_withheld") is True
        if not look.has_threshold:
            self._counts["candidates", "returned_without_threshold"] += returned
        elif isinstance(entry.get("expected_false"), int | float):
            for name in ("all", *(group[2] for group in look.groups if group[1] == "by_purpose")):
                self._expected[name] = self._expected.get(name, 0.0) + entry["expected_false"]
        kept = entry.get("below_threshold")
        if type(kept) is int:
            self._counts["below_threshold", "searches"] += kept > 0
            self._counts["below_threshold", "kept"] += kept

    def _refused(self, entry: dict[str, Any], time: str, *, is_inside: bool) -> None:
        duty, policy = _word(entry.get("duty")), _part(entry, "policy")
        self._used(policy, time, is_inside=is_inside)
        if is_inside:
            self._counts["refusals", _word(entry.get("rule")), duty] += 1
            for group in self._groups(entry, duty, policy, time) if duty in CASEWORK else ():
                self._counts[*group, "refused"] += 1

    def _groups(self, entry: dict[str, Any], duty: str, policy: dict[str, Any], time: str) -> tuple[tuple[str, ...], ...]:
        """What a search is counted under."""
        purpose, offence = _purpose(entry)
        collection = entry.get("collection")
        asked_for = {"operator": entry.get("operator"), "collection": collection.get("id") if isinstance(collection, dict) else collection}
        named = f"{policy['id']} {policy.get('version')}" if isinstance(policy.get("id"), str) else NONE
        return (
            ("searches", "all"),
            *(("searches", f"by_{name}", _word(asked_for[name] or NONE)) for name, is_shown in self._by if is_shown),
            ("searches", "by_duty", duty),
            ("searches", "by_month", time[:7]),
            ("searches", "by_offence", offence),
            ("searches", "by_policy", named),
            ("searches", "by_purpose", purpose),
        )

    def _departures(self, entry: dict[str, Any], *, is_search: bool) -> None:
        for rule in _list(entry.get("departures")):
            self._counts["departures", _word(rule), "searches" if is_search else "other_looks"] += 1

    def _server(self, entry: dict[str, Any], kind: str, time: str, *, is_inside: bool) -> None:
        if kind == "server.started":
            self._counts["gaps", "server_starts_without_a_stop_before"] += is_inside and self._is_serving
            self._in_force = {name: _word(entry.get(name)) for name in ("default_policy", "minimum_policy", "pack", "version")}
            self._loaded(entry, time)
        self._is_serving = kind == "server.started"

    def _loaded(self, entry: dict[str, Any], time: str) -> None:
        for facts in _list(entry.get("policies")):
            if isinstance(facts, dict) and (policy := self._policy(facts, time)) and "signed_by" in facts:
                policy["signed_by"] = _word(facts["signed_by"])

    def _used(self, facts: dict[str, Any], time: str, *, is_inside: bool) -> None:
        if policy := self._policy(facts, time):
            policy["first_used"] = policy["first_used"] or time
            policy["last_used"] = time
            policy["decisions"] += is_inside

    def _policy(self, facts: dict[str, Any], time: str) -> dict[str, Any] | None:
        sha256 = facts.get("sha256")
        if not isinstance(sha256, str):
            return None
        new = {"id": _word(facts.get("id")), "version": _word(facts.get("version")), "known_since": time, "first_used": "", "last_used": ""}
        return self._policies.setdefault(sha256, {**new, "decisions": 0})

    def _other(self, entry: dict[str, Any], kind: str) -> None:
        count = self._counts
        if kind == "case.opened":
            count["cases", "opened"] += 1
            count["cases", "emergencies"] += entry.get("is_emergency") is True
            count["cases", "by_purpose", _word(entry.get("purpose"))] += 1
            count["cases", "by_offence", _word(entry.get("offence") or NONE)] += 1
        if kind == "leads.disclosed":
            count["below_threshold", "asked_for"] += 1
            count["below_threshold", "disclosed"] += _size(entry.get("leads"))
        for document in [*_list(entry.get("documents")), entry.get("document")] if kind in ("case.opened", "case.document") else []:
            if isinstance(document, dict):
                granted = document.get("granted")
                state = "granted" if granted is True else "refused" if granted is False else "requested"
                count["documents", _word(document.get("kind")), state] += 1
        if kind == "suspension.made":
            because = _word(entry.get("because"))
            count["suspensions", "made", _word(entry.get("scope")), because] += 1
        if kind in ("faces.enrolled", "faces.removed"):
            count["galleries", kind.replace(".", "_")] += _size(entry.get("face_ids"))
        if kind == "collection.deleted":
            count["galleries", "faces_of_deleted_collections"] += _size(entry.get("faces"))
        if kind == "collection.tagged":
            count["galleries", "policy_changes"] += 1


@dataclass(frozen=True)
class Counted:
    """What was counted: the ledger's beginning up to the period's last entry, as size and root, that entry's time, and the totals."""

    size: int
    root: bytes
    time: str
    totals: dict[str, Any]


def count(lines: Iterable[bytes], period: Period, *, operators: bool = False, collections: bool = False) -> Counted:
    """Count a ledger, given as its entries in their order.

    What came after the period is left out, so that a period which is over gives the same report whenever it is made.
    """
    tally = Tally(period, operators=operators, collections=collections)
    grown, told, size, time = list[bytes](), list[bytes](), 0, ""
    for at, line in enumerate(lines):
        grown = grow(grown, at, leaf_hash(line))
        entry = read(line)
        if tally.add(entry):
            told, size = grown, at + 1
            time = str(entry.get("time") or time) if isinstance(entry, dict) else time
    return Counted(size, root_of(told), time, tally.totals())


def not_enforced(pack: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The rules of a pack, as JSON has it, that are not enforced: what is done instead, and what they rest on."""
    rules = ((name, rule) for name, part in pack.items() for rule in (part if isinstance(part, list) else [part]))
    lax = ((name, rule) for name, rule in rules if isinstance(rule, dict) and rule.get("mode", "enforce") != "enforce")
    return {name: {key: _word(rule.get(key)) for key in ("mode", "citation")} for name, rule in lax}


def document(
    counted: Counted, period: Period, agency: str, note: str, packs: Mapping[str, bytes], *, operators: bool, collections: bool
) -> dict[str, Any]:
    """The report as JSON. `note` is the signed checkpoint over what was counted, `packs` the policy packs' canonical form by sha256."""
    shown = {sha256: not_enforced(json.loads(packs[sha256])) if sha256 in packs else None for sha256 in counted.totals["policies"]}
    return {
        "format": FORMAT,
        "title": TITLE,
        "agency": agency,
        "from": period.first,
        "to": period.last,
        "shows": {"operators": operators, "collections": collections},
        "ledger": {"size": counted.size, "root": counted.root.hex(), "last_entry": counted.time, "checkpoint": note},
        "not_enforced": shown,
        "totals": counted.totals,
    }


def read(line: bytes) -> Any:
    """An entry as JSON; None for what is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _part(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = entry.get(name)
    return part if isinstance(part, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _word(value: Any) -> str:
    """A word of an entry; what is none is told apart, and cannot grow what is kept."""
    return value[:200] if isinstance(value, str) and value else "unknown"


def _size(value: Any) -> int:
    """How many: a list's length, or a count."""
    return len(value) if isinstance(value, list) else value if type(value) is int else 0


def _purpose(entry: dict[str, Any]) -> tuple[str, str]:
    """Purpose and offence that an intent or a refusal was made for."""
    case = _part(_part(entry, "asked"), "case")
    return _word(case.get("purpose") or NONE), _word(case.get("offence") or NONE)
