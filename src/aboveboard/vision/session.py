"""One onnxruntime session per model file: bytes checked, graph made fast, one thread, no spinning."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from aboveboard.errors import BadRequest, Unavailable

T = TypeVar("T")


def verified_bytes(file: Path, sha256: str, pack: str) -> bytes:
    """The bytes of a model file of a pack; raises Unavailable where it is missing or is not the file that the card names."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise Unavailable(f"the model file {file.name} is missing; run: aboveboard models install {pack}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise Unavailable(f"the model file {file.name} has sha256 {found}, its card says {sha256}; run: aboveboard models install {pack}")
    return data


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A single-threaded CPU session; requests run side by side instead of inside each other."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    data, where = model.SerializeToString(), ["CPUExecutionProvider"]
    return tried(lambda: onnxruntime.InferenceSession(data, options, providers=where), "onnxruntime does not run the model's graph")


def tried(work: Callable[[], T], otherwise: str) -> T:
    """What a net gives when it is made, opened or for a first input; raises BadRequest saying `otherwise`, and why, where it fails."""
    try:
        return work()
    except Exception as error:  # onnxruntime's 15 errors share no base but this; another net's weights raise nearly anything
        raise BadRequest(f"{otherwise}: {error}") from error


def parse(data: bytes) -> onnx.ModelProto:
    """The ONNX graph in `data`, with initialisers taken out of its inputs (older exporters list them there)."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf raises a class of its own for each kind of damage
        raise BadRequest("the model file is not an ONNX graph; name an ONNX file in the card") from error
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def free_dimensions(model: onnx.ModelProto, names: list[str]) -> None:
    """Make the input's height and width variable, and the outputs' shapes unstated."""
    shape = model.graph.input[0].type.tensor_type.shape
    for dimension, name in zip(shape.dim, names, strict=True):
        if name:
            dimension.dim_param = name
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")


def rewrite_prelu(model: onnx.ModelProto) -> None:
    """PReLU(x) = a*x + (1-a)*Relu(x) as Relu, two 1x1 depthwise Conv and Add: onnxruntime's PRelu takes two thirds of SFace's time."""
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type != "PRelu":
            nodes.append(node)
            continue
        source, target = node.input[0], node.output[0]
        slope = numpy_helper.to_array(weights[node.input[1]]).reshape(-1).astype(np.float64)
        parts = {"slope": (source, slope), "rest": (f"{target}_relu", 1 - slope)}
        nodes.append(helper.make_node("Relu", [source], [f"{target}_relu"]))
        for part, (value, weight) in parts.items():
            tensor = weight.astype(np.float32).reshape(-1, 1, 1, 1)
            graph.initializer.append(numpy_helper.from_array(tensor, f"{target}_{part}_w"))
            nodes.append(
                helper.make_node("Conv", [value, f"{target}_{part}_w"], [f"{target}_{part}"], group=slope.size, kernel_shape=[1, 1])
            )
        nodes.append(helper.make_node("Add", [f"{target}_slope", f"{target}_rest"], [target]))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def drop_denormals(model: onnx.ModelProto) -> None:
    """Weights too small to change a sum in float32 become 0: a processor takes many times longer to multiply by subnormal numbers."""
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(weight)
            weight.CopyFrom(numpy_helper.from_array(np.where(np.abs(array) < 1e-30, np.float32(0), array), weight.name))
