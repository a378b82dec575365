"""A network of convolutions in 8-bit integers, made out of its own weights alone: the same file always gives the same network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[np.float64]
SPREAD: Final = 6.0
"""Outputs are held from their mean less so many standard deviations to their mean plus as many (Nagel et al. 2019, section 5)."""
_WEIGHT, _PAIR = 127, 127.5
"""The largest weight, and the most that two of neighbouring channels come to, before they are rounded: processors without VNNI's
instructions add such products in 16 bits, and 255 x 128 is what these hold. Depthwise convolutions add nothing in pairs."""


@dataclass(frozen=True)
class Spread:
    """The mean and the standard deviation of each channel of a tensor, over what the network was trained on: (channels,) float64."""

    mean: Array
    deviation: Array

    def plus(self, other: Spread) -> Spread:
        """Of the sum of two tensors, taken as independent."""
        return Spread(self.mean + other.mean, np.hypot(self.deviation, other.deviation))

    def relu6(self) -> Array:
        """The mean of min(max(x, 0), 6) where x is normal."""

        def above(bound: float) -> Array:
            """The mean of max(x - bound, 0)."""
            far, width = self.mean - bound, np.maximum(self.deviation, 1e-9)
            below = np.array([math.erfc(-one) / 2 for one in far / width / math.sqrt(2)])
            return np.asarray(far * below + width * np.exp(-((far / width) ** 2) / 2) / math.sqrt(2 * math.pi))

        return above(0) - above(6)


class _Rewriting:
    """The new graph, as far as it is written. Of each tensor: how much a step is, its spread, and its channels' means."""

    def __init__(self, model: onnx.ModelProto, spreads: Mapping[str, Spread]) -> None:
        self.floats = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
        self.clipped = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Clip"}
        self.spreads = dict(spreads)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.steps: dict[str, float] = {}
        self.means: dict[str, Array] = {}

    def constant(self, name: str, value: object, kind: type[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(np.array(value, kind, order="C"), name))
        return name

    def add(self, kind: str, inputs: list[str], output: str, **how: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], **how))

    def hold(self, tensor: str, low: float, high: float) -> list[str]:
        """`tensor` is held in 0 to 255, from low to high, 0 exactly; returns the names of its step and of what stands for 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        self.steps[tensor] = max(high - low, 1e-6) / 255  # a block that was never trained gives nothing but 0
        self.constant(f"{tensor}.step", self.steps[tensor], np.float32)
        self.constant(f"{tensor}.zero", round(-low / self.steps[tensor]), np.uint8)
        return [f"{tensor}.step", f"{tensor}.zero"]

    def held(self, tensor: str) -> list[str]:
        return [tensor, f"{tensor}.step", f"{tensor}.zero"]

    def bounds(self, tensor: str) -> tuple[float, float]:
        """What all but nothing of any channel lies outside of."""
        spread = self.spreads[tensor]
        reach = SPREAD * spread.deviation
        return float((spread.mean - reach).min()), float((spread.mean + reach).max())

    def convolve(self, node: Any, source: str) -> str:
        """A convolution of `source`, clipped where the next node clips it. What rounding its weights adds on average its bias lacks."""
        kernel = str(node.output[0])
        output = str(self.clipped.get(kernel, kernel))
        weights, bias = (self.floats[name].astype(np.float64) for name in node.input[1:])
        # A channel of all but no weights has a bias all the same, which must fit 32 bits.
        steps = np.maximum(_steps(weights), np.maximum(np.abs(bias) / self.steps[source] / 2**30, 1e-12))
        whole = np.round(weights / steps[:, None, None, None])
        errors = (whole * steps[:, None, None, None] - weights).sum(axis=(2, 3))
        if source in self.means:
            bias = bias - (errors[:, 0] * self.means[source] if errors.shape[1] == 1 else errors @ self.means[source])
        given = self.held(source)
        if lacking := -whole.shape[1] % 4 if whole.shape[1] > 1 else 0:
            # ONNX Runtime gathers what a kernel covers pixel by pixel: 4 bytes take it half the time of 3.
            whole = np.pad(whole, ((0, 0), (0, lacking), (0, 0), (0, 0)))
            pads = self.constant(f"{source}.pads", [0, 0, 0, 0, 0, lacking, 0, 0], np.int64)
            self.add("Pad", [source, pads, f"{source}.zero"], f"{source}.padded")
            given[0] = f"{source}.padded"
        made = [
            self.constant(f"{kernel}.whole", whole, np.int8),
            self.constant(f"{kernel}.steps", steps, np.float32),
            self.constant(f"{kernel}.zeros", np.zeros(len(whole)), np.int8),
        ]
        added = self.constant(f"{kernel}.bias", np.round(bias / (steps * self.steps[source])), np.int32)
        held = self.hold(output, *((0, 6) if kernel in self.clipped else self.bounds(kernel)))
        how = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        self.add("QLinearConv", [*given, *made, *held, added], output, **how)
        self.spreads[output] = self.spreads[kernel]
        self.means[output] = self.spreads[kernel].relu6() if kernel in self.clipped else self.spreads[kernel].mean
        return output

    def sum(self, node: Any) -> str:
        (first, second), output = node.input, str(node.output[0])
        self.spreads[output] = self.spreads[first].plus(self.spreads[second])
        self.means[output] = self.spreads[output].mean
        held = self.hold(output, *self.bounds(output))
        self.add("QLinearAdd", [*self.held(first), *self.held(second), *held], output, domain="com.microsoft")
        return output


def _steps(weights: Array) -> Array:
    """The steps in which the weights of each output channel are held."""
    sizes = np.abs(weights)
    steps = sizes.max(axis=(1, 2, 3)) / _WEIGHT
    if sizes.shape[1] > 1:
        sizes = np.pad(sizes, ((0, 0), (0, sizes.shape[1] % 2), (0, 0), (0, 0)))
        steps = np.maximum(steps, (sizes[:, ::2] + sizes[:, 1::2]).max(axis=(1, 2, 3)) / _PAIR)
    return np.asarray(steps)


def rewritten(model: onnx.ModelProto, spreads: Mapping[str, Spread], low: float, high: float) -> onnx.ModelProto:
    """A graph that begins with Conv, Clip to 0-6 and Add, in 8-bit integers as far as these go. Its input lies between `low` and `high`.

    `spreads` has that of each Conv's output. Weights are rounded to some 7.5 bits, channel by channel, tensors to 8; a Clip costs
    nothing, because its tensor holds 0 to 6. The mean error of rounding is taken off the biases (Nagel et al., "Data-Free Quantization
    Through Weight Equalization and Bias Correction", 2019, section 4.2).
    """
    out, image = _Rewriting(model, spreads), model.graph.input[0].name
    last = f"{image}.held"
    out.add("QuantizeLinear", [image, *out.hold(last, low, high)], last)
    nodes = list(model.graph.node)
    while nodes[0].op_type in ("Conv", "Clip", "Add"):
        node = nodes.pop(0)
        match node.op_type:
            case "Conv":
                last = out.convolve(node, last if node.input[0] == image else node.input[0])
            case "Add":
                last = out.sum(node)
    out.add("DequantizeLinear", out.held(last), f"{last}.float")
    head = onnx.NodeProto.FromString(nodes.pop(0).SerializeToString())
    head.input[0] = f"{last}.float"
    out.nodes += [head, *nodes]
    kept = [weight for weight in model.graph.initializer if any(weight.name in node.input for node in nodes)]
    graph = helper.make_graph(out.nodes, model.graph.name, model.graph.input, model.graph.output, [*out.constants, *kept])
    opsets = [*model.opset_import, helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
