"""Taxonomies from examples: a node's label document has the mean of chosen documents' vectors, or a cluster's centre.

The labels lie in a collection without a source; it has the vector index of the documents that they come from, so that
documents are compared by vectors they have already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.flows.document_rows import Loc, creation
from mediatheca.flows.grouping import artifacts
from mediatheca.flows.grouping.export import labels_of
from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.services import Services
from mediatheca.flows.standalone import direct_body
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import BadRequestError, ConflictError, NotFoundError, ValidationError
from mediatheca.kernel.join import unit_rows
from mediatheca.kernel.scope import Scope
from mediatheca.stages import CollectionView
from mediatheca.stages._search_spellings import find_index
from mediatheca.stores.db.tx import ReadTx, Record

MAX_DOCUMENTS = 200
MAX_CLUSTERS = 10_000
INPUT = "vector"
LABEL = "label"


@dataclass(frozen=True, slots=True)
class Anchor:
    """A node to be: its label, and the vector that stands for it."""

    label: str
    vector: npt.NDArray[np.float32]
    fields: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    cluster_id: str = ""
    members: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """A document by its ids."""

    collection_id: str
    document_id: str


@dataclass(slots=True)
class Averaged:
    """The mean of documents, and which of them had a part in it."""

    index: VectorIndex
    vector: npt.NDArray[np.float32]
    used: int
    skipped: list[dict[str, str]] = field(default_factory=list)


def average(services: Services, scope: Scope, examples: Sequence[Example], vector_name: str | None) -> Averaged:
    """The mean of the vectors of documents; of unit vectors where directions are compared.

    Raises:
        BadRequestError: none of them has such a vector.
        ValidationError: their collections have vectors of different models.
    """
    index: VectorIndex | None = None
    vectors: list[npt.NDArray[np.float32]] = []
    skipped: list[dict[str, str]] = []
    by_collection: dict[str, list[str]] = {}
    for example in examples:
        by_collection.setdefault(example.collection_id, []).append(example.document_id)
    for named, ids in by_collection.items():
        with services.db.read(scope) as tx:
            record = tx.find("collection", named)
        if record is None:
            skipped += [_skipped(named, ident, "there is no such collection") for ident in ids]
            continue
        own = _index(record, vector_name, index)
        index = index or own
        stored = _stored(services, scope, record.id, ids, own.name)
        for ident in ids:
            vector = stored.get(ident)
            if vector is None:
                skipped.append(_skipped(named, ident, f"there is no such document with a vector '{own.name}'"))
            else:
                vectors.append(vector)
    if index is None or not vectors:
        reason = skipped[0]["reason"] if skipped else "no documents were named"
        raise BadRequestError(f"documents: none of the {len(examples)} can be used; the first: {reason}")
    return Averaged(index, _mean(np.stack(vectors), index), len(vectors), skipped)


def _skipped(collection_id: str, document_id: str, reason: str) -> dict[str, str]:
    return {"collection_id": collection_id, "document_id": document_id, "reason": reason}


def _index(record: Record, name: str | None, first: VectorIndex | None) -> VectorIndex:
    """The index that is averaged: the named one, or the first dense one; the same model in every collection."""
    dense = [index for index in stored_vectors(record.body) if not (index.sparse or index.multi)]
    where = ("body", "vector_name")
    wanted = name or (first.feature_uri if first is not None else "")
    found = find_index(CollectionView(record.id, record.name, tuple(dense), {}), wanted) if wanted else None
    found = found or (dense[0] if dense and not wanted else None)
    if found is None:
        known = ", ".join(index.name for index in dense) or "none"
        message = f"collection '{record.name}' has no dense vectors '{wanted[:200]}'; it has: {known}"
        raise ValidationError.at(where, message, "unknown")
    key = (found.model, found.weights, found.dimensions, found.metric)
    if first is not None and key != (first.model, first.weights, first.dimensions, first.metric):
        message = f"collection '{record.name}' has vectors of another model than the first; name documents of one model"
        raise ValidationError.at(where, message, "weights")
    return found


def _stored(services: Services, scope: Scope, collection_id: str, ids: Sequence[str], name: str) -> dict[str, Any]:
    if services.indexer.unwritten(collection_id):
        return {}
    dead = services.indexer.tombstones(scope, collection_id)
    found = services.documents.get(collection_id, list(dict.fromkeys(ids)), tombstones=dead, vectors=[name])
    return {document.document_id: document.vectors[name] for document in found if name in document.vectors}


def _mean(vectors: npt.NDArray[np.float32], index: VectorIndex) -> npt.NDArray[np.float32]:
    made: npt.NDArray[np.float32] = (unit_rows(vectors) if index.metric == "cosine" else vectors).mean(axis=0)
    return made.astype(np.float32)


def of_clusters(services: Services, scope: Scope, cluster_id: str, run_id: str) -> tuple[VectorIndex, list[Anchor]]:
    """One anchor for each cluster of a run, under the label that people gave it.

    Raises:
        NotFoundError: no such cluster or run, or its files were pruned.
        ConflictError: it has not ended well.
        BadRequestError: its centres are no vectors of one feature, or there are none.
    """
    with services.db.read(scope) as tx:
        cluster = tx.get("cluster", cluster_id)
        row = tx.row("cluster_runs", {"cluster_id": cluster.id, "run_id": run_id})
        if row is None:
            raise NotFoundError("cluster run", run_id)
        index = _feature(tx, row["body"]["config"])
    if row["status"] != "completed":
        raise ConflictError(f"cluster run '{run_id}' is {row['status']}; promote one that is completed")
    table = artifacts.read(services.blobs, scope, run_id, "centroids")
    vectors = artifacts.vectors_of(table)
    if not len(table) or len(table) > MAX_CLUSTERS:
        raise BadRequestError(f"cluster run '{run_id}' has {len(table):,} clusters; 1 to {MAX_CLUSTERS:,} make nodes")
    if vectors.shape[1] != index.dimensions:
        raise BadRequestError(
            f"the centres of cluster run '{run_id}' have {vectors.shape[1]} dimensions and not the {index.dimensions} "
            f"of '{index.feature_uri}': it clustered several features, or reduced ones; promote a run over one feature"
        )
    labels, sizes = labels_of(cluster, row), table["size"].to_pylist()
    origin = {"cluster_id": cluster.id, "run_id": run_id}
    return index, [
        Anchor(labels.get(ident, ident), vector, {}, {"promotion": {**origin, "group": ident}}, ident, int(size))
        for ident, vector, size in zip(table["cluster_id"].to_pylist(), vectors, sizes, strict=True)
    ]


def _feature(tx: ReadTx, config: Mapping[str, Any]) -> VectorIndex:
    """The one index that a run clustered."""
    vector = config.get("vector_config")
    if vector is None:
        raise BadRequestError(
            "the run grouped documents by attributes, which have no centres; promote a vector cluster"
        )
    if len(vector["feature_uris"]) > 1:
        raise BadRequestError("the run clustered several features at once; promote a run over one feature")
    collection = tx.get("collection", config["collection_ids"][0])
    return _index(collection, vector["feature_uris"][0] if vector["feature_uris"] else None, None)


# ---- what is made


def label_collection(name: str, index: VectorIndex) -> dict[str, Any]:
    """The body of a collection that holds nothing but label documents."""
    about = f"Label documents of the taxonomy '{name}'."
    return direct_body(about, [index], {LABEL: {"type": "string"}}, {LABEL: "keyword"})


def label_retriever(collection_id: str, index: VectorIndex) -> dict[str, Any]:
    """The body of a retriever that finds the labels nearest to a vector."""
    query = {"input_mode": "vector", "value": f"{{{{INPUT.{INPUT}}}}}"}
    parameters = {"searches": [{"feature_uri": index.feature_uri, "query": query, "top_k": 50}], "final_top_k": 50}
    config = {"stage_id": "feature_search", "parameters": parameters}
    return {
        "description": None,
        "collection_identifiers": [collection_id],
        "stages": [{"stage_name": "labels", "stage_type": "filter", "config": config}],
        "input_schema": {INPUT: {"type": "array"}},
        "tags": [],
        "metadata": {},
    }


def label_config(collection_id: str, retriever_id: str, index: VectorIndex, target: str) -> dict[str, Any]:
    """The configuration of a taxonomy whose documents are compared by the vectors that they have."""
    fields = [{"field_path": LABEL, "target_field": target, "merge_mode": "replace"}]
    return {
        "taxonomy_type": "flat",
        "retriever_id": retriever_id,
        "input_mappings": [{"input_key": INPUT, "source_type": "vector", "path": index.feature_uri}],
        "source_collection": {"collection_id": collection_id, "enrichment_fields": fields},
        "label_field": LABEL,
    }


def write_anchors(
    services: Services, scope: Scope, actor: str, collection: Record, index: VectorIndex, anchors: Sequence[Anchor]
) -> list[str]:
    """Write the label documents; gives their ids."""
    where: Loc = ("body", "node_fields")
    changes = []
    for anchor in anchors:
        row: dict[str, Any] = {**anchor.fields, LABEL: anchor.label, "vectors": {index.name: anchor.vector.tolist()}}
        if anchor.metadata:
            row["metadata"] = {**(anchor.fields.get("metadata") or {}), **anchor.metadata}
        changes.append(creation(collection, row, where))
    outcomes = services.writer.write(scope, actor, collection, changes)
    return [outcome.result().document_id for outcome in outcomes]
