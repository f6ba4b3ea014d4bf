"""Documents one at a time, and lists of them: under their collection and, by id alone, under the namespace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import Field

from mediatheca.api.deps import Caller, Deleter, OrgReader, Reader, Writer, answer, deleted
from mediatheca.api.lists import Listed, list_query, listed
from mediatheca.flows.document_reads import DocumentReader, Partition, Vectors
from mediatheca.flows.document_reads import Query as DocumentsQuery
from mediatheca.flows.document_rows import creation, patching, replacement
from mediatheca.flows.documents import Change
from mediatheca.flows.ingest.cascade import delete_with_descendants
from mediatheca.kernel import clock
from mediatheca.kernel.errors import MediathecaError, NotFoundError, ValidationError
from mediatheca.kernel.present import View, as_hit, present
from mediatheca.kernel.uris import parse_feature_uri
from mediatheca.resources.base import Spec, unknown_keys
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import Record

URL_LIFE_S = 3600
MAX_PARTITIONS = 256

Json = Annotated[dict[str, Any], Body()]


class PartitionSpec(Spec):
    """One of `count` parts of a list, for parallel readers."""

    index: int
    count: int


class ListDocuments(Spec):
    """Paging, filter, search and sort as in every list; what to show of each document; grouping."""

    filters: Any = None
    sort: Any = None
    sorts: Any = None
    search: str | None = None
    case_sensitive: bool = False
    limit: Any = None
    page_size: Any = None
    offset: Any = None
    page: Any = None
    cursor: Any = None
    next_cursor: Any = None
    after: Any = None
    include_total: bool | None = None
    partition: PartitionSpec | None = None
    return_presigned_urls: bool = False
    return_vectors: bool = False
    return_vector_names: bool | list[str] | None = None
    group_by: str | dict[str, Any] | None = None
    select: list[str] | None = None
    expand: list[str] | None = None
    collection_ids: list[str] | None = None


class BatchListQuery(Spec):
    """One of several lists asked for together."""

    key: str
    request: dict[str, Any] = Field(default_factory=dict)


class BatchListRequest(Spec):
    """Up to ten lists in one request."""

    queries: list[BatchListQuery]


def reader(caller: Caller) -> DocumentReader:
    return DocumentReader(caller.services, caller.scope)


def view_of(caller: Caller, *, urls: bool = False, vectors: Vectors = False, select: Sequence[str] = ()) -> View:
    def sign(key: str) -> str:
        return caller.absolute(caller.services.blobs.sign("GET", key, expires_s=URL_LIFE_S))

    return View(caller.scope.namespace_id, sign if urls else None, vectors, tuple(select))


def which_vectors(everything: bool, names: bool | Sequence[str] | None) -> Vectors:
    """`return_vectors` and `return_vector_names` together; names may be index names or feature URIs."""
    if everything or names is True:
        return True
    return False if not names else frozenset(_index_name(name) for name in names)


def _index_name(name: str) -> str:
    return parse_feature_uri(name).index_name if "://" in name else name


def split_names(text: str | None) -> bool | list[str] | None:
    """A query parameter: `true`, or names separated by commas."""
    if text is None or text.lower() in ("", "false"):
        return None
    return True if text.lower() == "true" else [name.strip() for name in text.split(",") if name.strip()]


def write_one(caller: Caller, collection: Record, change: Change) -> Response:
    """One change, and the document as it is now. It is searchable when this answers, unless `searchable_at` is null."""
    outcome = caller.services.writer.write(caller.scope, caller.actor.key_id, collection, [change])[0]
    shown = present(as_hit(outcome.result()), view_of(caller))
    shown["searchable_at"] = clock.wire_time(clock.now()) if outcome.searchable else None
    return answer(shown)


def list_answer(
    caller: Caller, collections: Sequence[Record], query: ListQuery, body: ListDocuments, **extra: Any
) -> dict[str, Any]:
    """A page of documents, or of groups of them."""
    wanted = DocumentsQuery(
        query, _partition(body.partition), which_vectors(body.return_vectors, body.return_vector_names)
    )
    view = view_of(caller, urls=body.return_presigned_urls, vectors=wanted.vectors, select=body.select or ())
    notes = unknown_keys(body, strict=caller.services.settings.strict)
    if notes:
        extra["warnings"] = notes
    path = _group_path(body.group_by)
    if path:
        groups, page, total = reader(caller).groups(collections, wanted, path)
        shown = [
            {"group_key": group.key, "documents": [present(hit, view) for hit in group.hits], "count": group.count}
            for group in groups
        ]
        average = total / page.total if page.total else 0.0
        stats = {"total_documents": total, "total_groups": page.total, "avg_documents_per_group": average}
        return listed(page, [], groups=shown, group_by_field=path, stats=stats, total_documents=total, **extra)
    hits, page = reader(caller).page(collections, wanted)
    stats = {"total_documents": page.total}
    return listed(page, [present(hit, view) for hit in hits], stats=stats, total_documents=page.total, **extra)


def _partition(spec: PartitionSpec | None) -> Partition | None:
    if spec is None:
        return None
    if not 1 <= spec.count <= MAX_PARTITIONS:
        raise ValidationError.at(
            ("body", "partition", "count"), f"must be 1 to {MAX_PARTITIONS}, got {spec.count}", "int"
        )
    if not 0 <= spec.index < spec.count:
        message = f"must be 0 to {spec.count - 1}, got {spec.index}"
        raise ValidationError.at(("body", "partition", "index"), message, "int")
    return Partition(spec.index, spec.count)


def _group_path(raw: str | dict[str, Any] | None) -> str | None:
    path = raw.get("field") if isinstance(raw, dict) else raw
    if raw and not (isinstance(path, str) and path):
        raise ValidationError.at(("body", "group_by"), f"must be a field name or {{field}}, got {raw!r}", "group_by")
    return path or None


router = APIRouter(tags=["documents"])
_DOCUMENTS = "/collections/{collection}/documents"
_DOCUMENT = _DOCUMENTS + "/{document_id}"
_ANYWHERE = "/documents/{document_id}"


@router.post(_DOCUMENTS, operation_id="create_document", response_model=None)
def create(collection: str, body: Json, caller: Writer) -> Response:
    """Write a document directly: every key is payload but `document_id`, `vectors`, `features` and lineage."""
    record = reader(caller).collection(collection)
    return write_one(caller, record, creation(record, body))


@router.post(_DOCUMENTS + "/list", operation_id="list_documents", response_model=None)
def list_documents(
    collection: str,
    query: Listed,
    request: Request,
    caller: Reader,
    body: Annotated[ListDocuments | None, Body()] = None,
) -> Response:
    record = reader(caller).collection(collection)
    return answer(list_answer(caller, [record], query, _with_query(body or ListDocuments(), request.query_params)))


@router.get(_DOCUMENTS, operation_id="list_documents_get", response_model=None)
def list_documents_get(collection: str, query: Listed, request: Request, caller: Reader) -> Response:
    record = reader(caller).collection(collection)
    return answer(list_answer(caller, [record], query, _with_query(ListDocuments(), request.query_params)))


def _with_query(body: ListDocuments, query: Mapping[str, str]) -> ListDocuments:
    """What the query string says, where the body does not."""
    found: dict[str, Any] = {}
    for name in ("return_presigned_urls", "return_vectors"):
        if name in query and name not in body.model_fields_set:
            found[name] = query[name].lower() == "true"
    for name, value in (
        ("group_by", query.get("group_by")),
        ("return_vector_names", split_names(query.get("return_vector_names"))),
    ):
        if value is not None and name not in body.model_fields_set:
            found[name] = value
    if query.get("select") and body.select is None:
        found["select"] = [path.strip() for path in query["select"].split(",")]
    return body.model_copy(update=found)


@router.post("/documents/list", operation_id="list_documents_namespace", response_model=None)
def list_everywhere(query: Listed, caller: Reader, body: Annotated[ListDocuments | None, Body()] = None) -> Response:
    """Documents of several collections, by collection (oldest first), then document id."""
    return answer(_list_everywhere(caller, query, body or ListDocuments()))


def _list_everywhere(caller: Caller, query: ListQuery, body: ListDocuments) -> dict[str, Any]:
    collections, unknown = reader(caller).collections(body.collection_ids)
    if unknown and not collections:
        raise NotFoundError("collection", ", ".join(unknown))
    extra = {"unknown_collection_ids": unknown} if unknown else {}
    return list_answer(caller, collections, query, body, **extra)


@router.post("/documents/list/batch", operation_id="list_documents_batch", response_model=None)
def list_batch(body: BatchListRequest, caller: Reader) -> Response:
    """Several lists at once; one that fails does not fail the others."""
    if not 1 <= len(body.queries) <= 10:
        raise ValidationError.at(("body", "queries"), f"must hold 1 to 10 queries, got {len(body.queries)}", "length")
    results = []
    for entry in body.queries:
        try:
            spec = ListDocuments.model_validate(entry.request)
            found = _list_everywhere(caller, list_query(entry.request), spec)
            results.append({"key": entry.key, "response": found, "error": None})
        except MediathecaError as error:
            results.append({"key": entry.key, "response": None, "error": error.message})
        except ValueError as error:
            results.append({"key": entry.key, "response": None, "error": str(error)})
    return answer({"results": results})


@router.get(_DOCUMENT, operation_id="get_document", response_model=None)
def get(
    collection: str,
    document_id: str,
    caller: Reader,
    return_presigned_urls: bool = False,
    return_vectors: bool = False,
    return_vector_names: Annotated[str | None, Query()] = None,
) -> Response:
    record = reader(caller).collection(collection)
    vectors = which_vectors(return_vectors, split_names(return_vector_names))
    hit = reader(caller).one(record.id, document_id, vectors)
    return answer(present(hit, view_of(caller, urls=return_presigned_urls, vectors=vectors)))


_CHANGES = {"PATCH": patching, "PUT": replacement}


@router.patch(_DOCUMENT, operation_id="patch_document", response_model=None)
@router.put(_DOCUMENT, operation_id="put_document", response_model=None)
def change(collection: str, document_id: str, body: Json, request: Request, caller: Writer) -> Response:
    """PATCH merges: keys that are sent replace those stored, null removes one, `metadata` merges key by key.

    PUT replaces the payload. Lineage stays, and vectors unless new ones are given.
    """
    record = reader(caller).collection(collection)
    return write_one(caller, record, _CHANGES[request.method](record, document_id, body))


@router.delete(_DOCUMENT, operation_id="delete_document", response_model=None)
def delete(collection: str, document_id: str, caller: Deleter, cascade: bool = False) -> Response:
    """`?cascade=true` deletes what was made from it, too, in every collection below."""
    record = reader(caller).collection(collection)
    if cascade:
        gone = delete_with_descendants(caller.services, caller.scope, caller.actor.key_id, record.id, [document_id])
        if not gone[record.id]:
            raise NotFoundError("document", document_id)
        counts = {ident: len(ids) for ident, ids in gone.items()}
        return deleted("document", document_id, document_id=document_id, collection_id=record.id, deleted=counts)
    if not caller.services.writer.delete(caller.scope, caller.actor.key_id, record.id, [document_id]):
        raise NotFoundError("document", document_id)
    return deleted("document", document_id, document_id=document_id, collection_id=record.id)


@router.get(_ANYWHERE, operation_id="get_document_by_id", response_model=None)
def get_anywhere(
    document_id: str,
    caller: Reader,
    return_presigned_urls: bool = False,
    return_vectors: bool = False,
    return_vector_names: Annotated[str | None, Query()] = None,
) -> Response:
    vectors = which_vectors(return_vectors, split_names(return_vector_names))
    hit = reader(caller).locate(document_id, vectors)
    return answer(present(hit, view_of(caller, urls=return_presigned_urls, vectors=vectors)))


@router.patch(_ANYWHERE, operation_id="patch_document_by_id", response_model=None)
@router.put(_ANYWHERE, operation_id="put_document_by_id", response_model=None)
def change_anywhere(document_id: str, body: Json, request: Request, caller: Writer) -> Response:
    """The same for a document that is known by its id alone."""
    return change(reader(caller).locate(document_id).collection_id, document_id, body, request, caller)


@router.get("/namespaces/{namespace}/documents/{document_id}", operation_id="get_document_byo", response_model=None)
def get_of_namespace(
    namespace: str, document_id: str, request: Request, caller: OrgReader, return_vectors: bool = False
) -> Response:
    inside = in_namespace(caller, request, namespace)
    hit = reader(inside).locate(document_id, return_vectors)
    return answer(present(hit, view_of(inside, vectors=return_vectors)))


def in_namespace(caller: Caller, request: Request, namespace: str) -> Caller:
    """The caller inside the namespace a path names."""
    return replace(caller, scope=request.app.state.auth.namespace(caller.actor, namespace))
