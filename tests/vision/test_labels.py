"""The real label pack: the network is the one in the file, the labels are right often enough, people are people."""

from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aboveboard.errors import BadRequest
from aboveboard.vision import conversion, eightbit, media, session
from aboveboard.vision.packs import LabelModels, PackFolder

BLOCKS = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]
"""Repeats, kernel, stride, expansion, channels: the table of the paper (Tan and Le 2019)."""


@pytest.fixture(scope="module")
def labels(pack_folder: PackFolder) -> LabelModels:
    return pack_folder.load_labels("efficientnet-lite0")


def unfolded(weights: conversion.Weights) -> bytes:
    """The network layer by layer as the paper has it, with onnx's own SAME padding and batch normalisation."""
    nodes, constants, at = [], [], "image"

    def add(kind: str, inputs: list[str], **how: object) -> str:
        name = f"{kind}{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], **how))
        return name

    def constant(name: str) -> str:
        constants.append(numpy_helper.from_array(weights[name], name))
        return name

    def layer(at: str, kernel: str, norm: str, stride: int = 1, active: bool = True) -> str:
        group = len(weights[f"{kernel}.weight"]) if "depthwise" in kernel else 1
        at = add("Conv", [at, constant(f"{kernel}.weight")], strides=[stride] * 2, group=group, auto_pad="SAME_UPPER")
        parts = ("weight", "bias", "running_mean", "running_var")
        at = add("BatchNormalization", [at, *(constant(f"{norm}.{part}") for part in parts)], epsilon=1e-3)
        return add("Clip", [at, "low", "high"]) if active else at

    constants += [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("low", 0), ("high", 6))]
    at = layer(at, "_conv_stem", "_bn0", 2)
    block = 0
    for repeats, kernel, stride, expansion, _ in BLOCKS:
        for repeat in range(repeats):
            name, before = f"_blocks.{block}", at
            at = layer(at, f"{name}._expand_conv", f"{name}._bn0") if expansion > 1 else at
            assert weights[f"{name}._depthwise_conv.weight"].shape[2:] == (kernel, kernel)
            at = layer(at, f"{name}._depthwise_conv", f"{name}._bn1", stride if repeat == 0 else 1)
            at = layer(at, f"{name}._project_conv", f"{name}._bn2", active=False)
            at = add("Add", [at, before]) if repeat else at
            block += 1
    at = add("Flatten", [add("GlobalAveragePool", [layer(at, "_conv_head", "_bn1")])])
    nodes.append(helper.make_node("Gemm", [at, constant("_fc.weight"), constant("_fc.bias")], ["logits"], transB=1))
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 224, 224])
    told = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1000])
    graph = helper.make_graph(nodes, "reference", [given], [told], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def weights(pack_folder: PackFolder) -> conversion.Weights:
    card = pack_folder.label_card("efficientnet-lite0")
    return conversion.read_checkpoint((pack_folder.folder / card.id / card.labeller.file).read_bytes())


@pytest.fixture(scope="module")
def reference(weights) -> onnxruntime.InferenceSession:
    """The network in 32-bit floats, layer by layer and not optimised."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(unfolded(weights), options, providers=["CPUExecutionProvider"])


def logits(session: onnxruntime.InferenceSession, given: np.ndarray) -> np.ndarray:
    return np.asarray(session.run(None, {"image": given})[0])


def test_the_converted_network_is_the_one_in_the_file(labels, weights, reference, photographs):
    """Logits within 1e-3 of those of the same weights, on every photograph."""
    graph, _ = conversion.efficientnet_lite0(weights, 224)
    converted = session.open_session(graph)
    inputs = [labels.labeller.prepared(image) for image in photographs.values()]
    assert len(inputs) == 6
    assert max(float(np.abs(logits(reference, given) - logits(converted, given)).max()) for given in inputs) < 1e-3


def test_in_integers_it_says_what_it_says_in_floats(labels, weights, reference, photographs):
    """Logits hang together by 0.97 and more, those of noise and of one colour too; and a photograph alone gives what all at once do."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    images = [*photographs.values(), noise, np.full((300, 300, 3), 200, np.uint8)]
    given = np.concatenate([labels.labeller.prepared(image) for image in images])
    ours = logits(labels.labeller.session, given)
    theirs = np.concatenate([logits(reference, one[None]) for one in given])
    assert min(float(np.corrcoef(one, other)[0, 1]) for one, other in zip(theirs, ours, strict=True)) > 0.97
    assert np.allclose(ours, np.concatenate([logits(labels.labeller.session, one[None]) for one in given]), atol=1e-4)


def test_integers_cannot_overflow_on_any_processor(weights):
    """A processor without VNNI adds two products of 8 bits, of neighbouring channels, in 16: 255 times the weights' sum must fit."""
    graph = eightbit.rewritten(*conversion.efficientnet_lite0(weights, 224), -2.12, 2.64)
    whole = [numpy_helper.to_array(one).astype(int) for one in graph.graph.initializer if one.name.endswith(".whole")]
    assert len(whole) == 49
    pairs = [np.abs(one[:, ::2]) + np.abs(one[:, 1::2]) for one in whole if one.shape[1] > 1]
    assert len(pairs) == 33
    assert max(255 * int(one.max()) for one in pairs) < 2**15


def test_a_block_that_was_never_trained_is_taken_over(labels, weights, photographs):
    """Its last normalisation gives 0 whatever comes, as training begins with it: then the block passes on what it was given."""
    untrained = {name: value * (not name.startswith("_blocks.2._bn2.") or "running" in name) for name, value in weights.items()}
    graph, spreads = conversion.efficientnet_lite0(untrained, 224)
    given = labels.labeller.prepared(photographs["obama"])
    integers = logits(session.open_session(eightbit.rewritten(graph, spreads, -2.12, 2.64)), given)[0]
    assert np.corrcoef(integers, logits(session.open_session(graph), given)[0])[0, 1] > 0.9


def test_a_checkpoint_can_call_nothing(tmp_path):
    """A pickle may name any function; this reader knows four names, and calls none of them."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    heads = b"".join(pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {}))
    for data in (pickle.dumps(Evil(), 2), heads + pickle.dumps(Evil(), 2), heads + pickle.dumps(Evil())):
        with pytest.raises(BadRequest, match="which a checkpoint of weights has no need of"):
            conversion.read_checkpoint(data)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x02", pickle.dumps(7), b"\xff" * 100])
def test_what_is_no_checkpoint_is_refused(data):
    with pytest.raises(BadRequest, match="no checkpoint of weights"):
        conversion.read_checkpoint(data)


def test_a_cut_checkpoint_is_refused_and_strides_are_honoured(monkeypatch):
    """A made-up one: a matrix that lies in its storage column by column."""
    data = checkpoint(np.arange(6, dtype=np.float32), 0, (2, 3), (1, 2))
    assert conversion.read_checkpoint(data)["w"].tolist() == [[0, 2, 4], [1, 3, 5]]
    for broken in (
        data[:-4],
        checkpoint(np.arange(6, dtype=np.float32), 4, (2, 3), (1, 2)),
        checkpoint(np.arange(6.0), 0, (2, 3), (-1, 2)),
    ):
        with pytest.raises(BadRequest, match="no checkpoint of weights"):
            conversion.read_checkpoint(broken)


def checkpoint(numbers: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """A checkpoint of one tensor, `w`, written opcode by opcode as torch did before 1.6."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def numbered(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("7") + text("cpu") + b"J" + struct.pack("<i", 6) + b"NtQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"J" + struct.pack("<i", offset) + numbered(shape) + numbered(strides)
    described = b"\x80\x02}" + text("w") + call + b"\x89}tRs."
    heads = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {})]
    out = io.BytesIO()
    out.write(b"".join([*heads, described, pickle.dumps(["7"], 2)]))
    out.write(struct.pack("<q", 6) + numbers.astype("<f4").tobytes())
    return out.getvalue()


def said(labels: LabelModels, image: media.Image, least: float = 55) -> set[str]:
    probabilities = labels.labeller.probabilities(image)
    return {entry.name for entry in labels.taxonomy.entries if entry.confidence(probabilities) >= least}


def test_labels_of_the_demos_photographs(labels, photographs):
    """Men in suits wear suits; nobody is an animal, a vehicle or food."""
    for name in ("obama", "obama3", "biden"):
        assert {"Suit", "Clothing"} <= said(labels, photographs[name])
    for name, image in photographs.items():
        assert not said(labels, image) & {"Animal", "Vehicle", "Food", "Building"}, name


@pytest.fixture(scope="module")
def seen(labels, measuring: Path) -> dict[str, np.ndarray]:
    """Of each photograph of objects-a, by its synset, the probabilities."""
    files = sorted((measuring / "objects-a").iterdir())
    return {file.name.partition("_")[0]: labels.labeller.probabilities(media.decode(file.read_bytes(), 10**8)) for file in files}


def test_accuracy_on_objects(labels, seen):
    """Of 150 photographs, one of a class: top-5 at least 85 %, top-1 at least 75 %; chair, dog, cat and pizza among what is said."""
    ranks = np.array([(found > found[labels.taxonomy.keys[key]]).sum() for key, found in seen.items()])
    assert len(ranks) == 150
    assert np.mean(ranks < 5) >= 0.85
    assert np.mean(ranks < 1) >= 0.75
    for key, names in {
        "n03376595": {"Folding Chair", "Chair", "Furniture"},
        "n02123045": {"Cat", "Pet", "Animal"},
        "n02099601": {"Dog", "Canine", "Mammal", "Pet", "Animal"},
        "n07873807": {"Pizza", "Food"},
    }.items():
        assert names <= {entry.name for entry in labels.taxonomy.entries if entry.confidence(seen[key]) >= 80}, key


def test_precision_at_80_on_objects(labels, seen):
    """Of the labels said at 80 or more at least 93 % are the photograph's own class or lie above it."""
    sure = [(key, entry) for key, found in seen.items() for entry in labels.taxonomy.entries if entry.confidence(found) >= 80]
    assert len(sure) >= 400
    assert np.mean([labels.taxonomy.keys[key] in entry.classes for key, entry in sure]) >= 0.93
