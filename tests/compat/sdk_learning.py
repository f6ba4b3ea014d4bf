"""Every generated method of evaluation, interactions, benchmarks, annotations and publishing."""

from __future__ import annotations

import time
import uuid
from typing import Any

from sdk_world import Call, World

QUERY = {"query": "something to drink from"}


def _after(made: object, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, once something was made."""
    assert made
    return arguments


def _golden(w: World) -> dict[str, Any]:
    queries = [{"query_id": "q1", "query_input": QUERY, "relevant_documents": [w.documents[0]]}]
    return {"dataset_name": w.name("golden"), "queries": queries}


def _dataset(w: World) -> str:
    return str(w.client.evaluations.create_dataset(**_golden(w))["dataset_name"])


def _evaluation(w: World) -> dict[str, Any]:
    started = w.client.evaluations.run(w.retriever, dataset_name=_dataset(w))
    for _ in range(3_600):
        record: dict[str, Any] = w.client.evaluations.get(w.retriever, started["evaluation_id"])
        if record["status"] in ("completed", "failed"):
            return record
        time.sleep(0.05)
    raise AssertionError(f"the evaluation did not end: {record}")


def _interaction(w: World, **more: Any) -> dict[str, Any]:
    execution = w.execution()
    made = {"feature_id": w.documents[0], "interaction_type": ["click"], "position": 0, "execution_id": execution}
    return {**made, "retriever_id": w.retriever, **more}


def _recorded(w: World) -> str:
    return str(w.client.retrievers.create_interaction(**_interaction(w))["interaction_id"])


def _liked(w: World) -> str:
    for _ in range(5):
        w.client.retrievers.create_interaction(**_interaction(w))
    return w.retriever


def _benchmark(w: World) -> dict[str, Any]:
    made = {"benchmark_name": w.name("benchmark"), "baseline_retriever_id": w.retriever}
    return {**made, "candidate_retriever_ids": [w.fresh_retriever()]}


def _benchmarked(w: World) -> str:
    made = w.request("POST", "/retrievers/benchmarks", {**_benchmark(w), "dataset_name": _dataset(w)})
    ident = str(made["benchmark_id"])
    for _ in range(3_600):
        if w.request("GET", f"/retrievers/benchmarks/{ident}")["status"] in ("completed", "failed"):
            return ident
        time.sleep(0.05)
    raise AssertionError("the benchmark did not end")


def _annotation(w: World) -> str:
    body = {"document_id": w.documents[0], "label": "approved", "confidence": 0.9}
    made = w.request("POST", "/annotations", body)["annotation_id"]
    w.request("PATCH", f"/annotations/{made}", {"label": "rejected"})
    return str(made)


def _publish(w: World, **more: Any) -> tuple[str, str]:
    """(retriever, public name). There is room for ten: those of other calls make way."""
    for row in w.request("GET", "/retrievers/published")["results"]:
        w.request("DELETE", f"/retrievers/{row['retriever_id']}/publish")
    retriever, name = w.fresh_retriever(), f"public-{uuid.uuid4().hex[:12]}"
    page = {"title": "Products", "exposed_fields": ["name"], "inputs": [_field()]}
    w.client.retrievers.publish(retriever, public_name=name, display_config=page, **more)
    return retriever, name


def _field() -> dict[str, Any]:
    return {"field_name": "query", "field_schema": {"type": "string"}, "label": "What are you looking for?"}


def _liked_in_public(w: World) -> dict[str, Any]:
    _, name = _publish(w)
    ran = w.request("POST", f"/public/retrievers/{name}/execute", {"inputs": QUERY})
    liked = {"document_id": ran["results"][0]["document_id"], "interaction_type": ["click"], "position": 0}
    return {"public_name": name, "liked": {**liked, "execution_id": ran["execution_id"]}}


def _key(w: World) -> dict[str, Any]:
    made = w.request("POST", f"/retrievers/{w.retriever}/api-keys", {"name": w.name("key")})
    return {"retriever_id": w.retriever, "key_id": made["key_id"]}


def _single(w: World) -> dict[str, Any]:
    given = _liked_in_public(w)
    return {"public_name": given["public_name"], "public_interaction_request": given["liked"]}


def _batch(w: World) -> dict[str, Any]:
    given = _liked_in_public(w)
    body = {"interactions": [given["liked"]]}
    return {"public_name": given["public_name"], "public_interaction_batch_request": body}


EVALUATIONS: dict[str, Call] = {
    "RetrieverEvaluationsApi.create_dataset_retrievers_evaluations": Call(
        lambda w: {"create_dataset_request": _golden(w)}, lambda a, w: a.query_count == 1
    ),
    "RetrieverEvaluationsApi.list_datasets_retrievers_evaluations": Call(
        lambda w: _after(_dataset(w), {"page": 1, "page_size": 5}), lambda a, w: a.total >= 1
    ),
    "RetrieverEvaluationsApi.get_dataset_retrievers_evaluations": Call(
        lambda w: {"dataset_identifier": _dataset(w)}, lambda a, w: a.queries[0].query_id == "q1"
    ),
    "RetrieverEvaluationsApi.start_evaluation_retrievers": Call(
        lambda w: {"retriever_id": w.retriever, "start_evaluation_request": {"dataset_name": _dataset(w)}},
        lambda a, w: a.status == "pending" and a.task_type == "retriever.evaluation",
    ),
    "RetrieverEvaluationsApi.get_evaluation_retrievers": Call(
        lambda w: {"retriever_id": w.retriever, "evaluation_id": _evaluation(w)["evaluation_id"]},
        lambda a, w: a.status.value == "completed" and a.metrics_by_k["10"]["mrr"] > 0,
    ),
    "RetrieverEvaluationsApi.list_evaluations_retrievers": Call(
        lambda w: _after(_evaluation(w), {"retriever_id": w.retriever, "status": "completed"}),
        lambda a, w: a.total >= 1 and a.evaluations[0].evaluated_queries == 1,
    ),
    "RetrieverEvaluationsApi.generate_dataset_from_interactions_retrievers_id_evaluations": Call(
        lambda w: {"retriever_id": _liked(w), "generate_from_interactions_request": {"min_interactions": 1}},
        lambda a, w: a.query_count == 1,
    ),
    "RetrieverEvaluationsApi.discover_evaluations": Call(lambda w: {}, lambda a, w: "ndcg" in a["metrics"]),
    "RetrieverEvaluationsApi.score_predictions_evaluations": Call(
        lambda w: {"score_predictions_request": {"predicted": ["a", "b"], "ground_truth": ["b"]}},
        lambda a, w: a.aggregate["precision"] == 0.5,
    ),
    "RetrieverInteractionsApi.create_interaction_retrievers": Call(
        lambda w: {"search_interaction": _interaction(w, user_id="u")},
        lambda a, w: bool(a.interaction_id) and a.deduplicated is False,
    ),
    "RetrieverInteractionsApi.create_interactions_bulk_retrievers_batch": Call(
        lambda w: {"bulk_interactions_request": {"interactions": [_interaction(w), _interaction(w)]}},
        lambda a, w: a.created == 2 and a.results[1].index == 1,
    ),
    "RetrieverInteractionsApi.list_interactions_retrievers": Call(
        lambda w: _after(_recorded(w), {"list_interactions_request": {"retriever_id": w.retriever}}),
        lambda a, w: len(a.results) >= 1 and a.results[0].feature_id == w.documents[0],
    ),
    "RetrieverInteractionsApi.get_interaction_retrievers": Call(
        lambda w: {"interaction_id": _recorded(w)}, lambda a, w: a.retriever_id == w.retriever
    ),
    "RetrieverInteractionsApi.delete_interaction_retrievers": Call(lambda w: {"interaction_id": _recorded(w)}),
    "RetrieverBenchmarksApi.create_benchmark_retrievers": Call(
        lambda w: {"create_benchmark_request": _benchmark(w)}, lambda a, w: a.status.value == "pending"
    ),
    "RetrieverBenchmarksApi.get_benchmark_retrievers": Call(
        lambda w: {"benchmark_id": _benchmarked(w)},
        lambda a, w: a.status.value == "completed" and a.results[0].metrics.ndcg_at_k["10"] > 0,
    ),
    "RetrieverBenchmarksApi.list_benchmarks_retrievers": Call(
        lambda w: _after(_benchmarked(w), {"page_size": 5}), lambda a, w: a.total >= 1
    ),
    "RetrieverBenchmarksApi.delete_benchmark_retrievers": Call(
        lambda w: {"benchmark_id": _benchmarked(w)}, lambda a, w: a is None
    ),
}

ANNOTATIONS: dict[str, Call] = {
    "AnnotationsApi.create_annotation": Call(
        lambda w: {"create_annotation_request": {"document_id": w.documents[0], "label": "safe"}},
        lambda a, w: a.label == "safe" and a.version == 1,
    ),
    "AnnotationsApi.bulk_annotations": Call(
        lambda w: {"bulk_annotations_request": {"create": [{"document_id": "d", "label": "x"}], "delete": ["ann_x"]}},
        lambda a, w: (a.created_count, a.failed_count) == (1, 1),
    ),
    "AnnotationsApi.list_annotations": Call(
        lambda w: _after(_annotation(w), {"list_annotations_request": {"label": "rejected"}}),
        lambda a, w: a.total_count == 1 and a.results[0].revisions[0].prior == {"label": "approved"},
    ),
    "AnnotationsApi.annotation_stats": Call(
        lambda w: _after(_annotation(w), {}), lambda a, w: a.by_label["rejected"] >= 1
    ),
    "AnnotationsApi.get_annotation": Call(lambda w: {"annotation_id": _annotation(w)}, lambda a, w: a.version == 2),
    "AnnotationsApi.patch_annotation": Call(
        lambda w: {"annotation_id": _annotation(w), "patch_annotation_request": {"label": "deferred"}},
        lambda a, w: (a.label, a.version) == ("deferred", 3),
    ),
    "AnnotationsApi.delete_annotation": Call(lambda w: {"annotation_id": _annotation(w)}),
    "AnnotationsApi.get_annotation_versions": Call(
        lambda w: {"annotation_id": _annotation(w)}, lambda a, w: a.versions[1].changed_fields == ["label"]
    ),
    "AnnotationsApi.get_annotation_at_version": Call(
        lambda w: {"annotation_id": _annotation(w), "version": 1}, lambda a, w: a.label == "approved"
    ),
}

PUBLISHING: dict[str, Call] = {
    "PublishedRetrieversApi.publish_retriever": Call(
        lambda w: {
            "retriever_id": w.fresh_retriever(),
            "publish_retriever_request": {"public_name": f"public-{uuid.uuid4().hex[:12]}"},
        },
        lambda a, w: a.public_url.endswith(a.public_url.rsplit("/", 1)[1]) and a.public_id.startswith("pub_"),
    ),
    "PublishedRetrieversApi.get_published_retriever_id_publish": Call(
        lambda w: {"retriever_id": _publish(w)[0]}, lambda a, w: a.display_config.exposed_fields == ["name"]
    ),
    "PublishedRetrieversApi.update_published_retriever_id_publish": Call(
        lambda w: {"retriever_id": _publish(w)[0], "update_published_retriever_request": {"is_active": False}},
        lambda a, w: a.is_active is False,
    ),
    "PublishedRetrieversApi.unpublish_retriever_id_publish": Call(
        lambda w: {"retriever_id": _publish(w)[0]}, lambda a, w: a.success
    ),
    "PublishedRetrieversApi.check_name_availability_retrievers_id_publish": Call(
        lambda w: {"retriever_id": w.retriever, "name": "a-free-name"}, lambda a, w: a.available
    ),
    "PublishedRetrieversApi.get_organization_publish_stats_retrievers": Call(
        lambda w: {}, lambda a, w: a.max_allowed == 10 and not a.at_limit
    ),
    "PublishedRetrieversApi.list_published_retrievers": Call(
        lambda w: _after(_publish(w), {"limit": 5}), lambda a, w: len(a["results"]) >= 1
    ),
    "PublishedRetrieversApi.reconcile_publish_state_retrievers": Call(
        lambda w: {"retriever_id": _publish(w)[0], "dry_run": True}, lambda a, w: a["is_published"]
    ),
    "PublicRetrieverAPIApi.list_retrievers": Call(
        lambda w: {"search": _publish(w)[1]}, lambda a, w: a.total_count == 1 and a.results[0].title == "Products"
    ),
    "PublicRetrieverAPIApi.get_retriever_config_name": Call(
        lambda w: {"public_name": _publish(w)[1]}, lambda a, w: a.display_config.title == "Products"
    ),
    "PublicRetrieverAPIApi.execute_retriever_name": Call(
        lambda w: {"public_name": _publish(w)[1], "retriever_execution_request": {"inputs": QUERY}}
    ),
    "PublicRetrieverAPIApi.verify_password_retrievers_name": Call(
        lambda w: {
            "public_name": _publish(w, password="open sesame")[1],
            "verify_password_request": {"password": "open sesame"},
        },
        lambda a, w: a.valid,
    ),
    "PublicRetrieverAPIApi.get_retriever_template_name": Call(
        lambda w: {"public_name": _publish(w)[1]}, lambda a, w: a.collection_identifiers == ["texts"]
    ),
    "PublicRetrieverAPIApi.track_interaction_retrievers_name": Call(_single),
    "PublicRetrieverAPIApi.track_interaction_batch_retrievers_name": Call(_batch),
    "RetrieverAPIKeysApi.create_retriever_key": Call(
        lambda w: {"retriever_id": w.retriever, "create_retriever_api_key_request": {"name": w.name("key")}},
        lambda a, w: a.key.startswith("ret_sk_"),
    ),
    "RetrieverAPIKeysApi.list_retriever_keys": Call(
        lambda w: {"retriever_id": _key(w)["retriever_id"]}, lambda a, w: a.total >= 1
    ),
    "RetrieverAPIKeysApi.revoke_retriever_key": Call(_key, lambda a, w: a.success),
}
