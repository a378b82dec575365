"""IndexFaces, ListFaces, DeleteFaces over the wire."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from kit import canvas, encoded, picture

from aboveboard.vision import null

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
UNKNOWN = "00000000-0000-4000-8000-000000000000"


def index(client, collection, image, **members):
    return client.index_faces(CollectionId=collection, Image={"Bytes": image}, **members)


def ids(answer):
    return [record["Face"]["FaceId"] for record in answer["FaceRecords"]]


def ladder(*sizes):
    """A picture with a face of each size, left to right; the n-th shows subject n."""
    image = np.full((max(sizes) + 40, sum(sizes) + 20 * (len(sizes) + 1), 3), 200, np.uint8)
    left = 20
    for subject, size in enumerate(sizes, 1):
        null.draw(image, left, 20, size, subject)
        left += size + 20
    return image


def test_an_indexed_face_carries_every_member(rekognition, collection):
    """FaceRecords: Face (ids, box, confidence, external id, model version) and FaceDetail with the default attributes."""
    answer = index(rekognition, collection, picture(1, width=400, height=200), ExternalImageId="archive:1.png")
    (record,) = answer["FaceRecords"]
    face, detail = record["Face"], record["FaceDetail"]
    assert set(face) == {"FaceId", "BoundingBox", "ImageId", "ExternalImageId", "Confidence", "IndexFacesModelVersion"}
    assert UUID.fullmatch(face["FaceId"])
    assert UUID.fullmatch(face["ImageId"])
    assert face["ExternalImageId"] == "archive:1.png"
    assert face["IndexFacesModelVersion"] == answer["FaceModelVersion"] == "0.1"
    box = face["BoundingBox"]
    assert box["Left"] == pytest.approx(24 / 400)
    assert box["Top"] == pytest.approx(32 / 200)
    assert (box["Width"], box["Height"]) == (pytest.approx(96 / 400), pytest.approx(96 / 200))
    assert set(detail) == {"BoundingBox", "Confidence", "Landmarks", "Pose", "Quality"}
    assert detail["BoundingBox"] == box
    assert answer["UnindexedFaces"] == []
    assert "OrientationCorrection" not in answer


def test_without_an_external_id_the_member_is_absent(rekognition, collection):
    """ExternalImageId is answered only where it was given, here and in ListFaces."""
    assert "ExternalImageId" not in index(rekognition, collection, picture(1))["FaceRecords"][0]["Face"]
    assert "ExternalImageId" not in rekognition.list_faces(CollectionId=collection)["Faces"][0]


def test_faces_of_one_image_share_its_image_id_and_come_largest_first(rekognition, collection):
    """FaceRecords are sorted by the size of the box, whatever their place in the picture."""
    answer = index(rekognition, collection, encoded(ladder(40, 90, 60, 120, 50)))
    widths = [record["Face"]["BoundingBox"]["Width"] for record in answer["FaceRecords"]]
    assert widths == sorted(widths, reverse=True)
    assert len({record["Face"]["ImageId"] for record in answer["FaceRecords"]}) == 1
    assert len(set(ids(answer))) == 5


def test_an_image_without_a_face_is_answered_not_refused(rekognition, collection):
    """IndexFaces on an empty scene: 200, no records, nothing unindexed, nothing enrolled."""
    answer = index(rekognition, collection, picture())
    assert (answer["FaceRecords"], answer["UnindexedFaces"]) == ([], [])
    assert rekognition.describe_collection(CollectionId=collection)["FaceCount"] == 0


def test_the_same_image_with_the_same_external_id_makes_no_second_face(rekognition, collection):
    """Indexing again is answered with the same ids and enrols nothing; the ids do not depend on the order."""
    photograph = picture(1, 2)
    first = index(rekognition, collection, photograph, ExternalImageId="x")
    again = index(rekognition, collection, photograph, ExternalImageId="x")
    assert ids(first) == ids(again)
    assert [record["Face"] for record in first["FaceRecords"]] == [record["Face"] for record in again["FaceRecords"]]
    assert rekognition.describe_collection(CollectionId=collection)["FaceCount"] == 2
    assert len(rekognition.list_faces(CollectionId=collection)["Faces"]) == 2


def test_another_external_id_or_image_makes_other_faces(rekognition, collection):
    """A face is the same only for the same bytes under the same external id."""
    found = [
        ids(index(rekognition, collection, picture(1), ExternalImageId="x")),
        ids(index(rekognition, collection, picture(1), ExternalImageId="y")),
        ids(index(rekognition, collection, picture(1))),
        ids(index(rekognition, collection, picture(1, take=1, variation=0.1), ExternalImageId="x")),
    ]
    assert len({face for faces in found for face in faces}) == 4
    assert rekognition.describe_collection(CollectionId=collection)["FaceCount"] == 4


def test_ids_tell_nobody_who_is_enrolled(make_server):
    """Face and image ids are keyed: another deployment gives the same photograph other ids."""
    found = []
    for _ in range(2):
        client = make_server().client()
        client.create_collection(CollectionId="a")
        face = index(client, "a", picture(1))["FaceRecords"][0]["Face"]
        found.append((face["FaceId"], face["ImageId"]))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


def test_a_deleted_face_can_be_indexed_again(rekognition, collection):
    """Deleting forgets that the image was indexed."""
    photograph = picture(1)
    (face,) = ids(index(rekognition, collection, photograph))
    rekognition.delete_faces(CollectionId=collection, FaceIds=[face])
    assert len(ids(index(rekognition, collection, photograph))) == 1
    assert rekognition.describe_collection(CollectionId=collection)["FaceCount"] == 1


def test_max_faces_keeps_the_largest(rekognition, collection):
    """Above MaxFaces the smallest faces go, with EXCEEDS_MAX_FACES and their detail."""
    answer = index(rekognition, collection, encoded(ladder(40, 90, 60, 120, 50)), MaxFaces=2)
    width = answer["FaceRecords"][0]["Face"]["BoundingBox"]["Width"] / 120
    assert [round(r["Face"]["BoundingBox"]["Width"] / width) for r in answer["FaceRecords"]] == [120, 90]
    assert [round(r["FaceDetail"]["BoundingBox"]["Width"] / width) for r in answer["UnindexedFaces"]] == [60, 50, 40]
    assert all(unindexed["Reasons"] == ["EXCEEDS_MAX_FACES"] for unindexed in answer["UnindexedFaces"])
    assert rekognition.describe_collection(CollectionId=collection)["FaceCount"] == 2


def test_never_more_than_100_faces_of_an_image(rekognition, collection):
    """A crowd of 104: the 100 largest are enrolled, MaxFaces above 100 or not."""
    image = np.full((8 * 40 + 20, 13 * 40 + 20, 3), 200, np.uint8)
    for i in range(104):
        null.draw(image, 20 + 40 * (i % 13), 10 + 40 * (i // 13), 25 if i < 4 else 30, i)
    answer = index(rekognition, collection, encoded(image), MaxFaces=1000)
    assert len(answer["FaceRecords"]) == 100
    assert rekognition.describe_collection(CollectionId=collection)["FaceCount"] == 100
    widths = {round(record["Face"]["BoundingBox"]["Width"] * image.shape[1]) for record in answer["FaceRecords"]}
    assert widths == {30}
    assert len(rekognition.detect_faces(Image={"Bytes": encoded(image)})["FaceDetails"]) == 100


def test_a_stricter_filter_takes_no_more_faces(rekognition, collection):
    """NONE, LOW, MEDIUM, HIGH: each takes a part of what the one before took."""
    taken = []
    for level in ("NONE", "LOW", "MEDIUM", "HIGH"):
        answer = index(rekognition, collection, encoded(ladder(17, 25, 45, 90)), QualityFilter=level, ExternalImageId=level)
        taken.append(len(answer["FaceRecords"]))
        assert len(answer["FaceRecords"]) + len(answer["UnindexedFaces"]) == 4
    assert taken == sorted(taken, reverse=True)
    assert taken[0] == 4
    assert taken[3] < 3


class Doubtful:
    """The null detector, less sure, or with its five points moved: onto a profile, or into the middle of a large face."""

    def __init__(self, score=0.99, points=""):
        self.score, self.points = score, points

    def detect(self, image):
        faces = null.NullDetector().detect(image)
        return [dataclasses.replace(found, score=self.score, points=self.moved(found), box=self.inner(found)) for found in faces]

    def inner(self, found):
        """Without the frame, which would give the face detail and brightness."""
        inset = 0.1 * found.box[2] if self.points == "middle" and found.box[2] > 80 else 0
        return found.box + np.array([inset, inset, -2 * inset, -2 * inset], np.float32)

    def moved(self, found):
        marks = found.points.copy()
        if self.points == "profile":
            marks[:, 0] = found.box[0] + np.array([0.10, 0.13, 0.55, 0.12, 0.14]) * found.box[2]
        if self.points == "middle" and found.box[2] > 80:
            marks = marks.mean(axis=0) + 0.3 * (marks - marks.mean(axis=0))
        return marks.astype(np.float32)


def with_detector(server, detector):
    object.__setattr__(server.app, "models", dataclasses.replace(server.app.models, detector=detector))
    client = server.client()
    client.create_collection(CollectionId="a")
    return client


@pytest.mark.parametrize(
    ("score", "points", "paint", "reason"),
    [
        (0.5, "", None, "LOW_CONFIDENCE"),
        (0.99, "profile", None, "EXTREME_POSE"),
        (0.99, "middle", 5, "LOW_BRIGHTNESS"),
        (0.99, "middle", 128, "LOW_SHARPNESS"),
        (0.99, "", "small", "SMALL_BOUNDING_BOX"),
    ],
)
def test_quality_filter_names_the_shortcoming(own_server, score, points, paint, reason):
    """QualityFilter AUTO, the default, leaves a face out with Amazon's reason for it; the detail of the face is there all the same."""
    client = with_detector(own_server, Doubtful(score, points))
    image = canvas(1, size=18 if paint == "small" else 96)
    if isinstance(paint, int):
        image[32 + 8 : 32 + 88, 24 + 8 : 24 + 88] = paint
    for members in ({}, {"QualityFilter": "AUTO"}, {"QualityFilter": "LOW"}):
        answer = index(client, "a", encoded(image), **members)
        assert answer["FaceRecords"] == []
        assert [unindexed["Reasons"] for unindexed in answer["UnindexedFaces"]] == [[reason]]
        assert set(answer["UnindexedFaces"][0]["FaceDetail"]) == {"BoundingBox", "Confidence", "Landmarks", "Pose", "Quality"}
    unfiltered = index(client, "a", encoded(image), QualityFilter="NONE")
    assert reason not in [name for unindexed in unfiltered["UnindexedFaces"] for name in unindexed["Reasons"]]


def test_max_faces_drops_the_worst_before_the_smallest(own_server):
    """Over MaxFaces a large face of low quality goes before a small good one."""
    client = with_detector(own_server, Doubtful(points="middle"))
    image = ladder(40, 90, 60)
    image[20 + 7 : 20 + 83, 80 + 7 : 80 + 83] = 128  # the largest face has no detail left
    answer = index(client, "a", encoded(image), MaxFaces=2, QualityFilter="NONE")
    assert [round(r["Face"]["BoundingBox"]["Width"] * image.shape[1]) for r in answer["FaceRecords"]] == [60, 40]
    assert [unindexed["Reasons"] for unindexed in answer["UnindexedFaces"]] == [["EXCEEDS_MAX_FACES"]]


def test_a_face_without_a_template_is_data_not_an_error(rekognition, collection):
    """A face of which no template can be made is an UnindexedFace with LOW_FACE_QUALITY; its neighbour is enrolled."""
    image = canvas(1, 2)
    image[32 + 7 : 32 + 89, 152 + 7 : 152 + 89] = 128
    answer = index(rekognition, collection, encoded(image), QualityFilter="NONE")
    assert len(answer["FaceRecords"]) == 1
    assert [unindexed["Reasons"] for unindexed in answer["UnindexedFaces"]] == [["LOW_FACE_QUALITY"]]


def test_an_enrolment_is_in_the_ledger_and_the_image_is_not(server, rekognition, collection):
    """faces.enrolled names who, where and which face ids; no pixel, name or external id is in it. Indexing again adds nothing."""
    before = server.entry_count()
    answer = index(rekognition, collection, picture(1, 2), ExternalImageId="secret-name")
    (entry,) = server.entries(before)
    assert (entry["type"], entry["operator"], entry["collection"]) == ("faces.enrolled", "first", collection)
    assert sorted(entry["face_ids"]) == sorted(ids(answer))
    assert "secret-name" not in str(entry)
    index(rekognition, collection, picture(1, 2), ExternalImageId="secret-name")
    assert server.entry_count() == before + 1


def test_faces_are_listed_in_the_order_of_enrolment(rekognition, collection):
    """ListFaces gives back what IndexFaces answered, face by face."""
    indexed = [index(rekognition, collection, picture(i), ExternalImageId=f"e{i}")["FaceRecords"][0]["Face"] for i in range(5)]
    listed = rekognition.list_faces(CollectionId=collection)
    assert listed["Faces"] == indexed
    assert listed["FaceModelVersion"] == "0.1"
    assert "NextToken" not in listed


@pytest.mark.parametrize("size", [1, 2, 5, 7, 4096])
def test_pages_of_any_size_list_every_face_once(rekognition, crowd, size):
    """boto3's paginator over MaxResults; no page is empty or too long."""
    pages = list(rekognition.get_paginator("list_faces").paginate(CollectionId=crowd[0], MaxResults=size))
    assert [face["FaceId"] for page in pages for face in page["Faces"]] == crowd[1]
    assert all(1 <= len(page["Faces"]) <= size for page in pages)


@pytest.fixture(scope="module")
def crowd(rekognition):
    """A collection of seven faces and their ids in the order of enrolment."""
    rekognition.create_collection(CollectionId="crowd")
    return "crowd", [ids(index(rekognition, "crowd", picture(i)))[0] for i in range(7)]


def test_max_results_0_means_the_default(rekognition, crowd):
    """The model allows MaxResults 0; it counts as absent."""
    assert len(rekognition.list_faces(CollectionId=crowd[0], MaxResults=0)["Faces"]) == 7


def test_an_empty_collection_lists_nothing(rekognition, collection):
    """200 and an empty list."""
    listed = rekognition.list_faces(CollectionId=collection)
    assert listed["Faces"] == []
    assert "NextToken" not in listed


def test_face_ids_choose_and_unknown_ones_are_passed_over(rekognition, crowd):
    """ListFaces with FaceIds answers those of them that are there, in the order of enrolment, once each, in pages too."""
    name, faces = crowd
    wanted = [faces[5], UNKNOWN, faces[1], faces[5], faces[3]]
    assert [face["FaceId"] for face in rekognition.list_faces(CollectionId=name, FaceIds=wanted)["Faces"]] == [faces[1], faces[3], faces[5]]
    pages = list(rekognition.get_paginator("list_faces").paginate(CollectionId=name, FaceIds=wanted, MaxResults=2))
    assert [[face["FaceId"] for face in page["Faces"]] for page in pages] == [[faces[1], faces[3]], [faces[5]]]


def test_faces_of_an_unknown_user_are_not_found(rekognition, crowd):
    """UserId: not silently left out of account."""
    with pytest.raises(rekognition.exceptions.ResourceNotFoundException, match="nobody"):
        rekognition.list_faces(CollectionId=crowd[0], UserId="nobody")


def test_deleting_says_what_was_deleted_and_what_was_not_there(server, rekognition, collection):
    """DeletedFaces in the order given, the rest in UnsuccessfulFaceDeletions with FACE_NOT_FOUND; the ledger names the deleted ones."""
    faces = [ids(index(rekognition, collection, picture(i)))[0] for i in range(3)]
    before = server.entry_count()
    answer = rekognition.delete_faces(CollectionId=collection, FaceIds=[faces[2], UNKNOWN, faces[0], faces[2]])
    assert answer["DeletedFaces"] == [faces[2], faces[0]]
    assert answer["UnsuccessfulFaceDeletions"] == [{"FaceId": UNKNOWN, "Reasons": ["FACE_NOT_FOUND"]}]
    (entry,) = server.entries(before)
    assert (entry["type"], entry["face_ids"]) == ("faces.removed", [faces[2], faces[0]])
    assert [face["FaceId"] for face in rekognition.list_faces(CollectionId=collection)["Faces"]] == [faces[1]]
    again = rekognition.delete_faces(CollectionId=collection, FaceIds=[faces[0]])
    assert (again["DeletedFaces"], len(again["UnsuccessfulFaceDeletions"])) == ([], 1)


def test_a_face_of_another_collection_is_not_deleted(rekognition, collection, crowd):
    """Face ids are looked up in their own collection only."""
    answer = rekognition.delete_faces(CollectionId=collection, FaceIds=[crowd[1][0]])
    assert answer["DeletedFaces"] == []
    assert len(rekognition.list_faces(CollectionId=crowd[0])["Faces"]) == 7


def test_4096_ids_at_once_are_taken(rekognition, crowd):
    """The model's upper limit works, in DeleteFaces and ListFaces."""
    many = [f"{i:08x}-0000-4000-8000-000000000000" for i in range(4096)]
    assert rekognition.list_faces(CollectionId=crowd[0], FaceIds=many)["Faces"] == []
    answer = rekognition.delete_faces(CollectionId=crowd[0], FaceIds=many)
    assert [one["FaceId"] for one in answer["UnsuccessfulFaceDeletions"]] == many


@pytest.mark.parametrize("role", ["admin", "investigator", "reviewer", "auditor"])
def test_only_an_enroller_indexes_and_deletes(server, collection, role):
    """Filling a gallery needs the enroller role; the refusal is recorded and nothing is enrolled."""
    client = server.client(server.operator(f"indexer-{role}", role))
    for call in (
        lambda: index(client, collection, picture(1)),
        lambda: client.delete_faces(CollectionId=collection, FaceIds=[UNKNOWN]),
    ):
        before = server.entry_count()
        with pytest.raises(client.exceptions.AccessDeniedException, match="needs the role enroller"):
            call()
        (refused,) = server.entries(before)
        assert (refused["type"], refused["rule"], refused["collection"]) == ("refused", "general/roles", collection)
    assert client.list_faces(CollectionId=collection)["Faces"] == []
