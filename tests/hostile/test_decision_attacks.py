"""What is done to decisions in a ledger that is then computed and signed anew, and what `aboveboard ledger verify` says to it.

Nobody kept a checkpoint here: what these attacks are known by is that decisions are made again, and compared with the entries before.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from kit import null_settings, picture, serving
from test_ledger_attacks import Rows, rewrite, rows_of, verb
from typer.testing import CliRunner

from aboveboard.accountability.catalogue import Policies
from aboveboard.accountability.gate import pack_facts
from aboveboard.accountability.operators import AccessKey
from aboveboard.cli import app

SUSPECT, STRANGER = {"Bytes": picture(1, take=1, variation=0.1)}, {"Bytes": picture(9)}


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(ClientError) as caught:
        yield
    assert caught.value.response["Error"]["Code"] == "AccessDeniedException"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A strict deployment: searches in two cases, comparisons, refusals for a low threshold, under a suspension, without a certificate."""
    folder = tmp_path_factory.mktemp("strict")
    with serving(null_settings(folder / "data", default_policy="public-safety")) as server:
        app, enroller = server.app, server.client(server.operator("enroller", "enroller"))
        server.client().create_collection(CollectionId="people")
        for n in range(5):
            enroller.index_faces(CollectionId="people", Image={"Bytes": picture(n)})
        detective = server.client(server.detective("detective"))
        other = server.client(server.detective("other", purpose="victim"))
        detective.search_faces_by_image(CollectionId="people", Image=SUSPECT)
        with refused():
            detective.search_faces_by_image(CollectionId="people", Image=SUSPECT, FaceMatchThreshold=80)
        faces = enroller.list_faces(CollectionId="people")["Faces"]
        other.search_faces(CollectionId="people", FaceId=faces[2]["FaceId"])
        enroller.delete_faces(CollectionId="people", FaceIds=[faces[3]["FaceId"]])
        for _ in range(2):
            detective.compare_faces(SourceImage=SUSPECT, TargetImage={"Bytes": picture(1, 2)})
        app.standing.suspend("collection", "people", "an audit", "first")
        with refused():
            other.search_faces_by_image(CollectionId="people", Image=STRANGER)
        for person in ("first", "enroller"):
            app.standing.lift(1, app.operators.named(person))
        app.standing.uncertify("detective", "first")
        with refused():
            detective.search_faces_by_image(CollectionId="people", Image=STRANGER)
        other.search_faces_by_image(CollectionId="people", Image=STRANGER)
    return folder


@pytest.fixture
def data(before: Path, tmp_path: Path) -> Path:
    return shutil.copytree(before / "data", tmp_path / "data")


def export(data: Path) -> Path:
    verb(data, "export", str(data.parent / "bundle"), "--operator", "first")
    return data.parent / "bundle"


def verdict(bundle: Path, *options: str) -> tuple[int, dict[str, list[str]], dict[str, int]]:
    """Exit code, faults by kind, and how many decisions were made again; no deployment is near."""
    result = CliRunner().invoke(app, ["ledger", "verify", str(bundle), *options, "--json"], env={"ABOVEBOARD_DATA": "/nowhere"})
    assert result.exit_code in (0, 1), result.output
    said: dict[str, list[str]] = {}
    document = json.loads(result.stdout)
    for one in document["findings"]:
        said.setdefault(one["kind"], []).append(one["text"])
    return result.exit_code, said, document["decisions"]


def test_a_ledger_that_nobody_touched_is_decided_as_it_was(data: Path) -> None:
    assert verdict(export(data)) == (0, {}, {"looks": 5, "refusals": 3, "older": 0})


# --- what is done to the entries ------------------------------------------------------------------------------------------------


def seqs(rows: Rows, kind: str, **facts: Any) -> list[int]:
    return [row["seq"] for row in rows if row["type"] == kind and all(row.get(name) == value for name, value in facts.items())]


def changed(rows: Rows, seq: int, **changes: Any) -> Rows:
    return [{**row, **changes} if row["seq"] == seq else row for row in rows]


def asking(rows: Rows, seq: int, **changes: Any) -> Rows:
    """Another thing asked in one entry; None leaves it out."""
    asked = {name: value for name, value in {**rows[seq]["asked"], **changes}.items() if value is not None}
    return changed(rows, seq, asked=asked)


def allowed(rows: Rows, seq: int, **asked: Any) -> Rows:
    """A refusal made a look, with an outcome like those of others."""
    is_late = seq > seqs(rows, "faces.removed")[0]
    like = rows[seqs(rows, "look.intent", duty="search.image")[-1 if is_late else 0]]
    outcome = next(row for row in rows if row["type"] == "look.outcome" and row["audit_id"] == like["audit_id"])
    refusal = asking(rows, seq, **asked)[seq]
    kept = {name: value for name, value in refusal.items() if name not in ("rule", "collection")}
    look = {**like, **kept, "type": "look.intent", "audit_id": "made up"}
    return [*rows[:seq], look, {**outcome, "audit_id": "made up", "time": refusal["time"]}, *rows[seq + 1 :]]


def lower_a_threshold(rows: Rows) -> Rows:
    seq = seqs(rows, "look.intent")[0]
    return changed(rows, seq, threshold={**rows[seq]["threshold"], "value": 80})


def ask_for_a_lower_threshold(rows: Rows) -> Rows:
    seq = seqs(rows, "look.intent")[0]
    return asking(changed(rows, seq, threshold={"value": 80, "origin": "request", "floor": 99}), seq, threshold=80)


def allow_what_was_refused(rows: Rows) -> Rows:
    return allowed(rows, seqs(rows, "refused", rule="public-safety/threshold.floor")[0])


def refuse_for_another_rule(rows: Rows) -> Rows:
    return changed(rows, seqs(rows, "refused", rule="public-safety/threshold.floor")[0], rule="public-safety/purpose")


def replay_a_revoked_certificate(rows: Rows) -> Rows:
    seq = seqs(rows, "refused", rule="public-safety/certificate")[0]
    rows = aged(rows, seq)
    return allowed(rows, seq, certificate=rows[seqs(rows, "look.intent", operator="detective")[0]]["asked"]["certificate"])


def borrow_a_certificate(rows: Rows) -> Rows:
    return asking(
        rows, seqs(rows, "look.intent", operator="other")[0], certificate=rows[seqs(rows, "look.intent")[0]]["asked"]["certificate"]
    )


def back_date_a_certificate(rows: Rows) -> Rows:
    return changed(rows, seqs(rows, "operator.certified", operator="detective")[0], made_at="2020-01-01T00:00:00.000Z")


def look_inside_a_suspension(rows: Rows) -> Rows:
    seq = seqs(rows, "refused", rule="public-safety/suspended")[0]
    return allowed(aged(rows, seq), seq, suspended=None)


def remove_a_face_unsaid(rows: Rows) -> Rows:
    return [row for row in rows if row["type"] != "faces.removed"]


def add_a_face_unsaid(rows: Rows) -> Rows:
    return [row for row in rows if row["seq"] != seqs(rows, "faces.enrolled")[1]]


def exchange_a_face(rows: Rows) -> Rows:
    return changed(rows, seqs(rows, "faces.enrolled")[1], face_ids=["00000000-0000-4000-8000-000000000000"])


def change_a_cases_purpose(rows: Rows) -> Rows:
    return changed(rows, seqs(rows, "case.opened")[0], purpose="missing_person")


def lower_a_similarity(rows: Rows) -> Rows:
    seq = seqs(rows, "look.outcome")[0]
    return changed(rows, seq, candidates=[{**one, "similarity": 98.5} for one in rows[seq]["candidates"]])


def understate_the_false_candidates(rows: Rows) -> Rows:
    return changed(rows, seqs(rows, "look.outcome")[0], expected_false=0.000001)


def act_in_another_role(rows: Rows) -> Rows:
    seq = seqs(rows, "look.intent")[0]
    return asking(changed(rows, seq, roles=["investigator", "admin"]), seq, roles=["investigator", "admin"])


def decide_afterwards(rows: Rows) -> Rows:
    return asking(rows, seqs(rows, "look.intent")[0], at="2020-01-01T00:00:00.000Z")


def understate_the_comparisons(rows: Rows) -> Rows:
    seq = seqs(rows, "look.intent", duty="compare")[1]
    return asking(aged(rows, seq), seq, comparisons=1)


def forget_what_was_asked(rows: Rows) -> Rows:
    return [{name: value for name, value in row.items() if name != "asked" or row["seq"] != seqs(rows, "look.intent")[1]} for row in rows]


def use_a_key_that_had_ended(rows: Rows) -> Rows:
    seq = seqs(rows, "look.intent")[0]
    key = next(row["seq"] for row in rows if row.get("access_key") == rows[seq]["via"])
    return changed(rows, key, expires_at=later(rows[seq]["asked"]["at"], -100))


def decide_by_a_looser_pack(rows: Rows) -> Rows:
    """By `general`, which is in the bundle too, though the collection is tagged with the strict one."""
    seq = seqs(rows, "look.intent")[0]
    tagged = changed(rows, seqs(rows, "collection.created")[0], tags={"aboveboard:policy": "public-safety"})
    general = pack_facts(Policies("general", "general").get("general"))
    return changed(tagged, seq, policy=general, threshold={"value": 80, "origin": "default", "floor": 0})


def decide_by_a_pack_that_is_not_the_servers(rows: Rows) -> Rows:
    """By `general`, which is in the bundle and named by the server; no tag names any, and the server's default is the strict one."""
    seq, policies = seqs(rows, "look.intent")[0], Policies("public-safety", "general")
    general = pack_facts(policies.get("general"))
    rows = changed(rows, seq, policy=general, threshold={"value": 80, "origin": "default", "floor": 0})
    return [*rows[:seq], started(rows[seq]["time"], policies), *rows[seq:]]


def started(time: str, policies: Policies) -> dict[str, Any]:
    """What a server with these packs writes at its start."""
    packs = [pack_facts(pack) for pack in policies.all() if policies.is_loadable(pack)]
    chosen = {"default_policy": policies.default_id, "minimum_policy": policies.minimum_id, "policies": packs}
    return {"seq": -1, "time": time, "type": "server.started", "version": "1", "pack": "null", "settings": "", **chosen}


def later(time: str, by_s: float) -> str:
    moved = datetime.fromisoformat(time) + timedelta(seconds=by_s)
    return moved.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def aged(rows: Rows, seq: int) -> Rows:
    """Everything before an entry as if it had been ten minutes earlier: what a request may just have read is no excuse."""

    def moved(time: str) -> str:
        return later(time, -600)

    def walked(value: Any, is_late: bool, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: walked(one, is_late, key) for key, one in value.items()}
        is_time = isinstance(value, str) and re.fullmatch(r"[0-9-]{10}T[0-9:]{8}\.[0-9]{3}Z", value)
        return moved(value) if is_time and not (is_late and name in ("time", "at")) else value

    return [walked(row, row["seq"] >= seq) for row in rows]


SAYS: dict[Callable[[Rows], Rows], dict[str, str]] = {
    lower_a_threshold: {"decision": 'it says threshold {"floor": 99, "origin": "policy", "value": 80}; its pack gives {"value": 99.0'},
    ask_for_a_lower_threshold: {"decision": "was allowed, and by its pack it is refused by rule public-safety/threshold.floor"},
    allow_what_was_refused: {"decision": "was allowed, and by its pack it is refused by rule public-safety/threshold.floor"},
    refuse_for_another_rule: {"decision": "by rule public-safety/purpose; by its pack it is refused by rule public-safety/threshold.floor"},
    replay_a_revoked_certificate: {"certificate": "the certificate of detective that is claimed was revoked or replaced before"},
    borrow_a_certificate: {"certificate": "the certificate that is claimed was never entered for other"},
    back_date_a_certificate: {"certificate": "the certificate is dated 2020-01-01T00:00:00.000Z, and entered at"},
    look_inside_a_suspension: {"suspension": "collection people is suspended, and it was decided as if nothing were"},
    remove_a_face_unsaid: {"gallery": "the entries give 5 faces", "outcome": "4 faces were compared; by the entries people had 5"},
    add_a_face_unsaid: {"gallery": "the entries give 4 faces", "outcome": "", "asked": "decided for 5 comparisons; the entries give 4"},
    exchange_a_face: {"gallery": "the entries give 5 faces"},
    change_a_cases_purpose: {"case": 'it claims purpose "suspect" for "missing_person"'},
    lower_a_similarity: {"outcome": "similarities [98.5] are not in order from 100 down to 99"},
    understate_the_false_candidates: {"outcome": "it says expected_false 1e-06; "},
    act_in_another_role: {"asked": "acts as ['investigator', 'admin'], asks as", "decision": "refused by rule public-safety/roles"},
    decide_afterwards: {"asked": "it was decided at 2020-01-01T00:00:00.000Z and written at"},
    understate_the_comparisons: {"asked": "it was decided for 1 comparisons; the entries give 3"},
    use_a_key_that_had_ended: {"case": "had ended"},
    forget_what_was_asked: {"asked": "it does not say what was asked, as intents do since entry"},
    decide_by_a_pack_that_is_not_the_servers: {
        "policy": "decided by the pack general 2; by what the server said at its start it is public-safety 2",
        "outcome": "",
    },
    decide_by_a_looser_pack: {"policy": "decided by the pack general, and people stands under public-safety", "outcome": ""},
}
"""Attack -> what is said to it: kinds, and a part of one text of each."""


@pytest.mark.parametrize("attack", SAYS, ids=lambda attack: attack.__name__)
def test_an_attack_on_a_decision_is_named(attack: Callable[[Rows], Rows], data: Path) -> None:
    """By its kind and the entry, though the tree is computed and signed anew: nothing but the decision itself is wrong."""
    rewrite(data, attack(rows_of(data)))
    code, said, _ = verdict(export(data))
    assert code == 1
    assert set(said) - {"older"} == set(SAYS[attack]), said
    for kind, text in SAYS[attack].items():
        assert any(text in one and one.startswith("entry ") for one in said[kind]), said[kind]


def end_a_key_while_its_request_is_read(rows: Rows) -> Rows:
    seq = seqs(rows, "look.intent")[0]
    key = next(row["seq"] for row in rows if row.get("access_key") == rows[seq]["via"])
    return changed(rows, key, expires_at=later(rows[seq]["asked"]["at"], -20))


def step_a_clock_back(rows: Rows) -> Rows:
    seq = seqs(rows, "look.intent")[0]
    return asking(rows, seq, at=later(rows[seq]["time"], 0.089))


@pytest.mark.parametrize("chance", [end_a_key_while_its_request_is_read, step_a_clock_back], ids=lambda chance: chance.__name__)
def test_what_happens_to_honest_people_is_no_fault(chance: Callable[[Rows], Rows], data: Path) -> None:
    """A key ends between a request's arrival and its decision; a clock is put right by milliseconds between decision and entry."""
    rewrite(data, chance(rows_of(data)))
    assert verdict(export(data))[:2] == (0, {})


def test_a_similarity_that_could_be_is_known_by_a_kept_checkpoint_alone(data: Path) -> None:
    """99.5 for 100 contradicts nothing; what was signed before does not agree with it."""
    verb(data, "checkpoint", "--operator", "first")
    kept = (data / "checkpoints").rename(data.parent / "kept")
    rows = rows_of(data)
    seq = seqs(rows, "look.outcome")[0]
    rewrite(data, changed(rows, seq, candidates=[{**one, "similarity": 99.5} for one in rows[seq]["candidates"]]))
    bundle = export(data)
    assert verdict(bundle)[:2] == (0, {})
    assert set(verdict(bundle, "--checkpoints", str(kept))[1]) == {"rewritten"}


# --- what is done to packs, rows and the bundle -----------------------------------------------------------------------------------


def lower(pack: bytes) -> bytes:
    """A strict pack's text with another floor."""
    assert b'"floor":99.0' in pack or b'"floor":99' in pack
    return pack.replace(b'"floor":99', b'"floor":50')


def test_a_pack_that_was_changed_in_the_bundle_is_named(data: Path) -> None:
    """Whether the manifest is put right or not, and whether the file is renamed or not."""
    bundle = export(data)
    sha256 = next(row["policy"]["sha256"] for row in rows_of(data) if row["type"] == "look.intent")
    file = bundle / "policies" / f"{sha256}.json"
    file.write_bytes(lower(file.read_bytes()))
    said = verdict(bundle)[1]
    assert set(said) == {"manifest", "pack"}
    assert "its sha256 is not its name: it was changed" in said["pack"][0]
    assert f"the pack public-safety 2 with the sha256 {sha256} is not in the bundle" in said["pack"][1]
    (bundle / "policies" / f"{hashlib.sha256(file.read_bytes()).hexdigest()}.json").write_bytes(file.read_bytes())
    file.unlink()
    assert "is not in the bundle" in verdict(bundle)[1]["pack"][0]


def test_a_pack_that_was_changed_in_the_database_is_named(data: Path) -> None:
    with sqlite3.connect(data / "aboveboard.db") as file:
        sha256, text = file.execute("SELECT sha256, text FROM policy_packs WHERE id = 'public-safety'").fetchone()
        file.execute("UPDATE policy_packs SET text = ? WHERE sha256 = ?", (lower(text), sha256))
    said = verdict(export(data))[1]
    assert set(said) == {"pack"}
    assert said["pack"][0].startswith(f"policies/{sha256}.json: its sha256 is not its name")


@contextmanager
def going_on(data: Path, *statements: str) -> Iterator[Any]:
    """A client in the case of `other`, after somebody has changed rows by hand."""
    with sqlite3.connect(data / "aboveboard.db") as file:
        file.execute("PRAGMA foreign_keys=ON")
        for statement in statements:
            assert file.execute(statement).rowcount == 1
    shutil.rmtree(data / "cache", ignore_errors=True)
    with serving(null_settings(data, default_policy="public-safety"), AccessKey("none", "none")) as server:
        yield server.client(server.case_key("case of other"))


def test_a_face_that_was_removed_by_hand_is_missed(data: Path) -> None:
    """The next search compares fewer faces than the entries enrolled."""
    with going_on(data, "DELETE FROM faces WHERE n = 2") as client:
        client.search_faces_by_image(CollectionId="people", Image=STRANGER)
    assert "3 faces were compared; by the entries people had 4" in verdict(export(data))[1]["outcome"][0]


def test_a_log_of_faces_that_was_changed_by_hand_is_named(data: Path) -> None:
    """The next intent commits to what the entries do not give."""
    with going_on(data, "UPDATE collections SET removed = 0, removed_subtrees = x'', face_count = 5") as client:
        client.search_faces_by_image(CollectionId="people", Image=STRANGER)
    said = verdict(export(data))[1]
    assert "the entries give 4 faces" in said["gallery"][0]


def test_a_case_whose_purpose_was_changed_by_hand_is_named(data: Path) -> None:
    with going_on(data, "UPDATE cases SET purpose = 'trafficking_victim' WHERE n = 2") as client:
        client.search_faces_by_image(CollectionId="people", Image=STRANGER)
    said = verdict(export(data))[1]
    assert set(said) == {"case"}
    assert 'it claims purpose "trafficking_victim" for "victim"' in said["case"][0]
