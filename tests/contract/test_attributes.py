"""Attributes of DetectFaces and IndexFaces over the wire, on the null attribute pack, which reads the boards of drawn faces."""

from __future__ import annotations

import itertools
import json

import botocore
import numpy as np
import pytest
from judge import faults, model
from kit import basis, encoded, null_settings, picture, serving

from aboveboard.vision import null

DEFAULT = {"BoundingBox", "Confidence", "Landmarks", "Pose", "Quality"}
MEMBERS = {
    "AGE_RANGE": "AgeRange", "BEARD": "Beard", "EMOTIONS": "Emotions", "EYE_DIRECTION": "EyeDirection", "EYEGLASSES": "Eyeglasses",
    "EYES_OPEN": "EyesOpen", "FACE_OCCLUDED": "FaceOccluded", "GENDER": "Gender", "MOUTH_OPEN": "MouthOpen", "MUSTACHE": "Mustache",
    "SMILE": "Smile", "SUNGLASSES": "Sunglasses",
}  # fmt: skip
JUDGED = ("Beard", "Eyeglasses", "EyesOpen", "FaceOccluded", "MouthOpen", "Mustache", "Smile", "Sunglasses")


def detail(client, image=None, **members):
    (face,) = client.detect_faces(Image={"Bytes": image or picture(1)}, **members)["FaceDetails"]
    return face


def subsets(sizes):
    return [list(names) for size in sizes for names in itertools.combinations(sorted(MEMBERS), size)]


def test_the_attributes_are_those_of_the_model():
    assert {*MEMBERS, "ALL", "DEFAULT"} == set(model().shape_for("Attribute").enum)
    assert {*MEMBERS.values()} | DEFAULT == set(model().shape_for("FaceDetail").members)


def test_default_is_always_answered_and_only_that_without_attributes(rekognition):
    for attributes in ([], ["DEFAULT"]):
        assert set(detail(rekognition, Attributes=attributes)) == DEFAULT
    assert set(detail(rekognition)) == DEFAULT


def answered_as_asked(client, asked):
    """Exactly what was asked for is said, and each thing as it is said beside all others; how often it was asked."""
    every = detail(client, Attributes=["ALL"])
    for names in asked:
        found = detail(client, Attributes=names)
        members = {MEMBERS[name] for name in names}
        assert set(found) == DEFAULT | members, names
        assert {member: found[member] for member in members} == {member: every[member] for member in members}
    return len(asked)


def test_what_was_asked_for_is_said_and_nothing_else(rekognition):
    """Each attribute, and every two of them; in any order, named twice, and beside DEFAULT."""
    assert answered_as_asked(rekognition, subsets((1, 2))) == 12 + 66
    assert set(detail(rekognition, Attributes=["SMILE", "DEFAULT", "AGE_RANGE", "SMILE"])) == DEFAULT | {"Smile", "AgeRange"}


@pytest.mark.long
def test_every_subset_of_attributes_is_answered_as_asked(rekognition):
    assert answered_as_asked(rekognition, subsets(range(13))) == 2**12


def test_all_says_everything_with_thirty_landmarks(rekognition):
    """ALL beside anything is ALL; the landmarks are those of the model, each once."""
    for attributes in (["ALL"], ["ALL", "DEFAULT"], ["DEFAULT", "ALL"], ["SMILE", "ALL"]):
        face = detail(rekognition, Attributes=attributes)
        assert set(face) == DEFAULT | set(MEMBERS.values())
        assert sorted(mark["Type"] for mark in face["Landmarks"]) == sorted(model().shape_for("LandmarkType").enum)
    assert len(detail(rekognition, Attributes=sorted(MEMBERS))["Landmarks"]) == 5


def test_the_answer_has_the_models_shape(rekognition):
    """Against botocore's model: types, names of genders and emotions, confidences 0-100, ages in order."""
    answer = rekognition.detect_faces(Image={"Bytes": picture(1, 2, 3)}, Attributes=["ALL"])
    plain = {name: value for name, value in answer.items() if name != "ResponseMetadata"}
    assert list(faults(model().shape_for("DetectFacesResponse"), plain)) == []
    assert len(plain["FaceDetails"]) == 3
    for face in plain["FaceDetails"]:
        assert 0 <= face["AgeRange"]["Low"] <= face["AgeRange"]["High"] <= 120
        assert face["Gender"]["Value"] in ("Male", "Female")
        assert all(type(face[name]["Value"]) is bool and 50 <= face[name]["Confidence"] <= 100 for name in JUDGED)
        sure = [emotion["Confidence"] for emotion in face["Emotions"]]
        assert sure == sorted(sure, reverse=True)
        assert sum(sure) == pytest.approx(100)
        assert {emotion["Type"] for emotion in face["Emotions"]} == set(model().shape_for("EmotionName").enum) - {"UNKNOWN"}


def test_amazons_own_example_has_the_same_shape(rekognition):
    """The example that ships with botocore's model."""
    loader = botocore.loaders.create_loader()
    examples = loader.load_service_model("rekognition", "examples-1")["examples"]["DetectFaces"]
    ours = detail(rekognition, Attributes=["ALL"])
    for example in examples:
        for theirs in example["output"]["FaceDetails"]:
            assert set(theirs) <= set(ours)
            assert all(set(theirs[name]) == set(ours[name]) for name in ("BoundingBox", "Pose", "Quality"))
            assert {mark["Type"] for mark in theirs["Landmarks"]} <= {mark["Type"] for mark in ours["Landmarks"]}
    assert json.dumps(ours)


def test_faces_of_one_image_are_told_apart(rekognition):
    """Each face has its own attributes, whichever others stand beside it."""
    image = np.full((240, 420, 3), 200, np.uint8)
    null.draw(image, 20, 20, 160, 1)
    null.draw(image, 220, 20, 160, 2)
    together = rekognition.detect_faces(Image={"Bytes": encoded(image)}, Attributes=["ALL"])["FaceDetails"]
    alone = [detail(rekognition, encoded(image[:, side]), Attributes=["ALL"]) for side in (slice(0, 200), slice(200, 420))]
    by_place = sorted(together, key=lambda face: face["BoundingBox"]["Left"])
    assert [face["Emotions"] for face in by_place] == [face["Emotions"] for face in alone]
    assert by_place[0]["Emotions"] != by_place[1]["Emotions"]


def test_index_faces_says_what_detect_faces_says(rekognition, collection):
    """DetectionAttributes; of faces that are enrolled and of those that are not."""
    image = np.full((240, 420, 3), 200, np.uint8)
    null.draw(image, 20, 20, 160, 1)
    null.draw(image, 220, 20, 120, 2)
    data = encoded(image)
    seen = rekognition.detect_faces(Image={"Bytes": data}, Attributes=["ALL"])["FaceDetails"]
    answer = rekognition.index_faces(CollectionId=collection, Image={"Bytes": data}, DetectionAttributes=["ALL"], MaxFaces=1)
    assert [record["FaceDetail"] for record in answer["FaceRecords"]] == seen[:1]
    assert [face["FaceDetail"] for face in answer["UnindexedFaces"]] == seen[1:]
    assert "not-assessed" not in basis(answer)
    some = rekognition.index_faces(CollectionId=collection, Image={"Bytes": data}, DetectionAttributes=["SMILE"])
    assert {tuple(sorted(record["FaceDetail"])) for record in some["FaceRecords"]} == {tuple(sorted(DEFAULT | {"Smile"}))}


@pytest.mark.parametrize("attributes", [["EVERYTHING"], ["smile"], [""], "ALL", [1]])
def test_an_unknown_attribute_is_refused(server, attributes):
    answer = server.post("DetectFaces", {"Image": {"Bytes": "AAAA"}, "Attributes": attributes})
    assert answer.status == 400
    assert answer.code in ("InvalidParameterException", "SerializationException")


def test_without_an_attribute_pack_nothing_is_made_up(tmp_path):
    """What DEFAULT lacks is named in x-aboveboard-not-assessed, and only what was asked for."""
    with serving(null_settings(tmp_path / "data", attribute_pack="")) as server:
        client = server.client()

        def asked(**members):
            answer = client.detect_faces(Image={"Bytes": picture(1)}, **members)
            assert set(answer["FaceDetails"][0]) == DEFAULT
            named = basis(answer).get("not-assessed")
            return set() if named is None else set(named.split(","))

        assert asked() == asked(Attributes=["DEFAULT"]) == asked(Attributes=[]) == set()
        assert asked(Attributes=["ALL"]) == asked(Attributes=["DEFAULT", "ALL"]) == set(MEMBERS)
        for name in MEMBERS:
            assert asked(Attributes=[name]) == asked(Attributes=["DEFAULT", name]) == {name}
        client.create_collection(CollectionId="plain")
        answer = client.index_faces(CollectionId="plain", Image={"Bytes": picture(1)}, DetectionAttributes=["ALL"])
        assert set(basis(answer)["not-assessed"].split(",")) == set(MEMBERS)
