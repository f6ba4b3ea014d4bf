"""Uploaded models: opened once where they can harm nobody, then what collections embed with."""

from __future__ import annotations

import base64
import io
import pickle
import zipfile

import httpx
import numpy as np
import pytest
from migration_world import Library
from model_archives import DIMENSIONS, colour_model, graph, model_files, packed, send_model, table

from helpers import failed, ok
from server import Tenant


@pytest.fixture
def deployed(client: httpx.Client, namespace: str) -> str:
    """The id of a deployed model."""
    found = send_model(client, model_files(), "words")
    assert found["success"], found
    ok(client.post(f"/v1/namespaces/main/models/{found['model_id']}/deploy"))
    return str(found["model_id"])


def test_a_model_is_sent_opened_deployed_and_searched_with(client: httpx.Client, deployed: str) -> None:
    shown = ok(client.get(f"/v1/namespaces/main/models/{deployed}"))["model"]
    assert (shown["deployed"], shown["embedding_dim"], shown["embedding_model"]) == (True, DIMENSIONS, deployed)
    assert shown["validation"]["name"] == "a table of words"
    library = Library(client, model=deployed)
    library.add({"a": "cat", "b": "rocket", "c": "bread"})
    search = library.retriever(f"mixpeek://text_extractor@v1/{deployed}")
    assert library.found(search, "kitten", 1) == ["a"]
    assert library.found(search, "space", 1) == ["b"]
    assert "is used by" in failed(client.delete(f"/v1/namespaces/main/models/{deployed}"), 409)["message"]


def test_a_collection_migrates_to_an_uploaded_model(client: httpx.Client, deployed: str) -> None:
    library = Library(client, model="all_minilm_l6_v2")
    library.add({"a": "cat", "b": "rocket", "c": "bread"})
    search = library.retriever("mixpeek://text_extractor@v1/all_minilm_l6_v2")
    ident = library.migrate(deployed)
    library.reaches(ident, "ready")
    library.step(ident, "switch", "switched")
    assert library.collection_view()["vector_indexes"][0]["index"]["dimensions"] == DIMENSIONS
    assert library.found(search, "oven", 1) == ["c"]


def test_nobody_else_can_embed_with_it(client: httpx.Client, deployed: str, stranger: Tenant) -> None:
    with stranger.client() as theirs:
        ok(theirs.post("/v1/namespaces", json={"namespace_name": "main"}))
    with stranger.client("main") as theirs:
        schema = {"properties": {"text": {"type": "text"}}}
        bucket = ok(theirs.post("/v1/buckets", json={"bucket_name": "b", "bucket_schema": schema}))["bucket_id"]
        extractor = {"feature_extractor_name": "text_extractor", "parameters": {"embedding_model": deployed}}
        source = {"type": "bucket", "bucket_ids": [bucket]}
        body = {"collection_name": "col", "source": source, "feature_extractor": extractor}
        assert "not deployed in this namespace" in failed(theirs.post("/v1/collections", json=body), 503)["message"]
        assert failed(theirs.get(f"/v1/namespaces/main/models/{deployed}"), 404)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": b"not a graph"}, "model.onnx"),
        ({"model": graph(table(), domain="com.evil")}, "com.evil"),
        ({"card": None}, "neither"),
        ({"card": b'{"kind": "text", "dimensions": 9}'}, "dimensions"),
        ({"tokenizer": None}, "tokenizer"),
        ({"model": graph(np.full((8, 8), np.nan, np.float32))}, "vectors"),
        ({"tokenizer": pickle.dumps({"a": 1}, protocol=4)}, "pickle"),
    ],
    ids=["junk", "foreign operators", "no card", "wrong card", "no tokenizer", "NaN", "pickle"],
)
def test_what_cannot_be_used_is_refused_when_it_is_confirmed(
    client: httpx.Client, namespace: str, changed: dict[str, bytes | None], told: str
) -> None:
    found = send_model(client, model_files(**changed), "bad")
    assert (found["success"], found["validation_status"]) == (False, "failed")
    assert told in found["message"], found
    assert ok(client.get("/v1/namespaces/main/models"))["models"] == []


def test_what_has_no_effect_on_a_model_is_told_and_another_file_is_refused(
    client: httpx.Client, namespace: str
) -> None:
    path = "/v1/namespaces/main/models"
    wanted = {"name": "words", "version": "1", "resource_requirements": {"gpus": 1}, "source": "huggingface"}
    announced = ok(client.post(f"{path}/uploads", json=wanted))
    assert [note.partition(":")[0] for note in announced["warnings"]] == ["resource_requirements", "source"]
    sent = httpx.put(announced["presigned_url"], content=packed(model_files()), timeout=120)
    confirm = f"{path}/uploads/{announced['upload_id']}/confirm"
    refused = ok(client.post(confirm, json={"etag": '"another"', "checksum": "x"}))
    assert (refused["success"], "etag" in refused["message"]) == (False, True)
    assert refused["warnings"] == ["checksum: unknown key is ignored"]
    assert ok(client.post(confirm, json={"etag": sent.headers["etag"]}))["success"]


def test_formats_that_run_code_are_refused_before_anything_is_sent(client: httpx.Client, namespace: str) -> None:
    for kind in ("pytorch", "huggingface", "pickle"):
        body = {"name": "model", "version": "1", "model_format": kind}
        assert "ONNX" in failed(client.post("/v1/namespaces/main/models/uploads", json=body), 422)["message"]


def test_safetensors_alone_are_kept_but_nothing_here_can_run_them(client: httpx.Client, namespace: str) -> None:
    header = b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    data = len(header).to_bytes(8, "little") + header + b"\0\0\0\0"
    found = send_model(client, {"model.safetensors": data}, "tensors")
    assert found["success"], found
    error = failed(client.post(f"/v1/namespaces/main/models/{found['model_id']}/deploy"), 400)
    assert "ONNX" in error["message"]
    assert send_model(client, {"model.safetensors": b"\xff" * 100}, "junk")["success"] is False


def test_a_model_of_the_organization_is_enabled_in_a_namespace(admin: httpx.Client, namespace: str) -> None:
    found = send_model(admin, model_files(), "shared", namespace="")
    assert [entry["name"] for entry in ok(admin.get("/v1/models"))["models"]] == ["shared"]
    enabled = ok(admin.post(f"/v1/namespaces/main/models/org/{found['model_id']}/enable",
                             json={"deploy": True, "resource_overrides": {"gpus": 1}}))  # fmt: skip
    assert enabled["deployment_status"] == "deployed"
    assert enabled["warnings"][0].startswith("resource_overrides: {'gpus': 1} has no effect")
    (listed,) = ok(admin.get("/v1/namespaces/main/models"))["models"]
    assert (listed["deployed"], listed["embedding_model"]) == (True, found["model_id"])
    assert failed(admin.delete(f"/v1/models/{found['model_id']}"), 409)
    url = ok(admin.get(f"/v1/models/{found['model_id']}/download"))["download_url"]
    with zipfile.ZipFile(io.BytesIO(httpx.get(url).content)) as archive:
        assert archive.namelist() == list(model_files())


def test_pictures_are_extracted_once_more_for_the_new_model(client: httpx.Client, namespace: str) -> None:
    import skimage.data
    from PIL import Image

    schema = {"properties": {"photo": {"type": "image"}, "title": {"type": "string"}}}
    bucket = ok(client.post("/v1/buckets", json={"bucket_name": "photos", "bucket_schema": schema}))["bucket_id"]
    extractor = {"feature_extractor_name": "image_extractor", "field_passthrough": ["title"]}
    source = {"type": "bucket", "bucket_ids": [bucket]}
    body = {"collection_name": "photos", "source": source, "feature_extractor": extractor}
    made = ok(client.post("/v1/collections", json=body))
    for title in ("cat", "rocket", "coffee"):
        sink = io.BytesIO()
        Image.fromarray(getattr(skimage.data, title)()).resize((64, 64)).save(sink, "PNG")
        data = f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"
        blobs = [{"property": "photo", "type": "image", "data": data}]
        ok(client.post(f"/v1/buckets/{bucket}/objects", json={"blobs": blobs, "title": title}))
    found = send_model(client, colour_model(), "colours")
    assert found["success"], found
    ok(client.post(f"/v1/namespaces/main/models/{found['model_id']}/deploy"))

    library = Library.of(client, bucket, made["collection_id"])
    library.process()
    ident = library.migrate(found["model_id"])
    built = library.reaches(ident, "ready")
    assert (built["progress"]["built"], built["progress"]["failed"]) == (3, 0)
    library.step(ident, "switch", "switched")
    library.step(ident, "finish", "completed")
    name = f"image_extractor_v1_{found['model_id']}"
    vectors = library.vectors()
    assert vectors == {title: {name} for title in ("cat", "rocket", "coffee")}
