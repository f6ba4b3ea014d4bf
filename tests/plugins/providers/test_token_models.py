"""Models with a vector for every token or patch: the bundled stand-in, and ColBERT-like folders with known states."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import PageEmbedder, TextEmbedder, TokenEmbedder
from mediatheca.providers import ModelSettings, Provider, _minilm
from mediatheca.providers import token_states as module
from mediatheca.providers._files import sha256_of
from mediatheca.providers.local import local
from mediatheca.providers.token_states import MAX_DOCUMENT_TOKENS, MAX_QUERY_TOKENS, TokenStates, token_states, windows
from mediatheca.testing.providers import ProviderContract

Folder = Callable[..., Path]


class TestTokenStates(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return token_states

    @pytest.fixture
    def settings(self, bundled_settings: ModelSettings) -> ModelSettings:
        return bundled_settings

    @pytest.fixture
    def name(self) -> str:
        return "colbertv2_v1"


class TestLocalTokens(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return local

    @pytest.fixture
    def settings(self, tmp_path: Path, text_folder: Folder) -> ModelSettings:
        text_folder(kind="tokens", query_tokens=16, mask_id=3, query_marker=4, skip_punctuation=True)
        return ModelSettings(tmp_path)

    @pytest.fixture
    def name(self) -> str:
        return "tiny_text"


@pytest.fixture(scope="module")
def states(bundled_settings: ModelSettings) -> TokenStates:
    return module.load(module.info("colbertv2_v1"), bundled_settings)


def maxsim(query: np.ndarray, document: np.ndarray) -> float:
    return float((query @ document.T).max(axis=1).sum())


def test_its_hash_is_neither_that_of_the_text_model_nor_do_its_vectors_pass_for_one(states: TokenStates) -> None:
    assert states.info.dimensions == _minilm.DIMENSIONS
    assert states.info.weights != _minilm.weights_hash()
    assert not isinstance(states, TextEmbedder)


def test_the_passage_that_answers_has_the_best_matches(states: TokenStates) -> None:
    passages = [
        "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
        "The treaty was signed in the old town hall after two years of negotiation.",
        "Boil the pasta in salted water and keep a cup of it for the sauce.",
    ]
    questions = ["how do plants make food from light", "where was the agreement signed", "how to cook spaghetti"]
    documents = states.embed_tokens(passages, query=False)
    for place, query in enumerate(states.embed_tokens(questions, query=True)):
        scores = [maxsim(query, document) for document in documents]
        assert scores.index(max(scores)) == place


def test_every_token_is_taken_once_from_the_window_where_it_stands_inside() -> None:
    for count in (0, 1, 31, 32, 33, 253, 254, 255, 476, 477, 1000, MAX_DOCUMENT_TOKENS):
        taken = [place for start, end, first, last in windows(count) for place in range(first, last)]
        assert taken == list(range(count)), count
        for start, end, first, last in windows(count):
            assert 0 < end - start <= module.WINDOW
            assert start <= first <= last <= end
            assert first == 0 or first - start >= module.OVERLAP // 2
            assert last == count or end - last >= module.OVERLAP // 2


def test_a_long_text_is_read_to_its_end_and_a_short_one_as_a_whole(states: TokenStates) -> None:
    filling = "nothing of interest happened on that day . " * 60
    long = states.embed_tokens([filling + "then a volcano erupted"], query=False)[0]
    (query,) = states.embed_tokens(["volcano eruption"], query=True)
    assert (query @ long[:300].T).max() < (query @ long[-6:].T).max()
    assert len(long) == len(states._minilm.token_ids(filling)) + 4


def test_queries_and_documents_have_a_largest_number_of_vectors(states: TokenStates) -> None:
    long = "word " * 5000
    assert len(states.embed_tokens([long], query=True)[0]) == MAX_QUERY_TOKENS
    assert len(states.embed_tokens([long], query=False)[0]) == MAX_DOCUMENT_TOKENS


def test_the_pooled_vector_of_minilm_is_the_mean_of_the_same_states(bundled_settings: ModelSettings) -> None:
    minilm = _minilm.MiniLM(_minilm.info(_minilm.NAMES[0]), _minilm.ensure(bundled_settings.models_dir), 1)
    ids = minilm.token_ids("A red bicycle leans against the wall.")
    pooled = minilm.states(ids).mean(axis=0)
    expected = minilm.embed_texts(["A red bicycle leans against the wall."], query=False)[0]
    np.testing.assert_allclose(pooled / np.linalg.norm(pooled), expected, atol=1e-6)


# --- folders ------------------------------------------------------------------------------------------------------


def tokens(folder: Path) -> TokenEmbedder:
    settings = ModelSettings(folder.parent)
    info = local.find(folder.name, settings)
    assert info is not None
    assert info.modalities == ("text", "tokens")
    model = local.load(info, settings)
    assert isinstance(model, TokenEmbedder)
    return model


def table(folder: Path) -> np.ndarray:
    import onnx
    from onnx import numpy_helper

    states = numpy_helper.to_array(onnx.load(str(folder / "model.onnx")).graph.initializer[0])
    return states / np.linalg.norm(states, axis=1, keepdims=True)


def test_markers_stand_behind_the_first_token_and_masks_fill_up_queries(text_folder: Folder) -> None:
    folder = text_folder(kind="tokens", query_marker=4, passage_marker=5, query_tokens=7, mask_id=9)
    model, states = tokens(folder), table(folder)
    query, passage = model.embed_tokens(["cat dog"], query=True)[0], model.embed_tokens(["cat dog"], query=False)[0]
    np.testing.assert_allclose(query, states[[1, 4, 6, 7, 2, 9, 9]], atol=1e-6)
    np.testing.assert_allclose(passage, states[[1, 5, 6, 7, 2]], atol=1e-6)


def test_punctuation_has_no_vectors_where_the_card_says_so_but_the_marker_has(text_folder: Folder) -> None:
    folder = text_folder(kind="tokens", passage_marker=5, skip_punctuation=True)
    found = tokens(folder).embed_tokens(["cat : dog"], query=False)[0]
    np.testing.assert_allclose(found, table(folder)[[1, 5, 6, 7, 2]], atol=1e-6)


def test_a_marker_takes_none_of_the_room_that_the_model_has(text_folder: Folder) -> None:
    folder = text_folder(kind="tokens", passage_marker=5, max_tokens=5)
    found = tokens(folder).embed_tokens(["cat dog car a cat dog"], query=False)[0]
    np.testing.assert_allclose(found, table(folder)[[1, 5, 6, 7, 2]], atol=1e-6)


def test_other_dimensions_than_the_card_says_are_named(text_folder: Folder) -> None:
    with pytest.raises(UnavailableError, match="8"):
        tokens(text_folder(kind="tokens", dimensions=16)).embed_tokens(["cat"], query=False)


def test_markers_change_the_hash_of_the_weights(text_folder: Folder) -> None:
    hashes = set()
    for number, card in enumerate(({}, {"query_marker": 4}, {"skip_punctuation": True})):
        folder = text_folder(f"model_{number}", kind="tokens", **card)
        info = local.find(folder.name, ModelSettings(folder.parent))
        assert info is not None
        hashes.add(info.weights)
    assert len(hashes) == 3
    assert sha256_of(folder / "model.onnx")


@pytest.fixture
def page_folder(text_folder: Folder) -> Folder:
    """A model of pictures whose patches are the mean colours of the four quarters, in 3 of 8 dimensions."""

    def make(name: str = "tiny_pages", text: bool = True) -> Path:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        folder = text_folder(name)
        nodes = [
            helper.make_node("AveragePool", ["pixel_values"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("Reshape", ["pooled", "shape"], ["flat"]),
            helper.make_node("Transpose", ["flat"], ["colours"], perm=[0, 2, 1]),
            helper.make_node("Concat", ["colours", "zeros"], ["image_embeds"], axis=2),
        ]
        constants = {"shape": np.array([1, 3, 4]), "zeros": np.zeros((1, 4, 5), np.float32)}
        graph = helper.make_graph(
            nodes,
            "pages",
            [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, [1, 4, 8])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, str(folder / "pages.onnx"))
        pages = {"model": "pages.onnx", "size": 8, "interpolation": "nearest"}
        pages |= {"mean": [0, 0, 0], "std": [1, 1, 1]}
        card: dict[str, object] = {"kind": "pages", "dimensions": 8, "pages": pages}
        (folder / "mediatheca.json").write_text(json.dumps({**card, "tokens": {}} if text else card))
        return folder

    return make


class TestLocalPages(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return local

    @pytest.fixture
    def settings(self, tmp_path: Path, page_folder: Folder) -> ModelSettings:
        page_folder()
        return ModelSettings(tmp_path)

    @pytest.fixture
    def name(self) -> str:
        return "tiny_pages"


def test_a_page_has_a_vector_for_each_patch(page_folder: Folder) -> None:
    folder = page_folder()
    settings = ModelSettings(folder.parent)
    info = local.find(folder.name, settings)
    assert info is not None
    assert info.modalities == ("text", "image", "pages")
    model = local.load(info, settings)
    assert isinstance(model, PageEmbedder)
    assert isinstance(model, TokenEmbedder)
    picture = np.zeros((80, 80, 3), np.uint8)
    picture[:40, :40, 0] = picture[:40, 40:, 1] = picture[40:, :40, 2] = 255
    (vectors,) = model.embed_pages([picture])
    np.testing.assert_allclose(vectors, np.eye(3, 8), atol=1e-2)  # the black quarter has no direction: it is left out


def test_pages_without_a_text_part_take_no_text(page_folder: Folder) -> None:
    folder = page_folder(text=False)
    settings = ModelSettings(folder.parent)
    info = local.find(folder.name, settings)
    assert info is not None
    assert info.modalities == ("image", "pages")
    assert not isinstance(local.load(info, settings), TokenEmbedder)
