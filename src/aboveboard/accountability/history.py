"""What a ledger's entries say about operators, cases and galleries at each point: what a look's own claims are compared with. Pure.

A request reads facts before its entry is written: a claim agrees with what is true at its entry, or was so `SLACK_S` before the decision.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from aboveboard.accountability.packs import moment
from aboveboard.accountability.policy import POLICY_TAG
from aboveboard.storage.commitments import FaceLog
from aboveboard.storage.merkle import root_of

SLACK_S = 90.0
"""Longer than a request reads before its entry is written: two photographs out of a bucket may take 30 s each."""
_KEYS = 10_000
"""Keys of cases after which those that have ended are forgotten."""

T = TypeVar("T")
Entry = Mapping[str, Any]


def seconds(time: str) -> float:
    """A time of an entry, in seconds since 1970. Raises ValueError."""
    return moment(time).timestamp()


class Versions(Generic[T]):
    """A fact as it changes: what it is now and, as far back as a request may have read it, what it was until when."""

    def __init__(self, now: T) -> None:
        self.now, self._before = now, deque[tuple[float, T]]()

    def change(self, now: T, at: float) -> None:
        self._before.append((at, self.now))
        self.now = now
        while self._before[0][0] < at - SLACK_S:
            self._before.popleft()

    def since(self, at: float) -> Iterator[T]:
        """What it was at a time, and whatever it became later."""
        yield self.now
        yield from (one for ended, one in self._before if ended >= at)


@dataclass(slots=True)
class Case:
    """A case as its entries have it."""

    facts: Versions[dict[str, Any]]
    references: list[Any]
    """Of its documents: kind and commitment of the agency's reference, in their order."""
    comparisons: Versions[int] = field(default_factory=lambda: Versions(0))


@dataclass(slots=True)
class Gallery:
    """A collection's two logs of face ids, how many faces it has, and the pack that its tag names, where entries say all of its tags."""

    policy: Versions[str]
    is_older: bool = False
    """Of a release whose entries did not name the pack of a new collection's tag."""
    enrolled: FaceLog = field(default_factory=lambda: FaceLog(0, []))
    removed: FaceLog = field(default_factory=lambda: FaceLog(0, []))
    faces: Versions[int] = field(default_factory=lambda: Versions(0))

    def commitment(self) -> dict[str, Any]:
        return {"enrolled": self.enrolled.plain(), "removed": self.removed.plain()}


@dataclass(frozen=True, slots=True)
class Key:
    """An access key of a case: what looks with it declare, and when it ends."""

    case: str
    declared: dict[str, Any]
    ends: float


@dataclass(frozen=True, slots=True)
class Served:
    """What a server said at its start of the packs that it decides by, for as long as it runs: default, minimum, and each one's sha256."""

    default: str
    minimum: str
    packs: frozenset[str]


Suspension = tuple[str, str]
"""Scope, and the operator, unit or collection id that it is about."""
Certificate = tuple[Any, Any, Any]
"""When it was made, until when it holds, the score."""
Held = tuple[Certificate, float, float]
"""A certificate, from when on it counted, and until when."""


class History:
    """The entries up to a point."""

    def __init__(self) -> None:
        self.units = dict[str, str]()
        self.roles = dict[str, list[str]]()
        self.certificates = dict[str, list[Held]]()
        self.suspended: Versions[dict[int, Suspension]] = Versions({})
        self.cases = dict[str, Case]()
        self.keys = dict[str, Key]()
        self.galleries = dict[str, Gallery]()
        self.served: Versions[tuple[Served | None, ...]] = Versions(())
        """Of the servers that may be running, or ran last; None for one of a release that did not say. One that was killed says no end."""
        self._running = 0
        self.set_back = -math.inf
        """Until when times may run backwards, because the clock was just set back."""

    def apply(self, entry: Entry, at: float) -> str:
        """Take up an entry of a time; returns what contradicts those before, empty where nothing does.

        Raises ValueError, LookupError, TypeError or AttributeError for one that is not as the program writes it.
        """
        take = _TAKES.get(entry["type"])
        return (take(self, entry, at) or "") if take else ""

    def holds(self, operator: str, claimed: Certificate | None, since: float) -> str:
        """Why an operator's claimed certificate is not the one that counted at a time or later; empty where it is."""
        held = self.certificates.get(operator, [])
        if claimed is None:
            is_lacking = not held or held[-1][2] < math.inf or held[-1][1] >= since
            return "" if is_lacking else f"{operator} held a certificate, and none is claimed"
        ended = [end for one, _, end in held if one == claimed]
        if not ended:
            return f"the certificate that is claimed was never entered for {operator}"
        return "" if max(ended) >= since else f"the certificate of {operator} that is claimed was revoked or replaced before"

    def concerns(self, suspensions: Mapping[int, Suspension], operator: str, collection: str) -> str:
        """What of an operator, his unit, a collection (empty: none) and the system is suspended, in words; empty where nothing is."""
        unit = self.units.get(operator, "")
        concerned = {("system", ""), ("operator", operator)} | ({("unit", unit)} if unit else set())
        concerned |= {("collection", collection)} if collection else set()
        return next((" ".join(one).strip() for one in suspensions.values() if one in concerned), "")

    def _operator(self, entry: Entry, _: float) -> None:
        self.roles[entry["operator"]] = entry["roles"]
        self.units[entry["operator"]] = entry.get("unit", "")

    def _certify(self, entry: Entry, at: float) -> str:
        made = entry["made_at"], entry["until"], entry["score"]
        self._uncertify(entry, at)
        self.certificates[entry["operator"]].append((made, at, math.inf))
        is_then = at - SLACK_S <= seconds(entry["made_at"]) <= at
        return "" if is_then or at < self.set_back else f"the certificate is dated {entry['made_at']}, and entered at {entry['time']}"

    def _uncertify(self, entry: Entry, at: float) -> None:
        held = self.certificates.get(entry["operator"], [])
        self.certificates[entry["operator"]] = [(one, start, min(end, at)) for one, start, end in held]

    def _suspend(self, entry: Entry, at: float) -> None:
        self.suspended.change({**self.suspended.now, entry["suspension"]: (entry["scope"], entry["target"])}, at)

    def _lift(self, entry: Entry, at: float) -> None:
        self.suspended.change({n: one for n, one in self.suspended.now.items() if n != entry["suspension"]}, at)

    def _open(self, entry: Entry, _: float) -> str:
        facts = {
            "purpose": entry["purpose"], "expires_at": entry["expires_at"], "offence": entry["offence"], "closed": False,
            "emergency_at": entry["opened_at"] if entry["is_emergency"] else "",
            "documents": [_document(one) for one in entry["documents"]],
        }  # fmt: skip
        is_known = entry["case"] in self.cases
        self.cases[entry["case"]] = Case(Versions(facts), [(one["kind"], one["reference"]) for one in entry["documents"]])
        return f"the case {entry['case']} is opened a second time" if is_known else ""

    def _enter(self, entry: Entry, at: float) -> None:
        """A document; one with the same kind and reference is replaced and goes to the end."""
        case, document = self.cases[entry["case"]], entry["document"]
        mark = document["kind"], document["reference"]
        kept = [(ref, one) for ref, one in zip(case.references, case.facts.now["documents"], strict=True) if ref != mark]
        case.references = [*(ref for ref, _ in kept), mark]
        case.facts.change({**case.facts.now, "documents": [*(one for _, one in kept), _document(document)]}, at)

    def _close(self, entry: Entry, at: float) -> None:
        facts = self.cases[entry["case"]].facts
        facts.change({**facts.now, "closed": True}, at)

    def _credentials(self, entry: Entry, at: float) -> str:
        if len(self.keys) >= _KEYS:
            self.keys = {name: key for name, key in self.keys.items() if key.ends > at - SLACK_S}
        declared = {name: entry[name] for name in ("probe", "edits", "reason") if name in entry}
        self.keys[entry["access_key"]] = Key(entry["case"], declared, seconds(entry["expires_at"]))
        return "" if entry["case"] in self.cases else f"a key is made for the case {entry['case']}, which nobody opened"

    def _create(self, entry: Entry, _: float) -> None:
        self.galleries[entry["collection"]] = Gallery(Versions(entry.get("tags", {}).get(POLICY_TAG, "")))

    def _tag(self, entry: Entry, at: float) -> None:
        if POLICY_TAG in entry["tags"]:
            self.galleries[entry["collection"]].policy.change(entry["tags"][POLICY_TAG], at)

    def _delete(self, entry: Entry, at: float) -> None:
        del self.galleries[entry["collection"]]
        # Another one of that id is another collection.
        left = {n: one for n, one in self.suspended.now.items() if one != ("collection", entry["collection"])}
        self.suspended.change(left, at)

    def _commit(self, entry: Entry, _: float) -> str:
        """An older release's collection: its log begins anew with the faces that it has."""
        gallery, begun = self.galleries[entry["collection"]], entry["enrolled"]
        had, gallery.is_older = gallery.faces.now, True
        gallery.enrolled = FaceLog(begun["count"], [bytes.fromhex(one) for one in begun["subtrees"]])
        gallery.removed = FaceLog(0, [])
        if root_of(gallery.enrolled.subtrees).hex() != begun["root"] or len(gallery.enrolled.subtrees) != begun["count"].bit_count():
            return f"the log of {entry['collection']} begins with a root that its subtrees do not give"
        return "" if had == begun["count"] else f"{entry['collection']} had {had} faces, and its log begins with {begun['count']}"

    def _enrol(self, entry: Entry, at: float) -> None:
        gallery, face_ids = self.galleries[entry["collection"]], entry["face_ids"]
        gallery.enrolled.add(face_ids)
        gallery.faces.change(gallery.faces.now + len(face_ids), at)

    def _remove(self, entry: Entry, at: float) -> None:
        gallery, face_ids = self.galleries[entry["collection"]], entry["face_ids"]
        gallery.removed.add(face_ids)
        gallery.faces.change(gallery.faces.now - len(face_ids), at)

    def _serve(self, entry: Entry, at: float) -> None:
        said = None
        if all(name in entry for name in ("default_policy", "minimum_policy", "policies")):
            packs = frozenset(one["sha256"] for one in entry["policies"])
            said = Served(entry["default_policy"], entry["minimum_policy"], packs)
        kept = self.served.now if self._running else ()
        self._running += 1
        self.served.change((*(one for one in kept if one != said), said), at)

    def _stop(self, _: Entry, __: float) -> None:
        self._running = max(self._running - 1, 0)

    def _turn_back(self, _: Entry, at: float) -> None:
        self.set_back = at + SLACK_S


def _document(shown: Mapping[str, Any]) -> dict[str, Any]:
    return {name: shown[name] for name in ("kind", "requested_at", "decided_at", "granted")}


_TAKES: Mapping[str, Callable[[History, Entry, float], Any]] = {
    "operator.added": History._operator,
    "operator.certified": History._certify,
    "operator.uncertified": History._uncertify,
    "suspension.made": History._suspend,
    "suspension.lifted": History._lift,
    "case.opened": History._open,
    "case.document": History._enter,
    "case.closed": History._close,
    "case.credentials": History._credentials,
    "collection.created": History._create,
    "collection.tagged": History._tag,
    "collection.deleted": History._delete,
    "collection.committed": History._commit,
    "faces.enrolled": History._enrol,
    "faces.removed": History._remove,
    "server.started": History._serve,
    "server.stopped": History._stop,
    "clock.set.back": History._turn_back,
}
