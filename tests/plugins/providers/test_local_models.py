"""Folders of ONNX weights in MODELS_DIR."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import EmbeddingTask, ImageEmbedder, SparseEmbedder, TextEmbedder, Windowed, embed_for
from mediatheca.kernel.sparse import to_wire
from mediatheca.providers import ModelSettings, Provider, _files
from mediatheca.providers.local import local
from mediatheca.testing.providers import ProviderContract

Folder = Callable[..., Path]


def text_model(folder: Path) -> TextEmbedder:
    settings = ModelSettings(folder.parent)
    info = local.find(folder.name, settings)
    assert info is not None
    model = local.load(info, settings)
    assert isinstance(model, TextEmbedder)
    return model


def table(folder: Path) -> np.ndarray:
    """The states the tiny model was made with."""
    import onnx
    from onnx import numpy_helper

    return numpy_helper.to_array(onnx.load(str(folder / "model.onnx")).graph.initializer[0])


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


class TestLocalTextModel(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return local

    @pytest.fixture
    def settings(self, tmp_path: Path, text_folder: Folder) -> ModelSettings:
        text_folder()
        return ModelSettings(tmp_path)

    @pytest.fixture
    def name(self) -> str:
        return "tiny_text"


class TestLocalImageModelWithTextTower(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return local

    @pytest.fixture
    def settings(self, tmp_path: Path, image_folder: Folder) -> ModelSettings:
        image_folder(text=True)
        return ModelSettings(tmp_path)

    @pytest.fixture
    def name(self) -> str:
        return "tiny_image"


def test_mean_pooling_averages_every_token_state(text_folder: Folder) -> None:
    folder = text_folder(pooling="mean")
    states = table(folder)
    np.testing.assert_allclose(
        text_model(folder).embed_texts(["cat dog"], query=False)[0], unit(states[[1, 6, 7, 2]].mean(axis=0)), atol=1e-6
    )


def test_cls_pooling_takes_the_first_state_and_last_pooling_the_last(text_folder: Folder) -> None:
    first, last = text_folder("first", pooling="cls"), text_folder("last", pooling="last")
    np.testing.assert_allclose(text_model(first).embed_texts(["cat"], query=False)[0], unit(table(first)[1]), atol=1e-6)
    np.testing.assert_allclose(text_model(last).embed_texts(["cat"], query=False)[0], unit(table(last)[2]), atol=1e-6)


def test_the_tokens_of_a_text_are_counted_beyond_the_window(text_folder: Folder) -> None:
    model = text_model(text_folder(max_tokens=6, passage_prefix="passage: "))
    assert isinstance(model, Windowed)
    assert model.window == 6
    assert [model.count_tokens("cat " * count) for count in (0, 1, 2, 3, 20)] == [4, 5, 6, 7, 24]


def test_prefixes_are_put_before_queries_and_passages(text_folder: Folder) -> None:
    folder = text_folder(query_prefix="query: ", passage_prefix="passage: ")
    model, states = text_model(folder), table(folder)
    query, passage = model.embed_texts(["cat"], query=True)[0], model.embed_texts(["cat"], query=False)[0]
    np.testing.assert_allclose(query, unit(states[[1, 3, 5, 6, 2]].mean(axis=0)), atol=1e-6)
    np.testing.assert_allclose(passage, unit(states[[1, 4, 5, 6, 2]].mean(axis=0)), atol=1e-6)


def test_vectors_keep_their_length_when_the_card_says_so(text_folder: Folder) -> None:
    folder = text_folder(normalize=False, metric="dot", pooling="cls")
    np.testing.assert_allclose(text_model(folder).embed_texts(["cat"], query=False)[0], table(folder)[1], atol=1e-6)


def test_texts_longer_than_max_tokens_are_cut(text_folder: Folder) -> None:
    model = text_model(text_folder(max_tokens=4))
    short, long = model.embed_texts(["cat dog", "cat dog car car car"], query=False)
    np.testing.assert_allclose(short, long, atol=1e-6)


def test_a_model_trained_on_padded_text_is_fed_padded_text(text_folder: Folder) -> None:
    folder = text_folder(padding="max_tokens", max_tokens=6, pad_id=0, pooling="mean")
    states = table(folder)
    expected = unit(states[[1, 6, 2]].mean(axis=0))  # the mask keeps padding out of the mean
    np.testing.assert_allclose(text_model(folder).embed_texts(["cat"], query=False)[0], expected, atol=1e-6)


def test_a_sentence_transformers_export_is_understood(text_folder: Folder) -> None:
    folder = text_folder("exported")
    (folder / "mediatheca.json").unlink()
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "onnx" / "model.onnx")
    (folder / "1_Pooling").mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8, "max_position_embeddings": 512}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 128}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "query: "}}))
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 8, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )
    model = text_model(folder)
    assert model.info.dimensions == 8
    cat, dog = model.embed_texts(["cat", "dog"], query=False)
    np.testing.assert_allclose(cat, dog, atol=1e-6)  # cls pooling: the state of [CLS]


def test_a_pooling_that_is_not_supported_is_refused_not_replaced(text_folder: Folder) -> None:
    folder = text_folder("odd")
    (folder / "mediatheca.json").unlink()
    (folder / "1_Pooling").mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8}))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(UnavailableError, match="pooling_mode_max_tokens"):
        local.find("odd", ModelSettings(folder.parent))


@pytest.mark.parametrize(
    ("card", "complaint"),
    [
        ("{", "cannot be understood"),
        ("[]", "cannot be understood"),
        ('{"kind": "text"}', "dimensions"),
        ('{"kind": "audio", "dimensions": 8}', "kind"),
        ('{"kind": "text", "dimensions": 8, "poolling": "cls"}', "poolling"),
        ('{"kind": "text", "dimensions": 8, "model": "absent.onnx"}', "absent.onnx"),
        ('{"kind": "text", "dimensions": 8, "model": "../../outside.onnx"}', "outside"),
    ],
)
def test_a_broken_card_is_an_error_that_names_the_folder(text_folder: Folder, card: str, complaint: str) -> None:
    folder = text_folder("broken")
    (folder / "mediatheca.json").write_text(card)
    with pytest.raises(UnavailableError, match="broken") as caught:
        local.find("broken", ModelSettings(folder.parent))
    assert complaint in caught.value.message


def test_a_folder_without_card_or_config_is_an_error_not_another_model(tmp_path: Path) -> None:
    (tmp_path / "empty_model").mkdir()
    with pytest.raises(UnavailableError, match=r"mediatheca\.json"):
        local.find("empty_model", ModelSettings(tmp_path))


def test_wrong_dimensions_in_the_card_are_found_at_the_first_vector(text_folder: Folder) -> None:
    with pytest.raises(UnavailableError, match="says 9 dimensions"):
        text_model(text_folder(dimensions=9)).embed_texts(["cat"], query=False)


def test_an_output_that_the_graph_lacks_is_named(text_folder: Folder) -> None:
    with pytest.raises(UnavailableError, match="last_hidden_state"):
        text_model(text_folder(output="pooled"))


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json"])
def test_a_damaged_file_is_an_error_that_names_it(text_folder: Folder, file: str) -> None:
    folder = text_folder("damaged")
    (folder / file).write_bytes((folder / file).read_bytes()[:20])
    with pytest.raises(UnavailableError, match=file):
        text_model(folder)


def test_other_weights_tokenizer_or_card_change_the_hash_and_a_note_does_not(text_folder: Folder) -> None:
    folder = text_folder("hashed")
    settings = ModelSettings(folder.parent)

    def weights() -> str:
        info = local.find("hashed", settings)
        assert info is not None
        return info.weights

    card = json.loads((folder / "mediatheca.json").read_text())
    seen = [weights()]
    (folder / "mediatheca.json").write_text(json.dumps({**card, "note": "for people"}))
    assert weights() == seen[0]
    (folder / "mediatheca.json").write_text(json.dumps({**card, "pooling": "cls"}))
    seen.append(weights())
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    seen.append(weights())
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"\0")
    seen.append(weights())
    (folder / "model.onnx_data").write_bytes(b"external")
    seen.append(weights())
    assert len(set(seen)) == 5


def test_files_are_hashed_once_and_remembered_across_processes(
    text_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = text_folder("remembered")
    first = local.find("remembered", ModelSettings(tmp_path))
    remembered = json.loads((tmp_path / "hashes.json").read_text())
    assert any(str(folder / "model.onnx") in key for key in remembered)

    def never(*_: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr(_files.hashlib, "file_digest", never)
    assert local.find("remembered", ModelSettings(tmp_path)) == first


def image_model(folder: Path) -> ImageEmbedder:
    settings = ModelSettings(folder.parent)
    info = local.find(folder.name, settings)
    assert info is not None
    model = local.load(info, settings)
    assert isinstance(model, ImageEmbedder)
    return model


def halves(width: int, height: int) -> np.ndarray:
    """Left half red, right half blue."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2, 0] = 255
    picture[:, width // 2 :, 2] = 255
    return picture


def test_pixels_reach_the_model_normalised_in_rgb_order(image_folder: Folder) -> None:
    vector = image_model(image_folder(interpolation="nearest")).embed_images([halves(16, 16)], [None])[0]
    expected = unit(np.array([0, -1, 0, 1, -1, -1, 1, 1], np.float32))  # (x / 255 - .5) / .5: means, then left half
    np.testing.assert_allclose(vector, expected, atol=1e-6)


def test_crop_keeps_the_middle_squash_keeps_all_and_pad_adds_black(image_folder: Folder) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255  # white middle
    plain = {"interpolation": "nearest", "mean": (0, 0, 0), "std": (1, 1, 1)}
    white = {
        resize: float(vector[0] / vector[7])
        for resize in ("crop", "squash", "pad")
        for vector in image_model(image_folder(resize, resize=resize, **plain)).embed_images([wide], [None])
    }
    assert white["crop"] == pytest.approx(1)
    assert white["squash"] == pytest.approx(1 / 3, abs=0.1)
    assert white["pad"] == pytest.approx(1 / 9, abs=0.06)


def test_an_image_model_without_a_text_tower_embeds_no_text(image_folder: Folder) -> None:
    model = image_model(image_folder())
    assert not isinstance(model, TextEmbedder)
    assert model.info.modalities == ("image",)


class TestLocalSparseModel(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return local

    @pytest.fixture
    def settings(self, tmp_path: Path, text_folder: Folder) -> ModelSettings:
        text_folder(kind="sparse", dimensions=0)
        return ModelSettings(tmp_path)

    @pytest.fixture
    def name(self) -> str:
        return "tiny_text"


def test_a_sparse_model_weighs_the_terms_of_its_vocabulary(text_folder: Folder) -> None:
    folder = text_folder(kind="sparse", dimensions=0)
    settings = ModelSettings(folder.parent)
    info = local.find(folder.name, settings)
    assert info is not None
    assert (info.sparse, info.dimensions, info.metric) == (True, 0, "dot")
    model = local.load(info, settings)
    assert isinstance(model, SparseEmbedder)
    (vector,) = model.sparse_embed(["cat dog"], query=True)
    expected = np.log1p(np.maximum(table(folder)[[1, 6, 7, 2]].max(axis=0), 0))
    assert to_wire(vector)["indices"] == np.flatnonzero(expected).tolist()
    np.testing.assert_allclose(to_wire(vector)["values"], expected[expected > 0], atol=1e-6)


def test_a_card_says_what_stands_before_a_text_for_each_task(text_folder: Folder) -> None:
    folder = text_folder(query_prefix="cat ", passage_prefix="dog ", task_prefixes={"classification": "car "})
    model = text_model(folder)

    def vector(text: str, task: EmbeddingTask) -> list[float]:
        return embed_for(model, [text], task)[0].tolist()

    plain = {word: vector(f"{word} x", "none") for word in ("cat", "dog", "car")}
    assert vector("x", "retrieval_query") == vector("x", "semantic_similarity") == plain["cat"]
    assert vector("x", "retrieval_document") == plain["dog"]
    assert vector("x", "classification") == plain["car"]
    assert vector("x", "none") not in plain.values()


@pytest.mark.parametrize("card", [{"kind": "sparse", "dimensions": 0, "pooling": "max"}, {"dimensions": 0}])
def test_a_card_of_a_sparse_model_that_makes_no_sense_is_named(text_folder: Folder, card: dict[str, object]) -> None:
    folder = text_folder(**card)
    with pytest.raises(UnavailableError, match="tiny_text"):
        local.find(folder.name, ModelSettings(folder.parent))
