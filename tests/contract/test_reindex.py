"""A better pack later: ids, people and dates stay, templates are replaced all at once, two models' scores never meet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from botocore.exceptions import ClientError
from kit import Server, assert_ledger_whole, canvas, encoded, null_settings, other_pack, picture, serving
from reindexing import answer, enrolled, faces, given, lengths, on_other, opened, shadow
from typer.testing import CliRunner, Result

from aboveboard import bootstrap
from aboveboard.accountability.operators import Session
from aboveboard.cli import app as program
from aboveboard.service import enrol, reindex
from aboveboard.vision.detector import Detection


@pytest.fixture
def run(old: Server) -> Callable[..., Result]:
    """run("collection", "reindex", ...): the verb on the old server's data folder, with the exit code that it must have."""

    def call(*arguments: object, code: int = 0, **environment: str) -> Result:
        settings = old.app.settings
        machine = {
            "ABOVEBOARD_PACK": "null",
            "ABOVEBOARD_DATA": str(settings.data),
            "ABOVEBOARD_MODELS": str(settings.models),
            "COLUMNS": "150",
        }
        result = CliRunner().invoke(program, [str(one) for one in arguments], env={**machine, **environment})
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


def test_everything_but_the_templates_stays(old, originals, run, tmp_path):
    """Under the new pack the same FaceIds are found, with the similarities of a collection that was made with it."""
    run("index", originals, "--collection", "a")
    old.client().create_user(CollectionId="a", UserId="ada")
    old.client().associate_faces(CollectionId="a", UserId="ada", FaceIds=[faces(old)[0]["FaceId"]])
    before, described = faces(old), old.client().describe_collection(CollectionId="a")
    size = old.entry_count()
    said = run("collection", "reindex", "a", "--originals", originals, "--pack", "other").stdout
    assert "model version 900.1 now, with 6 faces" in said
    assert 'set pack = "other"' in said
    assert faces(old) == [{**face, "IndexFacesModelVersion": "900.1"} for face in before]
    after = old.client().describe_collection(CollectionId="a")
    assert (described.pop("FaceModelVersion"), after.pop("FaceModelVersion")) == ("0.1", "900.1")
    assert {key: after[key] for key in ("FaceCount", "CollectionARN", "CreationTimestamp")} == {
        key: described[key] for key in ("FaceCount", "CollectionARN", "CreationTimestamp")
    }
    assert old.client().list_tags_for_resource(ResourceArn=after["CollectionARN"])["Tags"] == {"team": "x"}
    with pytest.raises(ClientError, match=r"InvalidParameterException.*900\.1.*reindex"):
        answer(old.client(), 1)
    with on_other(old) as new:
        client = new.client()
        found = {subject: answer(client, subject) for subject in range(1, 7)}
        people = client.search_users(CollectionId="a", FaceId=before[1]["FaceId"], UserMatchThreshold=0)["UserMatches"]
        assert [match["User"]["UserId"] for match in people] == ["ada"]
        client.create_collection(CollectionId="fresh")
        for file in originals.rglob("*.png"):
            client.index_faces(CollectionId="fresh", Image={"Bytes": file.read_bytes()})
        probe = {"Bytes": picture(4, take=1, variation=0.1)}
        fresh = client.search_faces_by_image(CollectionId="fresh", Image=probe, FaceMatchThreshold=50)["FaceMatches"]
        assert [similarity for _, similarity in found[4]] == [match["Similarity"] for match in fresh]
    assert [found[subject][0][0] for subject in (1, 2, 6)] == [
        next(face["FaceId"] for face in before if face["ExternalImageId"] == name) for name in ("one.png", "two.png", "six.png")
    ]
    assert len({matches[0][0] for matches in found.values()}) == 6
    assert lengths(old) == {4 * 512}
    assert shadow(old) == (0, 0)
    started, ended = (entry for entry in old.entries(size) if entry["type"].startswith("collection.reindex"))
    assert (started["from"]["version"], started["to"]["version"], started["operator"]) == ("0.1", "900.1", "first")
    assert (ended["from"], ended["to"], ended["faces"], ended["left_out"]) == (started["from"], started["to"], 6, 0)
    assert_ledger_whole(old.app)


@pytest.mark.parametrize("most", [reindex.MOST_TRIES, 0], ids=["few files", "too many files to try"])
def test_originals_are_found_whatever_they_were_called(old, originals, run, monkeypatch, most):
    """Under their name, an id of the caller's own, no id, and two ids for one photograph; and it is said where that was not tried."""
    monkeypatch.setattr(reindex, "MOST_TRIES", most)
    enrolled(old, originals, one="person-1", two=None)
    old.client().index_faces(CollectionId="a", Image={"Bytes": (originals / "six.png").read_bytes()}, ExternalImageId="again")
    ended = run("collection", "reindex", "a", "--originals", originals, "--pack", "other", "--json", code=0 if most else 2)
    document = json.loads(ended.stdout)
    assert document["is_switched"] is bool(most)
    assert (document["faces"], document["faces_left"]) == ((7, 0) if most else (5, 2))
    assert document["reasons"] == ({} if most else {"untried": 2})


def test_missing_originals_refuse_until_they_are_found_or_dropped_on_record(old, originals, run, tmp_path):
    """Nothing changes and nothing is lost; the report names the faces; a swapped file does not stand in; dropping needs a yes."""
    enrolled(old, originals)
    before, listed = answer(old.client(), 1), faces(old)
    (originals / "two.png").write_bytes(picture(2, take=9, variation=0.1))
    (originals / "six.png").unlink()
    gone = {face["FaceId"]: face for face in listed if face["ExternalImageId"] in ("two", "six")}
    command = ["collection", "reindex", "a", "--originals", originals, "--pack", "other", "--report", tmp_path / "left.jsonl"]
    ended = run(*command, code=2)
    assert "2 of 6 faces cannot be carried over" in ended.stderr
    assert all(face in ended.stdout for face in gone)
    assert "six.png" not in ended.output
    report = [json.loads(line) for line in (tmp_path / "left.jsonl").read_text().splitlines()]
    assert {(one["face_id"], one["image_id"], one["external_image_id"], one["reason"]) for one in report} == {
        (face["FaceId"], face["ImageId"], face["ExternalImageId"], "no_original") for face in gone.values()
    }
    assert (tmp_path / "left.jsonl").stat().st_mode & 0o777 == 0o600
    assert (answer(old.client(), 1), faces(old)) == (before, listed)
    assert json.loads(run("collection", "describe", "a", "--json").stdout)["reindexing"]["faces"] == 4
    assert "needs --yes" in run(*command, "--drop-missing", code=2).stderr
    (originals / "found again.png").write_bytes(picture(2))
    assert "removed on record: 1 face" in run(*command, "--drop-missing", "--yes").stdout
    assert [face["FaceId"] for face in faces(old)] == [face["FaceId"] for face in listed if face["ExternalImageId"] != "six"]
    assert old.client().describe_collection(CollectionId="a")["FaceCount"] == 5
    removed, ended = old.entries()[-2:]
    assert (removed["type"], removed["face_ids"]) == ("faces.removed", [one for one in gone if gone[one]["ExternalImageId"] == "six"])
    assert (ended["type"], ended["faces"], ended["left_out"]) == ("collection.reindexed", 5, 1)
    assert "at model version 900.1" in run(*command).stdout


def test_a_check_writes_nothing(old, originals, run):
    """It says how many originals are there, and which faces would stay behind."""
    enrolled(old, originals)
    (originals / "one.png").unlink()
    size = old.entry_count()
    checked = json.loads(run("collection", "reindex", "a", "--originals", originals, "--pack", "other", "--check", "--json").stdout)
    assert {**checked, "seconds": 0} == {
        "collection": "a", "images": 4, "originals": 3, "faces_done": 0, "faces_left": 1, "reasons": {"no_original": 1}, "seconds": 0
    }  # fmt: skip
    assert (old.entry_count(), shadow(old)) == (size, (0, 0))
    assert "3 of 4 originals are there" in run("collection", "reindex", "a", "--originals", originals, "--pack", "other", "--check").stdout


def test_one_way_at_a_time_and_the_way_back(old, originals, run):
    """Another pack is refused while one is under way; abandoned, nothing of it is left; then the other one may."""
    other_pack(old.app.settings.models, "third", "900.3")
    enrolled(old, originals)
    assert "nothing to abandon" in run("collection", "reindex", "a", "--abandon", code=2).stderr
    run("collection", "reindex", "a", "--originals", originals / "one.png", "--pack", "other", code=2)
    assert shadow(old) == (1, 1)
    assert "on its way to model version 900.1" in run("collection", "reindex", "a", "--pack", "third", code=2).stderr
    assert "the templates made for it are deleted" in run("collection", "reindex", "a", "--abandon").stdout
    assert shadow(old) == (0, 0)
    assert old.entries()[-1]["type"] == "collection.reindexing.abandoned"
    assert answer(old.client(), 1)
    run("collection", "reindex", "a", "--originals", originals, "--pack", "third")
    assert old.client().describe_collection(CollectionId="a")["FaceModelVersion"] == "900.3"


def test_who_may_and_with_what(old, originals, run):
    """An admin, with a pack that can answer similarities: else refused on record before any work."""
    other_pack(old.app.settings.models, "bare", "900.4", calibrated=False)
    old.operator("eve", "enroller")
    for arguments, rule in (
        (["--pack", "other", "--operator", "eve"], "general/roles"),
        (["--pack", "bare", "--operator", "first"], "calibration"),
    ):
        assert run("collection", "reindex", "a", "--originals", originals, *arguments, code=3).stderr
        assert (old.entries()[-1]["duty"], old.entries()[-1]["rule"]) == ("collection.reindex", rule)
    assert shadow(old) == (0, 0)
    assert "does not exist" in run("collection", "reindex", "b", "--pack", "other", "--operator", "first", code=2).stderr


def test_a_photograph_indexed_again_keeps_its_faces(old, originals, run):
    """Under the new pack the same photograph makes no second face, even where its detector frames faces otherwise; a new face is added."""
    client = old.client()
    crowd = (originals / "party" / "all.png").read_bytes()
    client.index_faces(CollectionId="a", Image={"Bytes": crowd}, ExternalImageId="all", MaxFaces=2)
    known = [face["FaceId"] for face in faces(old)]
    run("collection", "reindex", "a", "--originals", originals, "--pack", "other")
    app, session = opened(old)

    class Otherwise:
        """Frames that are a tenth larger and lie a little aside."""

        def detect(self, image: Any) -> list[Detection]:
            grow = np.array([-0.08, -0.03, 0.1, 0.1], np.float32)
            return [replace(one, box=one.box + grow * one.box[2]) for one in app.models.detector.detect(image)]

    shifted = replace(app, models=replace(app.models, detector=Otherwise()))
    again = enrol.index(shifted, session, "a", crowd, "all")
    assert [one.face_id for one in again.enrolled if not one.is_new] == known
    assert [one.is_new for one in again.enrolled].count(True) == 1
    third = enrol.index(app, session, "a", crowd, "all")
    assert {one.face_id for one in third.enrolled} == {one.face_id for one in again.enrolled}
    assert len(faces(old)) == 3
    app.database.close()


def test_a_face_that_the_new_detector_does_not_find_is_not_carried_over(old, originals):
    """Another detector's box beside the enrolled one is another face."""
    enrolled(old, originals)
    app, session = opened(old)

    class Aside:
        def detect(self, image: Any) -> list[Detection]:
            aside = np.array([0.6, 0, 0, 0], np.float32)
            return [replace(one, box=one.box + aside * one.box[2]) for one in app.models.detector.detect(image)]

    result = reindex.run(replace(app, models=replace(app.models, detector=Aside())), session, "a", lambda: given(originals))
    assert not result.is_switched
    assert {one.reason for one in result.left} == {"not_found"}
    assert lengths(old) == {4 * 64}
    app.database.close()


def test_where_an_original_lies_is_asked_first(old, originals):
    """A recorded source needs no folder; one that is another photograph by now is not taken."""
    enrolled(old, originals)
    rows = {face["ImageId"]: face["ExternalImageId"] for face in faces(old)}
    places: Mapping[str, str] = {file.stem: str(file) for file in originals.rglob("*.png")} | {"all": "s3://kept/party/all.png"}
    with old.app.database.write() as connection:
        n = old.app.collections.get("a", connection).n
        for image_id, external in rows.items():
            connection.exec_driver_sql(
                "INSERT INTO enrolment_records (collection, image_id, source) VALUES (?, ?, ?)", (n, image_id, places[external])
            )
    settings = replace(old.app.settings, pack="other", buckets={"kept": originals})
    app = bootstrap.open_app(settings)
    session = Session(app.operators.all()[0], "cli", "r", buckets=("*",))
    moved = cv2.imencode(".png", canvas(1, ground=90))[1].tobytes()
    (originals / "one.png").write_bytes(moved)
    (originals / "two.png").write_bytes(encoded(canvas(1)))
    result = reindex.run(app, session, "a", list)
    assert {one.face.external_image_id for one in result.left} == {"one", "two"}
    (originals / "one.png").write_bytes(picture(1))
    (originals / "two.png").write_bytes(picture(2))
    assert reindex.run(app, session, "a", list).is_switched
    app.database.close()


def test_a_deployment_on_the_new_pack_needs_no_flag(tmp_path, originals):
    """Once `pack` is set to the new one, the verb takes it; the folder of packs is the deployment's own."""
    settings = null_settings(tmp_path / "data")
    other_pack(settings.models)
    with serving(settings) as server:
        server.client().create_collection(CollectionId="a")
        enrolled(server, originals)
        machine = {"ABOVEBOARD_PACK": "other", "ABOVEBOARD_DATA": str(settings.data), "ABOVEBOARD_MODELS": str(settings.models)}
        done = CliRunner().invoke(program, ["collection", "reindex", "a", "--originals", str(originals), "--json"], env=machine)
        assert json.loads(done.stdout)["is_switched"]
