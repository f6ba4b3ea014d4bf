"""What a trigger does: one `Action` for each `action_type`. Each gives the tasks that it started, in the transaction of
the run, so that a run and what it does are one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from mediatheca.flows.alerts.jobs import start_evaluation
from mediatheca.flows.bodies import checked, key_notes
from mediatheca.flows.grouping.config import ExecuteRequest
from mediatheca.flows.grouping.runs import TASK as CLUSTER_TASK
from mediatheca.flows.grouping.runs import start_execution
from mediatheca.flows.ingest.backfill import Wanted, find_units, objects_of, trigger_collection
from mediatheca.flows.ingest.plan import BATCH_TASK, MAX_OBJECTS, add_task
from mediatheca.flows.ingest.rerun import submit_in_bulk
from mediatheca.flows.ingest.retry import Wanted as Failed
from mediatheca.flows.ingest.retry import retry_failed
from mediatheca.flows.retrieve.keys import UnknownKey, parameter_names, unknown_inside, unknown_keys
from mediatheca.flows.services import Services
from mediatheca.flows.syncs.state import KIND as SYNC
from mediatheca.flows.syncs.state import TASK as SYNC_TASK
from mediatheca.flows.syncs.state import begin, going, require
from mediatheca.flows.taxonomies.applications import Application, application_of
from mediatheca.flows.taxonomies.apply import TASK as TAXONOMY_TASK
from mediatheca.flows.taxonomies.apply import attached_options, start_apply
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.no_effect import NoEffect, without_effect
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

PLACE = ("action_config",)
WHERE = ("body", *PLACE)
ACT = "trigger.act"
"""Job of actions that take long and are no work of others: `{run_id, task_id}`."""
CANARY_TASK = "api_retrievers_execute"
MAX_BATCHES = 200
"""Batches of a bucket whose failures are retried by one run, the newest."""


@dataclass(frozen=True, slots=True)
class Start:
    """A run that begins."""

    services: Services
    tx: Tx
    trigger: Record
    run_id: str

    @property
    def config(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.trigger.body["action_config"]
        return found


@dataclass(frozen=True, slots=True)
class Action:
    """`check` gives the configuration with references by id; `start` gives tasks, none when there was nothing to do.
    `task`: the type of its tasks."""

    task: str
    config: type[BaseModel]
    check: Callable[[ReadTx, dict[str, Any]], dict[str, Any]]
    start: Callable[[Start], Sequence[str]]


class _Config(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class ClusterConfig(_Config):
    """Besides: what one execution of a cluster takes (`mode`, `sample_size`, …)."""

    cluster_id: str = Field(min_length=1, max_length=200)


class TaxonomyConfig(_Config):
    """Documents that were labelled with the same inputs and the same version are left as they are."""

    taxonomy_id: str = Field(min_length=1, max_length=200)
    collection_id: str = Field(min_length=1, max_length=200)
    incremental: Annotated[bool, NoEffect("what is unchanged is always left alone")] = True
    batch_size: int = Field(1000, ge=100, le=5000)
    parallelism: int = Field(4, ge=1, le=20)
    scroll_filters: dict[str, Any] | None = None


class BatchConfig(_Config):
    bucket_id: str = Field(min_length=1, max_length=200)
    filters: dict[str, Any] | None = None
    retry_failed_only: bool = False
    collection_ids: list[str] | None = Field(None, max_length=100)
    dedup_strategy: Literal["skip", "replace", "force"] | None = None


class CollectionConfig(_Config):
    collection_id: str = Field(min_length=1, max_length=200)
    include_buckets: list[str] | None = Field(None, max_length=100)
    object_ids: list[str] | None = Field(None, max_length=1000)
    source_filters: dict[str, Any] | None = None
    dedup_strategy: Literal["skip", "replace", "force"] | None = None


class Acceptance(_Config):
    """What an answer must be like. A stage that takes longer than `max_stage_time_ms` breaches its latency; of the
    results, a share of `min_pass_ratio` must have a true value in `judge_field`."""

    max_total_time_ms: float | None = Field(None, gt=0)
    max_stage_latency_breaches: int | None = Field(None, ge=0)
    max_stage_time_ms: float = Field(1000, gt=0)
    min_results: int | None = Field(None, ge=0, le=100)
    judge_field: str | None = Field(None, min_length=1, max_length=512)
    min_pass_ratio: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _pair(self) -> Acceptance:
        if (self.judge_field is None) != (self.min_pass_ratio is None):
            raise ValueError("judge_field and min_pass_ratio go together")
        return self


class Notification(_Config):
    notify_on: Literal["change", "failure", "always"] = "change"


class CanaryConfig(_Config):
    """A retriever with fixed inputs, never answered from a cache."""

    retriever_id: str = Field(min_length=1, max_length=200)
    inputs: dict[str, Any] = Field(default_factory=dict)
    skip_cache: Literal[True] = True
    acceptance: Acceptance = Field(default_factory=Acceptance)
    notification: Notification = Field(default_factory=Notification)


class SyncConfig(_Config):
    """A run of a sync; `bucket_id` may be left out."""

    sync_config_id: str = Field(
        min_length=1, max_length=200, validation_alias=AliasChoices("sync_config_id", "sync_id")
    )
    bucket_id: str | None = Field(None, max_length=200)
    full_sync: bool = False


class AlertConfig(_Config):
    alert_id: str = Field(min_length=1, max_length=200)
    inputs: dict[str, Any] | None = None


def _with_ids(kinds: Mapping[str, str]) -> Callable[[ReadTx, dict[str, Any]], dict[str, Any]]:
    def check(tx: ReadTx, config: dict[str, Any]) -> dict[str, Any]:
        return {**config, **{field: tx.get(kind, config[field]).id for field, kind in kinds.items()}}

    return check


def _check_cluster(tx: ReadTx, config: dict[str, Any]) -> dict[str, Any]:
    checked(ExecuteRequest, {key: value for key, value in config.items() if key != "cluster_id"}, WHERE)
    return _with_ids({"cluster_id": "cluster"})(tx, _parsed(config, "filters"))


def _check_taxonomy(tx: ReadTx, config: dict[str, Any]) -> dict[str, Any]:
    found = _parsed(config, "scroll_filters")
    return _with_ids({"taxonomy_id": "taxonomy", "collection_id": "collection"})(tx, found)


def _check_batch(tx: ReadTx, config: dict[str, Any]) -> dict[str, Any]:
    found = _with_ids({"bucket_id": "bucket"})(tx, _parsed(config, "filters"))
    if found["retry_failed_only"] and (found.get("filters") or found.get("dedup_strategy")):
        message = "retries what failed in earlier batches; filters and dedup_strategy do not apply to it"
        raise ValidationError.at((*WHERE, "retry_failed_only"), message)
    if found.get("collection_ids"):
        found["collection_ids"] = [tx.get("collection", ident).id for ident in found["collection_ids"]]
    return found


def _check_collection(tx: ReadTx, config: dict[str, Any]) -> dict[str, Any]:
    found = _with_ids({"collection_id": "collection"})(tx, _parsed(config, "source_filters"))
    if found.get("include_buckets"):
        found["include_buckets"] = [tx.get("bucket", ident).id for ident in found["include_buckets"]]
    return found


def _check_sync(tx: ReadTx, config: dict[str, Any]) -> dict[str, Any]:
    bucket = tx.get("bucket", config["bucket_id"]).id if config.get("bucket_id") else None
    sync = tx.get(SYNC, config["sync_config_id"], bucket)
    return {**config, "sync_config_id": sync.id, "bucket_id": sync.parent}


def _check_alert(tx: ReadTx, config: dict[str, Any]) -> dict[str, Any]:
    alert = tx.get("alert", config["alert_id"])
    if alert.body.get("source") == "system":
        message = f"'{alert.id}' watches a condition of the system; it is looked at every minute without a trigger"
        raise ValidationError.at((*WHERE, "alert_id"), message)
    return {**config, "alert_id": alert.id}


def _parsed(config: dict[str, Any], filters: str) -> dict[str, Any]:
    parse_filter(config.get(filters), path=f"action_config.{filters}")
    return config


# ---- starting


def _cluster(start: Start) -> Sequence[str]:
    cluster = start.tx.get("cluster", start.config["cluster_id"])
    request = checked(ExecuteRequest, {key: v for key, v in start.config.items() if key != "cluster_id"}, WHERE)
    return [start_execution(start.tx, cluster, request, automatic=True)]


def _taxonomy(start: Start) -> Sequence[str]:
    collection = start.tx.get("collection", start.config["collection_id"])
    taxonomy = start.tx.get("taxonomy", start.config["taxonomy_id"])
    attachment = application_of(collection, taxonomy) or Application(taxonomy.id)
    how = {name: start.config[name] for name in ("batch_size", "parallelism")}
    options = attached_options(attachment, filters=start.config.get("scroll_filters"), **how)
    return [start_apply(start.tx, collection, taxonomy, options)]


def _batch(start: Start) -> Sequence[str]:
    tx, config = start.tx, start.config
    bucket = tx.get("bucket", config["bucket_id"])
    chunk_size = start.services.settings.chunk_size
    if config["retry_failed_only"]:
        return _retried(tx, bucket.id, chunk_size)
    ids = objects_of(tx, bucket.id, config.get("filters"))
    options = {name: config.get(name) for name in ("collection_ids", "dedup_strategy")}
    _, batches = submit_in_bulk(tx, bucket.id, ids, MAX_OBJECTS, chunk_size, trigger_id=start.trigger.id, **options)
    return _tasks(batches)


def _retried(tx: Tx, bucket_id: str, chunk_size: int) -> list[str]:
    """The failed objects of the bucket's ended batches once more, each in its own batch."""
    where = {"bucket_id": bucket_id, "status": ["COMPLETED_WITH_ERRORS", "FAILED"]}
    found = tx.rows("batches", where, order=("-batch_id",), limit=MAX_BATCHES)
    return _tasks([batch for batch in found if retry_failed(tx, batch, chunk_size, Failed())])


def _tasks(batches: Sequence[Row]) -> list[str]:
    return [str(batch["task_id"]) for batch in batches if batch["task_id"]]


def _collection(start: Start) -> Sequence[str]:
    config = start.config
    collection = start.tx.get("collection", config["collection_id"])
    names = ("include_buckets", "object_ids", "source_filters", "dedup_strategy")
    wanted = Wanted(*(config.get(name) for name in names))
    size, units = start.services.settings.chunk_size, find_units(start.services, start.tx.scope, collection, wanted)
    return _tasks(trigger_collection(start.tx, collection, wanted, size, units, trigger_id=start.trigger.id))


def _canary(start: Start) -> Sequence[str]:
    retriever = start.tx.get("retriever", start.config["retriever_id"])
    told = {"retriever_id": retriever.id, "trigger_id": start.trigger.id, "run_id": start.run_id}
    task = add_task(start.tx, CANARY_TASK, told)
    start.tx.enqueue(ACT, {"run_id": start.run_id, "task_id": task}, group=task, max_attempts=2)
    return [task]


def _sync(start: Start) -> Sequence[str]:
    """A run of its own; while one goes on, that one, and a full one after it."""
    sync = require(start.tx, start.config["bucket_id"], start.config["sync_config_id"])
    if sync.body["paused"]:
        raise ConflictError(f"sync '{sync.id}' is paused; resume it, or pause this trigger")
    open_run = going(start.tx, sync)
    if open_run is not None and not start.config["full_sync"]:
        return _tasks([open_run])
    made = begin(start.tx, sync, "scheduled", full=start.config["full_sync"])
    return _tasks([open_run or made])


def _alert(start: Start) -> Sequence[str]:
    alert = start.tx.get("alert", start.config["alert_id"])
    if alert.body.get("enabled") is False:
        raise ConflictError(f"alert '{alert.id}' is switched off; switch it on, or pause this trigger")
    reason = f"trigger {start.trigger.id}"
    return [start_evaluation(start.tx, alert, inputs=start.config.get("inputs"), reason=reason)]


ACTIONS: Mapping[str, Action] = {
    "cluster": Action(CLUSTER_TASK, ClusterConfig, _check_cluster, _cluster),
    "taxonomy_enrichment": Action(TAXONOMY_TASK, TaxonomyConfig, _check_taxonomy, _taxonomy),
    "batch_rerun": Action(BATCH_TASK, BatchConfig, _check_batch, _batch),
    "collection_trigger": Action(BATCH_TASK, CollectionConfig, _check_collection, _collection),
    "retriever_execution": Action(CANARY_TASK, CanaryConfig, _with_ids({"retriever_id": "retriever"}), _canary),
    "sync": Action(SYNC_TASK, SyncConfig, _check_sync, _sync),
    "alert_evaluation": Action(CANARY_TASK, AlertConfig, _check_alert, _alert),
}


def parse_action(tx: ReadTx, action_type: str, raw: Any) -> dict[str, Any]:
    """The configuration with its defaults, references by id.

    Raises:
        ValidationError: the type or a field is wrong.
        NotFoundError: something named does not exist in this namespace.
    """
    action = ACTIONS.get(action_type)
    if action is None:
        message = f"'{action_type[:50]}' is no action; known: {', '.join(ACTIONS)}"
        raise ValidationError.at(("body", "action_type"), message, "enum")
    config = checked(action.config, raw, WHERE)
    return action.check(tx, config.model_dump(mode="json", exclude_none=True))


def action_notes(action_type: str, raw: Any, *, strict: bool) -> list[str]:
    """Warnings for the keys of an `action_config` that nothing reads, and for values that have no effect.

    Raises:
        ValidationError: the configuration is wrong; or `strict`, and there are some.
    """
    action = ACTIONS.get(action_type)
    if action is None:
        return []
    idle = [
        f"{'.'.join((*PLACE, *place))}: {told}" for place, told in without_effect(checked(action.config, raw, WHERE))
    ]
    return key_notes(_unread(action_type, action, raw), strict=strict) + idle


def _unread(action_type: str, action: Action, raw: Any) -> Iterator[UnknownKey]:
    besides = parameter_names(ExecuteRequest) if action_type == "cluster" else ()
    for entry in unknown_keys(action.config, raw, PLACE):
        if entry.place != PLACE or entry.key not in besides:
            yield entry
    if besides:
        yield from unknown_inside(ExecuteRequest, raw, PLACE)
