"""Where documents come from and what was made of an object; and why a document is not found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from mediatheca.api.deps import Caller, Reader, answer
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.document_reads import DocumentReader
from mediatheca.flows.document_reads import Query as DocumentsQuery
from mediatheca.kernel.errors import NotFoundError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.present import chain, lineage, present
from mediatheca.kernel.search import Hit
from mediatheca.resources.documents import reader, view_of
from mediatheca.stores.db.tx import Record, Row

MAX_RELATIVES = 100
MAX_FAILURES = 20
MAX_TREE_IDS = 1000
"""Document ids listed of a collection in the tree of an object; `/objects/{id}/documents` pages through all."""

router = APIRouter(tags=["lineage"])
_DOCUMENT = "/collections/{collection}/documents/{document_id}"


@router.get(_DOCUMENT + "/lineage", operation_id="get_document_lineage", response_model=None)
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


@router.get(_DOCUMENT + "/ancestors", operation_id="get_document_ancestors", response_model=None)
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


@router.get(_DOCUMENT + "/descendants", operation_id="get_document_descendants", response_model=None)
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


@router.get("/objects/{object_id}/documents", operation_id="get_documents_by_object", response_model=None)
def documents_of_object(
    object_id: str,
    query: Listed,
    caller: Reader,
    collection_ids: Annotated[list[str] | None, Query()] = None,
    return_presigned_urls: bool = False,
) -> Response:
    """A page of the documents derived from an object, in all collections; `collections` counts them all."""
    source = reader(caller)
    collections, unknown = source.collections(collection_ids)
    if unknown:
        raise NotFoundError("collection", ", ".join(unknown))
    counts = {record.id: source.count(record.id, query.filter, [object_id]) for record in collections}
    _object(caller, object_id, known=any(counts.values()))
    made = [record for record in collections if counts[record.id]]
    hits, page = source.page(made, DocumentsQuery(query, object_ids=[object_id]))
    view = view_of(caller, urls=return_presigned_urls)
    shown = [present(hit, view) for hit in hits]
    summary = [{"collection_id": record.id, "document_count": counts[record.id]} for record in made]
    total = sum(counts.values()) if page.total is None else page.total
    extra = {"object_id": object_id, "total_documents": total, "documents": shown, "collections": summary}
    return answer(listed(page, shown, **extra))


def _object(caller: Caller, object_id: str, *, known: bool) -> Row | None:
    """The object, if it is ours; documents may name a root that was never an object here (`known`)."""
    with caller.services.db.read(caller.scope) as tx:
        row = tx.row("objects", {"object_id": object_id})
    if row is None and not known:
        raise NotFoundError("object", object_id)
    return row


@router.get(
    "/objects/{object_id}/decomposition-tree", operation_id="get_decomposition_tree_objects", response_model=None
)
def decomposition_tree(object_id: str, caller: Reader, include_document_ids: bool = False) -> Response:
    """The collections that made something of an object, each under the one it read from."""
    source = reader(caller)
    found: dict[str, _Made] = {}
    for record in source.collections(None)[0]:
        count = source.count(record.id, object_ids=[object_id])
        if count:
            wanted = MAX_TREE_IDS if include_document_ids else 1
            hits = list(source.walk(record.id, limit=wanted, object_ids=[object_id]))
            found[record.id] = _Made(record, count, hits)
    row = _object(caller, object_id, known=bool(found))
    nodes = {ident: made.node(with_ids=include_document_ids) for ident, made in found.items()}
    roots: list[dict[str, Any]] = []
    for ident, made in found.items():
        parent = made.system.get("source_collection_id")
        siblings = nodes[parent]["children"] if parent in nodes and parent != ident else roots
        siblings.append(nodes[ident])
    first = next(iter(found.values()), None)
    bucket = row["bucket_id"] if row is not None else first and first.system.get("root_bucket_id")
    shown = {"object_id": object_id, "root_object_id": object_id, "root_bucket_id": bucket}
    total = sum(made.count for made in found.values())
    return answer({**shown, "total_documents": total, "total_collections": len(nodes), "tree": roots})


@dataclass(frozen=True, slots=True)
class _Made:
    """What a collection made of an object: how many documents, and the first of them."""

    record: Record
    count: int
    hits: list[Hit]

    @property
    def system(self) -> dict[str, Any]:
        return self.hits[0].system if self.hits else {}

    def node(self, *, with_ids: bool) -> dict[str, Any]:
        node: dict[str, Any] = {
            "collection_id": self.record.id,
            "collection_name": self.record.name,
            "feature_extractor_id": self.record.body["feature_extractor"]["feature_extractor_id"],
            "document_count": self.count,
            "children": [],
        }
        if with_ids:
            node["document_ids"] = [hit.document_id for hit in self.hits]
            node["document_ids_truncated"] = self.count > len(self.hits)
        return node


@router.get(_DOCUMENT + "/diagnostics", operation_id="get_document_diagnostics", response_model=None)
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
        where = {"collection_id": record.id, "object_id": object_id, "outcome": ["failed", "dropped"]}
        rows = tx.rows("failed_items", where, order=("-created_at",), limit=MAX_FAILURES)
        own = tx.row("objects", {"object_id": object_id})
    status = None if own is None else own["status"]
    found = [
        {"source": f"batch.{row['phase']}", "object_id": object_id, "status": status, "error": row["reason"]}
        for row in rows
    ]
    if own is not None and own["error"]:
        found.append({"source": "object", "object_id": object_id, "status": status, "error": own["error"]})
    return found
