"""Phase 4 of what follows a write: a retriever runs with inputs from each new document, and fields of what it finds are
written into the document.

The enrichments of a collection run one after the other, so that a later one reads what an earlier one wrote. What they
write is no news to any of them (depth 1), and a document never finds itself. Documents with the same inputs share one
execution. A document whose inputs, retriever and enrichment are what they were is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from mediatheca.flows.alerts.inputs import mapped_inputs, split_mappings
from mediatheca.flows.applications import Listed, applications
from mediatheca.flows.enrichment.writer import Patch, apply_patches, inputs_seen
from mediatheca.flows.follow_up import FollowUp, Outcome
from mediatheca.flows.retrievers import Compiled
from mediatheca.flows.services import Services
from mediatheca.jobs.worker import Run
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import MediathecaError, UnavailableError
from mediatheca.kernel.filters import document_view, parse_filter
from mediatheca.kernel.hits import value_key
from mediatheca.kernel.mapping import MISSING, clean_path, read_path
from mediatheca.kernel.present import as_hit, system_fields

LIST: Listed = "retriever_enrichments"
AT_ONCE = 200
"""Documents that are read, asked for and written together."""
RESULTS = 100
"""Results that `all_as_array` and `concat` gather."""
_ROUNDS = 3
"""How often a document that changes meanwhile is looked at again."""
_PROBLEMS = 20


@dataclass(slots=True)
class _Counts:
    done: int = 0
    skipped: int = 0
    failed: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)

    def trouble(self, what: str, reason: str, next_step: str, documents: int) -> None:
        self.failed += documents
        if len(self.problems) < _PROBLEMS:
            self.problems.append({"what": what, "reason": reason[:500], "next_step": next_step})


@dataclass(frozen=True, slots=True)
class _Asked:
    """A document and what its retriever is asked."""

    document: Document
    inputs: Mapping[str, Any]
    key: str


def run_retriever_enrichments(services: Services, run: Run, follow: FollowUp) -> Outcome:
    """Every enrichment of the collection, the most urgent first. One that cannot run does not stop the others.

    Raises:
        UnavailableError: a backend does not answer; the phase is repeated.
    """
    counts = _Counts()
    for entry in applications(follow.collection, LIST):
        run.check()
        try:
            found = services.plans.get(follow.scope, entry["retriever_id"])
            _Enrichment(services, run, follow, entry, found, counts).process()
        except UnavailableError:
            raise
        except MediathecaError as error:
            step = "mend or remove it among the collection's retriever_enrichments, and write the documents again"
            counts.trouble(entry["retriever_id"], error.message, step, len(follow.document_ids))
    return Outcome(counts.done, counts.skipped, counts.failed, counts.problems)


class _Enrichment:
    """One entry of the list over the documents of one follow-up."""

    def __init__(
        self, services: Services, run: Run, follow: FollowUp, entry: Mapping[str, Any], found: Compiled, counts: _Counts
    ) -> None:
        self._services = services
        self._run = run
        self._follow = follow
        self._found = found
        self._counts = counts
        self._writes: Sequence[Mapping[str, str]] = entry["write_back_fields"]
        self._keep = parse_filter(entry.get("scroll_filters"), path="scroll_filters")
        self._constant, self._read = split_mappings(entry["input_mappings"])
        digest = _short([entry["input_mappings"], entry["write_back_fields"]])
        self._reason = f"retriever:{entry['retriever_id']}:{digest}"
        self._version = f"{found.version}:{digest}"

    def process(self) -> None:
        ids = self._follow.document_ids
        for start in range(0, len(ids), AT_ONCE):
            waiting: Sequence[str] = ids[start : start + AT_ONCE]
            for _ in range(_ROUNDS):
                waiting = self._round(waiting)
                if not waiting:
                    break
            for ident in waiting:
                reason = "it was changed again and again while it was enriched"
                self._counts.trouble(ident, reason, "write it again", 1)

    def _round(self, ids: Sequence[str]) -> list[str]:
        """Enrich these documents; gives those that changed meanwhile."""
        self._run.check()
        asked = [entry for entry in map(self._ask, self._documents(ids)) if entry is not None]
        if not asked:
            return []
        several = any(write["mode"] != "first" for write in self._writes)
        distinct = {value_key(dict(entry.inputs)): entry.inputs for entry in asked}
        answers = self._services.replayer.answers(
            self._follow.scope, self._found, list(distinct.values()), RESULTS + 1 if several else 2
        )
        by_inputs = dict(zip(distinct, answers, strict=True))
        self._run.check()
        patches = [
            patch
            for entry in asked
            if (patch := self._patch(entry, by_inputs[value_key(dict(entry.inputs))])) is not None
        ]
        written = apply_patches(self._services, self._follow.scope, self._follow.collection, patches, self._reason)
        self._counts.done += written.written
        self._counts.skipped += written.unchanged + written.gone
        for ident, why in written.failed.items():
            self._counts.trouble(ident, why, "shorten what is written into it", 1)
        return written.stale

    def _documents(self, ids: Sequence[str]) -> list[Document]:
        """Those that are still there and pass the entry's filters."""
        collection = self._follow.collection.id
        if self._services.indexer.unwritten(collection):
            return []
        dead = self._services.indexer.tombstones(self._follow.scope, collection)
        found = self._services.documents.get(collection, ids, tombstones=dead)
        if self._keep is None:
            return found
        kept = self._keep
        return [
            d for d in found if kept.matches(document_view(d.payload, d.document_id, d.collection_id, system_fields(d)))
        ]

    def _ask(self, document: Document) -> _Asked | None:
        """What is asked for a document; None: it lacks a field that is read, or nothing of it has changed."""
        read = mapped_inputs(self._read, as_hit(document))
        key = _short([self._version, self._constant, read])
        if len(read) < len(self._read) or inputs_seen(document, self._reason) == key:
            self._counts.skipped += 1
            return None
        return _Asked(document, {**self._constant, **read}, key)

    def _patch(self, asked: _Asked, answer: Mapping[str, Any]) -> Patch | None:
        """What is written for an answer. Of no result nothing: what an earlier answer wrote is taken away."""
        document = asked.document
        if answer.get("error"):
            step = "see that the retriever answers, and write the document again"
            self._counts.trouble(
                f"{self._found.retriever_id} for {document.document_id}", str(answer["error"]), step, 1
            )
            return None
        own = (document.collection_id, document.document_id)
        results = [item for item in answer["documents"] if (item.get("collection_id"), item["document_id"]) != own]
        values = {write["target_field"]: _value(results[:RESULTS], write) for write in self._writes}
        if not inputs_seen(document, self._reason):
            values = {path: value for path, value in values.items() if value is not MISSING}
        return Patch(document.document_id, values, {}, document.write_seq, asked.key)


def _value(results: Sequence[Mapping[str, Any]], write: Mapping[str, str]) -> Any:
    """The value of one field over the results; MISSING: none has it."""
    path = clean_path(write["source_field"])
    found = [
        value for value in (read_path(item, path) for item in results) if value is not MISSING and value is not None
    ]
    if not found:
        return MISSING
    if write["mode"] == "first":
        return found[0]
    return found if write["mode"] == "all_as_array" else ", ".join(str(value) for value in found)


def _short(value: Any) -> str:
    return blake2b(value_key(value), digest_size=12).hexdigest()
