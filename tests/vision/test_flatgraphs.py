"""TensorFlow Lite graphs run as ONNX graphs give what LiteRT gives; what is damaged is refused."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from aboveboard.errors import BadRequest
from aboveboard.vision import flatgraphs, session


@pytest.fixture(scope="module")
def files(pack_folder):
    folder = pack_folder.folder / "face-attributes"
    with zipfile.ZipFile(folder / "face_landmarker.task") as archive:
        found = {"mesh": archive.read("face_landmarks_detector.tflite"), "blendshapes": archive.read("face_blendshapes.tflite")}
    return {**found, "emotions": (folder / "emotion_model_quantized.tflite").read_bytes()}


@pytest.mark.parametrize(("name", "most", "is_rewritten"), [("mesh", 2e-3, False), ("mesh", 2e-3, True), ("blendshapes", 1e-5, False)])
def test_the_answers_are_those_of_litert(files, name, most, is_rewritten):
    """The mesh in pixels of 256, the blendshapes 0-1."""
    graph = flatgraphs.onnx_graph(files[name])
    if is_rewritten:
        session.rewrite_prelu(graph)
    ours, theirs = session.open_session(graph), Interpreter(model_content=files[name], num_threads=1)
    theirs.allocate_tensors()
    (given,) = theirs.get_input_details()
    for seed in range(3):
        values = np.random.default_rng(seed).random(given["shape"], np.float32) * (1 if "mesh" in name else 256)
        theirs.set_tensor(given["index"], values)
        theirs.invoke()
        for mine, output in zip(ours.run(None, {"input0": values}), theirs.get_output_details(), strict=True):
            assert mine.shape == tuple(output["shape"])
            np.testing.assert_allclose(mine, theirs.get_tensor(output["index"]), atol=most)


def test_weights_of_8_bits_stand_for_their_numbers(files):
    """LiteRT rounds what goes into such layers to 8 bits too, and ours does not."""
    ours, theirs = (
        session.open_session(flatgraphs.onnx_graph(files["emotions"])),
        Interpreter(model_content=files["emotions"]),
    )
    theirs.allocate_tensors()
    values = np.random.default_rng(1).random((1, 64, 64, 1), np.float32) * 2 - 1
    theirs.set_tensor(theirs.get_input_details()[0]["index"], values)
    theirs.invoke()
    found = ours.run(None, {"input0": values})[0]
    assert found.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found, theirs.get_tensor(theirs.get_output_details()[0]["index"]), atol=0.02)


def test_several_images_at_once_give_what_each_gives(files):
    ours = session.open_session(flatgraphs.onnx_graph(files["emotions"]))
    several = np.random.default_rng(2).random((3, 64, 64, 1), np.float32)
    together = ours.run(None, {"input0": several})[0]
    np.testing.assert_allclose(together, np.concatenate([ours.run(None, {"input0": one[None]})[0] for one in several]), atol=1e-5)


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x1c\0\0\0TFL3" + bytes(40)])
def test_what_is_no_graph_is_refused(data):
    with pytest.raises(BadRequest, match="TensorFlow Lite"):
        flatgraphs.onnx_graph(data)


def test_a_damaged_graph_is_refused_or_gives_a_graph(files):
    """Whatever bytes are changed: never anything but a graph or a refusal."""
    good, random = files["blendshapes"], np.random.default_rng(3)
    outcomes = set()
    for _ in range(40):
        damaged = bytearray(good)
        for place in random.integers(8, len(good), 30):
            damaged[place] = random.integers(0, 256)
        try:
            outcomes.add(len(flatgraphs.onnx_graph(bytes(damaged)).graph.node) > 0)
        except BadRequest:
            outcomes.add("refused")
    assert outcomes <= {True, "refused"}
    assert "refused" in outcomes
