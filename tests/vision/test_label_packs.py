"""A label pack of one's own: a classifier and a box detector through a card alone; what does not fit together is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from aboveboard.errors import BadRequest, Unavailable
from aboveboard.vision import conversion
from aboveboard.vision.packs import PackFolder

TAXONOMY = (
    "class\tkey\tlabel\tparents\tcategory\taliases\n\t\tColor\t\tX\t\n0\t\tRed\tColor\tX\t\n1\t\tBlue\tColor\tX\t\n\t\tBall\t\tToys\t\n"
)


def model(nodes: list, weights: dict[str, np.ndarray], size: int, output: list[int]) -> bytes:
    given = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])]
    told = [helper.make_tensor_value_info("out", TensorProto.FLOAT, output)]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "own", given, told, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


@pytest.fixture
def own_pack(tmp_path: Path) -> Path:
    """Which of red and blue there is more of; and two boxes, one of them twice, whatever the picture."""
    folder = tmp_path / "own"
    folder.mkdir()
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]), helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["out"]),
    ]  # fmt: skip
    classifier = model(nodes, {"weights": np.array([[9, 0], [0, 0], [0, 9]], np.float32)}, 32, [1, 2])
    rows = np.array([[[32, 16, 16, 8, 0.9], [33, 16, 16, 8, 0.8], [8, 8, 4, 4, 0.7], [50, 8, 4, 4, 0.1]]], np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0), helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["rows", "zero"], ["out"]),
    ]  # fmt: skip
    boxes = model(nodes, {"rows": rows, "nothing": np.array(0, np.float32)}, 64, [1, 4, 5])
    (folder / "own.onnx").write_bytes(classifier)
    (folder / "boxes.onnx").write_bytes(boxes)
    (folder / "own.tsv").write_text(TAXONOMY)
    (folder / "card.toml").write_text(
        f"""
id = "own"
name = "Made up"
model_version = "900.1"
licence = "none"
training_data = "none"
limits = []

[labeller]
architecture = "classifier"
taxonomy = "own.tsv"
file = "own.onnx"
sha256 = "{hashlib.sha256(classifier).hexdigest()}"
size = 32
deviation = [255, 255, 255]

[boxes]
architecture = "boxes"
labels = ["Ball"]
file = "boxes.onnx"
sha256 = "{hashlib.sha256(boxes).hexdigest()}"
size = 64
"""
    )
    return folder


def test_a_classifier_and_a_box_detector_work_through_their_card(own_pack, tmp_path):
    packs = PackFolder(tmp_path / "models")
    assert packs.install_from(own_pack).id == "own"
    loaded = packs.load_labels("own")
    red = np.zeros((100, 200, 3), np.uint8)
    red[:, :, 2] = 255
    probabilities = loaded.labeller.probabilities(red)
    assert probabilities[0] == pytest.approx(np.exp(9) / (np.exp(9) + 1))
    assert {entry.name for entry in loaded.taxonomy.entries if entry.confidence(probabilities) >= 99} == {"Color", "Red"}
    assert loaded.boxes is not None
    first, second = loaded.boxes.detect(red)  # 200 px wide stand in 64: 3.125 px of the picture are one of the input's
    assert (first.label, first.score) == ("Ball", pytest.approx(0.9))
    assert first.box == pytest.approx((75, 37.5, 50, 25))
    assert second.box == pytest.approx((18.75, 18.75, 12.5, 12.5))


def test_what_does_not_fit_together_is_refused(own_pack, tmp_path):
    card = (own_pack / "card.toml").read_text()

    def broken(old: str, new: str) -> str:
        (own_pack / "card.toml").write_text(card.replace(old, new))
        packs = PackFolder(tmp_path / "models")
        with pytest.raises((BadRequest, Unavailable)) as caught:
            packs.load_labels(packs.install_from(own_pack).id)
        return str(caught.value)

    assert "the taxonomy has no label Cube" in broken('["Ball"]', '["Ball", "Cube"]')
    assert "its card says" in broken('["Ball"]', '["Ball", "Red"]')
    assert "1000" in broken('"own.tsv"', '"imagenet.tsv"')
    assert "crop must be above 0" in broken("size = 32", "size = 32\ncrop = 0")
    assert "deviation must be above 0" in broken("[255, 255, 255]", "[255, 0, 255]")
    assert "no checkpoint of weights" in broken('"classifier"', '"efficientnet-lite0"')
    assert "different names" in broken('file = "own.onnx"', 'file = "boxes.onnx"')
    assert "sha256" in broken('sha256 = "', 'sha256 = "0')
    (own_pack / "own.tsv").write_text(TAXONOMY.replace("Blue\tColor", "Blue\t"))
    assert "'Blue' has no parent" in broken("", "")


@pytest.mark.parametrize("fault", ["another network", "another form", "no numbers"])
def test_a_checkpoint_of_other_weights_is_refused(own_pack, tmp_path, pack_folder, monkeypatch, fault):
    """Names, forms and numbers that an EfficientNet-Lite0 has not; in integers a NaN would become a number like any other."""
    shipped = pack_folder.label_card("efficientnet-lite0")
    weights = dict(conversion.read_checkpoint((pack_folder.folder / shipped.id / shipped.labeller.file).read_bytes()))
    stem = weights.pop("_conv_stem.weight")
    weights |= {
        "another network": {},
        "another form": {"_conv_stem.weight": stem.reshape(-1)},
        "no numbers": {"_conv_stem.weight": stem * np.nan},
    }[fault]
    monkeypatch.setattr(conversion, "read_checkpoint", lambda _: weights)
    (own_pack / "card.toml").write_text((own_pack / "card.toml").read_text().replace('"classifier"', '"efficientnet-lite0"'))
    packs = PackFolder(tmp_path / "models")
    packs.install_from(own_pack)
    with pytest.raises(BadRequest, match=r"own\.onnx are not those of an EfficientNet-Lite0"):
        packs.load_labels("own")


def test_a_face_pack_is_no_label_pack(tmp_path):
    packs = PackFolder(tmp_path)
    with pytest.raises(BadRequest, match="is a face pack"):
        packs.load_labels("yunet-sface")
    with pytest.raises(BadRequest, match="is a label pack"):
        packs.load("efficientnet-lite0")
