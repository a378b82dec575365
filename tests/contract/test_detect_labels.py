"""DetectLabels over the wire, on the null label pack, which sees colours: labels, filters, limits, boxes, colours."""

from __future__ import annotations

import math

import numpy as np
import pytest
from botocore.exceptions import ClientError
from kit import basis, encoded, pack_with, picture

from aboveboard.vision import null
from aboveboard.vision.packs import PackFolder

CATEGORY = "Colors and Visual Composition"
EVERYTHING = ["GENERAL_LABELS", "IMAGE_PROPERTIES"]


def stripes(*parts):
    """A picture of stripes: (width in px, (red, green, blue)), 100 px high."""
    return encoded(np.hstack([np.full((100, width, 3), rgb[::-1], np.uint8) for width, rgb in parts]))


BLUE_RED = stripes((150, (0, 0, 255)), (50, (255, 0, 0)))


def detect(client, image, least=0.5, **members):
    return client.detect_labels(Image={"Bytes": image}, MinConfidence=least, **members)


def names(answer):
    return [label["Name"] for label in answer["Labels"]]


def test_a_label_carries_every_member_and_its_parents_are_labels_too(rekognition):
    """The surest first; a parent is at least as sure as its children."""
    answer = detect(rekognition, BLUE_RED)
    assert names(answer) == ["Color", "Blue", "Cool Color", "Red", "Warm Color"]
    assert answer["LabelModelVersion"] == "0.1"
    assert "ImageProperties" not in answer
    blue = answer["Labels"][1]
    assert blue == {
        "Name": "Blue", "Confidence": pytest.approx(75, abs=1), "Instances": [], "Parents": [{"Name": "Color"}, {"Name": "Cool Color"}],
        "Aliases": [], "Categories": [{"Name": "Colors and Visual Composition"}],
    }  # fmt: skip
    assert answer["Labels"][0]["Aliases"] == [{"Name": "Colour"}]
    confidence = {label["Name"]: label["Confidence"] for label in answer["Labels"]}
    assert all(confidence[parent["Name"]] >= label["Confidence"] for label in answer["Labels"] for parent in label["Parents"])


def test_min_confidence_is_55_where_it_is_absent(rekognition):
    """And inclusive."""
    answer = rekognition.detect_labels(Image={"Bytes": BLUE_RED})
    assert names(answer) == ["Color", "Blue", "Cool Color"]
    exact = answer["Labels"][1]["Confidence"]
    assert "Blue" in names(detect(rekognition, BLUE_RED, exact))
    assert "Blue" not in names(detect(rekognition, BLUE_RED, exact + 0.01))
    assert names(detect(rekognition, BLUE_RED, 100)) == ["Color"]
    assert "Green" not in names(detect(rekognition, BLUE_RED, 0))


@pytest.mark.parametrize("most", [0, 1, 3, 1000, 2**31 - 1])
def test_max_labels_keeps_the_surest(rekognition, most):
    assert names(detect(rekognition, BLUE_RED, MaxLabels=most)) == names(detect(rekognition, BLUE_RED))[:most]


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({"LabelInclusionFilters": ["Blue"]}, ["Blue"]),
        ({"LabelInclusionFilters": ["Blue", "Warm Color"]}, ["Blue", "Warm Color"]),
        ({"LabelInclusionFilters": ["Colour"]}, ["Color"]),
        ({"LabelInclusionFilters": ["Green"]}, []),
        ({"LabelExclusionFilters": ["Blue", "Red"]}, ["Color", "Cool Color", "Warm Color"]),
        ({"LabelCategoryInclusionFilters": ["Person Description"]}, []),
        ({"LabelCategoryInclusionFilters": ["Person Description"], "LabelInclusionFilters": ["Red"]}, ["Red"]),
        ({"LabelCategoryExclusionFilters": [CATEGORY]}, []),
        ({"LabelCategoryInclusionFilters": [CATEGORY], "LabelExclusionFilters": ["Color", "Red"]}, ["Blue", "Cool Color", "Warm Color"]),
        ({"LabelInclusionFilters": []}, ["Color", "Blue", "Cool Color", "Red", "Warm Color"]),
    ],
)  # fmt: skip
def test_filters(rekognition, filters, left):
    """Inclusions by label and category add up, exclusions take away."""
    answer = detect(rekognition, BLUE_RED, Settings={"GeneralLabels": filters})
    assert names(answer) == left
    assert "unknown-labels" not in basis(answer)


def test_what_a_filter_names_and_nobody_knows_is_told(rekognition):
    """It is no error: a program's list may be of Amazon's labels."""
    filters = {"LabelInclusionFilters": ["Blue", "Unicorn"], "LabelCategoryExclusionFilters": ["Myths"]}
    answer = detect(rekognition, BLUE_RED, Settings={"GeneralLabels": filters})
    assert names(answer) == ["Blue"]
    assert basis(answer)["unknown-labels"] == "Myths, Unicorn"
    many = {"LabelInclusionFilters": [f"{i:02d}{'x' * 48}" for i in range(100)]}
    assert len(basis(detect(rekognition, BLUE_RED, Settings={"GeneralLabels": many}))["unknown-labels"].split(", ")) == 10


def test_people_come_with_the_boxes_that_the_detector_saw(rekognition):
    """As Face and as Person, one box for each face; Head, above Face, has none."""
    image = picture(1, 2, width=400, height=200)
    found = {label["Name"]: label for label in detect(rekognition, image)["Labels"]}
    faces = rekognition.detect_faces(Image={"Bytes": image})["FaceDetails"]
    for name, parents in (("Face", ["Head", "Person"]), ("Person", [])):
        assert [parent["Name"] for parent in found[name]["Parents"]] == parents
        assert found[name]["Instances"] == [{"BoundingBox": face["BoundingBox"], "Confidence": face["Confidence"]} for face in faces]
        assert found[name]["Confidence"] == pytest.approx(max(face["Confidence"] for face in faces))
    assert found["Head"]["Instances"] == []
    assert found["Head"]["Confidence"] == found["Face"]["Confidence"]
    assert "Person" not in names(detect(rekognition, image, 99.5))
    assert "Person" not in names(detect(rekognition, BLUE_RED, 0))


PRESENCE = {"id": "made", "model_version": "9.1", "intercept": -3, "slope": 1, "animal": 5}


def test_a_face_is_as_sure_as_its_packs_presence_says(make_server, tmp_path):
    """Labels of people have a calibrated chance, MinConfidence is held against it; DetectFaces keeps the detector's own score, 99 here."""
    packs = PackFolder(tmp_path / "packs")
    packs.install_from(pack_with(tmp_path / "source", "presence", PRESENCE))
    client = make_server(pack="own", models=str(packs.folder)).client()
    chance = 100 / (1 + math.exp(3) * 0.01 / 0.99)
    found = {label["Name"]: label for label in detect(client, picture(1), chance - 0.01)["Labels"]}
    assert [found[name]["Confidence"] for name in ("Face", "Head", "Person")] == [pytest.approx(chance)] * 3
    assert [one["Confidence"] for name in ("Face", "Person") for one in found[name]["Instances"]] == [pytest.approx(chance)] * 2
    assert {"Face", "Head", "Person"}.isdisjoint(names(detect(client, picture(1), chance + 0.01)))
    assert client.detect_faces(Image={"Bytes": picture(1)})["FaceDetails"][0]["Confidence"] == pytest.approx(99)


def test_image_properties_alone_answer_no_label(rekognition):
    answer = rekognition.detect_labels(Image={"Bytes": BLUE_RED}, Features=["IMAGE_PROPERTIES"])
    assert {"Labels", "LabelModelVersion"}.isdisjoint(answer)
    blue, red = answer["ImageProperties"]["DominantColors"]
    assert blue == {
        "Red": 0, "Green": 0, "Blue": 255, "HexCode": "#0000ff", "CSSColor": "blue", "SimplifiedColor": "blue",
        "PixelPercent": pytest.approx(75, abs=1),
    }  # fmt: skip
    assert red["SimplifiedColor"] == "red"
    assert set(answer["ImageProperties"]) == {"DominantColors", "Quality"}
    assert all(0 <= value <= 100 for value in answer["ImageProperties"]["Quality"].values())


@pytest.mark.parametrize("most", [0, 1, 20])
def test_max_dominant_colors(rekognition, most):
    """The default is 10."""
    image = encoded(np.random.default_rng(1).integers(0, 256, (200, 200, 3), np.uint8))
    settings = {"ImageProperties": {"MaxDominantColors": most}}
    answer = rekognition.detect_labels(Image={"Bytes": image}, Features=["IMAGE_PROPERTIES"], Settings=settings)
    assert len(answer["ImageProperties"]["DominantColors"]) <= most
    ten = rekognition.detect_labels(Image={"Bytes": image}, Features=["IMAGE_PROPERTIES"])["ImageProperties"]["DominantColors"]
    assert 1 < len(ten) <= 10


def test_boxes_have_colours_where_they_are_asked_for(rekognition):
    """Those of the pixels inside."""
    answer = detect(rekognition, picture(1), Features=EVERYTHING)
    (instance,) = next(label for label in answer["Labels"] if label["Name"] == "Face")["Instances"]
    assert {colour["SimplifiedColor"] for colour in instance["DominantColors"]} >= {"grey"}
    (plain,) = next(label for label in detect(rekognition, picture(1))["Labels"] if label["Name"] == "Face")["Instances"]
    assert "DominantColors" not in plain


def test_nothing_is_computed_that_was_not_asked_for(own_server, monkeypatch):
    """No face detector without a label of people, no classifier without a label of its own."""
    ran = []
    for kind, method in ((null.NullDetector, "detect"), (null.NullLabeller, "probabilities")):
        plain = getattr(kind, method)
        monkeypatch.setattr(kind, method, lambda self, image, plain=plain, name=kind.__name__: ran.append(name) or plain(self, image))

    def run(**members):
        ran.clear()
        detect(own_server.client(), picture(1), **members)
        return set(ran)

    assert run(Features=["IMAGE_PROPERTIES"]) == set()
    assert run(Settings={"GeneralLabels": {"LabelInclusionFilters": ["Face"]}}) == {"NullDetector"}
    assert run(Settings={"GeneralLabels": {"LabelCategoryExclusionFilters": ["Person Description"]}}) == {"NullLabeller"}
    assert run() == {"NullDetector", "NullLabeller"}


@pytest.mark.parametrize("missing", ["", "efficientnet-lite0"])
def test_without_a_label_pack_everything_else_works(make_server, tmp_path, missing):
    """Labels are then not offered, and the text says what to do; colours need no pack."""
    server = make_server(label_pack=missing, models=str(tmp_path / "models"))
    client = server.client()
    with pytest.raises(ClientError) as caught:
        client.detect_labels(Image={"Bytes": BLUE_RED})
    assert caught.value.response["Error"]["Code"] == "AccessDeniedException"
    assert ("aboveboard models install efficientnet-lite0" if missing else "label_pack") in str(caught.value)
    answer = client.detect_labels(Image={"Bytes": BLUE_RED}, Features=["IMAGE_PROPERTIES"])
    assert answer["ImageProperties"]["DominantColors"]
    assert client.detect_faces(Image={"Bytes": picture(1)})["FaceDetails"]


def test_no_look_is_recorded(own_server):
    """Labels compare nobody with anybody: any role may ask, and the ledger has nothing to say."""
    auditor = own_server.operator("auditor", "auditor")
    before = own_server.entry_count()
    assert names(detect(own_server.client(auditor), BLUE_RED, Features=EVERYTHING))
    assert own_server.entry_count() == before


@pytest.mark.parametrize("pack", ["null", "no-such-pack"])
def test_a_setting_that_names_no_label_pack_does_not_start(make_server, pack):
    with pytest.raises(Exception, match=r"no label pack|no-such-pack"):
        make_server(label_pack=pack)
