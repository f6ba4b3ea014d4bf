"""Cross-encoders in MODELS_DIR: a small ONNX graph with known answers, its names, its inputs, its faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.models import Reranker
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers._catalog import ModelCatalog, build_catalog
from mediatheca.providers._cross_encoder import reranker_key
from mediatheca.providers.local import local
from mediatheca.testing.providers import ProviderContract

WORDS = ("[UNK]", "[CLS]", "[SEP]", "cat", "dog", "car", "a", "the", "sat", "on", "mat")
VALUES = {"cat": 3.0, "dog": 2.0, "car": -1.0}
Make = Callable[..., Path]


def write_pair_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(path))


def write_cross_encoder(path: Path, classes: int = 1) -> None:
    """logit = sum over tokens of the second text of the word's value; of two classes: (0, logit)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table = np.array([[VALUES.get(word, 0.0)] for word in WORDS], np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["values"]),
        helper.make_node("Mul", ["attention_mask", "token_type_ids"], ["second"]),
        helper.make_node("Cast", ["second"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["values", "column"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "middle"], ["one"], keepdims=0),
        helper.make_node("MatMul", ["one", "spread"], ["logits"]),
    ]
    spread = np.zeros((1, classes), np.float32)
    spread[0, -1] = 1
    constants = {"table": table, "last": np.array([2]), "middle": np.array([1]), "spread": spread}
    names = ("input_ids", "attention_mask", "token_type_ids")
    graph = helper.make_graph(
        nodes,
        "pairs",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes MODELS_DIR/<name> with the small cross-encoder."""

    def made(name: str = "bge_reranker_v2_m3", classes: int = 1, config: bool = False, **card: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_cross_encoder(folder / "model.onnx", classes)
        write_pair_tokenizer(folder / "tokenizer.json")
        if config:
            labels = {str(number): f"LABEL_{number}" for number in range(classes)}
            what = {
                "architectures": ["BertForSequenceClassification"],
                "id2label": labels,
                "max_position_embeddings": 64,
            }
            (folder / "config.json").write_text(json.dumps(what))
        else:
            (folder / "mediatheca.json").write_text(json.dumps({"kind": "reranker", **card}))
        return folder

    return made


class TestLocalReranker(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return local

    @pytest.fixture
    def settings(self, tmp_path: Path, make: Make) -> ModelSettings:
        make()
        return ModelSettings(tmp_path)

    @pytest.fixture
    def name(self) -> str:
        return "bge_reranker_v2_m3"


@pytest.fixture
def catalog(tmp_path: Path) -> ModelCatalog:
    return build_catalog(ModelSettings(tmp_path))


@pytest.mark.parametrize(
    "name",
    ["BAAI__bge_reranker_v2_m3", "BAAI/bge-reranker-v2-m3", "bge-reranker-v2-m3", "BGE_Reranker_V2_M3", "bge-reranker"],
)
def test_every_spelling_of_a_name_finds_the_same_model(make: Make, catalog: ModelCatalog, name: str):
    make()
    assert catalog.reranker(name) is catalog.reranker("bge_reranker_v2_m3")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("cross-encoder/ms-marco-MiniLM-L-6-v2", "ms_marco_minilm_l6_v2"),
        ("ms-marco-MiniLM", "Xenova/ms-marco-MiniLM-L-6-v2"),
        ("jina-reranker-v2", "jinaai/jina-reranker-v2-base-multilingual"),
    ],
)
def test_names_that_mean_the_same(first: str, second: str):
    assert reranker_key(first) == reranker_key(second)


def test_names_that_mean_something_else():
    assert reranker_key("ms-marco-MiniLM-L-12-v2") != reranker_key("ms-marco-MiniLM-L-6-v2")


def test_pairs_are_scored_in_their_order_whatever_their_length(make: Make, catalog: ModelCatalog):
    make()
    model = catalog.reranker("bge-reranker-v2-m3")
    assert isinstance(model, Reranker)
    texts = ["the car", "", "cat cat", "a dog sat on the mat", "cat dog car", "x " * 40 + "dog"]
    np.testing.assert_allclose(model.score("cat", texts), [-1, 0, 6, 2, 4, 2])
    assert model.score("cat", []).shape == (0,)
    many = texts * 20
    np.testing.assert_allclose(model.score("cat", many), [-1, 0, 6, 2, 4, 2] * 20)
    assert model.score("cat", texts).dtype == np.float32


def test_hostile_texts_are_scored(make: Make, catalog: ModelCatalog):
    make()
    model = catalog.reranker("bge-reranker-v2-m3")
    assert model.score("\0 cat \ud800", ["nul\0byte", "\ud800", "狐 🦊", "cat\0cat"]).tolist() == [0, 0, 0, 6]


def test_of_a_pair_that_is_too_long_the_text_is_cut_and_a_long_query_leaves_room(make: Make, catalog: ModelCatalog):
    make(max_tokens=16)
    model = catalog.reranker("bge-reranker-v2-m3")
    assert model.score("a", ["x " * 30 + "cat"]).tolist() == [0]
    assert model.score("dog " * 50_000, ["cat", "car"]).tolist() == [3, -1]


def test_two_classes_are_one_number(make: Make, catalog: ModelCatalog):
    make(classes=2)
    assert catalog.reranker("bge-reranker-v2-m3").score("q", ["cat", "car"]).tolist() == [3, -1]


def test_an_export_without_a_card_is_recognised(make: Make, catalog: ModelCatalog):
    make(config=True)
    model = catalog.reranker("bge-reranker-v2-m3")
    assert model.info.modalities == ("rerank",)
    assert model.info.weights.startswith("sha256:")
    assert model.score("q", ["cat"]).tolist() == [3]


def test_a_classifier_of_many_classes_is_no_reranker(make: Make, catalog: ModelCatalog):
    make(config=True, classes=5)
    with pytest.raises(UnavailableError, match="5 classes"):
        catalog.reranker("bge-reranker-v2-m3")


def test_without_weights_the_error_says_how_to_get_them(catalog: ModelCatalog, tmp_path: Path):
    with pytest.raises(UnavailableError, match=r"ms_marco_minilm_l6_v2.*MEDIATHECA_MODELS_HUB"):
        catalog.reranker("cross-encoder/ms-marco-MiniLM-L-6-v2")
    for hostile in ("", "../../etc", "x" * 10_000, "cohere-rerank-v3", "nul\0"):
        with pytest.raises(UnavailableError, match="no weights answer"):
            catalog.reranker(hostile)


def test_an_embedding_model_is_no_reranker_and_a_reranker_does_not_embed(
    make: Make, text_folder: Callable[..., Path], catalog: ModelCatalog
):
    text_folder("tiny_text")
    make()
    with pytest.raises(ValidationError, match="not a reranker"):
        catalog.reranker("tiny_text")
    with pytest.raises(ValidationError, match="does not embed text"):
        catalog.text("bge_reranker_v2_m3")


def test_a_broken_folder_is_an_error_not_a_fallback(make: Make, catalog: ModelCatalog):
    (make() / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(UnavailableError, match="cannot be loaded"):
        catalog.reranker("bge-reranker-v2-m3")


def test_threads_may_share_a_reranker(make: Make, catalog: ModelCatalog):
    make()
    model = catalog.reranker("bge-reranker-v2-m3")
    wrong: list[list[float]] = []

    def work() -> None:
        for _ in range(50):
            scores = model.score("cat " * 400, ["cat", "the car", "dog dog"]).tolist()
            if scores != [3, -1, 4]:
                wrong.append(scores)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_hash_of_an_embedding_model_does_not_depend_on_what_cards_may_say_of_other_kinds(
    text_folder: Callable[..., Path],
):
    from mediatheca.providers._card import read_card, weights_hash

    card = read_card(text_folder("tiny_text"))
    assert "reranker" not in card.model_dump(exclude_none=True)
    assert weights_hash(card, {"model.onnx": "0"}) == "sha256:" + _hash_without(card)


def _hash_without(card: object) -> str:
    from mediatheca.providers._card import PREPROCESSING, Card
    from mediatheca.providers._files import digest

    assert isinstance(card, Card)
    decides = {
        name: card.model_dump(mode="json")[name] for name in ("kind", "dimensions", "metric", "normalize", "image")
    }
    decides["text"] = card.model_dump(exclude={"text": {"task_prefixes"}}, mode="json")["text"]
    return digest(PREPROCESSING, json.dumps(decides, sort_keys=True), "model.onnx 0").removeprefix("sha256:")
