"""Models made in the test: tiny ONNX graphs with known answers, and one folder of built weights for the whole run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mediatheca.providers import ModelSettings

Folder = Callable[..., Path]
VOCABULARY = {
    "[UNK]": 0,
    "[CLS]": 1,
    "[SEP]": 2,
    "query": 3,
    "passage": 4,
    ":": 5,
    "cat": 6,
    "dog": 7,
    "car": 8,
    "a": 9,
}
DIMENSIONS = 8


@pytest.fixture(scope="session")
def built_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MODELS_DIR that all workers share: built weights are made once, under their own lock."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "models"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def bundled_settings(built_models: Path) -> ModelSettings:
    return ModelSettings(built_models)


def token_states() -> np.ndarray:
    """One state per token of the vocabulary, shape (10, 8)."""
    return np.random.default_rng(3).standard_normal((len(VOCABULARY), DIMENSIONS)).astype(np.float32)


def write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(path))


def write_text_model(path: Path, states: np.ndarray) -> None:
    """`input_ids`, `attention_mask` → one state per token, straight from a table."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["gathered"]),
        helper.make_node("Cast", ["attention_mask"], ["unused"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["gathered"], ["last_hidden_state"]),
    ]
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["n", "t"]) for n in ("input_ids", "attention_mask")]
    outputs = [
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "t", states.shape[1]]),
        helper.make_tensor_value_info("unused", TensorProto.FLOAT, ["n", "t"]),
    ]
    graph = helper.make_graph(nodes, "text", ids, outputs, [numpy_helper.from_array(states, "table")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def write_image_model(path: Path) -> None:
    """`pixel_values` (1, 3, s, s) → (1, 8): channel means (3), channel means of the left half (3), two constants."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("ReduceMean", ["pixel_values"], ["all"], axes=[2, 3], keepdims=0),
        helper.make_node("Slice", ["pixel_values", "zero", "four", "axis"], ["left"]),
        helper.make_node("ReduceMean", ["left"], ["half"], axes=[2, 3], keepdims=0),
        helper.make_node("Concat", ["all", "half", "tail"], ["image_embeds"], axis=1),
    ]
    constants = {
        "zero": np.array([0]),
        "four": np.array([4]),
        "axis": np.array([3]),
        "tail": np.ones((1, 2), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "image",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


@pytest.fixture
def text_folder(tmp_path: Path) -> Folder:
    """Makes MODELS_DIR/<name> with a tiny text model; keyword arguments go into its card."""

    def make(name: str = "tiny_text", **card: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_text_model(folder / "model.onnx", token_states())
        write_tokenizer(folder / "tokenizer.json")
        (folder / "mediatheca.json").write_text(json.dumps({"kind": "text", "dimensions": DIMENSIONS, **card}))
        return folder

    return make


@pytest.fixture
def image_folder(tmp_path: Path) -> Folder:
    """Makes MODELS_DIR/<name> with a tiny image model and, with `text=True`, a text tower."""

    def make(name: str = "tiny_image", text: bool = False, **image: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_image_model(folder / "vision.onnx")
        card: dict[str, object] = {
            "kind": "image",
            "dimensions": DIMENSIONS,
            "image": {"model": "vision.onnx", "size": 8, **image},
        }
        if text:
            write_text_model(folder / "text.onnx", token_states())
            write_tokenizer(folder / "tokenizer.json")
            card["text"] = {"model": "text.onnx"}
        (folder / "mediatheca.json").write_text(json.dumps(card))
        return folder

    return make
