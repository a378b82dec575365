"""The defence's packet: complete, verifiable by an outsider, and without anybody else in it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from forging import again, closed_again, forge_ratios, other_calibration, passed_off, renamed, rewrite, tampered, twice, without_calibration
from kit import picture
from typer.testing import CliRunner

from aboveboard.accountability.cases import Declared, PaperRef
from aboveboard.accountability.operators import Session
from aboveboard.accountability.policy import Document
from aboveboard.biometrics.calibration import fmr_at
from aboveboard.cli import app as verbs
from aboveboard.errors import BadRequest, NoSuch, Refused
from aboveboard.service import cases, packet, record
from aboveboard.vision import null

NUMBER = "24-117 <script>alert(\"x\")</script> & 'Ω'"
REASON = "the only one left of Mrs Third-Party's list"
PEOPLE = (1, 2, 3, 4)


def near(subject=1):
    return picture(subject, variation=0.46, take=4)


def session_of(server, name):
    return Session(server.app.operators.named(name), "cli", "test")


@pytest.fixture(scope="module")
def faces(strict_server):
    """A gallery whose every row is marked: FaceIds by person."""
    strict_server.client().create_collection(CollectionId="marked")
    records = strict_server.client(strict_server.operator("marking-office", "enroller"))
    found = {}
    for i in PEOPLE:
        answer = records.index_faces(CollectionId="marked", Image={"Bytes": picture(i)}, ExternalImageId=f"third-party-{i}")
        found[i] = answer["FaceRecords"][0]["Face"]
        records.create_user(CollectionId="marked", UserId=f"user-of-{i}")
        records.associate_faces(CollectionId="marked", UserId=f"user-of-{i}", FaceIds=[found[i]["FaceId"]])
    return found


@pytest.fixture(scope="module")
def case(strict_server, faces):
    """A case with a search that brings a candidate, one for another person, one of people, one by FaceId, one that finds nobody, one that
    is near, a comparison, a refusal, and its leads disclosed."""
    app, name = strict_server.app, "jane-of-the-packet"
    strict_server.operator(name, "investigator")
    strict_server.operator("auditor-of-the-packet", "auditor")
    app.standing.certify(name, "examiner", 0.9, "2999-01-01", "test")
    session = session_of(strict_server, name)
    document = PaperRef(Document("court_order", "2026-01-01", "2026-01-02", True), "the order about Mrs Third-Party")
    cases.open_case(app, session, NUMBER, "suspect", offence="robbery", documents=[document])
    key = app.cases.credentials(NUMBER, Declared(reason=REASON), 3600, {"operator": name})[0]
    client = strict_server.client(key)
    image = {"Bytes": picture(1, variation=0.1, take=1)}
    client.search_faces_by_image(CollectionId="marked", Image=image)
    client.search_faces_by_image(CollectionId="marked", Image={"Bytes": picture(2)})
    client.search_users_by_image(CollectionId="marked", Image=image)
    client.search_faces(CollectionId="marked", FaceId=faces[3]["FaceId"])
    client.search_faces_by_image(CollectionId="marked", Image={"Bytes": picture(99)})
    client.search_faces_by_image(CollectionId="marked", Image={"Bytes": near()})
    client.compare_faces(SourceImage=image, TargetImage={"Bytes": picture(1, 4)})
    with pytest.raises(client.exceptions.AccessDeniedException):
        client.search_faces_by_image(CollectionId="marked", Image=image, FaceMatchThreshold=80)
    cases.leads(app, session, NUMBER, REASON)
    return NUMBER


@pytest.fixture(scope="module")
def made(strict_server, faces, case, tmp_path_factory):
    """The packet for the first person: its folder and packet.json."""
    folder = tmp_path_factory.mktemp("packets") / "packet"
    packet.write(strict_server.app, session_of(strict_server, "auditor-of-the-packet"), case, folder, faces[1]["FaceId"])
    return folder, json.loads((folder / "packet.json").read_text())


def test_it_tells_every_look_and_what_it_rested_on(made):
    """Candidates and none, threshold and its origin, N, error rates together, probe, model, calibration, policy, refusals, leads."""
    _, told = made
    record = told["record"]
    assert (told["case"], record["case"]["purpose"], record["case"]["offence"]) == (NUMBER, "suspect", "robbery")
    assert record["case"]["documents"] == [
        {"kind": "court_order", "requested_at": "2026-01-01", "decided_at": "2026-01-02", "granted": True}
    ]
    looks = record["looks"]
    assert [look["duty"] for look in looks] == [
        "search.image", "search.image", "search.subjects.image", "search.face", "search.image", "search.image", "compare"
    ]  # fmt: skip
    assert [len(look["candidates"]) for look in looks] == [1, 1, 1, 0, 0, 0, 1]
    for look in looks:
        assert look["threshold"] == {"value": 99, "origin": "policy", "floor": 99}
        assert look["fmr"] == pytest.approx(1e-8)
        assert look["expected_false"] == pytest.approx(look["gallery_size"] * look["fmr"])
        assert None not in (look["fpir"], look["fnir"])
        assert (look["operator"], look["certificate"]["score"], look["gave_reason"]) == ("jane-of-the-packet", 0.9, True)
    assert looks[-1]["gallery_size"] == 2
    assert [look.get("people") for look in looks] == [4, 4, None, 3, 4, 4, None], (
        "each of the four has a user; a probe of the four is left out"
    )
    named = [one["name"] for look in looks for one in look["candidates"] if one["is_named_face"]]
    assert named == ["candidate 1 of look 1", "candidate 1 of look 3"], "the face, and the person whose face it is"
    said = {one["look"]: one for one in told["evidence"]}
    assert list(said) == [1, 2, 7], "looks at people have a best of several comparisons, of which no ratio is known"
    (first,) = said[1]["candidates"]
    assert (first["name"], first["is_most"], first["likelihood_ratio"]) == ("candidate 1 of look 1", True, said[1]["most"])
    odds = 0.1 / 4 * first["likelihood_ratio"]
    assert first["posteriors"]["0.1"] == pytest.approx(odds / (0.9 + 0.1 * looks[0]["fnir"] + odds), abs=1e-3)
    (disclosed,) = record["leads"]
    (lead,) = disclosed["leads"]
    assert (lead["name"], lead["is_named_face"]) == ("lead 1 of look 6", True)
    assert lead["expected_false"] == pytest.approx(4 * fmr_at(lead["similarity"]))
    assert [one["rule"] for one in record["refusals"]] == ["public-safety/threshold.floor"]
    assert told["models"]["null"]["limits"]
    assert {look["calibration"]["sha256"] for look in looks} == set(told["calibrations"])
    assert {look["policy"]["sha256"] for look in looks} == set(told["policies"])


def test_it_leaks_nobody_else(strict_server, faces, made):
    """No file has another person's FaceId, ImageId, ExternalImageId, UserId or handle, a template as float32 or as 8 bits, nor any words
    that were written as a reason or as a document's reference."""
    folder, _ = made
    words = [REASON, "Third-Party", "third-party-", "user-of-"]
    words += [faces[i][name] for i in PEOPLE for name in ("FaceId", "ImageId") if name in faces[i] and (i, name) != (1, "FaceId")]
    collection = strict_server.app.collections.get("marked")
    words += [strict_server.app.subjects.get(collection, f"user-of-{i}").handle for i in PEOPLE if i != 1]
    secrets = [word.encode() for word in words]
    for i in PEOPLE:
        vector = template(i)
        eight = np.round(vector / np.abs(vector).max() * 127).astype(np.int8)
        for part in (vector.tobytes(), eight.tobytes(), eight.view(np.uint8).tobytes()):
            secrets += [part, part.hex().encode(), base64.b64encode(part)[:40], part[:16]]
        secrets.append(json.dumps([float(one) for one in vector[:3]]).strip("[]").encode())
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert faces[1]["FaceId"] in (folder / "packet.html").read_text()
    for file in files:
        data = file.read_bytes()
        assert [secret for secret in secrets if secret in data] == [], file.name


def template(subject):
    """What the gallery keeps of a drawn face."""
    image = cv2.imdecode(np.frombuffer(picture(subject), np.uint8), cv2.IMREAD_COLOR)
    return null.NullRecogniser().features(image, null.NullDetector().detect(image)[0].points)


def test_an_outsider_verifies_it_with_the_script_alone(made):
    """Every proof in it, with a Python that knows nothing of Aboveboard's package."""
    folder, told = made
    proofs = sorted((folder / "proofs").iterdir())
    assert [int(file.stem) for file in proofs] == told["record"]["entries"]
    cited = {seq for look in told["record"]["looks"] for seq in look["entries"]}
    cited |= {one["seq"] for part in ("leads", "refusals", "keys_made", "packets") for one in told["record"][part]}
    assert cited <= set(told["record"]["entries"])
    for file in (proofs[0], proofs[len(proofs) // 2], proofs[-1]):
        done = subprocess.run([sys.executable, "-I", folder / "verify_ledger.py", "--proof", file], capture_output=True, text=True)
        assert (done.returncode, told["checkpoint"]["root"] in done.stdout) == (0, True), done.stdout


def test_who_has_the_photograph_can_check_that_it_was_searched_for(made):
    """By the key of that probe alone: HMAC-SHA256, without our code; and by the verb."""
    folder, told = made
    still = picture(1, variation=0.1, take=1)
    (probe,) = told["record"]["looks"][0]["probes"]
    assert hmac.new(bytes.fromhex(probe["key"]), still, hashlib.sha256).hexdigest() == probe["commitment"]
    assert packet.verify(folder, photograph=still).photograph == ["probe 1 of look 1", "probe 1 of look 3", "probe 1 of look 7"]
    assert packet.verify(folder, photograph=picture(5)).photograph == []
    keys = [one["key"] for look in told["record"]["looks"] for one in look["probes"]]
    assert len(set(keys)) == len(keys), "one probe's key opens no other"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda _: None, None),
        (without_calibration, "has not the files that the packet's own entry names"),
        (passed_off, "the entry of the packet itself is missing"),
        (twice, "one of them twice"),
        (other_calibration, "has not the files that the packet's own entry names"),
        (tampered(lambda told: told["record"]["looks"][0].update(threshold={"value": 80, "origin": "none", "floor": 0})), "does not say"),
        (tampered(lambda told: told["record"]["looks"].pop(4)), "does not say"),
        (tampered(lambda told: told.update(case="another")), "not of the number"),
        (tampered(lambda told: told["keys"][told["record"]["looks"][0]["audit_id"]]["candidate 1"].update(of="x")), "not the face"),
        (renamed("00000000-0000-4000-8000-000000000000"), "not the face"),
        (renamed(None), "otherwise whether it is for a face"),
        (tampered(lambda told: told["evidence"][0]["candidates"][0].update(likelihood_ratio=1e9)), "other likelihood ratios"),
        (tampered(lambda told: next(iter(told["policies"].values()))["threshold"].update(citation="none")), "other rules"),
        (closed_again, "opens something else than the packet's own entry says"),
        (forge_ratios, "other likelihood ratios"),
        (tampered(lambda told: next(iter(told["calibrations"].values())).update(non_mated=10**9)), "says of calibrations"),
        (rewrite("packet.html", "No candidate.", "One candidate."), "packet.html"),
        (rewrite("proofs/*.json", "robbery", "homicide"), "is not in the log"),
        (lambda folder: sorted((folder / "proofs").iterdir())[3].unlink(), "does not say"),
    ],
)
def test_a_packet_that_was_changed_is_told(made, tmp_path, change, fault):
    """No calibration, no entry of its own, a proof twice, another calibration, a number, a look, the case, the named face, a
    packet for another face or for none, keys that open less, a ratio, all ratios, a rule, the page, an entry, a missing proof."""
    folder = tmp_path / "copy"
    shutil.copytree(made[0], folder)
    change(folder)
    result = CliRunner().invoke(verbs, ["case", "verify", str(folder)])
    assert result.exit_code == (1 if fault else 0), result.output
    assert ("whole" if fault is None else fault) in result.output


class Page(HTMLParser):
    """The text, the tags and what the page would fetch."""

    def __init__(self):
        super().__init__()
        self.text, self.tags, self.fetched = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_by_itself_and_what_people_wrote_is_text(made):
    """A hostile case number runs nothing; nothing is fetched from elsewhere; it says what a candidate is not."""
    page = Page()
    page.feed((made[0] / "packet.html").read_text())
    text = " ".join(" ".join(page.text).split())
    assert NUMBER in text
    assert not page.tags & {"script", "img", "link", "iframe", "object"}
    assert all(re.fullmatch(r"proofs/\d{12}\.json", where) for where in page.fetched)
    for words in (
        "not an identification",
        "FPIR",
        "FNIR",
        "No candidate",
        "candidate 1 of look 2",
        "candidate 1 of look 1, the named face",
    ):
        assert words in text
    assert "leads, not identifications" in text


def test_a_face_is_told_to_be_a_candidate_only_of_looks_while_it_was_that_persons(strict_server, tmp_path):
    """Given to a user after a search of people, and taken away before another: the user that these brought up is nobody's business."""
    app, records = strict_server.app, strict_server.client(strict_server.operator("giving-office", "enroller"))
    strict_server.operator("giving-auditor", "auditor")
    strict_server.client().create_collection(CollectionId="given")
    first, second = (
        records.index_faces(CollectionId="given", Image={"Bytes": picture(1, take=take, variation=0.1)})["FaceRecords"][0]["Face"]["FaceId"]
        for take in (0, 1)
    )
    user = {"CollectionId": "given", "UserId": "user-of-both"}
    records.create_user(**user)
    records.associate_faces(**user, FaceIds=[first])
    client = strict_server.client(strict_server.detective("giving"))

    def look():
        return client.search_users_by_image(CollectionId="given", Image={"Bytes": picture(1)})

    assert len(look()["UserMatches"]) == 1
    assert records.associate_faces(**user, FaceIds=[second])["AssociatedFaces"]
    look()
    records.disassociate_faces(**user, FaceIds=[second])
    look()
    for face, named in ((first, [True, True, True]), (second, [False, True, False])):
        packet.write(app, session_of(strict_server, "giving-auditor"), "case of giving", tmp_path / face, face)
        told = json.loads((tmp_path / face / "packet.json").read_text())
        assert [one["is_named_face"] for each in told["record"]["looks"] for one in each["candidates"]] == named
        assert packet.verify(tmp_path / face).faults == []


def test_who_may_make_one_and_where(strict_server, case, made, tmp_path):
    """Not the investigator; not into a folder that holds something; only for what can be a FaceId; and making one is an entry."""
    app, auditor = strict_server.app, session_of(strict_server, "auditor-of-the-packet")
    with pytest.raises(Refused, match="roles"):
        packet.write(app, session_of(strict_server, "jane-of-the-packet"), case, tmp_path / "own")
    with pytest.raises(BadRequest, match="not an empty folder"):
        packet.write(app, auditor, case, made[0])
    with pytest.raises(BadRequest, match="FaceId"):
        packet.write(app, auditor, case, tmp_path / "other", "<b>")
    with pytest.raises(NoSuch):
        packet.write(app, auditor, "no such case", tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
    before = strict_server.entry_count()
    written = packet.write(app, auditor, case, tmp_path / "second")
    assert [entry["type"] for entry in strict_server.entries(before)] == ["packet.made"]
    assert written.size == before + 1
    told = json.loads((tmp_path / "second" / "packet.json").read_text())
    assert len(told["record"]["packets"]) == 2
    assert not any(one["is_named_face"] for look in told["record"]["looks"] for one in look["candidates"])


def test_what_is_written_meanwhile_is_for_the_next_packet(strict_server, faces, made, tmp_path, monkeypatch):
    """A search between the checkpoint and the reading of the entries."""
    client, app = strict_server.client(strict_server.detective("busy")), strict_server.app
    write = app.checkpoints.write

    def then_search():
        newest = write()
        client.search_faces_by_image(CollectionId="marked", Image={"Bytes": picture(1)})
        return newest

    monkeypatch.setattr(app.checkpoints, "write", then_search)
    written = packet.write(app, session_of(strict_server, "auditor-of-the-packet"), "case of busy", tmp_path / "packet")
    assert (written.looks, packet.verify(tmp_path / "packet").faults) == (0, [])


def test_a_comparison_says_the_same_however_many_its_case_made_before(strict_server, tmp_path):
    """Its posterior is among the faces that it compared itself; its error rates are of all that the case compared so far."""
    client = strict_server.client(strict_server.detective("comparing-again"))
    strict_server.operator("comparing-again-auditor", "auditor")
    for _ in range(2):
        client.compare_faces(SourceImage={"Bytes": picture(1, variation=0.1, take=1)}, TargetImage={"Bytes": picture(1, 4)})
    packet.write(strict_server.app, session_of(strict_server, "comparing-again-auditor"), "case of comparing-again", tmp_path / "packet")
    told = json.loads((tmp_path / "packet" / "packet.json").read_text())
    assert [(look["gallery_size"], look.get("references")) for look in told["record"]["looks"]] == [(2, None), (4, 2)]
    first, second = told["evidence"]
    assert first["candidates"][0]["posteriors"] == second["candidates"][0]["posteriors"]
    assert "N = 4, 2 of them in this comparison itself" in (tmp_path / "packet" / "packet.html").read_text()
    assert packet.verify(tmp_path / "packet").faults == []


def test_an_empty_case_has_a_packet_too(strict_server, made, tmp_path):
    strict_server.detective("idle")
    auditor = session_of(strict_server, "auditor-of-the-packet")
    packet.write(strict_server.app, auditor, "case of idle", tmp_path / "packet")
    assert packet.verify(tmp_path / "packet").faults == []
    assert "None was made." in (tmp_path / "packet" / "packet.html").read_text()


def older(server, monkeypatch):
    """From here on packets' entries are as they were before they named what belongs in a packet."""
    write = server.app.ledger.record

    def before(kind, facts, *rest, **more):
        return write(kind, {name: one for name, one in facts.items() if name not in ("format", "calibrations", "keys")}, *rest, **more)

    monkeypatch.setattr(server.app.ledger, "record", before)


def test_a_packet_of_before_calibrations_were_carried_is_what_it_is(strict_server, case, made, tmp_path, monkeypatch):
    """Whole, with what it cannot show; and a change in it is told as ever."""
    folder = tmp_path / "before"
    older(strict_server, monkeypatch)
    packet.write(strict_server.app, session_of(strict_server, "auditor-of-the-packet"), case, folder)
    without_calibration(folder)
    (folder / "packet.html").write_text("the page of another version")
    result = CliRunner().invoke(verbs, ["case", "verify", str(folder)])
    assert result.exit_code == 0, result.output
    assert "whole" in result.output
    assert "of before packets carried the calibration: what it says of that cannot be checked" in result.output
    assert "packet.html is of another version" in result.output
    ratios = {"look": 1, "most": 10, "divided_by": 1, "candidates": []}
    tampered(lambda told: told.update(evidence=[ratios]))(folder)
    assert "other likelihood ratios" in CliRunner().invoke(verbs, ["case", "verify", str(folder)]).output
    tampered(lambda told: told["record"]["looks"].pop(4))(folder)
    assert "does not say what the entries say" in CliRunner().invoke(verbs, ["case", "verify", str(folder)]).output


def test_the_entry_of_another_case_s_older_packet_makes_no_packet_older(strict_server, faces, made, tmp_path, monkeypatch):
    """It is in the same ledger, after all entries of this case and under the same checkpoint; but it says nothing of this case."""
    app, folder = strict_server.app, tmp_path / "copy"
    shutil.copytree(made[0], folder)
    strict_server.detective("another")
    older(strict_server, monkeypatch)
    packet.write(app, session_of(strict_server, "auditor-of-the-packet"), "case of another", tmp_path / "another", faces[1]["FaceId"])
    *ours, own = sorted((folder / "proofs").iterdir())
    theirs, newest = sorted((tmp_path / "another" / "proofs").iterdir())[-1], record.sign(app)
    own.unlink()
    for name in (file.name for file in (*ours, theirs)):
        (folder / "proofs" / name).write_text(json.dumps(record.proof(app, int(name[:12]), newest)))
    tampered(lambda told: told.update(checkpoint={"size": newest.size, "root": newest.root.hex()}))(folder)
    again(folder)
    without_calibration(folder)
    assert packet.verify(folder).faults == ["proofs has entries of another case, or one of them twice"]
