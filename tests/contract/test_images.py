"""DetectFaces and CompareFaces over the wire."""

from __future__ import annotations

import numpy as np
import pytest
from kit import basis, canvas, encoded, picture

from aboveboard.vision import null


def compare(client, source, target, **members):
    return client.compare_faces(SourceImage={"Bytes": source}, TargetImage={"Bytes": target}, **members)


def test_a_found_face_carries_the_default_attributes(rekognition):
    """BoundingBox, Confidence, Landmarks, Pose and Quality, always; ratios of the image, names of Amazon's list."""
    (face,) = rekognition.detect_faces(Image={"Bytes": picture(1, width=480, height=240)})["FaceDetails"]
    assert set(face) == {"BoundingBox", "Confidence", "Landmarks", "Pose", "Quality"}
    assert face["BoundingBox"] == {
        "Left": pytest.approx(24 / 480), "Top": pytest.approx(32 / 240), "Width": pytest.approx(0.2), "Height": pytest.approx(0.4),
    }  # fmt: skip
    assert {mark["Type"] for mark in face["Landmarks"]} == {"eyeLeft", "eyeRight", "nose", "mouthLeft", "mouthRight"}
    places = {mark["Type"]: mark for mark in face["Landmarks"]}
    assert places["eyeLeft"]["X"] < places["nose"]["X"] < places["eyeRight"]["X"]
    assert places["eyeLeft"]["Y"] < places["nose"]["Y"] < places["mouthLeft"]["Y"]
    assert 90 < face["Confidence"] <= 100
    assert set(face["Pose"]) == {"Roll", "Yaw", "Pitch"}
    assert set(face["Quality"]) == {"Brightness", "Sharpness"}


def test_faces_come_largest_first(rekognition):
    """Whatever their order in the picture."""
    image = np.full((200, 520, 3), 200, np.uint8)
    for i, size in enumerate((40, 120, 60, 90)):
        null.draw(image, 10 + 125 * i, 20, size, i)
    widths = [face["BoundingBox"]["Width"] for face in rekognition.detect_faces(Image={"Bytes": encoded(image)})["FaceDetails"]]
    assert len(widths) == 4
    assert widths == sorted(widths, reverse=True)


def test_an_image_without_a_face_is_an_empty_answer(rekognition):
    """DetectFaces: 200 and an empty list."""
    assert rekognition.detect_faces(Image={"Bytes": picture()})["FaceDetails"] == []


def test_detecting_needs_no_more_than_any_role_and_writes_no_entry(server):
    """DetectFaces compares nobody with anybody: every role may, and the ledger stays as it is."""
    for role in ("admin", "enroller", "investigator", "reviewer", "auditor"):
        client = server.client(server.operator(f"detector-{role}", role))
        before = server.entry_count()
        assert len(client.detect_faces(Image={"Bytes": picture(1)})["FaceDetails"]) == 1
        assert server.entry_count() == before


def test_the_same_photograph_compares_at_100(rekognition):
    """An identical photograph answers Similarity 100, whole."""
    (match,) = compare(rekognition, picture(1), picture(1))["FaceMatches"]
    assert match["Similarity"] == 100.0


def test_the_source_is_its_largest_face_and_the_target_all_of_its_faces(rekognition):
    """SourceImageFace is the largest; FaceMatches are similar ones, best first, with box and default attributes; the rest is Unmatched."""
    target = canvas(7, 5, 6, size=80, width=520)
    null.draw(target, 400, 32, 80, 7, 0.25, 3)
    answer = compare(rekognition, picture(7, 8), encoded(target))
    assert answer["SourceImageFace"]["BoundingBox"]["Left"] == pytest.approx(24 / (24 + 104 + 24 + 96 + 24))
    assert answer["SourceImageFace"]["BoundingBox"]["Height"] == pytest.approx(104 / (104 + 64))
    assert 0 < answer["SourceImageFace"]["Confidence"] <= 100
    assert [round(match["Face"]["BoundingBox"]["Left"] * 520) for match in answer["FaceMatches"]] == [24, 400]
    first, second = (match["Similarity"] for match in answer["FaceMatches"])
    assert 100 == first >= second >= 80
    for face in [match["Face"] for match in answer["FaceMatches"]] + answer["UnmatchedFaces"]:
        assert set(face) == {"BoundingBox", "Confidence", "Landmarks", "Pose", "Quality"}
    assert [round(face["BoundingBox"]["Left"] * 520) for face in answer["UnmatchedFaces"]] == [136, 240]
    assert "SourceImageOrientationCorrection" not in answer
    assert "TargetImageOrientationCorrection" not in answer


def test_similarities_fall_and_hold_the_threshold(rekognition):
    """FaceMatches are in falling order and none is below SimilarityThreshold; every face is in one of the two lists."""
    target = np.full((140, 20 + 8 * 110, 3), 200, np.uint8)
    for i in range(8):
        null.draw(target, 20 + 110 * i, 20, 96, 1 if i % 2 else 100 + i, 0.1 * i, i)
    data = encoded(target)
    for threshold in (0, 1, 20.5, 50, 80, 99, 100):
        answer = compare(rekognition, picture(1), data, SimilarityThreshold=threshold)
        similarities = [match["Similarity"] for match in answer["FaceMatches"]]
        assert similarities == sorted(similarities, reverse=True)
        assert all(similarity >= threshold for similarity in similarities)
        assert len(similarities) + len(answer["UnmatchedFaces"]) == 8
        assert float(basis(answer)["threshold"]) == threshold


def test_the_default_threshold_is_80_and_says_so(rekognition):
    """Absent SimilarityThreshold: 80, origin `default`; the answer is that of an explicit 80."""
    target = picture(1, 2, 3)
    absent, given = compare(rekognition, picture(1), target), compare(rekognition, picture(1), target, SimilarityThreshold=80)
    assert absent["FaceMatches"] == given["FaceMatches"]
    assert absent["UnmatchedFaces"] == given["UnmatchedFaces"]
    assert (basis(absent)["threshold"], basis(absent)["threshold-origin"]) == ("80", "default")
    assert (basis(given)["threshold"], basis(given)["threshold-origin"]) == ("80", "request")


def test_without_a_threshold_every_face_is_answered(rekognition):
    """SimilarityThreshold 0 under `general`: all faces are in FaceMatches, and the header says that there was none."""
    answer = compare(rekognition, picture(1), picture(1, 2, 3), SimilarityThreshold=0)
    assert len(answer["FaceMatches"]) == 3
    assert answer["UnmatchedFaces"] == []
    assert basis(answer)["threshold-origin"] == "none"
    assert float(basis(answer)["fmr"]) == 1


def test_a_crowd_as_target_is_cut_at_its_100_largest(rekognition):
    """At most 100 faces of the target are compared."""
    image = np.full((8 * 40 + 20, 13 * 40 + 20, 3), 200, np.uint8)
    for i in range(104):
        null.draw(image, 20 + 40 * (i % 13), 10 + 40 * (i // 13), 30, i)
    answer = compare(rekognition, picture(1), encoded(image), SimilarityThreshold=0)
    assert len(answer["FaceMatches"]) == 100
    assert basis(answer)["gallery-size"] == "100"


@pytest.mark.parametrize(("source", "target", "whose"), [((), (1,), "source"), ((1,), (), "target"), ((), (), "source")])
def test_no_face_in_either_image_is_refused_in_words(rekognition, source, target, whose):
    """CompareFaces without a face: InvalidParameterException that says in which image."""
    with pytest.raises(rekognition.exceptions.InvalidParameterException, match=f"no faces in the {whose} image"):
        compare(rekognition, picture(*source), picture(*target))


def test_quality_filter_applies_to_both_images(rekognition):
    """A face below the bar is neither source nor compared; without a filter it is."""
    small = picture(1, size=30)
    assert len(compare(rekognition, small, picture(1))["FaceMatches"]) == 1
    with pytest.raises(rekognition.exceptions.InvalidParameterException, match="source image that pass the quality filter HIGH"):
        compare(rekognition, small, picture(1), QualityFilter="HIGH")
    with pytest.raises(rekognition.exceptions.InvalidParameterException, match="target image that pass the quality filter HIGH"):
        compare(rekognition, picture(1), small, QualityFilter="HIGH")
    mixed = canvas(1, size=96, width=300)
    null.draw(mixed, 200, 32, 30, 1)
    assert len(compare(rekognition, picture(1), encoded(mixed), QualityFilter="NONE")["FaceMatches"]) == 2
    filtered = compare(rekognition, picture(1), encoded(mixed), QualityFilter="HIGH")
    assert len(filtered["FaceMatches"]) + len(filtered["UnmatchedFaces"]) == 1


@pytest.mark.parametrize("role", ["admin", "enroller", "reviewer", "auditor"])
def test_only_an_investigator_compares(server, role):
    """CompareFaces needs the investigator role; the refusal is recorded."""
    client = server.client(server.operator(f"comparer-{role}", role))
    before = server.entry_count()
    with pytest.raises(client.exceptions.AccessDeniedException, match="needs the role investigator"):
        compare(client, picture(1), picture(1))
    (refused,) = server.entries(before)
    assert (refused["type"], refused["duty"], refused["rule"]) == ("refused", "compare", "general/roles")


def test_jpeg_and_png_of_the_same_face_are_the_same_person(rekognition):
    """Both formats are read; a JPEG of a drawn face is similar to its PNG."""
    assert compare(rekognition, picture(1), picture(1, suffix=".jpg"))["FaceMatches"][0]["Similarity"] >= 99
