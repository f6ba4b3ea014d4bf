"""What taxonomies do after a write: the documents that were written get their labels."""

from __future__ import annotations

from collections.abc import Sequence

from mediatheca.flows.follow_up import FollowUp, Outcome
from mediatheca.flows.services import Services
from mediatheca.flows.taxonomies.applications import Application, at_ingest
from mediatheca.flows.taxonomies.apply import NOTE, remember_paths
from mediatheca.flows.taxonomies.enrich import Counts, Enricher, How
from mediatheca.flows.taxonomies.nodes import read_view
from mediatheca.jobs.worker import Run
from mediatheca.kernel import clock
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import MediathecaError, UnavailableError
from mediatheca.kernel.filters import document_view, parse_filter
from mediatheca.kernel.present import system_fields

AT_ONCE = 500


def run_taxonomies(services: Services, run: Run, follow: FollowUp) -> Outcome:
    """Apply every taxonomy of the collection to these documents. One that cannot be applied is a problem of its own."""
    total, problems = Counts(), list[dict[str, str]]()
    for application in at_ingest(follow.collection):
        run.check()
        try:
            counts = _apply(services, run, follow, application)
        except UnavailableError:
            raise
        except MediathecaError as error:
            step = "mend or detach the taxonomy, then POST /v1/collections/{id}/apply-taxonomy"
            problems.append({"what": application.taxonomy_id, "reason": error.message, "next_step": step})
            total.failed += len(follow.document_ids)
            continue
        total.enriched += counts.enriched
        total.unchanged += counts.unchanged + counts.unmatched + counts.skipped + counts.gone
        total.failed += counts.failed
        problems += [
            {"what": f"{application.taxonomy_id} on {entry['document_id']}", "reason": entry["reason"]}
            | {"next_step": "apply the taxonomy to the collection once the reason is gone"}
            for entry in counts.problems
            if counts.failed
        ]
    return Outcome(total.enriched, total.unchanged, total.failed, problems)


def _apply(services: Services, run: Run, follow: FollowUp, application: Application) -> Counts:
    scope, collection = follow.scope, follow.collection
    view = read_view(services.db, services.plans, scope, application.taxonomy_id, application.version)
    with services.db.read(scope) as tx:
        target = tx.get("collection", application.target_collection_id) if application.target_collection_id else None
    enricher = Enricher(services, scope, collection, view, How(application.style, target, run_id=follow.follow_id), run)
    for start in range(0, len(follow.document_ids), AT_ONCE):
        run.check()
        enricher.process(
            _documents(services, follow, application, follow.document_ids[start : start + AT_ONCE], enricher)
        )
    _note(services, follow, enricher)
    return enricher.counts


def _documents(
    services: Services, follow: FollowUp, application: Application, ids: Sequence[str], enricher: Enricher
) -> list[Document]:
    """Those that are still there and pass the application's filters."""
    if services.indexer.unwritten(follow.collection.id):
        return []
    dead = services.indexer.tombstones(follow.scope, follow.collection.id)
    vectors = enricher.vectors or False
    found = services.documents.get(follow.collection.id, ids, tombstones=dead, vectors=vectors)
    keep = parse_filter(application.filters, path="scroll_filters")
    if keep is None:
        return found
    return [
        d for d in found if keep.matches(document_view(d.payload, d.document_id, d.collection_id, system_fields(d)))
    ]


def _note(services: Services, follow: FollowUp, enricher: Enricher) -> None:
    """Count what was said, once for each follow-up also when a crash repeats it."""
    view = enricher.view
    run_id = f"{follow.follow_id}_{view.taxonomy_id}"[:64]
    with services.db.begin(follow.scope) as tx:
        if tx.row("taxonomy_runs", {"run_id": run_id}) is not None:
            return
        moment = clock.now()
        row = {"run_id": run_id, "taxonomy_id": view.taxonomy_id, "kind": NOTE, "status": "completed", "task_id": None}
        body = {"collection_id": follow.collection.id, "counts": enricher.counts.as_dict()}
        tx.insert("taxonomy_runs", [{**row, "body": body, "created_at": moment, "completed_at": moment}])
        enricher.tally.flush(tx, view.taxonomy_id, view.version, follow.collection.id)
        remember_paths(tx, view.taxonomy_id, enricher.paths)
