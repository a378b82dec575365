"""The defence's packet of a case: what was asked, what it rested on and found, and proofs that it was recorded so at the time.

`record` of packet.json is computed from the ledger's entries alone, so that who has the proofs can compute it again. Whoever is not the
face that the packet is for is a pseudonym: no FaceId, ExternalImageId, UserId, name or template of anybody else is in it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rfc8785
import sqlalchemy as sa

from aboveboard import __version__
from aboveboard.accountability import verify_ledger
from aboveboard.accountability.cases import Case, commitment, part_key
from aboveboard.accountability.gate import actor
from aboveboard.accountability.operators import Session
from aboveboard.biometrics.calibration import Calibration, expected_false, fmr_at
from aboveboard.errors import BadRequest, NoSuch, Unavailable
from aboveboard.service import packet_evidence, packet_page, record
from aboveboard.service.app import App
from aboveboard.storage.database import now
from aboveboard.storage.schema import PACKS
from aboveboard.vision.packs import PackFolder

PACKET, PAGE, PROOFS, CALIBRATIONS = "packet.json", "packet.html", "proofs", "calibrations"
FORMAT = 2
"""Of packet and page, one more with each change of either. It stands in the packet's own entry, so that none can pass for an older one."""
Keys = Mapping[str, Mapping[str, Mapping[str, str]]]
"""By audit id and part (`probe 1`, `candidate 1`, `lead 1`; of the case `number`): its key in hexadecimal and, of the named face, `of`."""


@dataclass(frozen=True, slots=True)
class Written:
    """A packet that was written, and the checkpoint that its proofs lead to."""

    looks: int
    entries: int
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """What is wrong with a packet, what an older one cannot show, how many entries it proves, and which probes a photograph is."""

    faults: list[str]
    notes: list[str]
    entries: int
    photograph: list[str]


def write(app: App, session: Session, number: str, to: Path, face: str = "") -> Written:
    """Write the packet of a case into a new or empty folder; it is an entry itself. `face`: the face whose commitments are opened.

    Raises BadRequest for a folder that holds something or a face id that is none, Unavailable where it cannot be written.
    """
    app.gate.authorise(session, "case.packet")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BadRequest(f"{to} is not an empty folder; name one that is, or is not there yet")
    if face and not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", face):
        raise BadRequest("--face takes a FaceId, such as 5b1d1c50-3c4e-4b1c-9a9e-2f3d1c0b9a8e")
    case = app.cases.get(number)
    # What is written from here on is for the next packet: of this one its own entry is the last.
    entries = sorted(_entries(app, case), key=lambda entry: int(entry["seq"]))
    calibrations, keys = _calibrations(app, entries), _keys(app, case, entries, face)
    carried = {"format": FORMAT, "calibrations": sorted(calibrations), "keys": _sha256(keys)}
    own = app.ledger.record("packet.made", {**actor(session), "case": case.handle, "is_for_a_face": bool(face), **carried})
    newest = record.sign(app)
    entries += map(json.loads, app.ledger.entries(own, own + 1))
    told = {
        "format": FORMAT,
        "made_at": now(),
        "program": __version__,
        "case": number,
        "face": face or None,
        "checkpoint": {"size": newest.size, "root": newest.root.hex()},
        "record": of_entries(entries, keys),
        "keys": keys,
        **_cards(app, entries),
    }
    told["calibrations"] = {sha256: calibration.provenance for sha256, calibration in calibrations.items()}
    told["evidence"] = packet_evidence.of_record(told["record"], calibrations)
    try:
        (to / PROOFS).mkdir(parents=True)
        for entry in entries:
            proof = record.proof(app, entry["seq"], newest)
            (to / PROOFS / f"{entry['seq']:012d}.json").write_text(json.dumps(proof, ensure_ascii=False) + "\n")
        (to / CALIBRATIONS).mkdir()
        for sha256, calibration in calibrations.items():
            (to / CALIBRATIONS / f"{sha256}.json").write_bytes(calibration.text.encode())
        (to / verify_ledger.KEY).write_text(f"{app.checkpoints.verifier_key}\n")
        shutil.copyfile(verify_ledger.__file__, to / "verify_ledger.py")
        (to / PAGE).write_text(packet_page.page(told))
        (to / PACKET).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise Unavailable(f"the packet in {to} is not whole ({error.strerror}); remove it and name a folder with room") from error
    return Written(len(told["record"]["looks"]), len(entries), newest.size, newest.root)


def verify(folder: Path, key: str = "", photograph: bytes | None = None) -> Verified:
    """Check a packet: each proof against one checkpoint, and that packet and page say what the entries say. Raises BadRequest."""
    faults: list[str] = []
    try:
        told = json.loads((folder / PACKET).read_bytes())
        shipped = (folder / verify_ledger.KEY).read_text().strip()
        entries = []
        for file in sorted((folder / PROOFS).glob("*.json")):
            proof = json.loads(file.read_bytes())
            try:
                verify_ledger.check_proof(proof, key or shipped, b"")
                signed = verify_ledger.read_checkpoint(proof["checkpoint"].encode(), key or shipped, file.name)
                if {"size": signed.size, "root": signed.root.hex()} != told["checkpoint"]:
                    faults.append(f"{file.name} leads to another checkpoint than the packet's")
            except ValueError as error:
                faults.append(f"{file.name}: {error}")
            entries.append(json.loads(proof["entry"]))
        entries.sort(key=lambda entry: int(entry["seq"]))
        if of_entries(entries, told["keys"]) != told["record"]:
            faults.append(f"{PACKET} does not say what the entries say")
        # By their hash, which the entries have: a file that was changed is the calibration of no look.
        made = [Calibration.from_json(file.read_bytes().decode()) for file in sorted((folder / CALIBRATIONS).glob("*.json"))]
        own, notes = _own(entries), list[str]()
        if own is None:
            faults.append("the entry of the packet itself is missing, or others come after it")
        elif "format" in own and sorted(one.sha256 for one in made) != own["calibrations"]:
            faults.append(f"{CALIBRATIONS} has not the files that the packet's own entry names")
        elif "format" in own and own["keys"] != _sha256(told["keys"]):
            faults.append(f"{PACKET} opens something else than the packet's own entry says")
        if own and own["is_for_a_face"] != bool(told["face"]):
            faults.append("the packet's own entry says otherwise whether it is for a face")
        if len({one["case"] for one in entries if "case" in one}) > 1 or len({one["seq"] for one in entries}) < len(entries):
            faults.append(f"{PROOFS} has entries of another case, or one of them twice")
        if own and "format" not in own and not made:
            notes.append("it is of before packets carried the calibration: what it says of that cannot be checked")
        elif told["calibrations"] != {calibration.sha256: calibration.provenance for calibration in made}:
            faults.append(f"{PACKET} says of calibrations what no file in {CALIBRATIONS} says")
        # Without a calibration none follow: whoever takes it out cannot put his own ratios in.
        if told.get("evidence", []) != packet_evidence.of_record(told["record"], {one.sha256: one for one in made}):
            faults.append(f"{PACKET} has other likelihood ratios or posteriors than follow from its calibration")
        if any(_sha256(pack) != sha256 for sha256, pack in told["policies"].items()):
            faults.append(f"{PACKET} has other rules than those of the policy that the entries name")
        faults += _unopened(told, entries)
        if own and own.get("format") != FORMAT:
            notes.append(f"{PAGE} is of another version of this program and was not held against {PACKET}: go by that")
        elif packet_page.page(told) != (folder / PAGE).read_text():
            faults.append(f"{PAGE} does not say what {PACKET} says")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise BadRequest(f"{folder} is no packet that can be verified: {error!r}; make one with: aboveboard case packet") from error
    probes = [(look, probe) for look in told["record"]["looks"] for probe in look["probes"]] if photograph is not None else []
    found = [f"{probe['name']} of look {look['look']}" for look, probe in probes if _opens(probe, photograph or b"")]
    return Verified(faults, notes, len(entries), found)


def _sha256(document: Any) -> str:
    """Of its canonical JSON (RFC 8785). That of keys tells nothing of them, and so not which candidates they open."""
    return hashlib.sha256(rfc8785.dumps(document)).hexdigest()


def _own(entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The entry that says that the packet with these entries was made; None where it was taken out.

    It names what belongs in the packet, and nothing comes after it: else somebody could take the entry out, and pass the packet off as
    one that was made earlier, when less belonged in it.
    """
    return entries[-1] if entries and entries[-1]["type"] == "packet.made" else None


def of_entries(entries: Sequence[Mapping[str, Any]], keys: Keys) -> dict[str, Any]:
    """What the entries of a case say, for people: nothing else goes in, so that anybody can make it again out of the proofs."""
    by_type: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        by_type.setdefault(entry["type"], []).append(entry)
    opened = by_type["case.opened"][0]
    outcomes = {entry["audit_id"]: entry for entry in by_type.get("look.outcome", [])}
    order = {intent["audit_id"]: i for i, intent in enumerate(by_type.get("look.intent", []), 1)}
    looks = [_look(order[one["audit_id"]], one, outcomes.get(one["audit_id"]), keys) for one in by_type.get("look.intent", [])]
    sizes = {look["audit_id"]: look["gallery_size"] for look in looks}
    documents = [*opened["documents"], *(entry["document"] for entry in by_type.get("case.document", []))]
    closed = by_type.get("case.closed", [])
    return {
        "case": {
            "handle": opened["case"],
            "operator": opened["operator"],
            "purpose": opened["purpose"],
            "offence": opened["offence"] or None,
            "opened_at": opened["time"],
            "expires_at": opened["expires_at"],
            "closed_at": closed[0]["time"] if closed else None,
            "is_emergency": opened["is_emergency"],
            "documents": [{key: value for key, value in one.items() if key != "reference"} for one in documents],
        },
        "looks": looks,
        "leads": [_disclosure(entry, order, sizes, keys) for entry in by_type.get("leads.disclosed", [])],
        "refusals": [
            {"seq": one["seq"], "time": one["time"], "operator": one["operator"], "duty": one["duty"], "rule": one["rule"]}
            for one in by_type.get("refused", [])
        ],
        "keys_made": [
            {"seq": one["seq"], "time": one["time"], "operator": one["operator"], "expires_at": one["expires_at"], **_declared(one)}
            for one in by_type.get("case.credentials", [])
        ],
        "packets": [{"seq": one["seq"], "time": one["time"], "operator": one["operator"]} for one in by_type.get("packet.made", [])],
        "entries": [entry["seq"] for entry in entries],
    }


def _look(n: int, intent: Mapping[str, Any], outcome: Mapping[str, Any] | None, keys: Keys) -> dict[str, Any]:
    found = outcome or {}
    opened = keys.get(intent["audit_id"], {})
    size = found.get("gallery_size")
    commitments = intent["probe"].get("commitments", [])
    return {
        "look": n,
        "audit_id": intent["audit_id"],
        "entries": [intent["seq"], *([outcome["seq"]] if outcome else [])],
        "time": intent["time"],
        "operator": intent["operator"],
        "roles": intent["roles"],
        "duty": intent["duty"],
        "collection": intent.get("collection", {}).get("id"),
        "certificate": intent["asked"].get("certificate"),
        "policy": intent["policy"],
        "threshold": found.get("threshold", intent["threshold"]),
        "limit": intent["limit"],
        **_declared(intent.get("declared", {})),
        "departures": [*intent.get("departures", []), *found.get("departures", [])],
        "probes": [
            {"name": f"probe {i}", "commitment": one, "key": opened.get(f"probe {i}", {}).get("key")}
            for i, one in enumerate(commitments, 1)
        ],
        "model": intent["model"],
        "calibration": intent["calibration"],
        "is_answered": bool(found.get("looked")) and "withheld" not in found,
        "withheld": found.get("withheld"),
        "reason": found.get("reason") if outcome else "the record has no outcome: the server was stopped, and nothing was answered",
        "gallery_size": size,
        **{name: found[name] for name in ("references", "people") if name in found},
        **{name: found.get(name) for name in ("fmr", "expected_false", "fpir", "fnir", "gallery_factor", "below_threshold")},
        "candidates": [_told(one, i, n, "candidate", size, opened) for i, one in enumerate(found.get("candidates", []), 1)],
    }


def _told(one: Mapping[str, Any], rank: int, look: int, kind: str, size: int | None, opened: Mapping[str, Any]) -> dict[str, Any]:
    """A candidate or a lead under its pseudonym, with what chance alone does at its similarity."""
    fmr = fmr_at(one["similarity"])
    return {
        "name": f"{kind} {rank} of look {look}",
        "similarity": one["similarity"],
        "fmr": fmr,
        "expected_false": expected_false(fmr, size or 0),
        "commitment": one["commitment"],
        "is_named_face": f"{kind} {rank}" in opened,
        **{name: one[name] for name in ("person", "faces") if name in one},
    }


def _disclosure(entry: Mapping[str, Any], order: Mapping[str, int], sizes: Mapping[str, int | None], keys: Keys) -> dict[str, Any]:
    leads = [
        _told(one, one["rank"], order[one["audit_id"]], "lead", sizes[one["audit_id"]], keys.get(one["audit_id"], {}))
        for one in entry["leads"]
    ]
    return {"seq": entry["seq"], "time": entry["time"], "operator": entry["operator"], "count": entry["count"], "leads": leads}


def _declared(said: Mapping[str, Any]) -> dict[str, Any]:
    return {"probe_kind": said.get("probe"), "edits": said.get("edits", []), "gave_reason": "reason" in said}


def _entries(app: App, case: Case) -> Iterator[dict[str, Any]]:
    """Every entry of a case: those that name its handle, and the outcomes of its looks."""
    for look in app.cases.looks(case):
        if look.outcome is not None:
            yield json.loads(next(app.ledger.entries(look.outcome, look.outcome + 1)))
    handle = case.handle.encode()
    for line in app.ledger.entries():
        if handle in line and (entry := json.loads(line)).get("case") == case.handle:
            yield entry


def _keys(app: App, case: Case, entries: Sequence[Mapping[str, Any]], face: str) -> dict[str, dict[str, dict[str, str]]]:
    """The keys of the case's number and of every probe, and of the candidates and leads that the named face is."""
    opened: dict[str, dict[str, dict[str, str]]] = {case.handle: {"number": {"key": part_key(case.key, "number").hex()}}}
    owned = _handles(app, face) if face else []
    secrets, own = {}, dict[str, list[str]]()
    for entry in entries:
        if entry["type"] == "look.intent" and (key := app.ledger.commitment_key(entry["audit_id"])):
            secrets[entry["audit_id"]] = key
            own[entry["audit_id"]] = [face, *(one for one, since, until in owned if since < entry["seq"] < until)] if face else []
            probes = range(1, 1 + len(entry["probe"].get("commitments", [])))
            opened[entry["audit_id"]] = {f"probe {i}": {"key": part_key(key, f"probe {i}").hex()} for i in probes}
    for audit_id, part, value in _parts(entries):
        for reference in own.get(audit_id, []):
            if hmac.compare_digest(commitment(secrets[audit_id], part, reference.encode()), value):
                opened[audit_id][part] = {"key": part_key(secrets[audit_id], part).hex(), "of": reference}
    return opened


def _parts(entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Audit id, part and commitment of each candidate that was answered and of each lead that was disclosed."""
    for entry in entries:
        if entry["type"] == "look.outcome":
            for i, one in enumerate(entry.get("candidates", []), 1):
                yield entry["audit_id"], f"candidate {i}", one["commitment"]
        elif entry["type"] == "leads.disclosed":
            for one in entry["leads"]:
                yield one["audit_id"], f"lead {one['rank']}", one["commitment"]


def _handles(app: App, face: str) -> list[tuple[str, int, float]]:
    """What searches of people may have called a face: the handle of each person whose it was, and between which entries."""
    found: list[tuple[str, int, float]] = []
    for line in app.ledger.entries():
        if face.encode() not in line:
            continue
        entry = json.loads(line)
        given = entry.get("subjects", {}) if entry["type"] == "subjects.enrolled" else {}
        if entry["type"] == "subject.associated":
            given = {entry["subject"]: entry["face_ids"]}
        elif entry["type"] == "subject.disassociated" and face in entry["face_ids"]:
            found = [(one, since, min(until, entry["seq"])) for one, since, until in found]
        found += [(handle, entry["seq"], math.inf) for handle, faces in given.items() if face in faces]
    return found


def _cards(app: App, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The cards of the models that the looks name, and the rules of their packs, each only where it is the very same."""
    intents = [entry for entry in entries if entry["type"] == "look.intent"]
    packs = PackFolder(app.settings.models)
    models = {}
    for intent in intents:
        model = intent["model"]
        try:
            card = packs.card(model["pack"])
        except (NoSuch, Unavailable):
            continue
        if [part.sha256 for part in card.files] == model["sha256"] and card.model_version == model["version"]:
            shown = asdict(card)
            models[model["pack"]] = {name: shown[name] for name in ("id", "name", "model_version", "licence", "training_data", "limits")}
    named = {intent["policy"]["sha256"] for intent in intents}
    with app.database.read() as connection:
        rules = connection.execute(sa.select(PACKS).where(PACKS.c.sha256.in_(named))).all()
    return {"models": models, "policies": {row.sha256: json.loads(row.text) for row in rules}}


def _calibrations(app: App, entries: Sequence[Mapping[str, Any]]) -> dict[str, Calibration]:
    """The calibrations that the looks name, by sha256, each only where it is the very same."""
    packs, found = PackFolder(app.settings.models), dict[str, Calibration]()
    for pack, sha256 in {(one["model"]["pack"], one["calibration"]["sha256"]) for one in entries if one["type"] == "look.intent"}:
        try:
            calibration = packs.calibration(pack)
        except (NoSuch, Unavailable):
            continue
        if calibration is not None and calibration.sha256 == sha256:
            found[sha256] = calibration
    return found


def _unopened(told: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What was said to be opened and does not open: the case's number, the named face's candidates and leads."""
    opened = next(entry for entry in entries if entry["type"] == "case.opened")
    number = {"key": told["keys"][opened["case"]]["number"]["key"], "commitment": opened["number"]}
    if not _opens(number, told["case"].encode()):
        yield "the case is not of the number that the packet says"
    duties = {entry["audit_id"]: entry["duty"] for entry in entries if entry["type"] == "look.intent"}
    for audit_id, part, value in _parts(entries):
        if one := told["keys"].get(audit_id, {}).get(part):
            # A search of people answers the handle of the one whose face it is.
            is_named = one["of"] == told["face"] or duties[audit_id].startswith("search.subjects")
            if not is_named or not _opens({"key": one["key"], "commitment": value}, one["of"].encode()):
                yield f"{part} of {audit_id} is not the face that the packet names"


def _opens(part: Mapping[str, Any], value: bytes) -> bool:
    return bool(part["key"]) and hmac.compare_digest(hmac.new(bytes.fromhex(part["key"]), value, "sha256").hexdigest(), part["commitment"])
