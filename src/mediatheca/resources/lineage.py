"""Where documents come from and what was made of an object; and why a document is not found."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from mediatheca.api.deps import Caller, Listed, Reader, answer, listed
from mediatheca.flows.document_reads import DocumentReader
from mediatheca.kernel.errors import NotFoundError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.present import chain, lineage, present
from mediatheca.kernel.search import Hit
from mediatheca.resources.documents import reader, view_of
from mediatheca.stores.db.listing import ListQuery, Page, decode_cursor, encode_cursor
from mediatheca.stores.db.tx import Record, Row

MAX_RELATIVES = 100
MAX_FAILURES = 20

router = APIRouter(tags=["lineage"])


@router.get(
    "/collections/{collection}/documents/{document_id}/lineage",
    operation_id="get_document_lineage",
    name="get_document_lineage",
    response_model=None,
)
def document_lineage(collection: str, document_id: str, caller: Reader) -> Response:
    record = reader(caller).collection(collection)
    hit = reader(caller).one(record.id, document_id)
    found = lineage(hit)
    steps = found.pop("chain")
    del found["path"]
    direct = found["source_type"] == "direct_upsert" and not found["root_object_id"]
    message = "the document was written directly: nothing lies before it" if direct else None
    shown = {"document_id": hit.document_id, "collection_id": record.id, "depth": len(steps), "total_steps": len(steps)}
    return answer({**shown, "lineage": {**found, "lineage_chain": steps}, "message": message})


@router.get(
    "/collections/{collection}/documents/{document_id}/ancestors",
    operation_id="get_document_ancestors",
    name="get_document_ancestors",
    response_model=None,
)
def ancestors(collection: str, document_id: str, caller: Reader) -> Response:
    """The documents this one was made from, nearest first; one that was deleted ends the list."""
    source = reader(caller)
    hit = source.one(source.collection(collection).id, document_id)
    seen = {hit.document_id}
    found: list[Hit] = []
    while len(found) < MAX_RELATIVES:
        parent = _parent(source, hit)
        if parent is None or parent.document_id in seen:
            break
        seen.add(parent.document_id)
        found.append(parent)
        hit = parent
    return answer([present(ancestor, view_of(caller)) for ancestor in found])


def _parent(source: DocumentReader, hit: Hit) -> Hit | None:
    parent_id, collection = hit.system.get("source_document_id"), hit.system.get("source_collection_id")
    if not parent_id:
        return None
    if not collection:
        return source.anywhere([parent_id]).get(parent_id)
    known, _ = source.collections([collection])
    found = source.get(known[0].id, [parent_id]) if known else []
    return found[0] if found else None


@router.get(
    "/collections/{collection}/documents/{document_id}/descendants",
    operation_id="get_document_descendants",
    name="get_document_descendants",
    response_model=None,
)
def descendants(collection: str, document_id: str, caller: Reader) -> Response:
    """The documents made directly from this one, at most 100, by collection and id."""
    source = reader(caller)
    hit = source.one(source.collection(collection).id, document_id)
    tree = parse_filter(
        {"field": "_internal.source_document_id", "operator": "eq", "value": hit.document_id}, case_sensitive=True
    )
    found: list[Hit] = []
    for record in source.collections(None)[0]:
        wanted = MAX_RELATIVES - len(found)
        if wanted <= 0:
            break
        children = source.walk(record.id, tree, limit=wanted)
        found += [child for child in children if _is_child(child, hit)]
    return answer([present(child, view_of(caller)) for child in found])


def _is_child(child: Hit, parent: Hit) -> bool:
    """Document ids are unique in a collection only; a child that names the collection means that one."""
    return child.system.get("source_collection_id") in (None, "", parent.collection_id)


@router.get(
    "/objects/{object_id}/documents",
    operation_id="get_documents_by_object",
    name="get_documents_by_object",
    response_model=None,
)
def documents_of_object(
    object_id: str,
    query: Listed,
    caller: Reader,
    collection_ids: Annotated[list[str] | None, Query()] = None,
    return_presigned_urls: bool = False,
) -> Response:
    """Every document derived from an object, in all collections."""
    source = reader(caller)
    collections, unknown = source.collections(collection_ids)
    if unknown:
        raise NotFoundError("collection", ", ".join(unknown))
    hits = [hit for record in collections for hit in source.walk(record.id, query.filter, object_ids=[object_id])]
    _check_object(caller, object_id, hits)
    page = _page(query, len(hits))
    view = view_of(caller, urls=return_presigned_urls)
    shown = [present(hit, view) for hit in hits[page.offset : page.offset + page.limit]]
    counts: dict[str, int] = defaultdict(int)
    for hit in hits:
        counts[hit.collection_id] += 1
    summary = [{"collection_id": ident, "document_count": count} for ident, count in counts.items()]
    extra = {"object_id": object_id, "total_documents": len(hits), "documents": shown, "collections": summary}
    return answer(listed(page, shown, **extra))


def _page(query: ListQuery, total: int) -> Page:
    offset = query.offset
    if query.cursor:
        state = decode_cursor(query.cursor).get("o", 0)
        offset = state if isinstance(state, int) and state >= 0 else 0
    more = total > offset + query.limit
    return Page([], total, offset, query.limit, encode_cursor({"o": offset + query.limit}) if more else None)


def _check_object(caller: Caller, object_id: str, hits: list[Hit]) -> Row | None:
    """The object, if it is ours; documents may name a root that was never an object here."""
    with caller.services.db.read(caller.scope) as tx:
        row = tx.row("objects", {"object_id": object_id})
    if row is None and not hits:
        raise NotFoundError("object", object_id)
    return row


@router.get(
    "/objects/{object_id}/decomposition-tree",
    operation_id="get_decomposition_tree_objects",
    name="get_decomposition_tree_objects",
    response_model=None,
)
def decomposition_tree(object_id: str, caller: Reader, include_document_ids: bool = False) -> Response:
    """The collections that made something of an object, each under the one it read from."""
    source = reader(caller)
    collections, _ = source.collections(None)
    by_collection = {record.id: list(source.walk(record.id, object_ids=[object_id])) for record in collections}
    by_collection = {ident: hits for ident, hits in by_collection.items() if hits}
    everything = [hit for hits in by_collection.values() for hit in hits]
    row = _check_object(caller, object_id, everything)
    names = {record.id: record for record in collections}
    nodes = {ident: _node(names[ident], hits, include_document_ids) for ident, hits in by_collection.items()}
    roots: list[dict[str, Any]] = []
    for ident, hits in by_collection.items():
        parent = hits[0].system.get("source_collection_id")
        siblings = nodes[parent]["children"] if parent in nodes and parent != ident else roots
        siblings.append(nodes[ident])
    bucket = row["bucket_id"] if row is not None else everything[0].system.get("root_bucket_id")
    shown = {"object_id": object_id, "root_object_id": object_id, "root_bucket_id": bucket}
    return answer({**shown, "total_documents": len(everything), "total_collections": len(nodes), "tree": roots})


def _node(record: Record, hits: list[Hit], with_ids: bool) -> dict[str, Any]:
    node: dict[str, Any] = {
        "collection_id": record.id,
        "collection_name": record.name,
        "feature_extractor_id": record.body["feature_extractor"]["feature_extractor_id"],
        "document_count": len(hits),
        "children": [],
    }
    if with_ids:
        node["document_ids"] = [hit.document_id for hit in hits]
    return node


@router.get(
    "/collections/{collection}/documents/{document_id}/diagnostics",
    operation_id="get_document_diagnostics",
    name="get_document_diagnostics",
    response_model=None,
)
def diagnostics(collection: str, document_id: str, caller: Reader) -> Response:
    """Why a document is, or is not, found by a search."""
    record = reader(caller).collection(collection)
    hit = reader(caller).one(record.id, document_id, vectors=True)
    object_id = hit.system.get("source_object_id") or hit.system.get("object_id") or None
    searchable, reason = _verdict(caller, record, hit)
    failures = _failures(caller, record, object_id)
    entries = [{"source": "lineage.chain", "timestamp": step.get("timestamp"), "detail": step} for step in chain(hit)]
    return answer(
        {
            "document_id": hit.document_id,
            "collection_id": record.id,
            "source_object_id": object_id,
            "visibility_reason": {"searchable": searchable, "reason": reason, "source_object_id": object_id},
            "recent_failures": {"failures": failures, "reason": None if failures else "no failure is recorded"},
            "diagnostic_history": {
                "entries": entries,
                "reason": None if entries else "the document was written directly; no extractor made it",
            },
        }
    )


def _verdict(caller: Caller, record: Record, hit: Hit) -> tuple[bool | None, str]:
    indexer = caller.services.indexer
    seq = hit.system["write_seq"]
    if not indexer.ready(record.id):
        return None, "the index is being brought up to date; until then the document store answers searches"
    if indexer.applied(record.id) < seq:
        return False, f"the last write (number {seq}) is not indexed yet; the index is at {indexer.applied(record.id)}"
    held = indexer.index.get(record.id, [hit.document_id])
    if not held:
        return False, "the index does not hold the document although it should; it is repaired by a rebuild"
    indexes = [entry["name"] for entry in record.body["vector_indexes"]]
    missing = [name for name in indexes if name not in hit.vectors]
    if not hit.vectors:
        return False, "the document has no vector, so no vector search finds it; filters and word searches do"
    if missing:
        return True, f"found by vector searches, but not on: {', '.join(missing)}"
    return True, "the document is indexed with all of the collection's vectors"


def _failures(caller: Caller, record: Record, object_id: str | None) -> list[dict[str, Any]]:
    if object_id is None:
        return []
    with caller.services.db.read(caller.scope) as tx:
        where = {"collection_id": record.id, "object_id": object_id}
        rows = tx.rows("failures", where, order=("-created_at",), limit=MAX_FAILURES)
        own = tx.row("objects", {"object_id": object_id})
    status = None if own is None else own["status"]
    found = [
        {"source": f"batch.{row['phase']}", "object_id": object_id, "status": status, "error": row["reason"]}
        for row in rows
    ]
    if own is not None and own["error"]:
        found.append({"source": "object", "object_id": object_id, "status": status, "error": own["error"]})
    return found
