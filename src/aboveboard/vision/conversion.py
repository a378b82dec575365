"""EfficientNet-Lite out of a PyTorch checkpoint into an ONNX graph, without torch and without running anything that the file says."""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from aboveboard.errors import BadRequest
from aboveboard.vision.eightbit import Spread

Weights = Mapping[str, NDArray[Any]]

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_KINDS: Final = {"torch FloatStorage": "<f4", "torch LongStorage": "<i8"}
_TENSOR: Final = "torch._utils _rebuild_tensor_v2"
_NAMES: Final = frozenset({*_KINDS, _TENSOR, "collections OrderedDict"})
_BLOCKS: Final = ((1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80), (3, 5, 1, 6, 80, 112),
                  (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320))  # fmt: skip
"""Repeats, kernel, stride, expansion, channels in and out: EfficientNet-B0's (Tan and Le 2019, table 1)."""
_EPSILON: Final = 1e-3


@dataclass(frozen=True)
class _Stored:
    """A tensor as a checkpoint describes it: where its numbers lie and how they are laid out."""

    key: str
    kind: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _described(stream: io.BytesIO) -> Any:
    """The next pickle in `stream`, as data: what torch writes for weights is put together, and every other instruction is refused.

    Python's own reader of pickles would call whatever the file names.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def above_mark() -> list[Any]:
        start = marks.pop()
        found = stack[start:]
        del stack[start:]
        return found

    for code, value, _ in pickletools.genops(stream):
        match code.name:
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
                stack.append(value)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[code.name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[code.name]())
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(above_mark()))
            case "TUPLE1" | "TUPLE2":
                count = int(code.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                found = above_mark()
                stack[-1].extend(found)
            case "SETITEM" | "SETITEMS":
                found = above_mark() if code.name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
                stack[-1].update(zip(found[::2], found[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "GLOBAL":
                if value not in _NAMES:
                    raise ValueError(f"it names {value}, which a checkpoint of weights has no need of")
                stack.append(value)
            case "BINPERSID":
                _, kind, key, *_ = stack.pop()
                stack.append((key, _KINDS[kind]))
            case "REDUCE":
                arguments, name = stack.pop(), stack.pop()
                stack.append(_Stored(*arguments[0], *arguments[1:4]) if name == _TENSOR else {})
            case "BUILD":
                stack.pop()  # an attribute of the table of tensors: of which version they are
            case "PROTO" | "STOP":
                pass
            case other:
                raise ValueError(f"it has the instruction {other}, which a checkpoint of weights has no need of")
    return stack.pop()


def read_checkpoint(data: bytes) -> Weights:
    """The arrays of a PyTorch checkpoint of the format before 1.6 (five pickles, then each storage's count and numbers), by name.

    Raises BadRequest for anything else.
    """
    stream = io.BytesIO(data)
    try:
        if _described(stream) != _MAGIC:
            raise ValueError("it does not begin as one")
        _, _, described, keys = (_described(stream) for _ in range(4))
        kinds = {stored.key: stored.kind for stored in described.values()}
        storages = {}
        for key in keys:
            count = int.from_bytes(stream.read(8), "little")
            kind = np.dtype(kinds[key])
            storages[key] = np.frombuffer(stream.read(count * kind.itemsize), kind, count)
        return {name: _array(storages[stored.key], stored) for name, stored in described.items()}
    except Exception as error:  # what is damaged raises nearly anything
        raise BadRequest(f"the model file is no checkpoint of weights as PyTorch wrote them before 1.6: {error}") from error


def _array(storage: NDArray[Any], stored: _Stored) -> NDArray[Any]:
    """Strides are honoured: these checkpoints hold their kernels in TensorFlow's order of axes."""
    last = stored.offset + sum((size - 1) * stride for size, stride in zip(stored.shape, stored.strides, strict=True))
    if not (0 <= stored.offset <= last < storage.size and min(stored.strides, default=0) >= 0):
        raise ValueError("a tensor lies outside its storage")
    steps = [stride * storage.itemsize for stride in stored.strides]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(storage[stored.offset :], stored.shape, steps))


def efficientnet_lite0(weights: Weights, size: int) -> tuple[onnx.ModelProto, dict[str, Spread]]:
    """The network as an ONNX graph: (N, 3, size, size) float32 to logits (N, 1000); and how far each convolution's output spreads.

    Raises ValueError, KeyError or IndexError for weights of another network or such as are no numbers.

    Batch normalisation is folded into the convolutions. What it makes of a convolution's output has, over the photographs that the network
    was trained on, its own bias for a mean and its own weight for a standard deviation.
    """
    nodes: list[Any] = []
    spreads: dict[str, Spread] = {}
    constants: list[Any] = []
    last, side = "image", size

    def constant(name: str, array: NDArray[Any]) -> str:
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")  # in integers it would become a number like any other
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def convolve(kernel: str, norm: str, stride: int, *, is_last: bool = False) -> None:
        """Convolution and its normalisation, then ReLU6 unless it is a block's last."""
        nonlocal last, side
        kernels = weights[f"{kernel}.weight"].astype(np.float64)
        scale = weights[f"{norm}.weight"].astype(np.float64) / np.sqrt(weights[f"{norm}.running_var"].astype(np.float64) + _EPSILON)
        bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        width = kernels.shape[2]
        # TensorFlow's SAME: what is odd is added below and to the right.
        lacking = max((math.ceil(side / stride) - 1) * stride + width - side, 0)
        pads = [lacking // 2, lacking // 2, lacking - lacking // 2, lacking - lacking // 2]
        inputs = [last, constant(f"{kernel}.w", kernels * scale[:, None, None, None]), constant(f"{kernel}.b", bias)]
        group = kernels.shape[0] if "depthwise" in kernel else 1
        shape = {"kernel_shape": [width, width], "strides": [stride, stride], "pads": pads, "group": group}
        nodes.append(helper.make_node("Conv", inputs, [kernel], **shape))
        spreads[kernel] = Spread(weights[f"{norm}.bias"].astype(np.float64), np.abs(weights[f"{norm}.weight"].astype(np.float64)))
        last, side = kernel, math.ceil(side / stride)
        if not is_last:
            nodes.append(helper.make_node("Clip", [last, "zero", "six"], [f"{kernel}.relu6"]))
            last = f"{kernel}.relu6"

    constant("zero", np.array(0)), constant("six", np.array(6))
    convolve("_conv_stem", "_bn0", 2)
    number = 0
    for repeats, _, stride, expansion, _, _ in _BLOCKS:
        for repeat in range(repeats):
            block, before = f"_blocks.{number}", last
            if expansion > 1:
                convolve(f"{block}._expand_conv", f"{block}._bn0", 1)
            convolve(f"{block}._depthwise_conv", f"{block}._bn1", stride if repeat == 0 else 1)
            convolve(f"{block}._project_conv", f"{block}._bn2", 1, is_last=True)
            if repeat:
                nodes.append(helper.make_node("Add", [before, last], [block]))
                last = block
            number += 1
    convolve("_conv_head", "_bn1", 1)
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["features"]))
    inputs = ["features", constant("classes.w", weights["_fc.weight"]), constant("classes.b", weights["_fc.bias"])]
    nodes.append(helper.make_node("Gemm", inputs, ["logits"], transB=1))
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["images", 3, size, size])
    answered = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["images", len(weights["_fc.bias"])])
    graph = helper.make_graph(nodes, "efficientnet-lite0", [given], [answered], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), spreads
