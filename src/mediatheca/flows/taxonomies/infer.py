"""Finding out which collection stands above which: by their schemas, by the clusters they share, or by asking a model.

A job; until it has ended the taxonomy is not ready. What was said explicitly wins over what is inferred here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mediatheca.flows.grouping.artifacts import read_members
from mediatheca.flows.grouping.runs import latest_run
from mediatheca.flows.ingest.plan import ENDED, add_task, change_task
from mediatheca.flows.outside.language import LanguageProviders
from mediatheca.flows.outside.readiness import Readiness
from mediatheca.flows.services import Services
from mediatheca.flows.taxonomies.config import TaxonomyConfig
from mediatheca.flows.taxonomies.design import settle
from mediatheca.flows.taxonomies.nodes import KIND, version_row
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import Run
from mediatheca.kernel.errors import BadRequestError, MediathecaError, NotFoundError, UnavailableError, ValidationError
from mediatheca.kernel.hierarchy import HierarchyError, forest_of
from mediatheca.kernel.outside import Generate
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import ReadTx, Record, Tx
from mediatheca.stores.documents.base import Scan

JOB = "taxonomy.infer"
TASK = "api_taxonomies_create"
PROVIDERS = ("openai_chat_v1", "openai", "anthropic")
MAX_SAMPLE_CHARACTERS = 20_000
"""Of sample documents of one collection in a prompt."""
MAX_TOKENS = 8_000
_PROMPT = """\
Put these collections into a hierarchy: a collection that is a special case of another one stands below it.

{collections}

Answer with every collection exactly once: its collection_id, the collection_id of the one right above it (null at the \
top), and a short label in plain words."""
_SCHEMA = {
    "type": "object",
    "properties": {
        "nodes": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "collection_id": {"type": "string"},
                    "parent_collection_id": {"type": ["string", "null"]},
                    "label": {"type": "string"},
                },
                "required": ["collection_id", "parent_collection_id", "label"],
            },
        }
    },
    "required": ["nodes"],
}

Parents = dict[str, str | None]


def check_inference(services: Services, tx: ReadTx, config: TaxonomyConfig) -> None:
    """What a strategy needs is there.

    Raises:
        UnavailableError: no language model is configured.
        ValidationError: a provider that nobody here knows.
        BadRequestError: a cluster has no completed run.
    """
    if config.inference_strategy == "llm":
        if config.llm_provider and config.llm_provider not in PROVIDERS:
            message = f"must be one of {', '.join(PROVIDERS)}, got '{config.llm_provider[:40]}'"
            raise ValidationError.at(("body", "config", "llm_provider"), message, "enum")
        lacking = Readiness(services.settings).lacking("language")
        if lacking:
            raise UnavailableError(f"inference_strategy llm cannot run here: {lacking}")
    for ident in config.cluster_ids if config.inference_strategy == "cluster" else ():
        cluster = tx.get("cluster", ident)
        if latest_run(tx, cluster) is None:
            raise BadRequestError(f"cluster '{cluster.name}' has no completed run; execute it before it is compared")


def plan_inference(tx: Tx, config: TaxonomyConfig, made: dict[str, Any]) -> dict[str, Any]:
    """The parts of a version, with the task that will find its hierarchy out where that is not known yet."""
    if made["ready"]:
        return made
    task = add_task(tx, TASK, {"inference_strategy": config.inference_strategy})
    return {**made, "inference": {"status": "running", "strategy": config.inference_strategy, "task_id": task}}


def start_inference(tx: Tx, record: Record) -> None:
    """Enqueue it for the version that was just made."""
    version, task = record.body["version"], record.body["inference"]["task_id"]
    told = {"taxonomy_id": record.id, "version": version}
    tx.update("tasks", {"task_id": task}, {"inputs": [told], "additional_data": told})
    tx.enqueue(JOB, {**told, "task_id": task}, group=task, max_attempts=3)


def _keep(tx: Tx, record: Record, values: Mapping[str, Any]) -> Record:
    """Into the taxonomy and into the row of its version."""
    made = tx.change(record, {**record.body, **values})
    row = version_row(made)
    tx.update("taxonomy_versions", {"taxonomy_id": made.id, "version": row["version"]}, {"body": row["body"]})
    return made


# ---- the job


@dataclass(frozen=True, slots=True)
class _Found:
    parents: Parents
    labels: Mapping[str, str]
    notes: Sequence[str] = ()


def run_inference(services: Services, run: Run) -> None:
    """The handler of `taxonomy.infer`."""
    payload = run.job.payload
    with services.db.begin(run.job.scope) as tx:
        record = tx.find(KIND, payload["taxonomy_id"])
        task = tx.row("tasks", {"task_id": payload["task_id"]})
        gone = record is None or record.body["version"] != payload["version"] or record.body["ready"]
        if record is None or gone or task is None or task["status"] in ENDED:
            tx.finish_job(run.job.job_id, run.job.token)
            return
        tx.update("tasks", {"task_id": payload["task_id"]}, {"status": "PROCESSING"})
    config = TaxonomyConfig.model_validate(record.body["config"])
    try:
        found = _infer(services, run, config)
        _succeed(services, run, config, found)
    except UnavailableError:
        raise
    except MediathecaError as error:
        with services.db.begin(run.job.scope) as tx:
            _fail(tx, payload, error.message)
            tx.finish_job(run.job.job_id, run.job.token)


def _infer(services: Services, run: Run, config: TaxonomyConfig) -> _Found:
    with services.db.read(run.job.scope) as tx:
        collections = [tx.get("collection", ident) for ident in config.inference_collections]
    if config.inference_strategy == "schema":
        return _Found(by_schema({c.id: _fields(c) for c in collections}), {})
    if config.inference_strategy == "cluster":
        return _Found(_by_clusters(services, run.job.scope, config, [c.id for c in collections]), {})
    return _ask(services, run, config, collections)


def _succeed(services: Services, run: Run, config: TaxonomyConfig, found: _Found) -> None:
    payload = run.job.payload
    with services.db.begin(run.job.scope) as tx:
        record = tx.get(KIND, payload["taxonomy_id"])
        made = settle(tx, config, found.parents)
        for entry in made["nodes"]:
            named = any(n.label for n in config.hierarchical_nodes if n.collection_id == entry["node_id"])
            if not named and entry["node_id"] in found.labels:
                entry["label"] = found.labels[entry["node_id"]]
        inference = {**(record.body["inference"] or {}), "status": "completed", "notes": list(found.notes)}
        _keep(tx, record, {**made, "inference": inference})
        outputs = {"taxonomy_id": record.id, "nodes": len(made["nodes"]), "notes": list(found.notes)}
        change_task(tx, payload["task_id"], "COMPLETED", outputs)
        tx.emit("taxonomy.updated", record.id, {"version": record.body["version"], "ready": True})
        tx.finish_job(run.job.job_id, run.job.token)


def _fail(tx: Tx, payload: Mapping[str, Any], message: str) -> None:
    record = tx.find(KIND, payload["taxonomy_id"])
    if record is not None and record.body["version"] == payload["version"]:
        inference = {**(record.body["inference"] or {}), "status": "failed", "error": message[:2_000]}
        _keep(tx, record, {"inference": inference})
        told = {"error": message[:500], "next_step": "make a version with hierarchical_nodes or another strategy"}
        tx.emit("taxonomy.execution_failed", record.id, told)
    task = tx.row("tasks", {"task_id": payload["task_id"]})
    if task is not None and task["status"] not in ENDED:
        change_task(tx, task["task_id"], "FAILED", {})
        tx.update("tasks", {"task_id": task["task_id"]}, {"error": message[:2_000]})


def inference_died(services: Services, job: Job, message: str) -> None:
    """What a job that failed for good leaves behind says so."""
    with services.db.begin(job.scope) as tx:
        _fail(tx, job.payload, message)


# ---- by schema


def _fields(collection: Record) -> frozenset[str]:
    """The fields of its documents, with their types."""
    properties = (collection.body.get("output_schema") or {}).get("properties") or {}
    return frozenset(f"{name}:{rule.get('type')}" for name, rule in properties.items())


def by_schema(fields: Mapping[str, frozenset[str]]) -> Parents:
    """A collection stands below the one whose fields it has all, and some more: of several, the one with most."""
    found: Parents = {}
    for ident, own in fields.items():
        above = [other for other, theirs in fields.items() if other != ident and theirs and theirs < own]
        found[ident] = max(above, key=lambda other: (len(fields[other]), other), default=None)
    return found


# ---- by clusters


def _by_clusters(services: Services, scope: Scope, config: TaxonomyConfig, idents: Sequence[str]) -> Parents:
    members: dict[str, Counter[str]] = {ident: Counter() for ident in idents}
    for cluster_id in config.cluster_ids:
        with services.db.read(scope) as tx:
            run = latest_run(tx, tx.get("cluster", cluster_id))
        if run is None:
            raise NotFoundError("completed run of cluster", cluster_id)
        table = read_members(services.blobs, scope, run["run_id"])
        pairs = zip(table["collection_id"].to_pylist(), table["cluster_id"].to_pylist(), strict=True)
        for (collection_id, group), count in Counter(pairs).items():
            if collection_id in members and group and not group.endswith("-1"):
                members[collection_id][f"{cluster_id}/{group}"] += count
    return by_overlap(members, config.cluster_overlap_threshold)


def by_overlap(members: Mapping[str, Mapping[str, int]], threshold: float) -> Parents:
    """A collection stands below the one in whose clusters most of its documents lie, where that is the wider one.

    Args:
        members: collection → cluster → how many of its documents are in it.
        threshold: the share of the documents that must lie there.
    """
    found: Parents = {}
    for ident, own in members.items():
        total = sum(own.values())
        scored = []
        for other, theirs in members.items():
            wider = len(theirs) > len(own) or (len(theirs) == len(own) and sum(theirs.values()) > total)
            share = sum(count for group, count in own.items() if group in theirs) / total if total else 0.0
            if other != ident and wider and share >= threshold:
                scored.append((share, -len(theirs), other))
        found[ident] = max(scored)[2] if scored else None
    return found


# ---- by asking a model


def _ask(services: Services, run: Run, config: TaxonomyConfig, collections: Sequence[Record]) -> _Found:
    listing = "\n".join(_told(services, run.job.scope, config, collection) for collection in collections)
    prompt = f"{_PROMPT.replace('{collections}', listing)}"
    model = config.llm_model or ""
    if model and ":" not in model and config.llm_provider:
        model = f"{'anthropic' if config.llm_provider == 'anthropic' else 'openai'}:{model}"
    request = Generate(prompt, schema=_SCHEMA, model=model, temperature=0, max_tokens=MAX_TOKENS, timeout_s=120)

    async def answer() -> Any:
        providers = LanguageProviders(services.settings)  # connections belong to the loop that uses them
        try:
            return await providers.bound(namespace_id=run.job.scope.namespace_id).generate(request)
        finally:
            await providers.aclose()

    said = asyncio.run(answer())
    if said.problem:
        raise BadRequestError(f"the answer of {said.model} is no hierarchy: {said.problem}")
    return read_answer(said.value["nodes"], {c.id for c in collections} | {c.name for c in collections}, {
        c.name: c.id for c in collections
    })  # fmt: skip


def read_answer(nodes: Sequence[Mapping[str, Any]], known: set[str], by_name: Mapping[str, str]) -> _Found:
    """What a model answered, as far as it speaks of collections that it was asked about.

    Raises:
        BadRequestError: it makes a circle; the circle is named.
    """
    parents: Parents = dict.fromkeys(by_name.values())
    labels: dict[str, str] = {}
    notes = []
    for node in nodes:
        ident, above = str(node["collection_id"]), node.get("parent_collection_id")
        if ident not in known or (above is not None and above not in known):
            notes.append(
                f"the model spoke of '{(ident if ident not in known else str(above))[:100]}', which is unknown"
            )
            continue
        own = by_name.get(ident, ident)
        parents[own] = None if above is None else by_name.get(str(above), str(above))
        labels[own] = str(node["label"])[:200]
    try:
        forest_of(parents)
    except HierarchyError as error:
        raise BadRequestError(f"the hierarchy that the model proposed cannot be used: {error}") from error
    return _Found(parents, labels, notes)


def _told(services: Services, scope: Scope, config: TaxonomyConfig, collection: Record) -> str:
    """What the prompt says of a collection: the caller's own words, or its name and fields, and some documents."""
    template = config.llm_prompt_template or "- {collection_id}: {collection_name}; fields: {fields}"
    fields = ", ".join(sorted((collection.body.get("output_schema") or {}).get("properties") or {}))
    values = {"collection_id": collection.id, "collection_name": collection.name, "fields": fields}
    told = template
    for name, value in values.items():  # no format(): a template is a caller's text
        told = told.replace(f"{{{name}}}", value)
    if collection.id not in told:
        told = f"- {collection.id}: {told}"
    if not config.llm_sample_size or services.indexer.unwritten(collection.id):
        return told
    dead = services.indexer.tombstones(scope, collection.id)
    rows = services.documents.scan(collection.id, Scan(limit=config.llm_sample_size), tombstones=dead)
    samples = [orjson.dumps(document.payload, default=repr).decode()[:2_000] for document in rows]
    return f"{told}\n  documents: {' '.join(samples)[:MAX_SAMPLE_CHARACTERS]}"
