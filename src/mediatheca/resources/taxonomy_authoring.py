"""Taxonomies from examples: from chosen documents, from the clusters of a run, and further nodes for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field, model_validator

from mediatheca.api.deps import Caller, Writer, answer
from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.taxonomies.authoring import (
    MAX_DOCUMENTS,
    Anchor,
    Averaged,
    Example,
    average,
    label_collection,
    label_config,
    label_retriever,
    of_clusters,
    write_anchors,
)
from mediatheca.flows.taxonomies.nodes import KIND, PREFIX
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import ConflictError
from mediatheca.kernel.ids import check_name
from mediatheca.resources.base import Context, Spec, notes_on
from mediatheca.resources.retrievers import checked
from mediatheca.resources.taxonomies import created, designed
from mediatheca.stores.db.tx import Record, Tx

routes = APIRouter(tags=["taxonomies"])


class DocumentRef(Spec):
    """One document of one collection."""

    collection_id: str = Field(min_length=1, max_length=200)
    document_id: str = Field(min_length=1, max_length=512)


class ClusterRun(Spec):
    """A completed run whose clusters become nodes."""

    cluster_id: str = Field(min_length=1, max_length=200)
    run_id: str = Field(min_length=1, max_length=200)


class NodeSpec(Spec):
    """A node whose vector is the mean of documents."""

    node_label: str = Field(min_length=1, max_length=500)
    documents: list[DocumentRef] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    node_fields: dict[str, Any] = Field(default_factory=dict)
    vector_name: str | None = Field(None, max_length=512)
    provenance: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class FromDocuments(NodeSpec):
    """A taxonomy with that node, or with a node for every cluster of a run."""

    taxonomy_name: str
    description: str | None = Field(None, max_length=5000)
    enrichment_target_field: str | None = Field(None, min_length=1, max_length=512)
    node_label: str = Field("", max_length=500)
    documents: list[DocumentRef] = Field(default_factory=list, max_length=MAX_DOCUMENTS)
    cluster_run: ClusterRun | None = None

    @model_validator(mode="after")
    def _one_source(self) -> FromDocuments:
        if bool(self.documents) == (self.cluster_run is not None):
            raise ValueError("give one of documents and cluster_run")
        if self.documents and not self.node_label:
            raise ValueError("documents need a node_label, the label of the node that they make")
        return self


@routes.post("/taxonomies/from-documents", operation_id="create_taxonomy_from_documents", response_model=None)
def from_documents(spec: FromDocuments, caller: Writer) -> Response:
    """A collection of labels, a retriever over it, and the taxonomy, in one call."""
    notes = notes_on(caller, spec)
    check_name("taxonomy_name", spec.taxonomy_name, PREFIX)
    averaged, index, anchors = _anchors(caller, spec)
    services = caller.services
    with services.db.begin(caller.scope, caller.actor.key_id) as tx:
        taxonomy, collection, retriever_id = _make(tx, caller, spec, index)
    ids = write_anchors(services, caller.scope, caller.actor.key_id, collection, index, anchors)
    target = spec.enrichment_target_field or f"{spec.taxonomy_name}_label"
    hint = f"documents with vectors '{index.feature_uri}' get the label of the nearest node in '{target}'"
    made: dict[str, Any] = {
        **_answer(taxonomy, collection, index, averaged, anchors, ids),
        "taxonomy_created": True,
        "retriever_id": retriever_id,
        "enrichment_hint": f"{hint}; attach the taxonomy to a collection, and new documents get it by themselves",
        **notes,
    }
    if spec.cluster_run is not None:
        made["nodes"] = [
            {
                "node_document_id": ident,
                "node_label": anchor.label,
                "cluster_id": anchor.cluster_id,
                "member_count": anchor.members,
            }
            for ident, anchor in zip(ids, anchors, strict=True)
        ]
    return answer(made)


def _anchors(caller: Caller, spec: FromDocuments) -> tuple[Averaged | None, VectorIndex, list[Anchor]]:
    services, scope = caller.services, caller.scope
    if spec.cluster_run is not None:
        index, anchors = of_clusters(services, scope, spec.cluster_run.cluster_id, spec.cluster_run.run_id)
        return None, index, anchors
    averaged = average(services, scope, _examples(spec), spec.vector_name)
    return averaged, averaged.index, [_anchor(spec, averaged)]


def _examples(spec: NodeSpec) -> list[Example]:
    return [Example(ref.collection_id, ref.document_id) for ref in spec.documents]


def _anchor(spec: NodeSpec, averaged: Averaged) -> Anchor:
    origin = {"promotion": {"documents": averaged.used, **(spec.provenance or {})}}
    return Anchor(spec.node_label, averaged.vector, spec.node_fields, origin)


def _make(tx: Tx, caller: Caller, spec: FromDocuments, index: VectorIndex) -> tuple[Record, Record, str]:
    """Collection, retriever and taxonomy: all of them, or none."""
    name, context = spec.taxonomy_name, Context(caller.services, caller.absolute)
    held = tx.find(KIND, name)
    if held is not None:
        raise ConflictError(f"taxonomy '{name}' exists already", details={"existing_id": held.id})
    collection = tx.put("collection", "col", f"{name}-labels", label_collection(name, index))
    tx.insert("document_tables", [{"collection_id": collection.id}])
    tx.emit("collection.created", collection.id, {"name": collection.name})
    body = checked(tx, label_retriever(collection.id, index), context)
    retriever = tx.put("retriever", "ret", f"{name}-labels", body)
    tx.emit("retriever.created", retriever.id, {"name": retriever.name})
    target = spec.enrichment_target_field or f"{name}_label"
    parts = designed(tx, label_config(collection.id, retriever.id, index, target), context)
    kept: dict[str, Any] = {"description": spec.description, "metadata": {}, "version": 1}
    taxonomy = tx.put(KIND, PREFIX, name, {**kept, **parts})
    created(tx, taxonomy)
    tx.emit("taxonomy.created", taxonomy.id, {"name": name})
    return taxonomy, collection, retriever.id


@routes.post(
    "/taxonomies/{identifier}/nodes/from-documents", operation_id="create_node_from_documents", response_model=None
)
def node_from_documents(identifier: str, spec: NodeSpec, caller: Writer) -> Response:
    """A further label, from documents."""
    notes = notes_on(caller, spec)
    services, scope = caller.services, caller.scope
    with services.db.read(scope) as tx:
        taxonomy = tx.get(KIND, identifier)
        if len(taxonomy.body["labels"]) != 1:
            raise ConflictError(
                f"taxonomy '{taxonomy.name}' has no single collection of labels; write the label document into the "
                "collection of the node that it belongs to"
            )
        collection = tx.get("collection", taxonomy.body["labels"][0])
    dense = [index for index in stored_vectors(collection.body) if not index.sparse]
    averaged = average(services, scope, _examples(spec), spec.vector_name or (dense[0].feature_uri if dense else None))
    made = (averaged.index.dimensions, averaged.index.weights)
    own = [index for index in dense if (index.dimensions, index.weights) == made]
    if not own:
        raise ConflictError(
            f"the vectors '{averaged.index.name}' of the documents do not compare with those of the labels "
            f"({', '.join(index.name for index in dense) or 'none'}); name another vector_name"
        )
    ids = write_anchors(services, scope, caller.actor.key_id, collection, own[0], [_anchor(spec, averaged)])
    shown = _answer(taxonomy, collection, own[0], averaged, [_anchor(spec, averaged)], ids)
    hint = "documents evaluated from now on can get the label; apply the taxonomy again for those that were evaluated"
    return answer({**shown, "taxonomy_created": False, "retriever_id": None, "enrichment_hint": hint, **notes})


def _answer(
    taxonomy: Record,
    collection: Record,
    index: VectorIndex,
    averaged: Averaged | None,
    anchors: Sequence[Anchor],
    ids: Sequence[str],
) -> dict[str, Any]:
    return {
        "taxonomy_id": taxonomy.id,
        "taxonomy_name": taxonomy.name,
        "node_document_id": ids[0],
        "node_collection_id": collection.id,
        "node_label": anchors[0].label,
        "vector_name": index.name,
        "vector_dimensions": index.dimensions,
        "documents_used": averaged.used if averaged is not None else sum(anchor.members for anchor in anchors),
        "documents_skipped": averaged.skipped if averaged is not None else [],
    }
