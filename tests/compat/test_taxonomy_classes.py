"""Taxonomies through the generated, strictly parsing classes of the official SDK, against a real server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mixpeek.models as models
import pytest
from mixpeek import Mixpeek

URI = "mixpeek://text_extractor@v1/multilingual_e5_large_instruct_v1"
LABELS = {"kitchen": "things for cooking, tea and coffee", "garden": "tools for plants and grass", "music": "sound"}
THINGS = {"Mug": "A red mug for tea", "Mower": "Cuts the grass of a lawn", "Phones": "Headphones with deep sound"}


def texts(client: Mixpeek, finished: Callable[[str, str], Any], name: str, rows: dict[str, str]) -> str:
    """A bucket and a filled collection of texts; gives the collection."""
    schema = {"properties": {"label_name": {"type": "string"}, "description": {"type": "text"}}}
    bucket = client.buckets.create(bucket_name=name, bucket_schema=schema)["bucket_id"]
    for label, text in rows.items():
        client.buckets.upload(bucket, label_name=label, description=text)
    collection: str = client.collections.create(
        collection_name=name,
        source={"type": "bucket", "bucket_ids": [bucket]},
        feature_extractor={
            "feature_extractor_name": "text_extractor",
            "version": "v1",
            "input_mappings": {"text": "description"},
            "parameters": {},
            "field_passthrough": ["label_name"],
        },
    )["collection_id"]
    finished(bucket, client.collections.trigger(collection)["batch_id"])
    return collection


def parsed(kind: str, body: dict[str, Any]) -> Any:
    """The answer as the SDK's class reads it: nothing may be missing or of another type."""
    found = getattr(models, kind).from_dict(body)
    assert found is not None
    return found


@pytest.mark.timeout(600)
def test_taxonomies_are_read_by_the_generated_classes(
    client: Mixpeek, finished: Callable[[str, str], dict[str, Any]]
) -> None:
    labels, things = (texts(client, finished, n, r) for n, r in (("labels", LABELS), ("things", THINGS)))
    search = {"feature_uri": URI, "query": {"input_mode": "text", "text": "{{INPUT.query}}"}, "top_k": 3}
    retriever = client.retrievers.create(
        retriever_name="matcher",
        collection_identifiers=[labels],
        stages=[{"stage_name": "search", "stage_id": "feature_search", "parameters": {"searches": [search]}}],
        input_schema={"query": {"type": "string"}},
    )["retriever_id"]
    ask = client._request
    mappings = [{"input_key": "query", "source_type": "payload", "path": "text"}]
    fields = [{"field_path": "label_name", "target_field": "kind", "merge_mode": "replace"}]
    source = {"collection_id": labels, "enrichment_fields": fields}
    flat = models.FlatTaxonomyConfigInput.from_dict(
        {"retriever_id": retriever, "input_mappings": mappings, "source_collection": source, "top_k": 1}
    )
    assert flat is not None
    made = ask("POST", "/taxonomies", body={"taxonomy_name": "kinds", "config": flat.to_dict()})
    assert parsed("TaxonomyResponse", made).config.actual_instance.retriever_id == retriever
    assert made["works_as"]["stored_vectors"] == sorted([labels, things])
    tree = {
        "taxonomy_type": "hierarchical",
        "retriever_id": retriever,
        "input_mappings": mappings,
        "hierarchical_nodes": [{"collection_id": labels, "label": "Labels"}],
    }
    second = ask("POST", "/taxonomies", body={"taxonomy_name": "tree", "config": tree})
    assert parsed("TaxonomyResponse", second).nodes[0].path == ["Labels"]
    parsed("ListTaxonomiesResponse", ask("POST", "/taxonomies/list", body={}))
    ident = made["taxonomy_id"]
    parsed("ListTaxonomiesResponse", ask("GET", f"/taxonomies/{ident}/versions"))
    tried = ask("POST", f"/taxonomies/execute/{ident}", body={"source_documents": [{"text": "a kettle for tea"}]})
    assert [match.label for match in parsed("JoinResponse", tried).matches] == ["kitchen"]
    ask("PATCH", f"/collections/{things}", body={"taxonomy_applications": [{"taxonomy_id": ident}]})
    started = ask("POST", f"/collections/{things}/apply-taxonomy", body={"taxonomy_id": ident})
    parsed("ApplyTaxonomyResponse", started)
    task = ask("GET", f"/tasks/{started['task_id']}")
    while task["status"] in ("QUEUED", "PROCESSING"):
        time.sleep(0.1)
        task = ask("GET", f"/tasks/{started['task_id']}")
    parsed("TaskResponse", task)
    assert task["status"] == "COMPLETED", task
    found = {d["label_name"]: d["kind"] for d in client.documents.list(things)["results"]}
    assert found == {"Mug": "kitchen", "Mower": "garden", "Phones": "music"}
    path = f"/analytics/taxonomies/{ident}"
    assert parsed("LabelDistributionResponse", ask("GET", f"{path}/labels")).total_assignments == 3
    parsed("ConfidenceResponse", ask("GET", f"{path}/confidence"))
    parsed("AssignmentMetricsResponse", ask("GET", f"{path}/assignments"))
    [first, *_] = client.documents.list(things)["results"]
    refs = [{"collection_id": things, "document_id": first["document_id"]}]
    body = {"taxonomy_name": "made", "node_label": "one", "documents": refs}
    parsed("TaxonomyNodeFromDocumentsResponse", ask("POST", "/taxonomies/from-documents", body=body))
    copied = ask("POST", f"/taxonomies/{ident}/clone", body={"taxonomy_name": "copy"})
    parsed("CloneTaxonomyResponse", copied)
    steps = {"timestamp_field": "created_at", "sequence_id_field": "label_name"}
    config = {**made["config"], "step_analytics": steps}
    parsed("TaxonomyResponse", ask("POST", f"/taxonomies/{ident}/versions", body={"config": config}))
    analytics = f"/taxonomies/{ident}/analytics"
    parsed("AvailableStepsResponse", ask("GET", f"{analytics}/available-steps?collection_id={things}"))
    asked = {"collection_id": things, "taxonomy_id": ident, "from_step": "kitchen", "to_step": "garden"}
    parsed("StepTransitionResponse", ask("POST", f"{analytics}/transitions", body=asked))
    parsed("PathAnalysisResponse", ask("POST", f"{analytics}/paths", body=asked))
    runs = ask("GET", f"{analytics}/runs")
    assert parsed("TaxonomyAnalyticsRunListResponse", runs).total == 2
    parsed("TaxonomyAnalyticsRun", ask("GET", f"{analytics}/runs/{runs['runs'][0]['run_id']}"))
    assert ask("DELETE", f"/taxonomies/{ident}?force=true")["success"] is True
