"""The contract of model providers, as tests: subclass `ProviderContract` and give it a provider that has a model.

```python
class TestMyProvider(ProviderContract):
    @pytest.fixture
    def settings(self, tmp_path): return ModelSettings(tmp_path)

    @pytest.fixture
    def provider(self): return my_provider

    @pytest.fixture
    def name(self): return "a_name_it_answers"
```
"""

from __future__ import annotations

import pickle

import numpy as np
import numpy.typing as npt
import pytest

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.models import (
    EmbeddingTask,
    ImageEmbedder,
    ModelInfo,
    Reranker,
    SparseEmbedder,
    TextEmbedder,
    embed_for,
)
from mediatheca.kernel.sparse import checked
from mediatheca.providers import Model, ModelSettings, Provider

HOSTILE_NAMES = ["", ".", "..", "../..", "/etc", "a/b", "a\\b", "no_such_model_v9", "x" * 300, "nul\0", "name\n", "é"]


def example_pictures() -> list[npt.NDArray[np.uint8]]:
    """Made-up RGB pictures of odd shapes: wide, tall, one pixel, grey."""
    rng = np.random.default_rng(7)
    shapes = [(40, 300, 3), (300, 40, 3), (1, 1, 3), (64, 64, 3)]
    return [rng.integers(0, 256, shape).astype(np.uint8) for shape in shapes]


class ProviderContract:
    """What every provider promises. Fixtures to give: `provider`, `settings`, `name`."""

    @pytest.fixture
    def info(self, provider: Provider, settings: ModelSettings, name: str) -> ModelInfo:
        info = provider.find(name, settings)
        assert info is not None
        return info

    @pytest.fixture
    def model(self, provider: Provider, settings: ModelSettings, info: ModelInfo) -> Model:
        return provider.load(info, settings)

    def test_finding_twice_gives_the_same_info(self, provider: Provider, settings: ModelSettings, name: str) -> None:
        assert provider.find(name, settings) == provider.find(name, settings)

    def test_the_info_names_the_weights_by_hash(self, info: ModelInfo, name: str) -> None:
        assert info.name == name
        assert info.weights_name
        assert info.weights.startswith("sha256:")
        assert len(info.weights) == 71
        assert (info.dimensions == 0) == info.sparse

    def test_the_name_or_another_of_the_same_weights_is_listed(
        self, provider: Provider, settings: ModelSettings, info: ModelInfo, name: str
    ) -> None:
        listed = provider.names(settings)
        assert name in listed or info.weights in {
            found.weights for n in listed if (found := provider.find(n, settings))
        }

    @pytest.mark.parametrize("hostile", HOSTILE_NAMES)
    def test_a_name_that_is_not_there_is_none(self, provider: Provider, settings: ModelSettings, hostile: str) -> None:
        assert provider.find(hostile, settings) is None

    def test_info_settings_and_provider_travel_to_other_processes(
        self, provider: Provider, settings: ModelSettings, info: ModelInfo
    ) -> None:
        assert pickle.loads(pickle.dumps((provider, settings, info))) == (provider, settings, info)  # noqa: S301

    def test_the_model_does_what_its_modalities_say(self, model: Model, info: ModelInfo) -> None:
        assert model.info == info
        assert isinstance(model, TextEmbedder) == ("text" in info.modalities and not info.sparse)
        assert isinstance(model, SparseEmbedder) == info.sparse
        assert isinstance(model, ImageEmbedder) == ("image" in info.modalities)
        assert isinstance(model, Reranker) == ("rerank" in info.modalities)

    def test_texts_become_float32_rows_of_the_promised_size(self, model: Model, info: ModelInfo) -> None:
        if isinstance(model, TextEmbedder):
            _check(model.embed_texts(["one", "two words", "", "nul\0byte", "\ud800", "日本語"], query=False), 6, info)
            _check(model.embed_texts(["one"], query=True), 1, info)
            assert model.embed_texts([], query=False).shape == (0, info.dimensions)

    def test_a_text_has_one_vector_alone_or_in_company(self, model: Model) -> None:
        if isinstance(model, TextEmbedder):
            texts = ["a cat", "a much longer text about something entirely different " * 5, "b"]
            alone = np.concatenate([model.embed_texts([text], query=False) for text in texts])
            np.testing.assert_allclose(model.embed_texts(texts, query=False), alone, atol=1e-5)

    def test_a_text_is_embedded_for_every_task_or_the_task_is_refused_by_name(
        self, model: Model, info: ModelInfo
    ) -> None:
        if isinstance(model, TextEmbedder):
            query = model.embed_texts(["a cat"], query=True)
            np.testing.assert_allclose(embed_for(model, ["a cat"], "retrieval_query"), query, atol=1e-6)
            tasks: tuple[EmbeddingTask, ...] = ("semantic_similarity", "classification", "none")
            for task in tasks:
                try:
                    _check(embed_for(model, ["a cat", ""], task), 2, info)
                except ValidationError as error:
                    assert task == "none" and "embedding_task" in error.message  # noqa: PT017, PT018

    def test_texts_become_sparse_vectors(self, model: Model) -> None:
        if isinstance(model, SparseEmbedder):
            texts = ["one", "two words", "", "nul\0byte", "\ud800", "日本語"]
            vectors = model.sparse_embed(texts, query=False)
            assert len(vectors) == 6
            assert all(len(checked(vector)) == len(vector) for vector in vectors)
            assert model.sparse_embed(texts[1:2], query=False)[0].tolist() == vectors[1].tolist()
            assert list(model.sparse_embed([], query=True)) == []

    def test_a_reranker_gives_one_number_for_each_text(self, model: Model) -> None:
        if isinstance(model, Reranker):
            scores = model.score("one", ["one", "", "nul\0byte", "\ud800", "日本語", "word " * 5000])
            assert scores.shape == (6,)
            assert scores.dtype == np.float32
            assert np.isfinite(scores).all()
            assert model.score("one", []).shape == (0,)

    def test_pictures_become_float32_rows_of_the_promised_size(self, model: Model, info: ModelInfo) -> None:
        if isinstance(model, ImageEmbedder):
            pictures = example_pictures()
            vectors = model.embed_images(pictures, [None, "a caption", "", " "])
            _check(vectors, len(pictures), info)
            np.testing.assert_allclose(model.embed_images(pictures[:1], [None]), vectors[:1], atol=1e-5)
            assert model.embed_images([], []).shape == (0, info.dimensions)


def _check(vectors: npt.NDArray[np.float32], count: int, info: ModelInfo) -> None:
    assert vectors.dtype == np.float32
    assert vectors.shape == (count, info.dimensions)
    assert np.isfinite(vectors).all()
    if info.metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
