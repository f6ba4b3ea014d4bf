"""Where the result of a run goes besides its files: fields of the source documents, or an output collection.

Both are written again without harm: documents have fixed ids, and a patch that changes nothing is not written.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mediatheca.flows.documents import Change
from mediatheca.flows.enrichment.writer import Patch, PatchCounts, apply_patches
from mediatheca.flows.grouping import artifacts
from mediatheca.flows.grouping.fitting import Work
from mediatheca.flows.grouping.history import Pair, pairs_of
from mediatheca.flows.grouping.space import find_space
from mediatheca.flows.held import held
from mediatheca.flows.services import Services
from mediatheca.flows.tables import tombstones
from mediatheca.kernel import clock
from mediatheca.kernel.documents import Document, Vector
from mediatheca.kernel.errors import NotFoundError
from mediatheca.kernel.mapping import MISSING
from mediatheca.stores.db.tx import Record, Tx
from mediatheca.stores.documents.base import Scan

PAGE = 1_000
TRIES = 5
OUTLIERS = "outliers"
DEFAULT_MAPPINGS = (("cluster_id", "cluster_id"), ("cluster_label", "cluster_label"))
_IDS = uuid.UUID("6d656469-6174-6865-6361-000000000005")
_FIELDS = {
    "cluster_id": "keyword", "cluster_label": "text", "is_centroid": "bool", "distance_to_centroid": "float",
    "source_document_id": "keyword", "source_collection_id": "keyword", "run_id": "keyword", "size": "float",
    "x": "float", "y": "float", "z": "float", "summary": "text",
}  # fmt: skip


def effective_label(cluster: Record, entry: Mapping[str, Any]) -> str:
    """What people called the cluster, else what the run called it."""
    overrides = (cluster.body.get("state") or {}).get("label_overrides") or {}
    return str(overrides.get(entry["cluster_id"]) or entry.get("label") or entry["cluster_id"])


def deliver(services: Services, work: Work) -> dict[str, Any]:
    """Write the results; gives what the run's row keeps."""
    members = artifacts.read_members(services.blobs, work.scope, work.run_id)
    if work.config["enrich_source"]:
        counts = enrich(services, work, members)
        return {"enriched": _told(counts), "step": "written"}
    return {**_output(services, work, members), "step": "written"}


def deliver_joined(services: Services, work: Work, joined: pa.Table) -> None:
    """The same for documents that joined after the run."""
    if work.config["enrich_source"]:
        enrich(services, work, joined)
        return
    collection = services.db.run(work.scope, lambda tx: output_collection(tx, work))
    _write(services, work, collection, joined)


def _told(counts: PatchCounts) -> dict[str, Any]:
    told: dict[str, Any] = {"written": counts.written, "unchanged": counts.unchanged, "gone": counts.gone}
    if counts.failed:
        ident, reason = next(iter(counts.failed.items()))
        told |= {"failed": len(counts.failed), "first_failure": {"document_id": ident, "reason": reason}}
    return told


# ---- the source documents


def enrich(services: Services, work: Work, members: pa.Table) -> PatchCounts:
    """Write the mapped fields onto the documents of these members."""
    given = (work.config.get("source_enrichment_config") or {}).get("field_mappings") or []
    mappings = [(m["source_field"], m["target_field"]) for m in given] or list(DEFAULT_MAPPINGS)
    reason = f"cluster:{work.cluster.id}"
    sources = {source for source, _ in mappings}
    points = _points(services, work) if sources & set("xyz") else {}
    total = PatchCounts()
    for collection in work.collections:
        own = members.filter(pc.equal(members["collection_id"], collection.id))
        for start in range(0, len(own), PAGE):
            work.check()
            values = _values(work, own.slice(start, PAGE), points)
            fields = {ident: {to: found.get(of, MISSING) for of, to in mappings} for (_, ident), found in values}
            _patch(services, work, collection, fields, reason, total)
    return total


def _patch(
    services: Services, work: Work, collection: Record, fields: dict[str, dict[str, Any]], reason: str,
    total: PatchCounts,
) -> None:  # fmt: skip
    """Patch documents as they are now: the cluster of a document does not depend on its payload."""
    left = list(fields)
    for _ in range(TRIES):
        with services.db.read(work.scope) as tx:
            dead = tombstones(tx, collection.id)
        held = services.documents.get(collection.id, left, tombstones=dead)
        patches = [Patch(d.document_id, fields[d.document_id], {}, d.write_seq, work.run_id) for d in held]
        counts = apply_patches(services, work.scope, collection, patches, reason)
        total.written += counts.written
        total.unchanged += counts.unchanged
        total.gone += counts.gone + len(left) - len(held)
        total.failed |= counts.failed
        left = counts.stale
        if not left:
            return
    total.failed |= dict.fromkeys(left, "it was changed again and again meanwhile")


def _values(
    work: Work, members: pa.Table, points: Mapping[Pair, Mapping[str, float]]
) -> Iterator[tuple[Pair, dict[str, Any]]]:
    """What may be written into a document, with its (collection, document)."""
    clusters = {entry["cluster_id"]: entry for entry in work.row["body"]["clusters"]}
    columns = (members[name].to_pylist() for name in ("cluster_id", "distance", "probability"))
    for pair, ident, distance, probability in zip(pairs_of(members), *columns, strict=True):
        entry = clusters.get(ident)
        value: dict[str, Any] = {"cluster_id": ident, "probability": probability, **points.get(pair, {})}
        if entry is None:
            value |= {"cluster_label": OUTLIERS}
        else:
            value |= {"cluster_label": effective_label(work.cluster, entry), "member_count": entry["num_members"]}
            value |= {"keywords": entry.get("keywords") or [], "summary": entry.get("summary") or MISSING}
            value["distance_to_centroid"] = distance
        yield pair, value


def _points(services: Services, work: Work) -> dict[Pair, dict[str, float]]:
    try:
        table = artifacts.read(services.blobs, work.scope, work.run_id, "coordinates")
    except NotFoundError:
        return {}
    axes = [name for name in "xyz" if name in table.column_names]
    values = zip(*(table[name].to_pylist() for name in axes), strict=True)
    return {pair: dict(zip(axes, place, strict=True)) for pair, place in zip(pairs_of(table), values, strict=True)}


# ---- the output collection


def _output(services: Services, work: Work, members: pa.Table) -> dict[str, Any]:
    """One document a cluster, with its centre, and one a member; then what the run before left and this one did not
    write is removed."""
    collection = services.db.run(work.scope, lambda tx: output_collection(tx, work))
    written = _write(services, work, collection, members)
    reaped = _reap(services, work, collection, written)
    decision = "deleted" if reaped else "nothing_stale"
    reap = {"output_collection_id": collection.id, "decision": decision, "pending": False}
    reap |= {"written": len(written), "stale": reaped, "reaped": reaped}
    return {"output_collection_ids": [collection.id], "generation_reap": [reap]}


def _write(services: Services, work: Work, collection: Record, members: pa.Table) -> set[str]:
    """Write the documents of the clusters and of these members; gives their ids."""
    written: set[str] = set()
    documents = _documents(services, work, collection, members)
    while page := list(islice(documents, PAGE)):
        work.check()
        changes = [Change(document.document_id, _replacing(document)) for document in page]
        for outcome in services.writer.write(
            work.scope, "system", collection, changes, events="batch", reason=f"cluster:{work.cluster.id}", wait=False
        ):
            written.add(outcome.result().document_id)
    return written


def _replacing(document: Document) -> Any:
    def apply(held: Document | None) -> Document:
        if held is not None:
            document.created_at = held.created_at
        return document

    return apply


def output_collection(tx: Tx, work: Work) -> Record:
    """The collection of the results; made by the first run."""
    known = (work.cluster.body.get("state") or {}).get("output_collection_id")
    found = tx.find("collection", known) if known else None
    if found is None:
        name = f"{work.cluster.name[:80]}-output"
        if tx.find("collection", name) is not None:
            name = f"{name}-{work.cluster.id[-6:]}"
            found = tx.find("collection", name)
    if found is None:
        found = tx.put("collection", "col", name, _body(work))
        tx.insert("document_tables", [{"collection_id": found.id}])
        tx.emit("collection.created", found.id, {"name": name, "cluster_id": work.cluster.id})
    cluster = held(tx, "cluster", work.cluster.id)
    state = cluster.body.get("state") or {}
    if state.get("output_collection_id") != found.id:
        state = {**state, "output_collection_id": found.id, "output_collection_name": found.name}
        tx.change(cluster, {**cluster.body, "state": state})
    return found


def _body(work: Work) -> dict[str, Any]:
    """A collection as the collections resource stores it, without a source to extract from."""
    source: dict[str, Any] = {"type": "cluster", "cluster_id": work.cluster.id, "bucket_ids": []}
    source["source_filters"] = None
    extractor = {"feature_extractor_name": "passthrough_extractor", "version": "v1", "parameters": {}, "inputs": {}}
    extractor |= {"feature_extractor_id": "passthrough_extractor_v1", "input_mappings": {}, "field_passthrough": []}
    kinds = {"keyword": "string", "text": "text", "float": "number", "bool": "boolean"}
    indexes = []
    if work.config["cluster_type"] == "vector":
        space = find_space(work.collections, work.vectors)
        if len(space.uris) == 1 and not space.indexes[0][0].multi:
            indexes = [asdict(space.indexes[0][0])]
    return {
        "description": f"Results of cluster '{work.cluster.name}'",
        "source": source,
        "source_bucket_schemas": {},
        "enabled": True,
        "metadata": {"cluster_id": work.cluster.id},
        "languages": {},
        "feature_extractor": {**extractor, "include_all_source_fields": False},
        "input_schema": {"properties": {}},
        "output_schema": {"properties": {name: {"type": kinds[kind]} for name, kind in _FIELDS.items()}},
        "vector_indexes": indexes,
        "indexed_fields": dict(_FIELDS),
    }


def _documents(services: Services, work: Work, collection: Record, members: pa.Table) -> Iterator[Document]:
    moment = clock.now()
    vectors = _centres(services, work, collection)

    def made(key: str, payload: dict[str, Any], system: dict[str, Any], own: dict[str, Vector]) -> Document:
        ident = str(uuid.uuid5(_IDS, f"{collection.id}\x1f{key}"))
        payload = {name: value for name, value in payload.items() if value is not None}
        system = {"source_type": "cluster", **system}
        return Document(ident, collection.id, payload, own, "", "", system, moment, moment)

    common = {"run_id": work.run_id}
    for entry in work.row["body"]["clusters"]:
        payload = {"cluster_id": entry["cluster_id"], "cluster_label": effective_label(work.cluster, entry)}
        payload |= {"is_centroid": True, "summary": entry.get("summary"), "keywords": entry.get("keywords") or []}
        payload |= {"size": entry["num_members"], "representative_ids": entry.get("representative_ids") or []}
        payload |= {"parent_cluster_id": entry.get("parent_id")}
        yield made(
            f"centroid\x1f{entry['cluster_id']}", {**payload, **common}, {}, vectors.get(entry["cluster_id"], {})
        )
    for (collection_id, document_id), value in _values(work, members, _points(services, work)):
        shown = {
            name: value.get(name) for name in ("cluster_id", "cluster_label", "distance_to_centroid", "x", "y", "z")
        }
        payload = {**shown, **common, "is_centroid": False, "source_document_id": document_id}
        payload["source_collection_id"] = collection_id
        lineage = {"source_document_id": document_id, "source_collection_id": collection_id}
        yield made(f"member\x1f{collection_id}\x1f{document_id}", payload, lineage, {})


def _centres(services: Services, work: Work, collection: Record) -> dict[str, dict[str, Vector]]:
    """Cluster → its centre under the name of the collection's vector index."""
    indexes = collection.body["vector_indexes"]
    if not indexes:
        return {}
    table = artifacts.read(services.blobs, work.scope, work.run_id, "centroids")
    values = artifacts.vectors_of(table)
    if values.shape[1:] != (indexes[0]["dimensions"],):  # the features of the cluster are others by now
        return {}
    rows = zip(table["cluster_id"].to_pylist(), values, strict=True)
    return {ident: {indexes[0]["name"]: np.ascontiguousarray(row)} for ident, row in rows}


def _reap(services: Services, work: Work, collection: Record, written: set[str]) -> int:
    """Remove what this run did not write; gives how many documents that were."""
    with services.db.read(work.scope) as tx:
        dead = tombstones(tx, collection.id)
    stale = [
        document.document_id
        for document in services.documents.scan(collection.id, Scan(), tombstones=dead)
        if document.document_id not in written
    ]
    for start in range(0, len(stale), PAGE):
        work.check()
        services.writer.delete(work.scope, "system", collection.id, stale[start : start + PAGE])
    return len(stale)
