"""The mesh of a face on photographs in the public domain: landmarks, pose, gaze and movements."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from aboveboard.errors import BadRequest
from aboveboard.vision import measures
from aboveboard.vision.detector import LANDMARK_NAMES
from aboveboard.vision.mesh import LANDMARKS, Mesher

NAMES = ("astronaut", "biden", "grace_hopper", "obama", "obama2", "obama3")


@pytest.fixture(scope="module")
def mesher(pack_folder):
    return Mesher((pack_folder.folder / "face-attributes" / "face_landmarker.task").read_bytes())


@pytest.fixture(scope="module")
def faces(models, photographs):
    """The largest face of each photograph: name to (image, detection)."""
    found = {name: models.detector.detect(photographs[name]) for name in NAMES}
    return {name: (photographs[name], max(seen, key=lambda one: float(one.box[2] * one.box[3]))) for name, seen in found.items()}


def mirrored(image, points):
    """The same picture in a mirror, with the landmarks in their order."""
    return np.ascontiguousarray(image[:, ::-1]), (points * [-1, 1] + [image.shape[1] - 1, 0])[[1, 0, 2, 4, 3]].astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_landmarks_lie_where_their_names_say(mesher, faces, name):
    """Left of, above and inside each other, and near the detector's own."""
    image, face = faces[name]
    meshed = mesher.mesh(image, face.points)
    at = {mark: meshed.points[number] for mark, number in LANDMARKS.items()}
    assert meshed.presence > 0.99
    for side in ("left", "right"):
        assert at[f"{side}EyeLeft"][0] < at[f"{side}Pupil"][0] < at[f"{side}EyeRight"][0]
        assert at[f"{side}EyeBrowLeft"][0] < at[f"{side}EyeBrowUp"][0] < at[f"{side}EyeBrowRight"][0]
        assert at[f"{side}EyeBrowUp"][1] < at[f"{side}EyeUp"][1] <= at[f"{side}EyeDown"][1]
    assert at["leftEyeRight"][0] < at["rightEyeLeft"][0]
    assert at["noseLeft"][0] < at["noseRight"][0]
    assert at["mouthUp"][1] < at["mouthDown"][1] < at["chinBottom"][1]
    for jaw in ("upperJawline", "midJawline"):
        assert at[f"{jaw}Left"][0] < at["mouthUp"][0] < at[f"{jaw}Right"][0]
        assert at[f"{jaw}Left"][1] < at["chinBottom"][1] > at[f"{jaw}Right"][1]
    apart = np.linalg.norm(face.points[1] - face.points[0])
    for detected, pupil in ((0, "leftPupil"), (1, "rightPupil")):
        assert np.linalg.norm(face.points[detected] - at[pupil][:2]) < 0.15 * apart
    assert len(LANDMARKS) + len(LANDMARK_NAMES) == 30


@pytest.mark.parametrize("name", NAMES)
def test_a_mirror_turns_yaw_roll_and_gaze_around(mesher, faces, name):
    """Within some degrees: the net is not quite symmetric."""
    image, face = faces[name]
    one, other = mesher.mesh(image, face.points), mesher.mesh(*mirrored(image, face.points))
    assert one.pose.yaw == pytest.approx(-other.pose.yaw, abs=5)
    assert one.pose.roll == pytest.approx(-other.pose.roll, abs=5)
    assert one.pose.pitch == pytest.approx(other.pose.pitch, abs=5)
    assert one.gaze[0] == pytest.approx(-other.gaze[0], abs=8)
    assert one.gaze[1] == pytest.approx(other.gaze[1], abs=8)


def moved(meshed, points, by):
    """The same face with some points of its mesh moved, in px of the crop."""
    in_crop = meshed.in_crop.copy()
    in_crop[points] += np.array(by, np.float32)
    return replace(meshed, in_crop=in_crop)


def rotated(meshed, right, up):
    """The same face with its mesh turned in depth: the points near the camera go to the viewer's right, then up, by these degrees."""
    across, down = np.radians(right), np.radians(up)
    about_y = np.array([[np.cos(across), 0, -np.sin(across)], [0, 1, 0], [np.sin(across), 0, np.cos(across)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(down), np.sin(down)], [0, -np.sin(down), np.cos(down)]])
    middle = meshed.in_crop.mean(axis=0)
    return replace(meshed, in_crop=((meshed.in_crop - middle) @ (about_x @ about_y).T + middle).astype(np.float32))


@pytest.mark.parametrize("name", ["biden", "obama2", "obama3"])
def test_a_turned_head_has_the_yaw_that_five_points_say(mesher, faces, name):
    """By its sign: to the viewer's right in two portraits, to the left in one."""
    image, face = faces[name]
    crude, found = measures.pose(face.points).yaw, mesher.mesh(image, face.points).pose.yaw
    assert abs(crude) > 15
    assert np.sign(found) == np.sign(crude)
    assert abs(found) > 10


def test_a_mesh_turned_in_depth_turns_pose_and_gaze_with_it(mesher, faces):
    """Yaw grows to the viewer's right, pitch upwards, by as many degrees; the nose is nearer than the ears."""
    image, face = faces["obama"]
    meshed = mesher.mesh(image, face.points)

    def nose(one):
        """Where its tip lies, from the middle of the ears."""
        return one.points[4] - one.points[[127, 356]].mean(axis=0)

    assert nose(meshed)[2] < 0
    for right, up in ((20, 0), (-20, 0), (0, 15), (0, -15)):
        turned = rotated(meshed, right, up)
        assert (nose(turned) - nose(meshed))[:2] @ [right, -up] > 0
        assert turned.pose.yaw - meshed.pose.yaw == pytest.approx(right, abs=1.5)
        assert turned.pose.pitch - meshed.pose.pitch == pytest.approx(up, abs=1.5)
        assert np.subtract(turned.gaze, meshed.gaze) == pytest.approx([right, up], abs=1.5)


@pytest.mark.parametrize("name", NAMES)
def test_eyes_that_move_move_the_gaze(mesher, faces, name):
    """Both irises moved by 3 of the crop's 256 px: to the viewer's right the yaw grows, upwards the pitch, and the other hardly changes."""
    image, face = faces[name]
    meshed, irises = mesher.mesh(image, face.points), [LANDMARKS["leftPupil"], LANDMARKS["rightPupil"]]
    right, up = (np.subtract(moved(meshed, irises, by).gaze, meshed.gaze) for by in ((3, 0, 0), (0, -3, 0)))
    assert right[0] > 8
    assert up[1] > 8
    assert max(abs(right[1]), abs(up[0])) < 5


@pytest.mark.parametrize("degrees", [-30, -10, 20, 45])
def test_a_turned_picture_turns_the_roll_alone(mesher, faces, degrees):
    """Roll is positive clockwise; yaw and pitch stay."""
    image, face = faces["obama"]
    centre = face.points[2]
    turn = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), -degrees, 1.0)
    turned = cv2.warpAffine(image, turn, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    points = (face.points @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    upright, tilted = mesher.mesh(image, face.points).pose, mesher.mesh(turned, points).pose
    assert tilted.roll - upright.roll == pytest.approx(degrees, abs=4)
    assert tilted.yaw == pytest.approx(upright.yaw, abs=6)
    assert tilted.pitch == pytest.approx(upright.pitch, abs=6)
    assert measures.pose(points).roll == pytest.approx(tilted.roll, abs=6)


def test_size_does_not_matter(mesher, faces):
    """A face four times as large, and one a third as large, has the same mesh."""
    image, face = faces["biden"]
    plain = mesher.mesh(image, face.points)
    for factor, most in ((4.0, 0.02), (0.34, 0.06)):
        other = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
        found = mesher.mesh(other, face.points * np.float32(factor))
        apart = np.linalg.norm((found.points / factor - plain.points)[:, :2], axis=1)
        assert np.percentile(apart, 95) < most * float(face.box[2])


def test_movements_tell_a_smile_from_none(mesher, faces):
    """The official portrait of 2012 smiles broadly; every movement is a number from 0 to 1, of ARKit's 52."""
    smiles = {}
    for name, (image, face) in faces.items():
        moves = mesher.blendshapes(mesher.mesh(image, face.points))
        assert len(moves) == 52
        assert all(0 <= value <= 1 for value in moves.values())
        smiles[name] = moves["mouthSmileLeft"] + moves["mouthSmileRight"]
        assert max(moves["eyeBlinkLeft"], moves["eyeBlinkRight"]) < 0.5
    assert smiles["obama"] > 1


def test_a_face_at_the_border_has_a_mesh_too(mesher, faces):
    """Half of it lies outside the picture; nothing breaks."""
    image, face = faces["obama"]
    x = int(face.points[2, 0])
    found = mesher.mesh(np.ascontiguousarray(image[:, x:]), (face.points - [x, 0]).astype(np.float32))
    assert np.isfinite(found.points).all()
    assert np.isfinite([*found.gaze, found.pose.yaw, found.pose.pitch, found.pose.roll]).all()


def test_landmarks_that_fall_together_break_nothing(mesher, faces):
    image, _ = faces["obama"]
    for points in (np.zeros((5, 2)), np.full((5, 2), 50.0), np.full((5, 2), -1000.0)):
        assert np.isfinite(mesher.mesh(image, points.astype(np.float32)).points).all()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no archive", b"TFL3"])
def test_a_file_that_is_no_landmarker_is_refused(data):
    with pytest.raises(BadRequest, match="face_landmarker"):
        Mesher(data)
