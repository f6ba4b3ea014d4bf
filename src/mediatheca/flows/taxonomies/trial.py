"""Trying a taxonomy on a few documents: what it would say and write. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mediatheca.flows.services import Services
from mediatheca.flows.taxonomies.applications import attached
from mediatheca.flows.taxonomies.match import Match, Matcher, Subject
from mediatheca.flows.taxonomies.nodes import KIND, view_of
from mediatheca.kernel.assignments import Marks, Style, enriched, held_state, system_part, taken_back
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.mapping import MISSING, read_path
from mediatheca.kernel.present import View, as_hit, present
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.taxonomies import WHOLE, TaxonomyView
from mediatheca.stores.db.tx import Record
from mediatheca.stores.documents.base import Scan

MAX_DOCUMENTS = 5


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried."""

    version: int | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    """Documents by id, whole, or raw inputs; None: the first ones of the collections it is applied to."""
    source_collection_id: str | None = None
    filter: Filter | None = None
    style: Style = "combined"


@dataclass(frozen=True, slots=True)
class _Given:
    """A document to be tried. `stored` where it is one of a collection."""

    subject: Subject
    stored: Document | None = None


def try_taxonomy(services: Services, scope: Scope, ident: str, trial: Trial) -> dict[str, Any]:
    """The answer of an execution.

    Raises:
        NotFoundError: no such taxonomy, version, or collection.
        ConflictError: the taxonomy is not ready, or cannot be used.
        ValidationError: more than five documents, one of no shape that is read, or an id of none.
    """
    if trial.documents is not None and len(trial.documents) > MAX_DOCUMENTS:
        message = (
            f"has {len(trial.documents)} documents; at most {MAX_DOCUMENTS} are tried, apply-taxonomy takes the rest"
        )
        raise ValidationError.at(("body", "source_documents"), message, "too_long")
    with services.db.read(scope) as tx:
        record = tx.get(KIND, ident)
        view = view_of(tx, services.plans, record, trial.version)
        wanted = [ident for ident in (trial.source_collection_id, record.body["enriched"]) if ident]
        collections = [tx.get("collection", wanted[0])] if wanted else attached(tx, record)
        every = tx.resources("collection")
    known = {name: collection for collection in every for name in (collection.name, collection.id)}
    matcher = Matcher(services, scope, view)
    given = _documents(services, scope, matcher, trial, collections, known)
    matches = matcher.match([entry.subject for entry in given])
    answer = _answer(scope, view, trial.style, given, matches)
    return answer if given else {**answer, "warnings": [_nothing(collections)]}


def _nothing(collections: Sequence[Record]) -> str:
    """Why there was nothing to try."""
    if collections:
        return f"no document of {_names(collections)} was found to try it on; give source_documents"
    return (
        "the taxonomy is applied to no collection, so there is nothing to try it on: give source_documents or "
        "source_collection_id, or name it in the taxonomy_applications of a collection"
    )


def _names(collections: Sequence[Record]) -> str:
    return ", ".join(collection.name for collection in collections[:10])


def _documents(
    services: Services,
    scope: Scope,
    matcher: Matcher,
    trial: Trial,
    collections: Sequence[Record],
    known: Mapping[str, Record],
) -> list[_Given]:
    if trial.documents is None:
        return _first(services, scope, matcher, trial.filter, collections)
    found = []
    for number, raw in enumerate(trial.documents):
        if not isinstance(raw, Mapping) or not raw:
            message = "must be an object: a document, or the inputs of one"
            raise ValidationError.at(("body", "source_documents", number), message, "dict_type")
        named = known.get(str(raw.get("collection_id")))
        entry = _given(services, scope, matcher, raw, collections, named)
        if entry.stored is None and set(raw) <= {"document_id", "collection_id"}:
            where = _names([named] if named else collections) or "any collection that the taxonomy is applied to"
            message = f"'{str(raw.get('document_id'))[:100]}' is not in {where}; give its collection_id, or its fields"
            raise ValidationError.at(("body", "source_documents", number, "document_id"), message, "not_found")
        found.append(entry)
    return found


def _first(
    services: Services, scope: Scope, matcher: Matcher, filter: Filter | None, collections: Sequence[Record]
) -> list[_Given]:
    """The first documents of the collections that the taxonomy is applied to."""
    found: list[_Given] = []
    for collection in collections:
        left = MAX_DOCUMENTS - len(found)
        if left <= 0 or services.indexer.unwritten(collection.id):
            continue
        scan = Scan(filter=filter, limit=left, vectors=matcher.wanted_vectors(collection.id) or False)
        dead = services.indexer.tombstones(scope, collection.id)
        rows = services.documents.scan(collection.id, scan, tombstones=dead)
        found += [_Given(Subject.of(document), document) for document in rows]
    return found


def _given(
    services: Services,
    scope: Scope,
    matcher: Matcher,
    raw: Mapping[str, Any],
    collections: Sequence[Record],
    named: Record | None,
) -> _Given:
    """A document that is stored where its id says so, in the collection it names; else what was sent."""
    ident = raw.get("document_id")
    for collection in [named] if named is not None else collections:
        if not isinstance(ident, str) or services.indexer.unwritten(collection.id):
            continue
        dead = services.indexer.tombstones(scope, collection.id)
        vectors = matcher.wanted_vectors(collection.id)
        stored = services.documents.get(collection.id, [ident], tombstones=dead, vectors=vectors or False)
        if stored:
            return _Given(Subject.of(stored[0]), stored[0])
    payload = raw.get("payload")
    inner = {**payload, **raw} if isinstance(payload, Mapping) else raw
    # A raw document is embedded as the documents of the one collection it could belong to would be.
    home = named or (collections[0] if len(collections) == 1 else None)
    return _Given(Subject(ident if isinstance(ident, str) else "", home.id if home else "", inner))


def _answer(
    scope: Scope, view: TaxonomyView, style: Style, given: Sequence[_Given], matches: Sequence[Match]
) -> dict[str, Any]:
    results, shown = [], []
    for entry, match in zip(given, matches, strict=True):
        document, fields = _enriched(scope, view, style, entry, match)
        results.append(document)
        shown += [_shown_match(view, entry.subject, assignment, fields) for assignment in match.assignments]
    errors = sum(bool(match.failed or match.skipped) for match in matches)
    return {
        "stats": {
            "processed_docs": len(given),
            "batches": 1 if given else 0,
            "errors": errors,
            "enriched": sum(bool(match.assignments) for match in matches),
        },
        "results": results,
        "matches": shown,
        "taxonomy_id": view.taxonomy_id,
        "version": view.version,
        "works_as": works_as(view),
        "warnings": list(dict.fromkeys([*_lacking(matches), *(r for m in matches if (r := m.failed or m.skipped))])),
    }


def _lacking(matches: Sequence[Match]) -> Iterator[str]:
    """Fields that are to be taken over and that a matched label does not have."""
    for tier in (tier for match in matches for assignment in match.assignments for tier in assignment.tiers):
        for rule in tier.rules:
            if rule.field_path != WHOLE and read_path(tier.values, rule.field_path) is MISSING:
                yield (
                    f"enrichment_fields: the label '{tier.label}' has no field '{rule.field_path}', "
                    f"so '{rule.target_field}' is not written"
                )


def _enriched(
    scope: Scope, view: TaxonomyView, style: Style, given: _Given, match: Match
) -> tuple[dict[str, Any], list[str]]:
    """The document as it would be, and the fields that would be written."""
    system = given.stored.system if given.stored is not None else {}
    before = held_state(system, view.taxonomy_id).get("before") or ()
    payload = taken_back(given.subject.payload, before)
    payload, written = enriched(payload, match.assignments, style, tree=view.tree)
    fields = [note["target"] for note in written]
    if given.stored is None:
        return dict(payload), fields
    hit = as_hit(given.stored)
    hit.payload = payload
    part = system_part(match.assignments, Marks(view.taxonomy_id, view.version, "", ""), ())
    hit.system |= {name: value for name, value in part.items() if not name.endswith("_state")}
    return present(hit, View(namespace_id=scope.namespace_id)), fields


def _shown_match(view: TaxonomyView, subject: Subject, assignment: Any, fields: Sequence[str]) -> dict[str, Any]:
    return {
        "document_id": subject.document_id or None,
        "taxonomy_id": view.taxonomy_id,
        "taxonomy_name": view.name,
        "node_id": assignment.node.node_id,
        "label": assignment.node.label,
        "score": assignment.node.score,
        "path": assignment.path,
        "hierarchy_level": assignment.level,
        "enriched_fields": list(fields),
    }


def works_as(view: TaxonomyView) -> dict[str, Any]:
    """How its documents are compared, and why."""
    if view.carried:
        return {"mode": "path", "reason": f"documents carry their path in '{view.carried}'", "stored_vectors": []}
    joins = [side.join for side in view.sides if side.join is not None]
    mode = "retriever" if not joins else "join" if len(joins) == len(view.sides) else "mixed"
    reasons = dict.fromkeys(side.reason for side in view.sides if mode == "join" or side.join is None)
    stored = sorted({ident for join in joins for ident in join.stored})
    return {"mode": mode, "reason": "; ".join(reasons), "stored_vectors": stored}
