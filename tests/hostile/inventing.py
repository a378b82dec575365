"""Ledgers at random: operators, cases and galleries come and go, and each look is decided by the rule that the gate uses.

Everything is kept here as plainly as can be, apart from what the replay keeps.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import rfc8785
from kit import merkle_tree_hash

from aboveboard.accountability.catalogue import Policies
from aboveboard.accountability.gate import pack_facts
from aboveboard.accountability.packs import Pack, read_pack
from aboveboard.accountability.policy import CASEWORK, LOOKS, Asked, CaseFacts, Certificate, Document, decide, least_of_check
from aboveboard.accountability.rules import EDITS, KINDS, OFFENCES, PROBES, PURPOSES, ROLES
from aboveboard.biometrics.calibration import expected_false, fmr_at
from aboveboard.errors import BadRequest

MODES = ("enforce", "enforce", "reason", "record")


def packs(rng: random.Random, count: int) -> list[Pack]:
    """Packs that ship, and others with other floors, modes, documents and dates."""
    policies = Policies("general", "general")
    found = [policies.get("general"), policies.get("public-safety")]
    while len(found) < count:
        raw = rng.choice(found[:2]).plain()
        floor = rng.choice((0, 60, 90, 95, 99))
        raw |= {"id": f"pack-{len(found)}", "effective_to": rng.choice(("", "", "2031-01-01"))}
        raw["threshold"] |= {
            "mode": rng.choice(MODES), "floor": floor, "absent": max(floor, rng.choice((80, 99))), "fpir": rng.choice((0, 0.01)),
            "when_absent": rng.choice(("apply", "apply", "refuse")), "allow_none": rng.random() < 0.5,
        }  # fmt: skip
        raw["purposes"] |= {"mode": rng.choice(MODES), "required": rng.random() < 0.7}
        raw["certificate"] |= {"mode": rng.choice(MODES), "required": rng.random() < 0.7, "least_score": rng.choice((0.0, 0.8))}
        raw["candidates"] |= {"mode": rng.choice(MODES), "maximum": rng.choice((5, 50))}
        raw["documents"] = [
            {
                "mode": rng.choice(MODES), "purposes": rng.sample(list(PURPOSES), 5), "offences": ["*"], "kind": rng.choice(KINDS),
                "state": rng.choice(("requested", "granted")), "emergency_hours": rng.choice((0, 24)), "citation": "none",
            }
        ]  # fmt: skip
        try:
            found.append(read_pack(raw, "a pack"))
        except BadRequest:
            continue
    return found


@lru_cache(4)
def log_of(face_ids: tuple[str, ...]) -> dict[str, Any]:
    return {"count": len(face_ids), "root": merkle_tree_hash([one.encode() for one in face_ids]).hex()}


class Invented:
    """A ledger at random. `lines` are its entries as they are hashed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.packs = packs(self.rng, 12)
        self.lines, self.time = list[bytes](), datetime(2030, 12, 1, tzinfo=UTC)
        self.operators, self.certificates = dict[str, tuple[list[str], str]](), dict[str, Certificate]()
        self.suspended, self.cases = dict[int, tuple[str, str]](), dict[str, dict[str, Any]]()
        self.galleries: dict[str, tuple[list[str], list[str]]] = {"a": ([], []), "b": ([], [])}
        self.count = 0
        for n in range(6):
            roles = ["investigator"] if n else list(ROLES)
            self.operators[f"o{n}"] = roles, f"unit{n % 2}"
            self.write("operator.added", operator=f"o{n}", roles=roles, unit=f"unit{n % 2}", access_key=f"k{n}", buckets=[], by="o0")
        for name in self.galleries:
            self.write("collection.created", collection=name, policy="general", model_version="1")

    def now(self) -> str:
        return self.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def write(self, kind: str, **facts: Any) -> int:
        self.lines.append(rfc8785.dumps({"seq": len(self.lines), "time": self.now(), "type": kind, **facts}))
        return len(self.lines) - 1

    def go_on(self, entries: int) -> None:
        """Until there are so many entries."""
        acts = [self.enrol, self.remove, self.certify, self.suspend, self.open, self.document, self.close, *[self.look] * 14]
        while len(self.lines) < entries:
            self.time += timedelta(seconds=self.rng.choice((1, 30, 300, 1200)))
            self.rng.choice(acts)()

    def enrol(self) -> None:
        name = self.rng.choice("ab")
        self.count += 3
        new = [f"face-{n}" for n in range(self.count - 3, self.count)]
        self.galleries[name][0].extend(new)
        self.write("faces.enrolled", collection=name, face_ids=new)

    def remove(self) -> None:
        name = self.rng.choice("ab")
        enrolled, removed = self.galleries[name]
        gone = [one for one in enrolled[-6:-4] if one not in removed]
        if gone:
            removed.extend(gone)
            self.write("faces.removed", collection=name, face_ids=gone)

    def certify(self) -> None:
        name = self.rng.choice(list(self.operators))
        if self.certificates.pop(name, None):
            self.write("operator.uncertified", operator=name, by="o0")
            return
        held = Certificate(self.now(), self.rng.choice(("2030-12-10", "2040-01-01")), self.rng.choice((0.5, 0.9)))
        self.certificates[name] = held
        self.write("operator.certified", operator=name, examiner="e", score=held.score, made_at=held.made_at, until=held.until, by="o0")

    def suspend(self) -> None:
        if self.suspended:
            n, (scope, target) = self.suspended.popitem()
            self.write("suspension.lifted", suspension=n, scope=scope, target=target, by="o1")
            return
        scope, target = self.rng.choice((("operator", "o2"), ("unit", "unit1"), ("collection", "a"), ("system", "")))
        self.suspended[len(self.lines)] = scope, target
        known = {"collection": target} if scope == "collection" else {}
        self.write("suspension.made", suspension=len(self.lines), scope=scope, target=target, by="o0", because="x", **known)

    def open(self) -> None:
        handle = f"case{len(self.lines)}"
        purpose, offence = self.rng.choice(list(PURPOSES)), self.rng.choice(("", self.rng.choice(list(OFFENCES))))
        is_emergency, expires = self.rng.random() < 0.3, (self.time + timedelta(hours=self.rng.choice((1, 100)))).isoformat()
        self.cases[handle] = {
            "purpose": purpose, "offence": offence, "expires_at": expires, "emergency_at": self.now() if is_emergency else "",
            "documents": [], "closed_at": "", "comparisons": 0,
        }  # fmt: skip
        facts = {"purpose": purpose, "offence": offence, "expires_at": expires, "opened_at": self.now(), "is_emergency": is_emergency}
        self.write("case.opened", operator="o1", case=handle, number="n", documents=[], **facts)

    def document(self) -> None:
        if not self.cases:
            return
        handle = self.rng.choice(list(self.cases))
        state = self.rng.choice((None, True, False))
        one = Document(self.rng.choice(KINDS), "2030-01-01", None if state is None else "2030-01-02", state)
        kept = [(kind, document) for kind, document in self.cases[handle]["documents"] if kind != one.kind]
        self.cases[handle]["documents"] = [*kept, (one.kind, one)]
        shown = {"kind": one.kind, "requested_at": one.requested_at, "decided_at": one.decided_at, "granted": one.granted}
        self.write("case.document", operator="o1", case=handle, document={**shown, "reference": one.kind})

    def close(self) -> None:
        still = [handle for handle, case in self.cases.items() if not case["closed_at"]]
        if len(still) > 3:
            self.cases[still[0]]["closed_at"] = self.now()
            self.write("case.closed", operator="o1", case=still[0])

    def look(self) -> None:
        rng = self.rng
        pack, operator, duty = rng.choice(self.packs), rng.choice(list(self.operators)), rng.choice(sorted(LOOKS))
        roles, unit = self.operators[operator]
        collection = "" if duty == "compare" else rng.choice("ab")
        handle = rng.choice([*self.cases][-6:] or [""]) if duty in CASEWORK and rng.random() < 0.8 else ""
        case = self.cases.get(handle)
        faces = self.faces(collection) if collection else 1 + (case["comparisons"] if case else 0)
        declared = {"probe": rng.choice(PROBES[:3]), "edits": rng.sample(EDITS, rng.choice((0, 0, 1)))}
        declared |= {"reason": "r"} if rng.random() < 0.5 else {}
        concerned = {("operator", operator), ("unit", unit), ("collection", collection or "-"), ("system", "")}
        facts = case and CaseFacts(
            case["purpose"], case["expires_at"], case["offence"], case["closed_at"], case["emergency_at"],
            tuple(one for _, one in case["documents"]), declared["probe"], tuple(declared["edits"]), "reason" in declared,
        )  # fmt: skip
        asked = Asked(
            duty, tuple(roles), self.now(), rng.choice((None, None, 0.0, 50.0, 80.0, 95.0, 99.0)), rng.choice((1, 10, 100)),
            75.0 if duty == "subject.associate" else None, least_of_check(faces) if duty == "collection.check" else 0.0, faces,
            facts or None, self.certificates.get(operator) if duty in CASEWORK else None,
            next((f"{scope} {target}" for scope, target in self.suspended.values() if (scope, target) in concerned), ""),
        )  # fmt: skip
        decision = decide(pack, asked)
        who = {"operator": operator, "roles": roles, "via": "cli", "duty": duty, "policy": pack_facts(pack), "asked": asked.plain()}
        who |= {"case": handle} if handle else {}
        if not decision.is_allowed:
            said = {} if asked.threshold is None else {"threshold": asked.threshold}
            self.write("refused", rule=decision.rule, **who, **said, **({"collection": collection} if collection else {}))
            return
        audit_id = f"look{len(self.lines)}"
        bounds = {"value": decision.threshold, "origin": decision.origin, "floor": decision.floor}
        more: dict[str, Any] = {"departures": list(decision.departures)} if decision.departures else {}
        more |= {"declared": declared} if handle else {}
        more |= (
            {"collection": {"id": collection, "faces": faces, "generation": 0, "commitment": self.commitment(collection)}}
            if collection
            else {}
        )
        intent = self.write("look.intent", audit_id=audit_id, threshold=bounds, limit=decision.limit, probe={}, **who, **more)
        compared = rng.randint(1, 5)
        size = 1 if duty == "subject.associate" else faces if collection else faces - 1 + compared
        if duty == "compare" and case:
            case["comparisons"] += compared
        fmr = fmr_at(decision.threshold) if decision.threshold > 0 else 1.0
        rates = {"fmr": fmr, "expected_false": expected_false(fmr, size), "gallery_size": size}
        self.write("look.outcome", audit_id=audit_id, intent=intent, looked=True, candidates=[], **rates)

    def faces(self, collection: str) -> int:
        enrolled, removed = self.galleries[collection]
        return len(enrolled) - len(removed)

    def commitment(self, collection: str) -> dict[str, Any]:
        """As RFC 9162 defines it, recursively."""
        return {name: log_of(tuple(log)) for name, log in zip(("enrolled", "removed"), self.galleries[collection], strict=True)}

    def decisions(self) -> Iterator[int]:
        """The numbers of the entries that are decisions."""
        return (n for n, line in enumerate(self.lines) if b'"asked":' in line)
