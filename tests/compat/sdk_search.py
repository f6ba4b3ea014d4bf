"""Every generated method of the collection, document, extractor, retriever and health groups."""

from __future__ import annotations

from sdk_world import TEXT_URI, Call, World, search_stage


def _of(w: World, **more: object) -> dict[str, object]:
    return {"collection_identifier": w.collection, **more}


def _document(w: World, **more: object) -> dict[str, object]:
    return _of(w, document_id=w.documents[0], **more)


def _fresh(w: World, **more: object) -> dict[str, object]:
    return _of(w, document_id=w.fresh_document(), **more)


def _execution(w: World) -> dict[str, object]:
    return {"retriever_id": w.retriever, "execution_id": w.execution()}


CHEAP = {"AND": [{"field": "price", "operator": "lt", "value": 100}]}
COUNTED = {"aggregations": [{"function": "count", "alias": "n"}], "group_by": [{"field": "name"}]}
QUERY = {"inputs": {"query": "something to drink from"}}

COLLECTIONS: dict[str, Call] = {
    "CollectionsApi.create_collection": Call(
        lambda w: {
            "create_collection_request": {
                "collection_name": w.name("made"),
                "source": {"type": "bucket", "bucket_ids": [w.bucket]},
                "feature_extractor": {
                    "feature_extractor_name": "text_extractor",
                    "version": "v1",
                    "input_mappings": {"text": "description"},
                    "field_passthrough": [{"source_path": "name"}],
                    "parameters": {"extractor_type": "text_extractor", "split_by": "sentences"},
                },
            }
        },
        lambda a, w: a.vector_indexes[0].feature_uri == TEXT_URI,
    ),
    "CollectionsApi.list_collections": Call(lambda w: {}, lambda a, w: a.total_count >= 1),
    "CollectionsApi.list_collections_get": Call(lambda w: {"limit": 1}, lambda a, w: len(a.results) == 1),
    "CollectionsApi.get_collection": Call(
        lambda w: {"collection_identifier": "texts"}, lambda a, w: a.collection_id == w.collection
    ),
    "CollectionsApi.update_collection": Call(
        lambda w: _of(w, request_body={"description": "texts of products"}),
        lambda a, w: a.description == "texts of products",
    ),
    "CollectionsApi.clone_collection": Call(
        lambda w: _of(w, clone_collection_request={"collection_name": w.name("copy")}),
        lambda a, w: a.source_collection_id == w.collection and a.collection.collection_name.startswith("copy"),
    ),
    "CollectionsApi.trigger_collection": Call(
        lambda w: {"collection_identifier": w.fresh_collection()}, lambda a, w: a.object_count >= 3
    ),
    "CollectionsApi.delete_collection": Call(lambda w: {"collection_identifier": w.fresh_collection()}),
    "CollectionsApi.describe_collection_features": Call(_of, lambda a, w: len(a.features) == 1),
    "CollectionsApi.reconcile_collection_reconciliation": Call(
        lambda w: {"collection_identifier": w.fresh_collection(), "limit": 2},
        lambda a, w: a.delta == a.source_object_count and len(a.discrepancies) == 2 and a.discrepancies_truncated,
    ),
    "FeatureExtractorsApi.list_feature_extractors": Call(
        lambda w: {}, lambda a, w: "text_extractor_v1" in {e.feature_extractor_id for e in a}
    ),
    "FeatureExtractorsApi.get_feature_extractor_by": Call(
        lambda w: {"feature_extractor_id": "image_extractor_v1"}, lambda a, w: "image" in a.supported_input_types
    ),
    "FeaturesApi.discover_features": Call(
        lambda w: {}, lambda a, w: {"text", "image"} <= {entry["modality"] for entry in a.modalities}
    ),
    "ExtractorsApi.list_org_extractors": Call(lambda w: {}, lambda a, w: a.total == len(a.extractors)),
    "NamespaceExtractorsApi.list_extractors_namespaces": Call(
        lambda w: {"namespace_id": w.namespace}, lambda a, w: a.namespace_id == w.namespace
    ),
    "NamespaceExtractorsApi.get_extractor_namespaces": Call(
        lambda w: {"namespace_id": w.namespace, "extractor_id": "text_extractor_v1"},
        lambda a, w: a.source == "builtin",
    ),
    "FeatureSearchApi.feature_search": Call(
        lambda w: {"feature_search_request": {"query": {"text": "gardening"}, "top_k": 1, "filters": {"AND": []}}},
        lambda a, w: [d["name"] for d in a["documents"]] == ["Lawn mower"],
    ),
    "InferenceApi.execute_raw_inference": Call(
        lambda w: {"raw_inference_request": {"feature_uri": TEXT_URI, "inputs": {"text": "a mug"}}},
        lambda a, w: len(a.data["embedding"]) == a.data["dimensions"],
    ),
}

DOCUMENTS: dict[str, Call] = {
    "CollectionDocumentsApi.create_document": Call(
        lambda w: _of(w, document_create_request={"collection_id": w.collection, "metadata": {"shelf": 1}}),
        lambda a, w: a.collection_id == w.collection,
    ),
    "CollectionDocumentsApi.list_documents": Call(
        lambda w: _of(w, list_documents_request={"filters": CHEAP, "limit": 2}), lambda a, w: len(a.results) == 2
    ),
    "CollectionDocumentsApi.list_documents_0": Call(lambda w: _of(w, limit=1), lambda a, w: len(a.results) == 1),
    "CollectionDocumentsApi.get_document": Call(_document, lambda a, w: a.document_id == w.documents[0]),
    "CollectionDocumentsApi.patch_document": Call(lambda w: _fresh(w, request_body={"price": 7})),
    "CollectionDocumentsApi.update_document": Call(lambda w: _fresh(w, request_body={"name": "Pot"})),
    "CollectionDocumentsApi.delete_document": Call(_fresh, lambda a, w: a.success),
    "CollectionDocumentsApi.batch_update": Call(
        lambda w: _of(
            w,
            batch_update_documents_request={
                "updates": [{"document_id": w.fresh_document(), "update_data": {"price": 8}}]
            },
        ),
        lambda a, w: a.updated_count == 1,
    ),
    "CollectionDocumentsApi.bulk_update": Call(
        lambda w: _of(w, bulk_update_documents_request={"filters": CHEAP, "update_data": {"cheap": True}})
    ),
    "CollectionDocumentsApi.batch_delete": Call(
        lambda w: _of(w, batch_delete_documents_request={"document_ids": [w.fresh_document()]})
    ),
    "CollectionDocumentsApi.count_documents": Call(_of, lambda a, w: a.count >= 3),
    "CollectionDocumentsApi.aggregate_documents": Call(
        lambda w: _of(w, document_aggregation_request=COUNTED), lambda a, w: a.total_groups >= 3
    ),
    "CollectionDocumentsApi.distinct_document_values": Call(
        lambda w: _of(w, distinct_values_request={"field": "name"}), lambda a, w: a.total_distinct >= 3
    ),
    "CollectionDocumentsApi.get_document_diagnostics": Call(_document, lambda a, w: bool(a.visibility_reason)),
    "CollectionDocumentsApi.get_document_ancestors": Call(_document),
    "CollectionDocumentsApi.get_document_descendants": Call(_document),
    "DocumentLineageApi.get_document_lineage": Call(
        lambda w: {"collection_id": w.collection, "document_id": w.documents[0]},
        lambda a, w: a.document_id == w.documents[0],
    ),
    "DocumentLineageApi.get_decomposition_tree_objects": Call(lambda w: {"object_id": w.objects[0]}),
    "DocumentLineageApi.get_documents_by_object": Call(lambda w: {"object_id": w.objects[0]}),
    "DocumentsApi.get_document_ns": Call(
        lambda w: {"document_id": w.documents[0]}, lambda a, w: a.collection_id == w.collection
    ),
    "DocumentsApi.patch_document_ns": Call(
        lambda w: {"document_id": w.fresh_document(), "request_body": {"price": 9}},
    ),
    "DocumentsApi.update_document_ns": Call(
        lambda w: {"document_id": w.fresh_document(), "request_body": {"name": "Jug"}},
    ),
    "DocumentsApi.batch_get": Call(
        lambda w: {"batch_get_documents_request": {"document_ids": w.documents}},
        lambda a, w: len(a.documents) == len(w.documents) and a.not_found == [],
    ),
    "DocumentsApi.list_documents_ns": Call(lambda w: {}, lambda a, w: len(a.results) >= 3),
    "DocumentsApi.list_documents_batch": Call(
        lambda w: {"batch_list_documents_request": {"queries": [{"key": "one", "request": {"limit": 1}}]}},
        lambda a, w: len(a.results) == 1,
    ),
    "BYODocumentsApi.upsert_documents_byo_namespaces": Call(
        lambda w: {
            "namespace_id": w.byo,
            "byo_upsert_request": {"documents": [{"document_id": "sky", "vectors": {"colour": [0.0, 0.0, 1.0]}}]},
            "_headers": {"X-Namespace": w.byo},
        },
        lambda a, w: a.inserted == 1 and a.document_ids == ["sky"],
    ),
    "BYODocumentsApi.get_document_byo_namespaces": Call(
        lambda w: {"namespace_id": w.byo, "document_id": w.byo_document(), "_headers": {"X-Namespace": w.byo}}
    ),
}

RETRIEVERS: dict[str, Call] = {
    "RetrieversApi.create_retriever": Call(
        lambda w: {
            "create_retriever_request": {
                "retriever_name": w.name("made"),
                "collection_identifiers": ["texts"],
                "stages": [search_stage()],
                "input_schema": {"query": {"type": "string", "required": True}},
            }
        },
        lambda a, w: a.collection_ids == [w.collection],
    ),
    "RetrieversApi.list_retrievers": Call(lambda w: {}, lambda a, w: a.total >= 1),
    "RetrieversApi.list_retrievers_get": Call(lambda w: {}, lambda a, w: bool(a)),
    "RetrieversApi.get_retriever": Call(
        lambda w: {"retriever_id": "search"}, lambda a, w: a.retriever_id == w.retriever and len(a.stages) == 1
    ),
    "RetrieversApi.patch_retriever": Call(
        lambda w: {"retriever_id": w.fresh_retriever(), "patch_retriever_request": {"description": "finds things"}},
        lambda a, w: a.retriever.description == "finds things",
    ),
    "RetrieversApi.clone_retriever": Call(
        lambda w: {"retriever_id": w.retriever, "clone_retriever_request": {"retriever_name": w.name("twin")}},
        lambda a, w: a.source_retriever_id == w.retriever,
    ),
    "RetrieversApi.delete_retriever": Call(lambda w: {"retriever_id": w.fresh_retriever()}),
    "RetrieversApi.execute_retriever": Call(
        lambda w: {"retriever_id": w.retriever, "execute_retriever_request": {**QUERY, "limit": 1, "filters": CHEAP}},
        lambda a, w: [d["name"] for d in a.documents] == ["Mug"] and a.results == a.documents,
    ),
    "RetrieversApi.execute_batch_retrievers": Call(
        lambda w: {
            "retriever_id": w.retriever,
            "execute_batch_request": {"queries": [QUERY, {"inputs": {"query": "music"}}], "settings": {"limit": 1}},
        },
        lambda a, w: [r["documents"][0]["name"] for r in a["results"]] == ["Mug", "Headphones"],
    ),
    "RetrieversApi.explain_retriever_execution_id_execute": Call(
        lambda w: {"retriever_id": w.retriever, "explain_retriever_request": QUERY},
        lambda a, w: a.total_estimated_stages == 1 and a.estimated_cost["total_credits"] == 0,
    ),
    "RetrieversApi.list_executions_retrievers": Call(
        lambda w: {"retriever_id": _execution(w)["retriever_id"]},
        lambda a, w: a.results[0].total_returned > 0 and a.results[0].query_summary == "something to drink from",
    ),
    "RetrieversApi.get_execution_retrievers": Call(
        _execution, lambda a, w: a.retriever_id == w.retriever and a.total_returned > 0
    ),
    "RetrieversApi.get_execution_status_retrievers": Call(_execution, lambda a, w: a["status"] == "completed"),
    "RetrieversApi.get_execution_profile_retrievers": Call(
        _execution, lambda a, w: [stage["stage_name"] for stage in a["stages"]] == ["semantic"]
    ),
    "RetrieversApi.typeahead_retrievers": Call(
        lambda w: {"q": "Head", "fields": "name"},
        lambda a, w: [(v.value, v.count) for v in a.values] == [("Headphones", 1)],
    ),
    "RetrieverStagesApi.list_stages_retrievers": Call(
        lambda w: {}, lambda a, w: {"feature_search", "attribute_filter"} <= {stage.stage_id for stage in a}
    ),
    "AdhocRetrieversApi.execute_adhoc_retriever": Call(
        lambda w: {"adhoc_execute_request": {"collection_identifiers": ["texts"], "stages": [search_stage()], **QUERY}},
        lambda a, w: a["documents"][0]["name"] == "Mug",
    ),
    "AdhocRetrieversApi.list_adhoc_executions_retrievers": Call(
        lambda w: {"limit": len([w.adhoc_execution()])}, lambda a, w: a.results[0].execution_mode == "adhoc"
    ),
    "AdhocRetrieversApi.get_adhoc_execution_retrievers": Call(
        lambda w: {"execution_id": w.adhoc_execution()}, lambda a, w: a.collection_ids == [w.collection]
    ),
}

HEALTH: dict[str, Call] = {
    "HealthApi.healthcheck_health": Call(lambda w: {}),
    "HealthApi.healthcheck_deep_health": Call(lambda w: {}, lambda a, w: a.status == "OK"),
    "HealthApi.liveness_health": Call(lambda w: {}),
    "HealthApi.celery_beat_health": Call(lambda w: {}, lambda a, w: a["beat_running"] is True),
}
