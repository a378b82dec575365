"""The real attribute pack on photographs in the public domain: what is said, what is computed, what does not fit is refused."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from aboveboard.biometrics.vocabulary import ATTRIBUTES, EMOTIONS, Attributes
from aboveboard.errors import BadRequest, Unavailable
from aboveboard.vision import packs
from aboveboard.vision.attributes import NetReader, read_fitted
from aboveboard.vision.mesh import Mesher
from aboveboard.vision.model_cards import read_card
from aboveboard.vision.on_demand import Attributes as OnDemand
from aboveboard.vision.packs import PackFolder

CARD = Path(packs.__file__).parent / "cards" / "face-attributes.toml"
PRESIDENT = ("obama", "obama2", "obama3")


@pytest.fixture(scope="module")
def reader(pack_folder: PackFolder) -> NetReader:
    return pack_folder.load_attributes("face-attributes")


@pytest.fixture(scope="module")
def largest(models):
    return lambda image: max(models.detector.detect(image), key=lambda one: float(one.box[2] * one.box[3]))


@pytest.fixture(scope="module")
def said(reader, largest, photographs):
    """Everything that is said of the largest face of each photograph."""
    return {name: reader.read(image, [largest(image)], ATTRIBUTES, mesh=True)[0] for name, image in photographs.items()}


def test_everything_that_can_be_told_is_told(reader, said):
    for reading in said.values():
        told = {name for name in ATTRIBUTES if getattr(reading.attributes, name) is not None}
        assert reader.assessed <= told
        assert len(reading.landmarks) == 25
        assert reading.pose is not None
        assert {name for name, _ in reading.attributes.emotions or ()} == set(EMOTIONS)
        low, high = reading.attributes.age_range
        assert 0 <= low <= high <= 100


def test_what_anybody_sees_is_said(said):
    """Only what nobody would dispute: a broad smile, open eyes, a man of about fifty, the admiral's glasses."""
    for name in PRESIDENT:
        attributes = said[name].attributes
        assert attributes.gender.value == "Male"
        assert attributes.eyes_open.value
        assert not attributes.sunglasses.value
        assert 25 < attributes.age_range[0] < attributes.age_range[1] < 80
    assert said["obama"].attributes.smile.value
    assert said["obama"].attributes.smile.confidence > 90
    assert said["obama"].attributes.emotions[0][0] == "HAPPY"
    assert said["grace_hopper"].attributes.eyeglasses.value
    assert not said["obama"].attributes.eyeglasses.value


@pytest.mark.parametrize("name", ["biden", "obama3"])
def test_landmarks_are_ratios_of_the_pictures_own_sides(largest, photographs, said, name):
    """In portraits much higher than wide the pupils lie at the detector's eyes, within 0.15 of their distance."""
    image = photographs[name]
    (height, width), (left, right) = image.shape[:2], largest(image).points[:2]
    assert height > 1.5 * width
    at = {mark.name: np.array([mark.x * width, mark.y * height]) for mark in said[name].landmarks}
    for eye, pupil in ((left, "leftPupil"), (right, "rightPupil")):
        assert np.linalg.norm(at[pupil] - eye) < 0.15 * np.linalg.norm(right - left)


def test_where_no_face_is_seen_no_gaze_is_sure(reader, models, photographs, said):
    """The detector takes a chandelier for a face too; the mesh does not. Of a face it is sure."""
    image = photographs["obama3"]
    face, chandelier = sorted(models.detector.detect(image), key=lambda one: -one.score)
    assert chandelier.score > 0.6
    assert reader.read(image, [chandelier], ["eye_direction"], mesh=False)[0].attributes.eye_direction.confidence < 1
    assert reader.read(image, [face], ["eye_direction"], mesh=False)[0].attributes.eye_direction == said["obama3"].attributes.eye_direction
    assert said["obama3"].attributes.eye_direction.confidence > 95


def test_each_attribute_alone_is_what_it_is_among_all(reader, largest, said, photographs):
    """Whatever else was asked for."""
    image = photographs["obama2"]
    face = largest(image)
    for name in ATTRIBUTES:
        alone = reader.read(image, [face], [name], mesh=False)[0]
        assert alone.attributes == Attributes(**{name: getattr(said["obama2"].attributes, name)})
        assert (alone.landmarks, alone.pose) == ((), None)


def test_faces_of_one_image_are_read_as_if_alone(reader, models, photographs):
    """Two people beside each other: each has his own attributes."""
    tiles = [cv2.resize(photographs[name], (600, 800), interpolation=cv2.INTER_AREA) for name in ("obama", "grace_hopper")]
    together = np.hstack(tiles)
    found = sorted(models.detector.detect(together), key=lambda one: -float(one.box[2] * one.box[3]))[:2]
    both = reader.read(together, found, ATTRIBUTES, mesh=False)
    for face, reading in zip(found, both, strict=True):
        assert reader.read(together, [face], ATTRIBUTES, mesh=False) == [reading]
    assert both[0] != both[1]


def test_of_a_small_face_less_is_sure(reader, models, photographs):
    """A face of 14 px: what hair and glasses there are, nobody can tell; a face of 60 px is as clear as a large one."""
    worn = ["eyeglasses", "beard", "mustache", "mouth_open"]

    def confidences(width):
        image = photographs["obama"]
        (face,) = models.detector.detect(image)
        scale = width / float(face.box[2])
        narrow = replace(face, box=face.box * scale, points=(face.points * scale).astype(np.float32))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        (reading,) = reader.read(small, [narrow], worn, mesh=False)
        return [getattr(reading.attributes, name).confidence for name in worn]

    assert min(confidences(60)) > 92
    assert max(confidences(14)) < 90


def test_what_was_not_asked_for_is_not_computed(reader, largest, photographs, monkeypatch):
    """Age and gender need no mesh and not each other's net, the mesh's attributes neither."""
    image = photographs["obama"]
    face = largest(image)

    def never(*_, **__):
        raise AssertionError("this was not asked for")

    with monkeypatch.context() as patch:
        patch.setattr(reader._mesher, "mesh", never)
        assert reader.read(image, [face], ["gender", "age_range"], mesh=False)[0].attributes.gender is not None
        assert reader.read(image, [face], [], mesh=False)[0].attributes == Attributes()
        assert reader.read(image, [], ATTRIBUTES, mesh=True) == []
    nets = type(reader._demographics)
    with monkeypatch.context() as patch:
        patch.setattr(nets, "ages", never)
        assert reader.read(image, [face], ["smile", "beard", "gender"], mesh=True)[0].attributes.gender is not None
        patch.setattr(nets, "logits", never)
        assert reader.read(image, [face], ["smile", "beard"], mesh=True)[0].attributes.smile is not None
    with monkeypatch.context() as patch:
        patch.setattr(nets, "logits", never)
        assert reader.read(image, [face], ["age_range"], mesh=False)[0].attributes.age_range is not None
    with monkeypatch.context() as patch:
        patch.setattr(reader._mesher, "blendshapes", never)
        assert reader.read(image, [face], ["eyes_open", "eyeglasses", "eye_direction"], mesh=False)[0].attributes.eyes_open is not None


def own_pack(pack_folder: PackFolder, tmp_path, **changed: bytes):
    """The default pack under a name of its own, with other bytes in some of its files; where it can be installed from."""
    card = pack_folder.attribute_card("face-attributes")
    folder = tmp_path / "mine"
    folder.mkdir()
    text = CARD.read_text().replace('id = "face-attributes"', 'id = "mine"')
    for part in card.files:
        data = changed.get(part.file.partition(".")[0].replace("-", "_"), (pack_folder.folder / card.id / part.file).read_bytes())
        text = text.replace(part.sha256, hashlib.sha256(data).hexdigest())
        (folder / part.file).write_bytes(data)
    (folder / "card.toml").write_text(text)
    return folder


def test_a_pack_of_ones_own_is_installed_from_a_folder(pack_folder, tmp_path, largest, photographs, said):
    """The same files under another name say the same."""
    mine = PackFolder(tmp_path / "models")
    assert mine.install_from(own_pack(pack_folder, tmp_path)).id == "mine"
    image = photographs["biden"]
    assert mine.load_attributes("mine").read(image, [largest(image)], ATTRIBUTES, mesh=True) == [said["biden"]]


@pytest.mark.parametrize(("file", "data", "text"), [
    ("face_landmarker", b"PK\x05\x06" + bytes(18), "face_landmarker"),
    ("gender_v1", b"no graph", "not an ONNX graph"),
    ("age_v1", b"", "graph"),
])  # fmt: skip
def test_a_file_that_does_not_fit_is_named_when_the_pack_is_loaded(pack_folder, tmp_path, file, data, text):
    mine = PackFolder(tmp_path / "models")
    mine.install_from(own_pack(pack_folder, tmp_path, **{file: data}))
    with pytest.raises(BadRequest, match=text):
        mine.load_attributes("mine")


def test_another_net_in_a_nets_place_is_refused(pack_folder, tmp_path):
    """The gender net as the age net."""
    gender = (pack_folder.folder / "face-attributes" / "gender-v1.onnx").read_bytes()
    mine = PackFolder(tmp_path / "models")
    mine.install_from(own_pack(pack_folder, tmp_path, age_v1=gender))
    with pytest.raises(BadRequest, match="age"):
        mine.load_attributes("mine")


def test_a_file_that_was_changed_later_is_refused(pack_folder, tmp_path):
    mine = PackFolder(tmp_path / "models")
    mine.install_from(own_pack(pack_folder, tmp_path))
    (mine.folder / "mine" / "age-v1.onnx").write_bytes(b"something else")
    with pytest.raises(Unavailable, match="sha256"):
        mine.load_attributes("mine")


@pytest.mark.parametrize("text", [
    "", "[]", '{"age": 1}', "not json", '{"gender": {"slope": 1, "lapse": 5}}', '{"gender": {"slope": -1, "lapse": 0}}',
    '{"age": {"low": [0, 1, 0], "high": [0, 1, 0], "margin": NaN}}', '{"age": {"low": [0, 1, 0], "high": [0, 1, Infinity], "margin": 0}}',
    "[" * 100_000,
])  # fmt: skip
def test_a_fit_that_is_none_is_refused_by_name(text):
    with pytest.raises(BadRequest, match=r"fit\.json"):
        read_fitted(text, "fit.json")


def test_an_attribute_pack_is_no_face_pack(pack_folder):
    """Each setting takes its own kind, and the refusal names the setting."""
    with pytest.raises(BadRequest, match="an attribute pack, no face pack; the setting 'attribute_pack' takes it"):
        pack_folder.load("face-attributes")
    with pytest.raises(BadRequest, match="a face pack, no attribute pack"):
        pack_folder.load_attributes("yunet-sface")


def test_a_fit_of_ones_own_counts_though_one_of_its_name_ships(pack_folder, tmp_path, largest, photographs):
    """Everybody is 30 to 31 by it."""
    folder = own_pack(pack_folder, tmp_path)
    shipped = json.loads((CARD.parent.parent / "fitted" / "face-attributes.json").read_text())
    shipped["age"] |= {"low": [30, 0, 0], "high": [31, 0, 0], "margin": 0}
    (folder / "face-attributes.json").write_text(json.dumps(shipped))
    mine = PackFolder(tmp_path / "models")
    mine.install_from(folder)
    image = photographs["biden"]
    assert mine.load_attributes("mine").read(image, [largest(image)], ["age_range"], mesh=False)[0].attributes.age_range == (30, 31)


def test_nets_that_take_something_else_are_refused_when_the_pack_is_loaded(pack_folder, tmp_path):
    """An archive with the blendshapes' net under both names, and one with the emotions' net as the blendshapes."""
    files = pack_folder.folder / "face-attributes"
    with zipfile.ZipFile(files / "face_landmarker.task") as archive:
        mesh, blendshapes = (archive.read(name) for name in ("face_landmarks_detector.tflite", "face_blendshapes.tflite"))
    for one, other in ((blendshapes, blendshapes), (mesh, (files / "emotion_model_quantized.tflite").read_bytes())):
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("face_landmarks_detector.tflite", one)
            archive.writestr("face_blendshapes.tflite", other)
        with pytest.raises(BadRequest, match="its nets take or give something else"):
            Mesher(made.getvalue())


def test_a_broken_pack_is_the_deployments_fault_and_is_not_loaded_again_and_again(pack_folder, tmp_path, monkeypatch):
    """Unavailable, at once the second time; once its files are others it is tried again."""
    mine = PackFolder(tmp_path / "models")
    mine.install_from(own_pack(pack_folder, tmp_path))
    good = (mine.folder / "mine" / "age-v1.onnx").read_bytes()
    (mine.folder / "mine" / "age-v1.onnx").write_bytes(b"broken")
    attributes, loads = OnDemand(mine, "mine"), []
    load = mine.load_attributes
    monkeypatch.setattr(attributes, "_load", lambda pack: loads.append(pack) or load(pack))
    for _ in range(3):
        with pytest.raises(Unavailable, match="run: aboveboard models install mine"):
            attributes.reader()
    assert len(loads) == 1
    (mine.folder / "mine" / "age-v1.onnx").write_bytes(good)
    assert attributes.reader() is attributes.reader()
    assert len(loads) == 2


def test_a_pack_may_have_the_mesh_alone(pack_folder, tmp_path, largest, photographs):
    """It tells what the mesh tells; one of age and gender is refused."""
    folder = own_pack(pack_folder, tmp_path)
    text = (folder / "card.toml").read_text()
    (folder / "card.toml").write_text(text[: text.index("[age]")].replace('fitted = "face-attributes.json"\n', ""))
    mine = PackFolder(tmp_path / "models")
    mine.install_from(folder)
    found = mine.load_attributes("mine")
    assert found.assessed.isdisjoint({"age_range", "gender", "emotions"})
    image = photographs["obama"]
    assert found.read(image, [largest(image)], ATTRIBUTES, mesh=True)[0].attributes.smile.value
    with pytest.raises(BadRequest, match="name both or neither"):
        read_card(text[: text.index("[gender]")], "card.toml")
    with pytest.raises(BadRequest, match="no fit of what it answers"):
        NetReader((folder / "face_landmarker.task").read_bytes(), {"emotions": b""}, read_fitted("{}", "fit.json"))


def test_what_is_no_face_to_the_mesh_is_answered_without_confidence(reader, models, photographs):
    """The chandelier that the detector takes for a face: no sure word, no landmarks of a mesh, no gaze."""
    image = photographs["obama3"]
    lamp = min(models.detector.detect(image), key=lambda one: one.score)
    assert lamp.score < 0.7
    reading = reader.read(image, [lamp], ATTRIBUTES, mesh=True)[0]
    assert (reading.landmarks, reading.pose) == ((), None)
    for name in ("smile", "eyes_open", "beard", "eyeglasses", "mouth_open"):
        assert getattr(reading.attributes, name).confidence < 51
    assert reading.attributes.eye_direction.confidence < 1
