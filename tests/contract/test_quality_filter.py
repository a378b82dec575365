"""QualityFilter: each of its values in each operation that takes it, with plain bars and with a fitted quality."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
from kit import canvas, encoded, picture

from aboveboard.accountability.operators import Operator, Session
from aboveboard.biometrics.quality import UnifiedQuality
from aboveboard.service import analyse
from aboveboard.vision import null

FILTERS = ("NONE", "AUTO", "LOW", "MEDIUM", "HIGH")
OPERATIONS = ("IndexFaces", "CompareFaces", "SearchFacesByImage", "SearchUsersByImage")
FITTED = {
    "id": "drawn", "model_version": "0.1", "similarity": 80, "middle": 180, "slope": 0.05,
    "bars": {"AUTO": 20, "LOW": 20, "MEDIUM": 50, "HIGH": 80},
}  # fmt: skip
"""Of drawn faces: a board as it is drawn has features of length 360, a faded one less."""


@pytest.fixture
def fitted(own_server):
    """A client of a server whose pack has a fitted quality, and a collection with one person."""
    models = dataclasses.replace(own_server.app.models, quality=UnifiedQuality.from_json(json.dumps(FITTED)))
    object.__setattr__(own_server.app, "models", models)
    client = own_server.client()
    client.create_collection(CollectionId="a")
    face = client.index_faces(CollectionId="a", Image={"Bytes": picture(1)})["FaceRecords"][0]["Face"]["FaceId"]
    client.create_user(CollectionId="a", UserId="one")
    client.associate_faces(CollectionId="a", UserId="one", FaceIds=[face])
    return client


def faded(*faces):
    """A picture of (subject, size, length of its features of 360) in a row."""
    image = np.full((200, max(160, 24 + sum(size + 24 for _, size, _ in faces)), 3), 200, np.uint8)
    left = 24
    for subject, size, length in faces:
        null.draw(image, left, 32, size, subject)
        edge = max(2, size // 12)
        board = image[32 + edge : 32 + size - edge, left + edge : left + size - edge]
        board[:] = np.clip(128 + (board.astype(float) - 128) * length / 360, 0, 255)
        left += size + 24
    return encoded(image)


def passing(client, name, image, level):
    """How many faces of the picture pass, by what the operation answers."""
    try:
        match name:
            case "IndexFaces":
                answer = client.index_faces(CollectionId="a", Image=image, QualityFilter=level, ExternalImageId=level)
                return len(answer["FaceRecords"])
            case "CompareFaces":
                source = {"Bytes": picture(1)}
                answer = client.compare_faces(SourceImage=source, TargetImage=image, SimilarityThreshold=0, QualityFilter=level)
                return len(answer["FaceMatches"]) + len(answer["UnmatchedFaces"])
            case "SearchFacesByImage":
                client.search_faces_by_image(CollectionId="a", Image=image, QualityFilter=level)
                return 1
            case _:
                answer = client.search_users_by_image(CollectionId="a", Image=image, QualityFilter=level)
                return int("SearchedFace" in answer)
    except client.exceptions.InvalidParameterException as error:
        if f"pass the quality filter {level}" not in error.response["Error"]["Message"]:
            raise
        return 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_filter_by_plain_bars(own_server, name):
    """A face of 48 px without a fitted quality: HIGH alone takes exception to its size; another word is refused."""
    client = own_server.client()
    client.create_collection(CollectionId="a")
    image = {"Bytes": picture(1, size=48)}
    assert {level: passing(client, name, image, level) for level in FILTERS} == {**dict.fromkeys(FILTERS, 1), "HIGH": 0}
    with pytest.raises(client.exceptions.InvalidParameterException, match="qualityFilter"):
        passing(client, name, image, "BEST")


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_filter_by_a_fitted_quality(fitted, name):
    """A good face passes all, however small; one that is likelier missed than found passes LOW only, one that is always missed none."""
    faces = {"good": (2, 24, 360), "middling": (2, 90, 170), "poor": (2, 90, 60)}
    images = {kind: {"Bytes": faded(face)} for kind, face in faces.items()}
    passed = {kind: [level for level in FILTERS if passing(fitted, name, image, level)] for kind, image in images.items()}
    assert passed == {"good": list(FILTERS), "middling": ["NONE", "AUTO", "LOW"], "poor": ["NONE"]}


def test_the_reason_and_the_measure_that_goes_with_it(fitted):
    """LOW_FACE_QUALITY, and what the plain bar of that filter finds beside it."""
    image = {"Bytes": faded((2, 90, 60), (3, 30, 60))}
    answer = fitted.index_faces(CollectionId="a", Image=image, QualityFilter="MEDIUM")
    reasons = [unindexed["Reasons"] for unindexed in answer["UnindexedFaces"]]
    assert reasons == [["LOW_FACE_QUALITY"], ["LOW_FACE_QUALITY", "SMALL_BOUNDING_BOX"]]
    answer = fitted.search_users_by_image(CollectionId="a", Image=image, QualityFilter="MEDIUM")
    assert [face["Reasons"] for face in answer["UnsearchedFaces"]] == reasons


def test_the_largest_face_that_passes_is_searched_for(fitted):
    """A large poor face is passed over for the good one behind it; what is smaller still is not searched for because it is smaller."""
    image = {"Bytes": faded((2, 120, 60), (1, 96, 360), (3, 60, 60))}
    answer = fitted.search_users_by_image(CollectionId="a", Image=image, QualityFilter="AUTO")
    assert [match["User"]["UserId"] for match in answer["UserMatches"]] == ["one"]
    assert [face["Reasons"] for face in answer["UnsearchedFaces"]] == [["LOW_FACE_QUALITY"], ["FACE_NOT_LARGEST"]]
    found = fitted.search_faces_by_image(CollectionId="a", Image=image, QualityFilter="AUTO")
    assert len(found["FaceMatches"]) == 1


@pytest.mark.parametrize(("most", "kept"), [(1, [60]), (2, [60, 40]), (3, [80, 60, 40])])
def test_over_max_faces_the_lowest_quality_goes_first_then_the_smallest(fitted, most, kept):
    """Two good faces, two poor ones of which the larger is poorer: good before poor, then larger before smaller, better before poorer."""
    image = faded((2, 100, 40), (3, 60, 360), (4, 80, 100), (5, 40, 360))
    answer = fitted.index_faces(CollectionId="a", Image={"Bytes": image}, MaxFaces=most, QualityFilter="NONE")
    width = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR).shape[1]
    assert [round(record["Face"]["BoundingBox"]["Width"] * width) for record in answer["FaceRecords"]] == kept
    assert {reason for face in answer["UnindexedFaces"] for reason in face["Reasons"]} == {"EXCEEDS_MAX_FACES"}


def test_a_face_that_may_be_none_is_not_asked_what_it_is_worth(fitted, own_server):
    """LOW_CONFIDENCE alone: whether it is a face at all the detector knows."""

    class Doubtful:
        def detect(self, image):
            return [dataclasses.replace(found, score=0.5) for found in null.NullDetector().detect(image)]

    object.__setattr__(own_server.app, "models", dataclasses.replace(own_server.app.models, detector=Doubtful()))
    answer = fitted.index_faces(CollectionId="a", Image={"Bytes": encoded(canvas(2))})
    assert [unindexed["Reasons"] for unindexed in answer["UnindexedFaces"]] == [["LOW_CONFIDENCE"]]


@pytest.mark.parametrize("asked", ["DEFAULT", "ALL"])
def test_what_is_told_of_a_face_does_not_decide_whether_it_is_enrolled(own_server, asked):
    """A profile is left out by the same pose, though with ALL another one is answered."""

    class Profile:
        def detect(self, image):
            faces = null.NullDetector().detect(image)
            for face in faces:
                face.points[:, 0] = face.box[0] + np.array([0.10, 0.13, 0.55, 0.12, 0.14]) * face.box[2]
            return faces

    object.__setattr__(own_server.app, "models", dataclasses.replace(own_server.app.models, detector=Profile()))
    client = own_server.client()
    client.create_collection(CollectionId="a")
    answer = client.index_faces(CollectionId="a", Image={"Bytes": picture(1)}, DetectionAttributes=[asked])
    assert [unindexed["Reasons"] for unindexed in answer["UnindexedFaces"]] == [["EXTREME_POSE"]]
    session = Session(Operator("ada", ("admin",)), "cli", "request")
    details = analyse.ALL if asked == "ALL" else analyse.DEFAULT
    assert [lacks for _, lacks in analyse.assess(own_server.app, session, picture(1), details, "AUTO")] == [("pose",)]
