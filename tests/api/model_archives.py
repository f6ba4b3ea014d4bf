"""A tiny text model as people would upload it: an ONNX graph that looks words up in a table, a tokenizer, a card."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from helpers import ok

WORDS = ("[UNK]", "cat", "kitten", "dog", "rocket", "space", "bread", "oven")
DIMENSIONS = 8


def graph(table: np.ndarray, domain: str = "") -> bytes:
    """`input_ids`, `attention_mask` → one state a token; `domain`: of the operator that does it."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"], domain=domain),
        helper.make_node("Cast", ["attention_mask"], ["unused"], to=TensorProto.FLOAT),
    ]
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["n", "t"]) for n in ("input_ids", "attention_mask")]
    outputs = [
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "t", table.shape[1]]),
        helper.make_tensor_value_info("unused", TensorProto.FLOAT, ["n", "t"]),
    ]
    made = helper.make_graph(nodes, "text", ids, outputs, [numpy_helper.from_array(table, "table")])
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString())


def table() -> np.ndarray:
    """Cats and kittens lie near each other, rockets and space too."""
    near = np.eye(len(WORDS), DIMENSIONS, dtype=np.float32) * 0.3
    for group, words in enumerate((("cat", "kitten"), ("dog",), ("rocket", "space"), ("bread", "oven"))):
        for word in words:
            near[WORDS.index(word), group] += 1.0
    return near


def tokenizer() -> bytes:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        made.save(str(path))
        return path.read_bytes()


def model_files(**changed: bytes | None) -> dict[str, bytes]:
    """Files of the archive; `model`, `tokenizer` and `card` may be replaced, or left out with None."""
    card = json.dumps({"kind": "text", "dimensions": DIMENSIONS, "weights_name": "a table of words"}).encode()
    files: dict[str, bytes | None] = {
        "model.onnx": changed.get("model", graph(table())),
        "tokenizer.json": changed.get("tokenizer", tokenizer()),
        "mediatheca.json": changed.get("card", card),
    }
    return {name: data for name, data in files.items() if data is not None}


def colour_model() -> dict[str, bytes]:
    """A model of pictures: the mean colour of each quarter's left half, 6 numbers."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("ReduceMean", ["pixel_values"], ["all"], axes=[2, 3], keepdims=0),
        helper.make_node("Slice", ["pixel_values", "zero", "four", "axis"], ["left"]),
        helper.make_node("ReduceMean", ["left"], ["half"], axes=[2, 3], keepdims=0),
        helper.make_node("Concat", ["all", "half"], ["image_embeds"], axis=1),
    ]
    constants = {"zero": np.array([0]), "four": np.array([4]), "axis": np.array([3])}
    made = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, [1, 6])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    card = {"kind": "image", "dimensions": 6, "image": {"model": "colours.onnx", "size": 8}}
    return {"colours.onnx": model.SerializeToString(), "mediatheca.json": json.dumps(card).encode()}


def packed(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


def send_model(client: httpx.Client, files: dict[str, bytes], name: str, namespace: str = "main") -> dict[str, Any]:
    """What the confirmation says. Without a namespace: a model of the organization."""
    path = f"/v1/namespaces/{namespace}/models" if namespace else "/v1/models"
    wanted = {"name": name, "version": "1.0.0", "model_format": "onnx"}
    announced = ok(client.post(f"{path}/uploads", json=wanted))
    put = httpx.put(announced["presigned_url"], content=packed(files), timeout=120)
    assert put.status_code in (200, 201, 204), put.text
    found: dict[str, Any] = ok(client.post(f"{path}/uploads/{announced['upload_id']}/confirm"))
    return found
