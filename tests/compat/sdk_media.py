"""Every generated method of clips, import and export, uploaded extractors and models, and migrations of namespaces."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from typing import Any

import httpx
from sdk_world import Call, World

from mediatheca.testing.media import Scene, clip

TITLE = {"source_field": "title", "target": {"kind": "metadata", "path": "title"}}
MAPPING = {"fields": [TITLE]}
MANIFEST = 'metadata = {{"name": "{name}", "version": "v1"}}\nsupported_input_types = ["text"]\n'
PIPELINE = "def extract(inputs, parameters):\n    return {'size': len(inputs['text'])}\n"


def packed(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


def _weights() -> bytes:
    """A safetensors file of one number: models of this kind are kept, and need no runtime to be looked at."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return packed({"model.safetensors": len(header).to_bytes(8, "little") + header + bytes(4)})


def _word(w: World) -> str:
    return w.name(f"up_{w.namespace[-6:]}").replace("-", "_").lower()


def _sent(w: World, path: str, body: dict[str, Any], data: bytes) -> dict[str, Any]:
    made: dict[str, Any] = w.request("POST", path, body)
    assert httpx.put(made["presigned_url"], content=data).status_code in (200, 201, 204)
    return made


def _submission(w: World) -> str:
    name = _word(w)
    data = packed({"manifest.py": MANIFEST.format(name=name).encode(), "pipeline.py": PIPELINE.encode()})
    return str(_sent(w, "/extractors/submissions/uploads", {"name": name, "version": "v1"}, data)["submission_id"])


def _model_upload(w: World, path: str = "/models") -> str:
    body = {"name": _word(w), "version": "1.0.0", "model_format": "safetensors"}
    return str(_sent(w, f"{path}/uploads", body, _weights())["upload_id"])


def _model(w: World) -> str:
    return str(w.request("POST", f"/models/uploads/{_model_upload(w)}/confirm")["model_id"])


def _scene(w: World) -> dict[str, str]:
    """A segment of a film that was cut by time; no model looks at it."""
    schema = {"properties": {"film": {"type": "video"}}}
    bucket = w.client.buckets.create(bucket_name=w.name("films"), bucket_schema=schema)["bucket_id"]
    film = base64.b64encode(clip([Scene("rocket.jpg", 2)], fps=10)).decode()
    blob = {"property": "film", "type": "video", "data": film, "mime_type": "video/mp4"}
    w.request("POST", f"/buckets/{bucket}/objects", {"blobs": [blob]})
    extractor = {
        "feature_extractor_name": "multimodal_extractor", "version": "v1", "input_mappings": {"video": "film"},
        "parameters": {"run_transcription": False, "run_multimodal_embedding": False},
    }  # fmt: skip
    source = {"type": "bucket", "bucket_ids": [bucket]}
    made = w.client.collections.create(collection_name=w.name("scenes"), source=source, feature_extractor=extractor)[
        "collection_id"
    ]
    assert w.wait(w.client.collections.trigger(made)["batch_id"])["status"] == "COMPLETED"
    (document,) = w.client.documents.list(made)["results"]
    return {"collection_identifier": made, "document_id": document["document_id"]}


def _after(made: str, **arguments: Any) -> dict[str, Any]:
    """The arguments, once something was made."""
    assert made
    return arguments


def _inside(w: World, **more: Any) -> dict[str, Any]:
    return {"namespace_id": w.namespace, **more}


def _enabled(w: World) -> tuple[str, str]:
    """A model of the organization, and the namespace's record of it."""
    model = _model(w)
    return model, str(w.request("POST", f"/namespaces/{w.namespace}/models/org/{model}/enable", {})["model_id"])


def _network(w: World) -> str:
    """A model of the namespace that can be deployed: the mean colour of a picture."""
    from onnx import TensorProto, helper

    made = helper.make_graph(
        [helper.make_node("ReduceMean", ["pixel_values"], ["image_embeds"], axes=[2, 3], keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, [1, 3])],
    )
    graph = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    card = {"kind": "image", "dimensions": 3, "normalize": False, "image": {"model": "mean.onnx", "size": 8}}
    data = packed({"mean.onnx": graph.SerializeToString(), "mediatheca.json": json.dumps(card).encode()})
    path = f"/namespaces/{w.namespace}/models"
    body = {"name": _word(w), "version": "1.0.0", "model_format": "onnx"}
    upload = _sent(w, f"{path}/uploads", body, data)["upload_id"]
    return str(w.request("POST", f"{path}/uploads/{upload}/confirm")["model_id"])


def _config(w: World, **more: Any) -> dict[str, Any]:
    extractors = [{"feature_extractor_name": "text_extractor", "parameters": {"embedding_model": "all_minilm_l6_v2"}}]
    filters = {"collection_ids": [w.fresh_collection()]}
    return {
        "migration_type": "re_extract", "source_namespace_id": w.namespace, "feature_extractors": extractors,
        "filters": filters, **more,
    }  # fmt: skip


def _migration(w: World, *, started: bool = False) -> str:
    body = {"config": _config(w), "start_immediately": started}
    return str(w.request("POST", "/namespaces/migrations/", body)["migration_id"])


TRANSFER: dict[str, Call] = {
    "CollectionDocumentsApi.download_document_media": Call(
        _scene, lambda a, w: a.download_url.startswith("http") and (a.start_time, a.end_time) == (0, 2)
    ),
    "CollectionsApi.export_collection": Call(
        lambda w: {"collection_identifier": w.collection, "collection_export_request": {"format": "json"}},
        lambda a, w: a.document_count == 3 and a.download_url.startswith("http"),
    ),
    "CollectionsApi.infer_import_schema": Call(
        lambda w: {"schema_inference_request": {"sample_rows": [{"title": "a"}]}},
        lambda a, w: a.fields[0].suggested_target.path == "title",
    ),
    "CollectionsApi.validate_import_mapping": Call(
        lambda w: {"mapping_validation_request": {"mapping": MAPPING}}, lambda a, w: a.ok
    ),
    "CollectionsApi.import_collection": Call(
        lambda w: {
            "collection_identifier": w.fresh_collection(),
            "import_request": {"export": {"title": "Imported"}, "mapping": MAPPING},
        },
        lambda a, w: a.imported == 1,
    ),
    "CollectionSchemaApi.sync_collection_schema": Call(lambda w: {"collection_id": w.collection}),
}

UPLOADED: dict[str, Call] = {
    "ExtractorsApi.generate_upload_url_extractors_submissions": Call(
        lambda w: {"create_submission_upload_request": {"name": _word(w), "version": "v1"}},
        lambda a, w: a.presigned_url.startswith("http"),
    ),
    "ExtractorsApi.confirm_submission_extractors_uploads": Call(
        lambda w: {"submission_id": _submission(w), "confirm_submission_request": {}},
        lambda a, w: a.success and a.status == "approved",
    ),
    "ExtractorsApi.get_submission_extractors": Call(
        lambda w: {"submission_id": _submission(w)}, lambda a, w: a.submission["status"] == "pending_upload"
    ),
    "ExtractorsApi.list_submissions_extractors": Call(
        lambda w: _after(_submission(w)), lambda a, w: a.total == len(a.submissions) > 0
    ),
    "ModelsApi.generate_upload_url_models": Call(
        lambda w: {
            "create_model_upload_request": {"name": _word(w), "version": "1.0.0", "model_format": "onnx"},
        },
        lambda a, w: a.model_format == "onnx",
    ),
    "ModelsApi.confirm_upload_models": Call(lambda w: {"upload_id": _model_upload(w)}, lambda a, w: a.success),
    "ModelsApi.get_model": Call(lambda w: {"model_id": _model(w)}, lambda a, w: len(a.model.model_hash) == 64),
    "ModelsApi.download_model": Call(lambda w: {"model_id": _model(w)}),
    "ModelsApi.list_models": Call(lambda w: _after(_model(w)), lambda a, w: a.total >= 1),
    "ModelsApi.delete_model": Call(lambda w: {"model_id": _model(w)}),
    "CustomModelsApi.list_models_namespaces": Call(_inside),
    "CustomModelsApi.list_available_org_models_namespaces": Call(
        lambda w: _inside(w) if _model(w) else {}, lambda a, w: a.total >= 1
    ),
    "CustomModelsApi.enable_org_model_namespaces": Call(
        lambda w: _inside(w, model_id=_model(w)), lambda a, w: a.deployment_status == "skipped"
    ),
    "CustomModelsApi.disable_org_model_namespaces": Call(lambda w: _inside(w, model_id=_enabled(w)[0])),
    "CustomModelsApi.get_model_namespaces": Call(
        lambda w: _inside(w, model_id=_enabled(w)[1]), lambda a, w: a.model.deployed is False
    ),
    "CustomModelsApi.deploy_model_namespaces": Call(
        lambda w: _inside(w, model_id=_network(w)),
        lambda a, w: bool(w.request("DELETE", f"/namespaces/{w.namespace}/models/{a.model_id}")["success"]),
    ),
    "CustomModelsApi.delete_model_namespaces": Call(lambda w: _inside(w, model_id=_enabled(w)[1])),
}

MIGRATIONS: dict[str, Call] = {
    "NamespaceMigrationsApi.validate_migration_namespaces": Call(
        lambda w: {"validate_migration_request": {"config": _config(w)}}, lambda a, w: a.validation_result.valid
    ),
    "NamespaceMigrationsApi.create_migration_namespaces": Call(
        lambda w: {"create_migration_request": {"config": _config(w)}}, lambda a, w: a.status == "pending"
    ),
    "NamespaceMigrationsApi.start_migration_namespaces": Call(
        lambda w: {"migration_id": _migration(w)}, lambda a, w: a.status == "in_progress"
    ),
    "NamespaceMigrationsApi.get_migration_namespaces": Call(
        lambda w: {"migration_id": _migration(w, started=True)}, lambda a, w: len(a.progress.resources) == 1
    ),
    "NamespaceMigrationsApi.list_migrations_namespaces": Call(
        lambda w: {"list_migrations_request": {"limit": 5}} if _migration(w) else {}, lambda a, w: a.total >= 1
    ),
    "NamespaceMigrationsApi.cancel_migration_namespaces": Call(
        lambda w: {"migration_id": _migration(w)}, lambda a, w: a.status == "cancelled"
    ),
    "NamespaceMigrationsApi.delete_migration_namespaces": Call(
        lambda w: {"migration_id": _migration(w)}, lambda a, w: a is None
    ),
}
