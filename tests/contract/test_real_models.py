"""Each face operation once more on the default pack, with the registry's public-domain photographs."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from kit import NO_FACE, basis, encoded

from aboveboard import settings
from aboveboard.vision import measures, media
from aboveboard.vision.packs import PackFolder

PRESIDENT = ("obama", "obama2", "obama3")
OTHERS = ("biden", "astronaut", "grace_hopper")


@pytest.fixture(scope="module")
def rekognition(real_server):
    return real_server.client()


@pytest.fixture(scope="module")
def enrolled(rekognition, photographs):
    """A gallery of four people, one photograph each; face ids by name."""
    rekognition.create_collection(CollectionId="people")
    faces = {}
    for name in ("obama", *OTHERS):
        answer = rekognition.index_faces(CollectionId="people", Image={"Bytes": photographs[name]}, ExternalImageId=name, MaxFaces=1)
        faces[name] = answer["FaceRecords"][0]["Face"]["FaceId"]
        assert answer["FaceModelVersion"] == "101.0"
    return faces


def names(answer):
    return [match["Face"]["ExternalImageId"] for match in answer["FaceMatches"]]


@pytest.mark.parametrize("name", [*PRESIDENT, *OTHERS])
def test_a_face_is_found_where_a_face_is(rekognition, photographs, name):
    """One large face per portrait, inside the picture, with five landmarks inside its box and a plausible pose."""
    found = rekognition.detect_faces(Image={"Bytes": photographs[name]})["FaceDetails"]
    face = found[0]
    assert all(other["BoundingBox"]["Width"] <= face["BoundingBox"]["Width"] for other in found)
    box = face["BoundingBox"]
    assert face["Confidence"] > 80
    assert 0 <= box["Left"] < box["Left"] + box["Width"] <= 1
    assert 0 <= box["Top"] < box["Top"] + box["Height"] <= 1
    for mark in face["Landmarks"]:
        assert box["Left"] <= mark["X"] <= box["Left"] + box["Width"]
        assert box["Top"] <= mark["Y"] <= box["Top"] + box["Height"]
    assert max(abs(face["Pose"]["Yaw"]), abs(face["Pose"]["Roll"])) < 45
    assert 0 < face["Quality"]["Brightness"] <= 100
    assert 0 < face["Quality"]["Sharpness"] <= 100


def test_with_all_attributes_the_pose_is_that_of_the_mesh(rekognition, photographs):
    """By default it is that of five points; both say to which side a head is turned. The pupils of the mesh lie at the eyes of the five."""
    packs = PackFolder(settings.load().models)
    detector, reader = packs.load("yunet-sface").detector, packs.load_attributes("face-attributes")
    for name in ("biden", "obama2", "obama3"):
        image = media.decode(photographs[name], 10**8)
        found = max(detector.detect(image), key=lambda one: float(one.box[2] * one.box[3]))
        (reading,), crude = reader.read(image, [found], [], mesh=True), measures.pose(found.points)
        default, every = (
            rekognition.detect_faces(Image={"Bytes": photographs[name]}, Attributes=[asked])["FaceDetails"][0]
            for asked in ("DEFAULT", "ALL")
        )
        for said, pose in ((default["Pose"], crude), (every["Pose"], reading.pose)):
            assert [said["Roll"], said["Yaw"], said["Pitch"]] == pytest.approx([pose.roll, pose.yaw, pose.pitch], abs=0.01)
        assert np.sign(default["Pose"]["Yaw"]) == np.sign(every["Pose"]["Yaw"])
        assert default["Pose"] != every["Pose"]
        at = {mark["Type"]: np.array([mark["X"], mark["Y"]]) * image.shape[1::-1] for mark in every["Landmarks"]}
        for side in ("left", "right"):
            assert np.linalg.norm(at[f"{side}Pupil"] - at[f"eye{side.title()}"]) < 0.15 * np.linalg.norm(at["eyeLeft"] - at["eyeRight"])


def test_no_face_in_a_plain_picture(rekognition, enrolled):
    """Nothing is seen in a sky."""
    sky = encoded(np.full((300, 400, 3), (230, 180, 120), np.uint8), ".jpg")
    assert rekognition.detect_faces(Image={"Bytes": sky})["FaceDetails"] == []
    with pytest.raises(rekognition.exceptions.InvalidParameterException, match=NO_FACE):
        rekognition.search_faces_by_image(CollectionId="people", Image={"Bytes": sky})


@pytest.mark.parametrize("other", PRESIDENT[1:])
def test_two_photographs_of_one_person_are_similar(rekognition, photographs, other):
    """Other years, other light: above the default 80."""
    answer = rekognition.compare_faces(SourceImage={"Bytes": photographs["obama"]}, TargetImage={"Bytes": photographs[other]})
    assert len(answer["FaceMatches"]) == 1
    assert answer["FaceMatches"][0]["Similarity"] >= 80


@pytest.mark.parametrize("other", OTHERS)
def test_photographs_of_two_people_are_not(rekognition, photographs, other):
    """Below the default 80; shown as unmatched."""
    answer = rekognition.compare_faces(SourceImage={"Bytes": photographs["obama"]}, TargetImage={"Bytes": photographs[other]})
    assert answer["FaceMatches"] == []
    assert answer["UnmatchedFaces"]


@pytest.mark.parametrize("name", [*PRESIDENT, *OTHERS])
def test_an_identical_photograph_answers_100(rekognition, photographs, name):
    """Exactly, not 99.99."""
    answer = rekognition.compare_faces(SourceImage={"Bytes": photographs[name]}, TargetImage={"Bytes": photographs[name]})
    assert answer["FaceMatches"][0]["Similarity"] == 100.0


@pytest.mark.parametrize("probe", PRESIDENT)
def test_a_search_by_image_finds_the_person_first(rekognition, photographs, enrolled, probe):
    """His other photographs find him, alone, at the default threshold."""
    answer = rekognition.search_faces_by_image(CollectionId="people", Image={"Bytes": photographs[probe]})
    assert names(answer) == ["obama"]
    assert basis(answer)["gallery-size"] == "4"
    assert answer["FaceMatches"][0]["Similarity"] >= (100 if probe == "obama" else 80)


def test_without_a_threshold_the_person_still_comes_first(rekognition, photographs, enrolled):
    """All four are ranked, similarity falling, the mated one first by far."""
    answer = rekognition.search_faces_by_image(CollectionId="people", Image={"Bytes": photographs["obama2"]}, FaceMatchThreshold=0)
    similarities = [match["Similarity"] for match in answer["FaceMatches"]]
    assert names(answer)[0] == "obama"
    assert len(similarities) == 4
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[0] > 80 > similarities[1]


def test_a_search_by_face_leaves_itself_out(rekognition, photographs, enrolled):
    """Nobody else at 80; after a second photograph is indexed, that one."""
    assert names(rekognition.search_faces(CollectionId="people", FaceId=enrolled["obama"])) == []
    rekognition.create_collection(CollectionId="twice")
    ids = [
        rekognition.index_faces(CollectionId="twice", Image={"Bytes": photographs[name]}, ExternalImageId=name, MaxFaces=1)
        for name in ("obama", "obama3")
    ]
    first = ids[0]["FaceRecords"][0]["Face"]["FaceId"]
    assert names(rekognition.search_faces(CollectionId="twice", FaceId=first)) == ["obama3"]


def test_a_turned_photograph_is_the_same_face(rekognition, photographs):
    """Exif orientation 6 on a photograph stored on its side: the box and the similarity are those of the upright one."""
    upright = cv2.imdecode(np.frombuffer(photographs["obama"], np.uint8), cv2.IMREAD_COLOR)
    lying = encoded(np.ascontiguousarray(np.rot90(upright, 1)), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 98)
    tiff = b"II*\x00" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    data = lying[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\x00\x00" + tiff + lying[2:]
    one = rekognition.detect_faces(Image={"Bytes": photographs["obama"]})["FaceDetails"][0]["BoundingBox"]
    other = rekognition.detect_faces(Image={"Bytes": data})["FaceDetails"][0]["BoundingBox"]
    assert {key: round(value, 1) for key, value in one.items()} == {key: round(value, 1) for key, value in other.items()}
    answer = rekognition.compare_faces(SourceImage={"Bytes": photographs["obama"]}, TargetImage={"Bytes": data})
    assert answer["FaceMatches"][0]["Similarity"] > 99


def test_two_people_in_one_picture_are_told_apart(rekognition, photographs):
    """A montage: both are found and indexed; each one's photograph finds his own face."""
    tiles = []
    for name in ("obama", "biden"):
        image = cv2.imdecode(np.frombuffer(photographs[name], np.uint8), cv2.IMREAD_COLOR)
        tiles.append(cv2.resize(image, (600, 800), interpolation=cv2.INTER_AREA))
    montage = encoded(np.hstack(tiles), ".jpg")
    rekognition.create_collection(CollectionId="montage")
    indexed = rekognition.index_faces(CollectionId="montage", Image={"Bytes": montage})
    places = {record["Face"]["FaceId"]: record["Face"]["BoundingBox"]["Left"] for record in indexed["FaceRecords"]}
    assert len(places) == 2
    for name, is_left in (("obama", True), ("biden", False)):
        answer = rekognition.search_faces_by_image(CollectionId="montage", Image={"Bytes": photographs[name]}, FaceMatchThreshold=0)
        best = answer["FaceMatches"][0]
        assert (places[best["Face"]["FaceId"]] < 0.5) == is_left
        assert best["Similarity"] > 50


def test_faces_are_deleted_and_listed_as_on_the_null_pack(rekognition, photographs, enrolled):
    """ListFaces and DeleteFaces do not depend on the pack."""
    assert [face["FaceId"] for face in rekognition.list_faces(CollectionId="people")["Faces"]] == list(enrolled.values())
    rekognition.create_collection(CollectionId="short-lived")
    answer = rekognition.index_faces(CollectionId="short-lived", Image={"Bytes": photographs["astronaut"]}, MaxFaces=1)
    face = answer["FaceRecords"][0]["Face"]["FaceId"]
    assert rekognition.delete_faces(CollectionId="short-lived", FaceIds=[face])["DeletedFaces"] == [face]
    assert rekognition.list_faces(CollectionId="short-lived")["Faces"] == []


def test_a_face_that_would_hardly_be_matched_is_left_out(rekognition, photographs):
    """A portrait passes HIGH; blurred beyond recognition it has LOW_FACE_QUALITY and LOW_SHARPNESS, by AUTO already."""
    rekognition.create_collection(CollectionId="quality")
    image = cv2.imdecode(np.frombuffer(photographs["obama"], np.uint8), cv2.IMREAD_COLOR)
    sharp = rekognition.index_faces(CollectionId="quality", Image={"Bytes": photographs["obama"]}, QualityFilter="HIGH", MaxFaces=1)
    width = sharp["FaceRecords"][0]["Face"]["BoundingBox"]["Width"] * image.shape[1]
    blurred = encoded(cv2.GaussianBlur(image, (0, 0), 0.07 * width), ".jpg")
    answer = rekognition.index_faces(CollectionId="quality", Image={"Bytes": blurred})
    assert answer["FaceRecords"] == []
    assert answer["UnindexedFaces"][0]["Reasons"] == ["LOW_FACE_QUALITY", "LOW_SHARPNESS"]
