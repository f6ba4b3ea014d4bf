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
from mediatheca.kernel.face_alignment import POINT_NAMES
from mediatheca.kernel.models import (
    AudioEmbedder,
    EmbeddingTask,
    FaceModel,
    ImageEmbedder,
    Labeller,
    LanguageIdentifier,
    ModelInfo,
    PageEmbedder,
    Reranker,
    SparseEmbedder,
    SpeechDetector,
    SpeechRecognizer,
    TextEmbedder,
    TextReader,
    TokenEmbedder,
    embed_for,
)
from mediatheca.kernel.sparse import checked
from mediatheca.providers import Model, ModelSettings, Provider

BY_MODALITY = {
    "rerank": Reranker,
    "speech": SpeechRecognizer,
    "vad": SpeechDetector,
    "ocr": TextReader,
    "face": FaceModel,
    "audio": AudioEmbedder,
    "pages": PageEmbedder,
    "labels": Labeller,
    "language_id": LanguageIdentifier,
}
"""Modalities that say by themselves what a model can do."""
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
        parts = bool({"tokens", "pages"} & set(info.modalities))
        assert isinstance(model, TextEmbedder) == ("text" in info.modalities and not info.sparse and not parts)
        assert isinstance(model, TokenEmbedder) == ("text" in info.modalities and parts)
        assert isinstance(model, SparseEmbedder) == info.sparse
        assert isinstance(model, ImageEmbedder) == ("image" in info.modalities and not parts)
        for modality, kind in BY_MODALITY.items():
            assert isinstance(model, kind) == (modality in info.modalities), modality

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

    def test_texts_become_a_unit_vector_for_each_token(self, model: Model, info: ModelInfo) -> None:
        if isinstance(model, TokenEmbedder):
            texts = ["one", "two words", "nul\0byte", "\ud800 x", "日本語", "word " * 5000]
            for query in (True, False):
                for text, vectors in zip(texts, model.embed_tokens(texts, query=query), strict=True):
                    _check(vectors, len(vectors), info)
                    assert len(vectors) >= 1, text
            assert model.embed_tokens([], query=True) == []
            assert model.embed_tokens([""], query=False)[0].shape[1] == info.dimensions
            alone, long = model.embed_tokens(["two words"], query=False)[0], model.embed_tokens(texts, query=False)[-1]
            np.testing.assert_allclose(model.embed_tokens(texts, query=False)[1], alone, atol=1e-5)
            assert len(alone) < len(long) < 10_000

    def test_pictures_become_a_unit_vector_for_each_patch(self, model: Model, info: ModelInfo) -> None:
        if isinstance(model, PageEmbedder):
            for vectors in model.embed_pages(example_pictures()):
                _check(vectors, len(vectors), info)
                assert len(vectors) > 0
            assert model.embed_pages([]) == []

    def test_texts_get_a_share_for_every_label(self, model: Model) -> None:
        if isinstance(model, Labeller):
            texts = ["one", "", "nul\0byte", "\ud800", "日本語", "word " * 5000]
            found = model.label(texts)
            assert len(found) == len(texts)
            assert len({tuple(labels) for labels in found}) == 1
            assert all(0 <= share <= 1 for labels in found for share in labels.values())
            assert model.label([]) == []

    def test_pictures_without_a_face_have_none_and_no_vectors(self, model: Model, info: ModelInfo) -> None:
        if isinstance(model, FaceModel):
            assert len(POINT_NAMES[model.landmarks]) == 5
            assert model.detector
            for picture in example_pictures():
                assert model.detect(picture, threshold=0.9, min_size=20) == []
            assert model.embed(example_pictures()[0], []).shape == (0, info.dimensions)

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
