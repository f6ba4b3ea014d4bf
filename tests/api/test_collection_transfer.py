"""Collections as files, rows of others as documents, and the schema that documents really have."""

from __future__ import annotations

import base64
import csv
import io
import json
import tarfile
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from migration_world import E5, Library

from helpers import failed, ok, places
from server import Tenant


@pytest.fixture
def library(client: httpx.Client) -> Library:
    made = Library(client)
    made.add({"cat": "A cat sleeps", "formula": "=1+1 is a text", "dog": "The dog runs"})
    return made


def exported(library: Library, **asked: object) -> dict[str, object]:
    found: dict[str, object] = ok(library.client.post(f"{library.path}/export", json=asked))
    return found


def fetched(url: object) -> bytes:
    return httpx.get(str(url), timeout=120).raise_for_status().content


def test_lines_of_json_hold_every_document_and_only_the_fields_asked_for(library: Library) -> None:
    whole = exported(library, format="json")
    rows = [json.loads(line) for line in fetched(whole["download_url"]).splitlines()]
    assert {row["title"] for row in rows} == {"cat", "formula", "dog"}
    assert whole["document_count"] == 3
    assert whole["file_size_bytes"] == len(fetched(whole["download_url"]))
    some = exported(library, format="json", select_fields=["title"], sample_size=2, include_lineage=True)
    first = json.loads(fetched(some["download_url"]).splitlines()[0])
    assert "text" not in first
    assert first["root_object_id"].startswith("obj_")
    filters = {"AND": [{"field": "title", "operator": "eq", "value": "dog"}]}
    assert exported(library, format="json", filters=filters)["document_count"] == 1


def test_a_spreadsheet_runs_no_text_as_a_formula(library: Library) -> None:
    text = fetched(exported(library, format="csv")["download_url"]).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert "'=1+1 is a text" in {row["text"] for row in rows}


def test_parquet_has_typed_columns_and_vectors_lie_beside_it(library: Library) -> None:
    made = exported(library, include_vectors=True)
    table = pq.read_table(io.BytesIO(fetched(made["download_url"])))
    assert made["format"] == "parquet"
    assert {"document_id", "title", "text"} <= set(table.column_names)
    beside = pq.read_table(io.BytesIO(fetched(made["vectors_download_url"])))
    vector = json.loads(beside[f"text_extractor_v1_{E5}"][0].as_py())
    assert len(vector) == 384
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)


def test_shards_hold_as_many_samples_as_asked_for(library: Library) -> None:
    made = exported(library, format="webdataset", samples_per_shard=2)
    assert (made["shard_count"], made["shard_pattern"]) == (2, "documents-{000000..000001}.tar")
    shards = made["shards"]
    assert isinstance(shards, list)
    names = [name for shard in shards for name in _members(fetched(shard["download_url"]))]
    assert len(names) == 3
    assert all(name.endswith(".json") for name in names)


def _members(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


def test_an_empty_collection_is_an_empty_file_and_a_strange_one_is_not_found(
    client: httpx.Client, stranger: Tenant
) -> None:
    library = Library(client)
    for kind in ("json", "csv", "parquet", "webdataset"):
        assert exported(library, format=kind)["document_count"] == 0
    with stranger.client() as theirs:
        ok(theirs.post("/v1/namespaces", json={"namespace_name": "main"}))
    with stranger.client("main") as theirs:
        assert failed(theirs.post(f"{library.path}/export"), 404)
    assert failed(client.post(f"{library.path}/export", json={"destination": {"connection_id": "conn_1"}}), 422)


def test_rows_of_another_system_are_inferred_mapped_checked_and_written(client: httpx.Client) -> None:
    library = Library(client)
    index, vector = f"text_extractor_v1_{E5}", np.eye(1, 384, dtype=np.float16)[0]
    packed = base64.b64encode(vector.tobytes()).decode()
    rows = [{"id": "a1", "meta": {"brand": "acme", "price": 3}, "embedding": packed, "nothing": None}]
    found = ok(
        client.post("/v1/collections/import/infer", json={"sample_rows": rows, "known_index_dims": {index: 384}})
    )
    fields = {entry["path"]: entry for entry in found["fields"]}
    assert fields["id"]["suggested_target"] == {"kind": "identity", "role": "document_id"}
    assert (fields["embedding"]["type"], fields["embedding"]["dtype"]) == ("vector", "float16-base64")
    mapping = {
        "fields": [
            {"source_field": "id", "target": fields["id"]["suggested_target"]},
            {"source_field": "meta.brand", "target": {"kind": "metadata", "path": "brand"}},
            {"source_field": "embedding", "target": fields["embedding"]["suggested_target"]},
        ]
    }
    checked = {"mapping": mapping, "known_index_dims": {index: 384}}
    assert ok(client.post("/v1/collections/import/validate-mapping", json=checked)) == {"ok": True, "errors": []}
    wrong = {"mapping": mapping, "known_index_dims": {index: 8}}
    (error,) = ok(client.post("/v1/collections/import/validate-mapping", json=wrong))["errors"]
    assert error["field"] == "embedding"

    body = {"mapping": mapping, "export": {"rows": [*rows, {"id": "a2", "embedding": "%%"}]}}
    dry = ok(client.post(f"{library.path}/import", json={**body, "dry_run": True}))
    assert (dry["imported"], dry["reconstructed"], dry["skipped"]) == (0, 1, 1)
    done = ok(client.post(f"{library.path}/import", json=body))
    assert (done["imported"], [entry["row"] for entry in done["errors"]]) == (1, [1])
    document = ok(client.get(f"{library.path}/documents/a1", params={"return_vectors": True}))
    assert document["brand"] == "acme"
    bad = {"mapping": {"fields": [{"source_field": "id", "target": {"kind": "teleport"}}]}, "export": {"id": "x"}}
    assert places(failed(client.post(f"{library.path}/import", json=bad), 422)) == {"body.mapping"}


def test_an_array_of_the_export_explodes_into_documents(client: httpx.Client) -> None:
    library = Library(client)
    mapping = {
        "fields": [
            {"source_field": "asset", "target": {"kind": "metadata", "path": "asset"}},
            {"source_field": "start", "target": {"kind": "metadata", "path": "start"}},
        ]
    }
    export = {"asset": "film", "scenes": [{"start": 0}, {"start": 10}, {"start": 20}]}
    body = {"mapping": mapping, "export": export, "explode": {"explode_axis": "scenes"}}
    assert ok(client.post(f"{library.path}/import", json=body))["imported"] == 3
    documents = ok(client.post(f"{library.path}/documents/list"))["results"]
    assert sorted(document["start"] for document in documents) == [0, 10, 20]
    body["explode"] = {"explode_axis": "nothing"}
    assert failed(client.post(f"{library.path}/import", json=body), 422)


def test_fields_that_documents_have_become_part_of_the_schema(library: Library) -> None:
    document = ok(library.client.post(f"{library.path}/documents/list"))["results"][0]
    body = {"stars": 5, "place": {"city": "Bonn"}}
    ok(library.client.patch(f"{library.path}/documents/{document['document_id']}", json=body))
    synced = ok(library.client.post(f"{library.path}/sync-schema"))
    assert synced["fields_added"] == ["place", "stars"]
    assert synced["schema_version"] == synced["previous_version"] + 1
    assert library.collection_view()["output_schema"]["properties"]["stars"]["type"] == "integer"
    again = ok(library.client.post(f"{library.path}/sync-schema"))
    assert (again["fields_added"], again["schema_version"]) == ([], synced["schema_version"])


def test_collections_made_from_it_are_told_of_new_fields(library: Library) -> None:
    def made(name: str, source: str, **more: Any) -> str:
        extractor = {"feature_extractor_name": "passthrough_extractor", **more}
        body = {"collection_name": name, "source": {"collection_ids": [source]}, "feature_extractor": extractor}
        return str(ok(library.client.post("/v1/collections", json=body))["collection_id"])

    def schema(ident: str, which: str) -> set[str]:
        return set(ok(library.client.get(f"/v1/collections/{ident}"))[f"{which}_schema"]["properties"])

    plain = made("plain", library.collection)
    whole = made("whole", library.collection, include_all_source_fields=True)
    second = made("second", whole)
    mapped = {"collection_ids": [library.collection], "field_map": {library.collection: ["title"]}}
    extractor = {"feature_extractor_name": "passthrough_extractor"}
    body = {"collection_name": "mapped", "source": mapped, "feature_extractor": extractor}
    chosen = ok(library.client.post("/v1/collections", json=body))["collection_id"]
    document = ok(library.client.post(f"{library.path}/documents/list"))["results"][0]
    ok(library.client.patch(f"{library.path}/documents/{document['document_id']}", json={"stars": 5}))
    alone = ok(library.client.post(f"{library.path}/sync-schema", json={"cascade_to_downstream": False}))
    assert (alone["fields_added"], alone["downstream_collections_updated"]) == (["stars"], [])
    assert ok(library.client.post(f"{library.path}/sync-schema"))["downstream_collections_updated"] == []
    told = ok(library.client.post(f"{library.path}/sync-schema", json={"force": True}))
    assert set(told["downstream_collections_updated"]) == {plain, whole, second}
    assert "stars" in schema(plain, "input") & schema(whole, "output") & schema(second, "input")
    assert "stars" not in schema(chosen, "input") | schema(plain, "output")


def test_the_version_of_a_schema_counts_its_changes_and_nothing_else(library: Library) -> None:
    first = library.collection_view()
    assert (first["schema_version"], first["last_schema_sync"], first["index_map"]) == (1, None, None)
    ok(library.client.patch(library.path, json={"description": "another one"}))
    assert library.collection_view()["schema_version"] == 1
    document = ok(library.client.post(f"{library.path}/documents/list"))["results"][0]
    ok(library.client.patch(f"{library.path}/documents/{document['document_id']}", json={"stars": 5}))
    assert ok(library.client.post(f"{library.path}/sync-schema"))["schema_version"] == 2
    second = library.collection_view()
    assert second["schema_version"] == 2
    assert second["last_schema_sync"] <= second["updated_at"]
    ok(library.client.post(f"{library.path}/sync-schema"))
    third = library.collection_view()
    assert third["schema_version"] == 2
    assert third["last_schema_sync"] > second["last_schema_sync"]
