"""Recording interactions: what was clicked, which search found it, and what is learned from it, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

from mediatheca.flows.bodies import checked
from mediatheca.flows.executions import ExecutionLog
from mediatheca.flows.learning.arms import Ledger
from mediatheca.flows.learning.config import LearningConfig, learning_config, searches_of
from mediatheca.flows.learning.records import dropping, interaction_view
from mediatheca.flows.learning.service import LearnedFusion, levels_of, user_of
from mediatheca.flows.learning.settings import opted_out, read_settings
from mediatheca.kernel import clock
from mediatheca.kernel.bandit import credit_of, reward_of
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import MediathecaError, NotFoundError, ValidationError
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.tx import Cmp, Row, Tx

DEDUPLICATION = timedelta(minutes=5)
MAX_BULK = 1_000
MAX_KINDS = 20
_MAX_OBJECT = 20_000
"""Characters of metadata or query_snapshot."""


class InteractionSpec(BaseModel):
    """One interaction. `document_id` is the other name of `feature_id`. Types beyond the known ones are kept as they
    are; what they are worth is said by the retriever's `reward_map`."""

    model_config = ConfigDict(extra="ignore")

    feature_id: str = Field(min_length=1, max_length=512, validation_alias=AliasChoices("feature_id", "document_id"))
    interaction_type: list[str] = Field(min_length=1, max_length=MAX_KINDS)
    position: int = Field(ge=0, le=1_000_000, strict=True)
    metadata: dict[str, Any] | None = None
    user_id: str | None = Field(None, max_length=255)
    session_id: str | None = Field(None, max_length=255)
    execution_id: str | None = Field(None, max_length=64)
    retriever_id: str | None = Field(None, max_length=100)
    query_snapshot: dict[str, Any] | None = None
    document_score: float | None = Field(None, allow_inf_nan=False)
    result_set_size: int | None = Field(None, ge=0)
    feature_uri: str | None = Field(None, max_length=512)
    occurred_at: datetime | None = None

    @field_validator("interaction_type", mode="before")
    @classmethod
    def _kinds(cls, value: Any) -> Any:
        """A single type stands for a list of one; upper case is accepted."""
        given = [value] if isinstance(value, str) else value
        return [entry.lower() if isinstance(entry, str) else entry for entry in given] if given else given

    @field_validator("interaction_type")
    @classmethod
    def _named(cls, value: list[str]) -> list[str]:
        for kind in value:
            if not kind or not kind.replace("_", "a").isalnum() or not kind.isascii() or len(kind) > 50:
                raise ValueError(f"'{kind[:60]}' is no interaction type: letters, digits and '_', at most 50")
        return list(dict.fromkeys(value))

    @field_validator("metadata", "query_snapshot")
    @classmethod
    def _bounded(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and len(str(value)) > _MAX_OBJECT:
            raise ValueError(f"is longer than {_MAX_OBJECT} characters")
        return value

    @field_validator("occurred_at")
    @classmethod
    def _zoned(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

    def consistent(self) -> None:
        """Raises ValidationError for fields that contradict each other."""
        if self.retriever_id and not self.execution_id and self.occurred_at is None:
            message = "is required with retriever_id: the execution_id of the answer that showed this document"
            raise ValidationError.at(("body", "execution_id"), message, "missing")
        if self.result_set_size == 0 and "zero_results" not in self.interaction_type:
            message = "0 goes only with the type zero_results"
            raise ValidationError.at(("body", "result_set_size"), message, "greater_than")


def parse_interaction(raw: Any) -> InteractionSpec:
    """Raises ValidationError: every offending field. A backfilled one may lack its position."""
    if isinstance(raw, dict) and raw.get("occurred_at") and "position" not in raw:
        raw = {**raw, "position": 0}
    spec = checked(InteractionSpec, raw)
    spec.consistent()
    return spec


@dataclass(slots=True)
class _Source:
    """What an interaction hangs on: its retriever and its execution."""

    retriever_id: str = ""
    config: LearningConfig | None = None
    learns: bool = False
    broken: str = ""
    uris: Sequence[str] = ()
    execution: Mapping[str, Any] | None = None


class Recorder:
    """Records interactions in one transaction; what is the same for many is looked up once."""

    def __init__(self, tx: Tx, executions: ExecutionLog, learning: LearnedFusion) -> None:
        self._tx = tx
        self._executions = executions
        self._learning = learning
        self._ledger = Ledger()
        self._sources: dict[tuple[str, str], _Source] = {}

    def record(self, spec: InteractionSpec, *, deduplicate: bool) -> dict[str, Any]:
        """Store one; gives what the caller reads.

        Raises:
            NotFoundError: no such retriever.
            ValidationError: the execution belongs to another retriever.
        """
        source = self._source(spec.retriever_id or "", spec.execution_id or "")
        if deduplicate and self._is_repeated(spec):
            return _view_of(spec, source) | {"interaction_id": None, "deduplicated": True, "timestamp": _now()}
        reward = self._reward(spec, source)
        credit, uri, warning = self._credit(spec, source, reward)
        moment = min(spec.occurred_at or clock.now(), clock.now())
        row = self._row(spec, source, moment, reward, uri, credit)
        self._tx.insert("interactions", [row])
        return interaction_view(row) | {"warning": warning}

    def finish(self) -> None:
        """Write what was learned. Call once, after the last `record`."""
        for retriever_id in self._ledger.write(self._tx):
            self._tx.after(dropping(self._learning, self._tx.scope, retriever_id))

    def _source(self, retriever: str, execution_id: str) -> _Source:
        found = self._sources.get((retriever, execution_id))
        if found is None:
            found = self._sources[retriever, execution_id] = self._look_up(retriever, execution_id)
        return found

    def _look_up(self, retriever: str, execution_id: str) -> _Source:
        execution = self._executions.find(self._tx.scope, execution_id) if execution_id else None
        ident = retriever or (execution or {}).get("retriever_id") or ""
        if not ident:
            return _Source(execution=execution)
        record = self._tx.find("retriever", ident)
        if record is None:
            raise NotFoundError("retriever", ident)
        if execution is not None and execution["retriever_id"] != record.id:
            message = f"'{execution_id}' is no execution of retriever '{ident}'"
            raise ValidationError.at(("body", "execution_id"), message, "mismatch")
        found = learning_config(record.body["stages"])
        uris = list(searches_of(record.body["stages"])) or record.body.get("feature_uris", ())
        return _Source(record.id, found.config, found.learns, found.error, uris, execution)

    def _is_repeated(self, spec: InteractionSpec) -> bool:
        """Whether every type of it was recorded for the same document of the same execution a moment ago."""
        if not spec.execution_id:
            return False
        where = {"execution_id": spec.execution_id, "feature_id": spec.feature_id}
        where["created_at"] = Cmp(">", clock.now() - DEDUPLICATION)  # type: ignore[assignment]
        seen = {kind for row in self._tx.rows("interactions", where) for kind in row["body"]["interaction_type"]}
        return seen.issuperset(spec.interaction_type)

    def _reward(self, spec: InteractionSpec, source: _Source) -> float:
        tuning = (source.config or LearningConfig()).tuning
        rated = (spec.metadata or {}).get("rating") if "rating" in spec.interaction_type else None
        worth = reward_of(spec.interaction_type, spec.position, tuning)
        if isinstance(rated, int | float) and not isinstance(rated, bool) and 1 <= rated <= 5:
            worth += rated - 3  # of five stars; three say nothing
        return max(-tuning.max_reward, min(tuning.max_reward, worth))

    def _credit(
        self, spec: InteractionSpec, source: _Source, reward: float
    ) -> tuple[dict[str, tuple[float, float]], str | None, str | None]:
        """(credit by search, the search that found it, a warning). Everything is resolved from the execution's record
        where it has the document; else from the search the caller names."""
        shares, warning = _shares(spec, source)
        uri = spec.feature_uri or (max(shares, key=lambda name: shares[name]) if shares else None)
        if not source.learns or source.config is None or not source.retriever_id:
            return {}, uri, None if shares or not source.learns else warning
        if source.broken:
            return {}, uri, f"{source.broken}: nothing was learned from this"
        if not shares or reward == 0:
            return {}, uri, warning if not shares else None
        inputs = _inputs(spec, source)
        user = user_of(source.config, spec.user_id or "", inputs)
        if not read_settings(self._tx, source.retriever_id, source.config).enabled:
            return {}, uri, "learned fusion is switched off for this retriever: nothing was learned from this"
        if user and opted_out(self._tx, source.retriever_id, user):
            return {}, uri, "this user has opted out: nothing was learned from this"
        return credit_of(shares, reward), uri, warning

    def _row(
        self, spec: InteractionSpec, source: _Source, moment: datetime, reward: float, uri: str | None,
        credit: dict[str, tuple[float, float]],
    ) -> Row:  # fmt: skip
        keys: list[str] = []
        if credit and source.config is not None:
            inputs = _inputs(spec, source)
            user = user_of(source.config, spec.user_id or "", inputs)
            keys = list(levels_of(source.retriever_id, source.config, user, inputs).values())
            self._ledger.add(source.retriever_id, keys, credit, moment, source.config.tuning)
        body = spec.model_dump(mode="json", exclude={"feature_id", "user_id", "session_id", "execution_id"})
        body["metadata"] = {**(spec.metadata or {}), "reward_value": reward}
        body |= {"feature_uri": uri, "retriever_id": source.retriever_id or None}
        body["query_snapshot"] = spec.query_snapshot or (dict(_inputs(spec, source)) or None)
        return {
            "interaction_id": new_id("int"),
            "retriever_id": source.retriever_id,
            "execution_id": spec.execution_id or "",
            "session_id": spec.session_id or "",
            "user_id": spec.user_id or "",
            "feature_id": spec.feature_id,
            "body": body,
            "credit": {"arms": credit, "keys": keys} if credit else {},
            "learned": bool(credit),
            "occurred_at": moment,
            "created_at": clock.now(),
        }


def _inputs(spec: InteractionSpec, source: _Source) -> Mapping[str, Any]:
    if source.execution is not None:
        found: Mapping[str, Any] = source.execution["body"].get("inputs") or {}
        return found
    return spec.query_snapshot or {}


def _shares(spec: InteractionSpec, source: _Source) -> tuple[dict[str, float], str | None]:
    """Each search's part in the score of the document, and why there is none."""
    body = source.execution["body"] if source.execution is not None else {}
    arms: list[str] = body.get("arms") or list(source.uris)
    recorded = (body.get("credits") or {}).get(spec.feature_id)
    if recorded is not None and len(recorded) == len(arms):
        return dict(zip(arms, recorded, strict=True)), None
    if spec.feature_uri is not None:
        if spec.feature_uri not in arms:
            return {}, f"'{spec.feature_uri}' is no search of this retriever: nothing was learned from this"
        return {name: float(name == spec.feature_uri) for name in arms}, None
    if len(arms) == 1:
        return {arms[0]: 1.0}, None
    return {}, "which search found this document is not known: send the execution_id, or feature_uri"


def credits_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the record of an execution keeps so that a later click finds the searches that earned it: their names, and
    for every document shown the share of each. Empty where nothing was searched.

    Shares are by reciprocal rank in each search, not by contribution to the fused score: that one holds the learned
    weights already, and a search that is trusted would earn trust for it.
    """
    shown = {}
    arms: dict[str, None] = {}
    for item in result.get("documents", ()):
        scores = item.get("scores") or {}
        features = scores.get("features") or scores.get("per_feature")
        if isinstance(features, dict) and features:
            arms |= dict.fromkeys(features)
            shown[item.get("document_id")] = features
    return {"arms": list(arms), "credits": {i: _part(f, list(arms)) for i, f in shown.items()}} if arms else {}


def _part(features: Mapping[str, Any], arms: Sequence[str]) -> list[float]:
    values = []
    for name in arms:
        entry = features.get(name)
        rank = entry.get("rank") if isinstance(entry, dict) else None
        values.append(1 / rank if isinstance(rank, int) and rank > 0 else float(entry is not None))
    total = sum(values)
    return [round(value / total, 6) for value in values]


def _now() -> str:
    return wire_time(clock.now())


def _view_of(spec: InteractionSpec, source: _Source) -> dict[str, Any]:
    return {**spec.model_dump(mode="json"), "retriever_id": source.retriever_id or spec.retriever_id}


def bulk(recorder: Recorder, entries: Sequence[Any]) -> dict[str, Any]:
    """Record many; one that is refused does not stop the others."""
    results, errors = [], []
    for index, raw in enumerate(entries):
        try:
            made = recorder.record(parse_interaction(raw), deduplicate=False)
        except MediathecaError as error:
            errors.append(f"{index}: {error.message}")
            continue
        results.append({"index": index, "interaction_id": made["interaction_id"], "status": "created"})
    recorder.finish()
    return {"created": len(results), "failed": len(errors), "errors": errors, "results": results}
