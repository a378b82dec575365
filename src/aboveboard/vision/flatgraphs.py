"""TensorFlow Lite graphs as ONNX graphs, so that onnxruntime is the only thing that runs models."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
import tflite
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from aboveboard.errors import BadRequest

Array = NDArray[Any]

_KINDS: Final = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 9: np.int8}
_UNARY: Final = {"LOGISTIC": "Sigmoid", "SQRT": "Sqrt", "NEG": "Neg"}
_BINARY: Final = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div"}
_REDUCE: Final = {"MEAN": "ReduceMean", "SUM": "ReduceSum"}
_ACTIVATIONS: Final = {0: "", 1: "Relu", 3: "Clip"}
_TO_PLANES, _TO_PIXELS = (0, 3, 1, 2), (0, 2, 3, 1)


def onnx_graph(data: bytes) -> onnx.ModelProto:
    """The first graph of a .tflite file, for any number of images: inputs and outputs by number, shaped as there (pixels last).

    What float16 or 8-bit weights stand for is computed in float32. Raises BadRequest where a file is none, or needs an operator that the
    face models have no need of.
    """
    try:
        return _Reader(data).graph()
    except BadRequest:
        raise
    except Exception as error:  # what is damaged raises nearly anything
        raise BadRequest(f"the model file is no TensorFlow Lite graph that can be run here: {error or type(error).__name__}") from error


class _Reader:
    """Takes up one operator after the other. A tensor of four axes may have a second form, planes first, in which convolutions run."""

    def __init__(self, data: bytes) -> None:
        if data[4:8] != b"TFL3":
            raise BadRequest("the model file is no TensorFlow Lite graph")
        self._model = tflite.Model.GetRootAsModel(data, 0)
        self._graph = self._model.Subgraphs(0)
        self._constants: dict[int, Array] = {}
        self._pixels: dict[int, str] = {}
        self._planes: dict[int, str] = {}
        self._nodes: list[Any] = []
        self._weights: dict[str, Any] = {}

    def graph(self) -> onnx.ModelProto:
        inputs, outputs = self._graph.InputsAsNumpy().tolist(), self._graph.OutputsAsNumpy().tolist()
        for number, tensor in enumerate(inputs):
            self._pixels[tensor] = f"input{number}"
        for place in range(self._graph.OperatorsLength()):
            self._take(self._graph.Operators(place))
        for number, tensor in enumerate(outputs):
            self._emit("Identity", [self._as_pixels(tensor)], f"output{number}")
        given = [helper.make_tensor_value_info(f"input{n}", TensorProto.FLOAT, self._batched(tensor)) for n, tensor in enumerate(inputs)]
        made = [helper.make_tensor_value_info(f"output{n}", TensorProto.FLOAT, self._batched(tensor)) for n, tensor in enumerate(outputs)]
        graph = helper.make_graph(self._nodes, "flat", given, made, list(self._weights.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    def _take(self, operator: Any) -> None:
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        name = tflite.opcode2name(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
        inputs, (output, *_) = operator.InputsAsNumpy().tolist(), operator.OutputsAsNumpy().tolist()
        if name == "DEQUANTIZE":
            self._constants[output] = self._constant(inputs[0])
        elif name in _UNARY:
            self._keep(output, inputs[0], lambda value: self._emit(_UNARY[name], [value]))
        elif name in _BINARY or name == "SQUARED_DIFFERENCE":
            self._combine(name, inputs, output, operator)
        elif name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            self._convolve(name, inputs, output, self._options(operator))
        elif name == "MAX_POOL_2D":
            self._pool(inputs[0], output, self._options(operator))
        elif name == "PRELU":
            slope = self._name(f"slope{output}", self._constant(inputs[1]).reshape(-1, 1, 1))
            self._planes[output] = self._emit("PRelu", [self._as_planes(inputs[0]), slope])
        else:
            self._pixels[output] = self._reshape(name, inputs, output, operator)

    def _reshape(self, name: str, inputs: list[int], output: int, operator: Any) -> str:
        """Operators that change what the axes are; they run with the pixels last, as they were written."""
        value = self._as_pixels(inputs[0])
        if name in _REDUCE:
            keeps, axes = int(self._options(operator).KeepDims()), np.atleast_1d(self._constant(inputs[1])).astype(np.int64)
            if name == "SUM":
                return self._emit("ReduceSum", [value, self._name(f"axes{output}", axes)], keepdims=keeps)
            return self._emit("ReduceMean", [value], axes=axes.tolist(), keepdims=keeps)
        if name == "RSQRT":
            return self._emit("Reciprocal", [self._emit("Sqrt", [value])])
        if name == "SOFTMAX" and self._options(operator).Beta() == 1:
            return self._emit("Softmax", [value], axis=-1)
        if name == "TRANSPOSE":
            return self._emit("Transpose", [value], perm=self._constant(inputs[1]).tolist())
        if name == "RESHAPE":
            # 0 takes the number of images over.
            return self._emit("Reshape", [value, self._name(f"shape{output}", np.array([0, *self._shape(output)[1:]], np.int64))])
        if name == "PAD":
            pads = self._constant(inputs[1]).T.reshape(-1).astype(np.int64)
            return self._emit("Pad", [value, self._name(f"pads{output}", pads)])
        if name == "CONCATENATION":
            joined = self._emit("Concat", [self._as_pixels(tensor) for tensor in inputs], axis=self._options(operator).Axis())
            return self._activated(joined, self._options(operator).FusedActivationFunction())
        if name == "STRIDED_SLICE":
            return self._slice(value, inputs, output, self._options(operator))
        raise BadRequest(f"the model needs the operator {name}, which is not among those that are converted, or with options that are not")

    def _slice(self, value: str, inputs: list[int], output: int, options: Any) -> str:
        starts, ends, steps = (self._constant(tensor).astype(np.int64) for tensor in inputs[1:4])
        begin, end, shrink = options.BeginMask(), options.EndMask(), options.ShrinkAxisMask()
        if options.EllipsisMask() or options.NewAxisMask():
            raise BadRequest("the model's slices have axes that are left out, which is not converted")
        for axis in range(len(starts)):
            starts[axis] = 0 if begin >> axis & 1 else starts[axis]
            ends[axis] = starts[axis] + 1 if shrink >> axis & 1 and starts[axis] != -1 else ends[axis]
            if end >> axis & 1 or (shrink >> axis & 1 and starts[axis] == -1):
                ends[axis] = np.iinfo(np.int64).max
        axes = np.arange(len(starts), dtype=np.int64)
        parts = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
        cut = self._emit("Slice", [value, *(self._name(f"{part}{output}", array) for part, array in parts.items())])
        gone = np.array([axis for axis in range(len(starts)) if shrink >> axis & 1], np.int64)
        return self._emit("Squeeze", [cut, self._name(f"gone{output}", gone)]) if gone.size else cut

    def _combine(self, name: str, inputs: list[int], output: int, operator: Any) -> None:
        are_planes = all(tensor in self._planes for tensor in inputs)
        values = [(self._as_planes if are_planes else self._as_pixels)(tensor) for tensor in inputs]
        made = self._emit(_BINARY.get(name, "Sub"), values)
        if name == "SQUARED_DIFFERENCE":
            made = self._emit("Mul", [made, made])
        else:
            made = self._activated(made, self._options(operator).FusedActivationFunction() if operator.BuiltinOptionsType() else 0)
        (self._planes if are_planes else self._pixels)[output] = made

    def _convolve(self, name: str, inputs: list[int], output: int, options: Any) -> None:
        is_deep = name == "DEPTHWISE_CONV_2D"
        kernel = self._constant(inputs[1]).astype(np.float32)  # (out, height, width, in), of depthwise ones (1, height, width, out)
        kernel = kernel.transpose((3, 0, 1, 2) if is_deep else (0, 3, 1, 2))
        steps = options.StrideH(), options.StrideW()
        if (options.DilationHFactor(), options.DilationWFactor()) != (1, 1):
            raise BadRequest("the model's convolutions have holes, which is not converted")
        values = [self._as_planes(inputs[0]), self._name(f"kernel{output}", kernel)]
        if len(inputs) > 2 and inputs[2] >= 0:
            values.append(self._name(f"bias{output}", self._constant(inputs[2]).astype(np.float32)))
        sides = kernel.shape[2:]
        pads = self._pads(inputs[0], sides, steps, options.Padding())
        group = self._shape(inputs[0])[3] if is_deep else 1
        made = self._emit("Conv", values, kernel_shape=list(sides), strides=list(steps), pads=pads, group=group)
        self._planes[output] = self._activated(made, options.FusedActivationFunction())

    def _pool(self, tensor: int, output: int, options: Any) -> None:
        sides, steps = (options.FilterHeight(), options.FilterWidth()), (options.StrideH(), options.StrideW())
        pads = self._pads(tensor, sides, steps, options.Padding())
        made = self._emit("MaxPool", [self._as_planes(tensor)], kernel_shape=list(sides), strides=list(steps), pads=pads)
        self._planes[output] = self._activated(made, options.FusedActivationFunction())

    def _pads(self, tensor: int, sides: tuple[int, ...], steps: tuple[int, int], padding: int) -> list[int]:
        """TensorFlow's SAME (0): what is odd is added below and to the right. VALID (1): none."""
        if padding == 1:
            return [0, 0, 0, 0]
        _, height, width, _ = self._shape(tensor)
        lacking = [
            max((math.ceil(size / step) - 1) * step + side - size, 0)
            for size, side, step in zip((height, width), sides, steps, strict=True)
        ]
        return [one // 2 for one in lacking] + [one - one // 2 for one in lacking]

    def _activated(self, value: str, activation: int) -> str:
        if activation not in _ACTIVATIONS:
            raise BadRequest(f"the model has an activation (number {activation}) that is not converted")
        kind = _ACTIVATIONS[activation]
        if kind == "Clip":
            return self._emit(kind, [value, self._name("zero", np.float32(0)), self._name("six", np.float32(6))])
        return self._emit(kind, [value]) if kind else value

    def _keep(self, output: int, tensor: int, made: Callable[[str], str]) -> None:
        """An operator that does not care for the order of axes: it leaves its tensor in the form that it has."""
        if tensor in self._planes:
            self._planes[output] = made(self._planes[tensor])
        else:
            self._pixels[output] = made(self._as_pixels(tensor))

    def _as_planes(self, tensor: int) -> str:
        if tensor not in self._planes:
            self._planes[tensor] = self._emit("Transpose", [self._as_pixels(tensor)], perm=_TO_PLANES)
        return self._planes[tensor]

    def _as_pixels(self, tensor: int) -> str:
        if tensor not in self._pixels:
            if tensor in self._planes:
                self._pixels[tensor] = self._emit("Transpose", [self._planes[tensor]], perm=_TO_PIXELS)
            else:
                self._pixels[tensor] = self._name(f"constant{tensor}", self._constant(tensor))
        return self._pixels[tensor]

    def _constant(self, tensor: int) -> Array:
        """What a tensor holds in the file, dequantised: (q - zero point) x scale, by channel where it says so."""
        if tensor in self._constants:
            return self._constants[tensor]
        described = self._graph.Tensors(tensor)
        stored = self._model.Buffers(described.Buffer()).DataAsNumpy()
        if described.Type() not in _KINDS or isinstance(stored, int):
            raise BadRequest("a tensor that must be constant is not, or is of a kind that is not converted")
        array = stored.view(_KINDS[described.Type()]).reshape(self._shape(tensor))
        scales = described.Quantization()
        if described.Type() in (3, 9) and scales is not None and scales.ScaleLength():
            along = [1] * array.ndim
            along[scales.QuantizedDimension()] = -1 if scales.ScaleLength() > 1 else 1
            zero, scale = scales.ZeroPointAsNumpy().reshape(along), scales.ScaleAsNumpy().reshape(along)
            return np.asarray((array - zero) * scale, np.float32)
        return np.asarray(array, np.float32) if array.dtype == np.float16 else np.asarray(array)

    def _shape(self, tensor: int) -> tuple[int, ...]:
        described = self._graph.Tensors(tensor)
        return tuple(described.Shape(axis) for axis in range(described.ShapeLength()))

    def _batched(self, tensor: int) -> list[int | str]:
        """The shape of an input or output; its first axis counts images, where there are several."""
        shape = self._shape(tensor)
        return ["images", *shape[1:]] if len(shape) > 1 else list(shape)

    def _options(self, operator: Any) -> Any:
        kind = next(name for name, value in vars(tflite.BuiltinOptions).items() if value == operator.BuiltinOptionsType())
        options = getattr(tflite, kind)()
        table = operator.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        return options

    def _name(self, name: str, array: Any) -> str:
        if name not in self._weights:
            self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array), name)
        return name

    def _emit(self, kind: str, inputs: list[str], name: str = "", **attributes: Any) -> str:
        name = name or f"value{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name
