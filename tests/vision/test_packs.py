"""Model packs: a card is all that a model needs; files are what their card says, or nothing loads."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aboveboard.errors import BadRequest, NoSuch, Unavailable
from aboveboard.vision.packs import PackFolder

DIMENSIONS = 512


@pytest.fixture
def own_pack(tmp_path: Path, pack_folder: PackFolder) -> Path:
    """A folder with a card, YuNet, and a made-up recogniser: [1,3,112,112] BGR in -1..1, a random projection to 512 features."""
    folder = tmp_path / "own"
    folder.mkdir()
    rng = np.random.default_rng(3)
    weights = numpy_helper.from_array(rng.normal(size=(DIMENSIONS, 3 * 14 * 14)).astype(np.float32), "weights")
    nodes = [
        helper.make_node("AveragePool", ["pixels"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights"], ["features"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 112, 112])]
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, DIMENSIONS])]
    graph = helper.make_graph(nodes, "own", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    (folder / "own.onnx").write_bytes(model)
    card = pack_folder.card("yunet-sface")
    shutil.copy(pack_folder.folder / card.id / card.detector.file, folder)
    (folder / "card.toml").write_text(
        f"""
id = "own"
name = "A made-up pack"
model_version = "900.1"
licence = "none"
training_data = "none"
limits = []

[detector]
architecture = "yunet"
file = "{card.detector.file}"
sha256 = "{card.detector.sha256}"

[recogniser]
architecture = "embedding"
file = "own.onnx"
sha256 = "{hashlib.sha256(model).hexdigest()}"
dimensions = {DIMENSIONS}
size = 112
colour = "BGR"
mean = 127.5
scale = 0.00784313725
"""
    )
    return folder


def test_a_pack_of_ones_own_works_through_its_card_alone(own_pack: Path, tmp_path: Path, photographs):
    """Installed from a folder, it loads and makes unit templates of 512 features; without a calibration it has none."""
    packs = PackFolder(tmp_path / "models")
    assert packs.install_from(own_pack).id == "own"
    assert "own" in packs.ids()
    models = packs.load("own")
    image = photographs["obama"]
    features = models.recogniser.features(image, models.detector.detect(image)[0].points)
    assert features.shape == (DIMENSIONS,)
    assert np.linalg.norm(features) == pytest.approx(1, abs=1e-6)
    assert models.calibration is None


def test_a_calibration_beside_the_card_is_used_if_it_is_of_the_same_version(own_pack: Path, tmp_path: Path):
    """A calibration of another model version is refused, one of this version is answered with."""
    document = {
        "id": "own-1",
        "model_version": "900.0",
        "curve": [{"score": 0.0, "fmr": 0.5}, {"score": 0.9, "fmr": 1e-12}],
        "misses": [{"score": 0.1, "fnmr": 0.0}],
        "measured_limit": 1e-5,
    }
    card = own_pack / "card.toml"
    card.write_text('calibration = "own.json"\n' + card.read_text())
    packs = PackFolder(tmp_path / "models")
    (own_pack / "own.json").write_text(json.dumps(document))
    with pytest.raises(BadRequest, match=r"900\.0"):
        packs.install_from(own_pack)
    (own_pack / "own.json").write_text(json.dumps({**document, "model_version": "900.1"}))
    packs.install_from(own_pack)
    calibration = packs.load("own").calibration
    assert calibration is not None
    assert calibration.id == "own-1"


def test_a_file_that_is_not_the_cards_does_not_load(own_pack: Path, tmp_path: Path):
    """One changed byte: install refuses it; after installation, verify and load name the file."""
    packs = PackFolder(tmp_path / "models")
    packs.install_from(own_pack)
    model = packs.folder / "own" / "own.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    for attempt in (packs.verify, packs.load):
        with pytest.raises(Unavailable, match=r"own\.onnx.*sha256"):
            attempt("own")
    (own_pack / "own.onnx").write_bytes(data)
    with pytest.raises(Unavailable, match="sha256"):
        packs.install_from(own_pack)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("colour = 'GBR'", "colour"),
        ("wings = 2", "unknown key 'wings'"),
        ("file = '../own.onnx'", "without a folder"),
        ("dimensions =", "not TOML"),
    ],
)
def test_a_card_that_is_wrong_says_what_is_wrong(own_pack: Path, tmp_path: Path, line: str, fault: str):
    """Cards are read strictly."""
    card = own_pack / "card.toml"
    key = line.split(" ")[0]
    kept = [row for row in card.read_text().splitlines() if not row.startswith(key) or "yunet" in row]
    head, _, tail = "\n".join(kept).partition("[recogniser]")
    card.write_text(f"{head}[recogniser]\n{line}\n{tail}")
    with pytest.raises(BadRequest, match=fault):
        PackFolder(tmp_path / "models").install_from(own_pack)


def test_a_model_version_is_digits_and_dots(own_pack: Path, tmp_path: Path):
    """The API's FaceModelVersion must be numeric, so the card's is."""
    card = own_pack / "card.toml"
    card.write_text(card.read_text().replace('"900.1"', '"sface-1"'))
    with pytest.raises(BadRequest, match="digits and dots"):
        PackFolder(tmp_path / "models").install_from(own_pack)


def test_an_unknown_pack_is_named(tmp_path: Path):
    """The message lists the packs that there are."""
    with pytest.raises(NoSuch, match="yunet-sface"):
        PackFolder(tmp_path).card("nothing")


def test_the_faster_graph_is_the_same_function(pack_folder: PackFolder):
    """Relu and two depthwise convolutions give what the shipped PReLU graph gives."""
    import onnxruntime

    from aboveboard.vision import session

    card = pack_folder.card("yunet-sface")
    data = (pack_folder.folder / card.id / card.recogniser.file).read_bytes()
    rewritten = session.parse(data)
    session.rewrite_prelu(rewritten)
    assert "PRelu" not in {node.op_type for node in rewritten.graph.node}
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    plain = onnxruntime.InferenceSession(onnx.load_model_from_string(data).SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 255, (1, 3, 112, 112)).astype(np.float32)
    expected = plain.run(None, {plain.get_inputs()[0].name: pixels})[0]
    np.testing.assert_allclose(session.open_session(rewritten).run(None, {"data": pixels})[0], expected, atol=2e-5)
