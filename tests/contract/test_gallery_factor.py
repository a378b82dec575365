"""The gallery factor on the wire, in the ledger and on the command line: does the calibration's promise hold in this collection?"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import numpy as np
import pytest
from kit import Server, basis, picture
from typer.testing import CliRunner, Result

from aboveboard.biometrics.calibration import Calibration, fmr_at
from aboveboard.biometrics.gallery import BINS, LEAST, SAMPLE
from aboveboard.biometrics.matching import normalise
from aboveboard.biometrics.vocabulary import Template
from aboveboard.cli import app
from aboveboard.evaluation.metrics import all_pairs

FACTOR = re.compile(r"([\d.]+);low=([\d.]+);high=([\d.]+);similarity=(\d+)")


def boards(seed: int, n: int, likeness: float = 0.0) -> np.ndarray:
    """Templates as drawn faces have them, drawn towards one direction by `likeness`."""
    random = np.random.default_rng(seed)
    cells = random.normal(size=(n, 64)) + likeness * random.exponential(size=(n, 1)) * random.normal(size=64)
    return normalise(cells - cells.mean(axis=1, keepdims=True))


def enrol(server: Server, collection_id: str, vectors: np.ndarray, users: bool = True) -> list[str]:
    """A collection gets these templates, each of a user of its own where `users`; the enrolling of thousands is tested elsewhere."""
    if collection_id not in server.client().list_collections()["CollectionIds"]:
        server.client().create_collection(CollectionId=collection_id)
    opened = server.app
    with opened.database.write() as connection:
        collection = opened.collections.get(collection_id, connection)
        row = {"image_id": str(uuid.UUID(int=1)), "external_image_id": None, "box": [0, 0, 1, 1], "confidence": 1.0}
        faces = {str(uuid.uuid5(uuid.NAMESPACE_OID, vector.tobytes().hex())): vector for vector in vectors}
        for start in range(0, len(faces), 400):
            some = dict(list(faces.items())[start : start + 400])
            opened.collections.add_faces(connection, collection, {one: (row, Template(vector, "0.1")) for one, vector in some.items()})
            opened.ledger.append(connection, "faces.enrolled", {"collection": collection_id, "face_ids": list(some)})
        if users:
            connection.exec_driver_sql(
                "INSERT INTO subjects (collection, subject_id, handle, created_at) "
                "SELECT collection, face_id, collection || face_id, '' FROM faces WHERE collection = ? AND subject IS NULL",
                (collection.n,),
            )
            connection.exec_driver_sql(
                "UPDATE faces SET subject = (SELECT n FROM subjects WHERE subject_id = face_id AND subjects.collection = faces.collection) "
                "WHERE collection = ?",
                (collection.n,),
            )
        opened.collections.touch(connection, collection, added=len(faces))
    return list(faces)


@pytest.fixture
def run(own_server: Server) -> Callable[..., Result]:
    environment = {"ABOVEBOARD_PACK": "null", "ABOVEBOARD_DATA": str(own_server.app.settings.data), "COLUMNS": "150"}

    def call(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(one) for one in arguments], env=environment)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


def test_searches_carry_the_factor_of_a_gallery_like_the_calibration(server: Server) -> None:
    """In every search's headers and in the ledger; it changes with the gallery, at once."""
    client = server.client()
    face_ids = enrol(server, "like", boards(1, 2500))
    client.index_faces(CollectionId="like", Image={"Bytes": picture(1)})
    start = server.entry_count()
    answers = [
        client.search_faces_by_image(CollectionId="like", Image={"Bytes": picture(1, take=1, variation=0.1)}, FaceMatchThreshold=30),
        client.search_faces(CollectionId="like", FaceId=face_ids[0], FaceMatchThreshold=30),
        client.search_users(CollectionId="like", FaceId=face_ids[0], UserMatchThreshold=30),
        client.search_users_by_image(CollectionId="like", Image={"Bytes": picture(1)}, UserMatchThreshold=30),
    ]
    for answer in answers:
        found = FACTOR.fullmatch(basis(answer)["gallery-factor"])
        assert found, basis(answer)
        value, low, high = (float(one) for one in found.groups()[:3])
        assert low < value < high
        assert 0.5 < value < 1.6
        assert int(found[4]) >= 50
    outcomes = [entry for entry in server.entries(start) if entry["type"] == "look.outcome"]
    assert len(outcomes) == 4
    for outcome, answer in zip(outcomes, answers, strict=True):
        recorded = outcome["gallery_factor"]
        assert recorded["value"] == pytest.approx(float(basis(answer)["gallery-factor"].partition(";")[0]), abs=1e-3)
        assert recorded["low"] < recorded["value"] < recorded["high"]
    first = basis(answers[0])["gallery-factor"]
    enrol(server, "like", boards(2, 300, likeness=0.3))
    again = client.search_faces_by_image(CollectionId="like", Image={"Bytes": picture(1)}, FaceMatchThreshold=30)
    assert basis(again)["gallery-factor"] != first


def test_the_first_candidates_carry_their_share_of_the_gallerys_own_pairs(server: Server) -> None:
    """The photograph's own face is above all pairs, look-alikes are not; best first, ten at most."""
    client = server.client()
    enrol(server, "shares", boards(2, 700))
    client.index_faces(CollectionId="shares", Image={"Bytes": picture(2)})
    answer = client.search_faces_by_image(CollectionId="shares", Image={"Bytes": picture(2)}, FaceMatchThreshold=5, MaxFaces=100)
    shares = basis(answer)["own-shares"].split(", ")
    assert len(answer["FaceMatches"]) > len(shares) == 10
    pairs = SAMPLE * 700 - SAMPLE * (SAMPLE - 1) / 2
    assert shares[0].startswith("<")
    assert float(shares[0][1:]) == pytest.approx(3 / pairs, rel=0.01)
    rest = [float(share.lstrip("<")) for share in shares[1:]]
    assert rest == sorted(rest)
    assert 1 / pairs < rest[-1] < 0.2


def test_a_small_gallery_says_nothing(server: Server) -> None:
    client = server.client()
    enrol(server, "small", boards(3, LEAST - 1))
    quiet = client.search_faces_by_image(CollectionId="small", Image={"Bytes": picture(1)}, FaceMatchThreshold=5)
    assert quiet["FaceMatches"]
    assert not {"gallery-factor", "own-shares"} & set(basis(quiet))
    compared = client.compare_faces(SourceImage={"Bytes": picture(1)}, TargetImage={"Bytes": picture(1)})
    assert not {"gallery-factor", "own-shares"} & set(basis(compared))


def test_an_unlike_gallery_is_warned_of_and_shown(own_server: Server, run: Callable[..., Result], tmp_path: Any) -> None:
    """Two people are taken for one more often than promised: search, check and scores say how much, and check draws it."""
    enrol(own_server, "unlike", boards(4, 1500, likeness=0.3))
    (tmp_path / "one.png").write_bytes(picture(1))
    shown = run("search", tmp_path / "one.png", "-c", "unlike", "-t", "60", code=1).stdout
    assert "gallery factor" in shown
    assert "Calibrate on photographs like these" in " ".join(shown.split())
    found = json.loads(run("search", tmp_path / "one.png", "-c", "unlike", "-t", "60", "--json", code=1).stdout)["basis"]
    factor = found["gallery_factor"]
    assert factor["value"] > 3
    search = ["search", tmp_path / "one.png", "-c", "unlike", "-t", "20"]
    said = json.loads(run(*search, "--json").stdout)
    assert said["evidence"]["most"] == pytest.approx(599_900 / factor["value"], rel=1e-3)
    assert said["candidates"][0]["likelihood_ratio"] == pytest.approx(said["evidence"]["least"])
    assert "divided by the gallery factor" in " ".join(run(*search).stdout.split())
    page = run("collection", "check", "unlike").stdout
    assert page.index("found / promised") < page.index("near-duplicates")
    assert "░" in page, "bars above the promise"
    assert "Calibrate on photographs like these" in " ".join(page.split())
    last = json.loads(run("collection", "check", "unlike", "--json").stdout.splitlines()[-1])["summary"]
    levels = {level["similarity"]: level for level in last["gallery"]["levels"]}
    assert levels[20]["low"] < levels[20]["ratio"] < levels[20]["high"]
    assert levels[60]["ratio"] > levels[40]["ratio"] > levels[20]["ratio"] > 1
    assert last["gallery"]["factor"] == last["gallery_factor"] == factor
    assert found["expected_false_own"] == pytest.approx(found["expected_false"] * levels[60]["ratio"])


def test_a_gallery_without_users_tells_low_levels_only(own_server: Server, run: Callable[..., Result]) -> None:
    """Four photographs of each of 500 people and no users: nobody knows that these are mates, and nothing is made of them."""
    random = np.random.default_rng(5)
    vectors = np.repeat(boards(5, 500), 4, axis=0)
    enrol(own_server, "mates", normalise(vectors + 0.04 * random.normal(size=vectors.shape)), users=False)
    page = run("collection", "check", "mates", "-t", "99").stdout
    assert "with mates" in page
    last = json.loads(run("collection", "check", "mates", "-t", "99", "--json").stdout.splitlines()[-1])["summary"]
    assert last["gallery"]["factor"]["similarity"] <= 30
    assert last["gallery"]["factor"]["value"] == pytest.approx(1, abs=0.2)
    assert not last["gallery"]["knows_mates"]


def test_scores_are_written_for_a_laboratory_on_record(own_server: Server, run: Callable[..., Result], tmp_path: Any) -> None:
    """Counts, and nothing that names a face; by an auditor too, by an enroller not; to a new file only."""
    enrol(own_server, "lab", boards(6, 800))
    own_server.operator("eve", "auditor")
    own_server.operator("rob", "enroller")
    start = own_server.entry_count()
    answer: Mapping[str, Any] = json.loads(run("collection", "scores", "lab", tmp_path / "a.npz", "--json", "--operator", "eve").stdout)
    with np.load(tmp_path / "a.npz") as kept:
        assert kept["counts"].shape == (SAMPLE, BINS)
        assert set(kept["counts"].sum(axis=1)) == {799}
        assert kept["edges"].shape == (BINS + 1,)
        assert len(set(kept["person"].tolist())) == SAMPLE
        assert json.loads(str(kept["about"]))["audit_id"] == answer["audit_id"]
        total = kept["counts"].sum(axis=0)
    intent, outcome = own_server.entries(start)
    assert (intent["type"], intent["duty"], intent["operator"]) == ("look.intent", "collection.scores", "eve")
    assert (outcome["audit_id"], outcome["looked"], outcome["sampled_faces"]) == (answer["audit_id"], True, SAMPLE)
    assert outcome["pairs"] == answer["gallery"]["pairs"]
    run("collection", "scores", "lab", tmp_path / "a.json", "--operator", "eve")
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["counts"] == total.tolist()
    assert document["gallery"] == answer["gallery"]
    assert "is there already" in run("collection", "scores", "lab", tmp_path / "a.npz", "--operator", "eve", code=2).stderr
    assert "npz" in run("collection", "scores", "lab", tmp_path / "a.txt", "--operator", "eve", code=2).stderr
    assert "auditor" in run("collection", "scores", "lab", tmp_path / "b.npz", "--operator", "rob", code=3).stderr
    assert not (tmp_path / "b.npz").exists()
    enrol(own_server, "tiny", boards(7, 20))
    run("collection", "scores", "tiny", tmp_path / "c.npz", "--operator", "eve", code=1)
    assert not (tmp_path / "c.npz").exists()


def several_each(server: Server, collection_id: str, faces: int, most: int | None = None) -> None:
    """Every so many faces of a collection, of the first `most`, in the order of enrolment, become one user's."""
    with server.app.database.write() as connection:
        n = server.app.collections.get(collection_id, connection).n
        numbers = [row[0] for row in connection.exec_driver_sql("SELECT n FROM faces WHERE collection = ? ORDER BY n", (n,))]
        for i in range(0, len(numbers[:most]), faces):
            some = numbers[i : i + faces]
            connection.exec_driver_sql(
                f"UPDATE faces SET subject = (SELECT subject FROM faces WHERE n = {some[0]}) WHERE n IN ({', '.join(map(str, some))})"
            )
        server.app.collections.touch(connection, server.app.collections.get(collection_id, connection), added=0)


def test_the_laboratory_says_of_a_gallery_what_its_check_says(own_server: Server, run: Callable[..., Result]) -> None:
    """The same faces, compared by the laboratory pair by pair and counted by the collection itself; unlike the calibration's faces."""
    vectors = boards(6, 900, likeness=0.3)
    enrol(own_server, "alike", vectors)
    *_, last = run("collection", "check", "alike", "--json").stdout.splitlines()
    told = [level for level in json.loads(last)["summary"]["gallery"]["levels"] if level["ratio"]]
    pairs = all_pairs(vectors, range(len(vectors)))
    assert [level["similarity"] for level in told][:4] == [20, 30, 40, 50]
    for level in told:
        laboratory = pairs.fmr_at(level["score"]) / level["promised"]
        assert laboratory > 3
        assert level["low"] < laboratory < level["high"]
        assert level["ratio"] == pytest.approx(laboratory, rel=0.25)


def test_an_agency_calibrates_on_its_own_gallery(own_server: Server, run: Callable[..., Result], tmp_path: Any) -> None:
    """Scores out of the gate, calibration in the laboratory: then the promise holds in the gallery in which it did not."""
    people = boards(7, 450, likeness=0.3)
    # Of ten people both faces are copies of one photograph, or nearly: these tell nothing of misses.
    noise = np.repeat([0.01, 0.07], [20, 880])[:, None] * np.random.default_rng(1).normal(size=(900, 64))
    photographs = np.repeat(people, 2, axis=0) + noise
    vectors = normalise(photographs - photographs.mean(axis=1, keepdims=True))
    enrol(own_server, "ours", vectors)
    several_each(own_server, "ours", 2)
    start = own_server.entry_count()
    shown = run("collection", "scores", "ours", tmp_path / "counts.npz").stdout
    assert "440 mated pairs, of 440 people" in shown
    (outcome,) = [entry for entry in own_server.entries(start) if entry["type"] == "look.outcome"]
    assert outcome["mated_pairs"] == 440
    with np.load(tmp_path / "counts.npz") as found:
        assert found["mated"].shape == (BINS,)
        assert (found["mated"].sum(), found["mated_people"]) == (440, 440)
    said = json.loads(run("calibrate", tmp_path / "counts.npz", "--out", tmp_path / "ours.json", "--json").stdout)
    assert (said["photographs"], said["model_version"]) == (900, "0.1")
    calibration = Calibration.from_json((tmp_path / "ours.json").read_text())
    pairs = all_pairs(vectors, np.arange(900) // 2)
    before = Calibration.from_json((resources.files("aboveboard.calibrations") / "null.json").read_text())
    for similarity in (30, 40, 50):
        promised = fmr_at(similarity)
        assert pairs.fmr_at(before.score_at(similarity)) > 5 * promised
        assert pairs.fmr_at(calibration.score_at(similarity)) == pytest.approx(promised, rel=0.35)
    assert calibration.fnmr(50) == pytest.approx(1 - pairs.tar_at(calibration.score_at(50)), abs=0.02)
    assert calibration.provenance["data_set"] == "collection ours"
    assert "AssociateFaces" in run("calibrate", refused(own_server, run, tmp_path), "--out", tmp_path / "x.json", code=2).stderr


def test_no_single_pair_and_no_copies_are_given_out(own_server: Server, run: Callable[..., Result], tmp_path: Any) -> None:
    """Two faces enrolled as one user would have told their score, whatever the floor; copies of a photograph are no mates."""
    people, random = boards(9, 530), np.random.default_rng(2)
    again = np.repeat(people, 2, axis=0) + np.repeat([0.02, 0.06], [60, 1000])[:, None] * random.normal(size=(1060, 64))
    vectors = normalise(again - again.mean(axis=1, keepdims=True))
    enrol(own_server, "oracle", np.concatenate([vectors[:62], vectors[62::2]]))
    several_each(own_server, "oracle", 2, most=62)
    start = own_server.entry_count()
    assert "none given out" in run("collection", "scores", "oracle", tmp_path / "few.npz").stdout
    run("collection", "scores", "oracle", tmp_path / "few.json")
    with np.load(tmp_path / "few.npz") as found:
        assert (found["mated"].sum(), found["mated_people"]) == (0, 0)
    assert sum(json.loads((tmp_path / "few.json").read_text())["mated"]) == 0
    assert [entry["mated_pairs"] for entry in own_server.entries(start) if entry["type"] == "look.outcome"] == [0, 0]


def refused(server: Server, run: Callable[..., Result], folder: Any) -> Any:
    """The scores of a gallery without users."""
    enrol(server, "nobodys", boards(8, 600), users=False)
    run("collection", "scores", "nobodys", folder / "nobodys.npz")
    return folder / "nobodys.npz"
