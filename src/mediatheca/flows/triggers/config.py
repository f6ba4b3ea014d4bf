"""When a trigger fires: `schedule_config` of the four types, as it is stored. Reads no database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, TypeAlias

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from mediatheca.flows.bodies import checked
from mediatheca.flows.retrieve.keys import UnknownKey, unknown_keys
from mediatheca.jobs.schedule import MAX_INTERVAL_S, Misfire, Timing
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.event_catalogue import EVENTS

TriggerType: TypeAlias = Literal["cron", "interval", "event", "conditional"]
WHERE = ("body", "schedule_config")
MIN_INTERVAL_S = 60
MAX_THRESHOLD = 1_000_000
MAX_COOLDOWN_S = 30 * 86_400
MIN_COOLDOWN_S = 60
"""After the end of what triggers begin: two that set off each other go on no faster than this."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "documents_added": ("collection.documents.written", "document.created"),
    "documents_updated": ("document.updated", "documents.updated.batch"),
    "documents_deleted": ("document.deleted", "documents.deleted.batch"),
    "objects_added": ("object.created", "objects.created.batch"),
    "batch_completed": ("batch.completed",),
    "batch_failed": ("batch.failed",),
    "taxonomy_applied": ("taxonomy.materialized",),
    "cluster_completed": ("cluster.execution.completed",),
}
"""Short names of events; any other name is that of an event of the catalogue."""
_NEVER = ("trigger.", "event.", "alert.")
"""Events that triggers make, directly or by their actions: a trigger on them would keep itself going."""
_ENDS = ("cluster.execution.", "taxonomy.")


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class _Timed(_Part):
    misfire_policy: Misfire = Field("once", validation_alias=AliasChoices("misfire_policy", "misfire"))


class CronConfig(_Timed):
    cron_expression: str = Field(validation_alias=AliasChoices("cron_expression", "cron"))
    timezone: str = "UTC"


class IntervalConfig(_Timed):
    interval_seconds: int = Field(ge=MIN_INTERVAL_S, le=MAX_INTERVAL_S)
    start_immediately: bool = False


class EventConfig(_Part):
    event_type: str = Field(min_length=1, max_length=100)
    event_threshold: int = Field(1, ge=1, le=MAX_THRESHOLD)
    collection_id: str | None = Field(None, max_length=200)
    cooldown_seconds: int = Field(60, ge=0, le=MAX_COOLDOWN_S)

    @model_validator(mode="after")
    def _known(self) -> EventConfig:
        if not event_names(self.event_type):
            some = ", ".join([*GROUPS, "object.created", "taxonomy.materialized"])
            raise ValueError(f"event_type '{self.event_type}' is none that a trigger may wait for; {some}, and others")
        if self.cooldown_seconds < MIN_COOLDOWN_S and any(n.startswith(_ENDS) for n in event_names(self.event_type)):
            raise ValueError(
                f"cooldown_seconds must be at least {MIN_COOLDOWN_S} with event_type '{self.event_type}', got "
                f"{self.cooldown_seconds}: two triggers on each other's ends would keep each other going"
            )
        return self


class ConditionalConfig(_Part):
    """`drift`: how far the mean vector has turned, 0 to 2. `volume`: how much the number of documents has changed."""

    condition_type: Literal["drift", "volume"]
    metric: str | None = None
    threshold: float = Field(gt=0, allow_inf_nan=False)
    check_interval_seconds: int = Field(3600, ge=MIN_INTERVAL_S, le=MAX_INTERVAL_S)
    collection_id: str | None = Field(None, max_length=200)
    feature_uri: str | None = Field(None, max_length=500)

    @model_validator(mode="after")
    def _fits(self) -> ConditionalConfig:
        known = METRICS[self.condition_type]
        self.metric = self.metric or known[0]
        if self.metric not in known:
            raise ValueError(f"metric '{self.metric[:50]}' is none of {self.condition_type}: {', '.join(known)}")
        if self.condition_type == "drift" and self.threshold > 2:
            raise ValueError(f"threshold: a cosine distance is at most 2, got {self.threshold}")
        return self


METRICS: Mapping[str, tuple[str, ...]] = {
    "drift": ("cosine_drift",),
    "volume": ("document_count", "relative_change"),
}
_CONFIGS: Mapping[TriggerType, type[_Part]] = {
    "cron": CronConfig,
    "interval": IntervalConfig,
    "event": EventConfig,
    "conditional": ConditionalConfig,
}


def event_names(event_type: str) -> tuple[str, ...]:
    """The events a name stands for; none: it may not be waited for."""
    if event_type in GROUPS:
        return GROUPS[event_type]
    event = EVENTS.get(event_type)
    allowed = event is not None and event.public and not event_type.startswith(_NEVER)
    return (event_type,) if allowed else ()


def parse_schedule(trigger_type: TriggerType, raw: Any, now: datetime) -> dict[str, Any]:
    """The configuration with its defaults; what no one knows of it is left out.

    Raises:
        ValidationError: every offending field; a cron expression that never fires; an unknown time zone.
    """
    model = _CONFIGS[trigger_type]
    config = checked(model, raw, WHERE)
    stored = config.model_dump(mode="json", exclude_none=True, include=set(model.model_fields))
    timing = timing_of(trigger_type, stored)
    if timing is not None:
        try:
            timing.after(now)
        except ValidationError as error:
            raise ValidationError.at((*WHERE, *error.errors[0].loc), error.errors[0].msg) from error
    return stored


def unread_schedule_keys(trigger_type: TriggerType, raw: Any) -> Iterator[UnknownKey]:
    """The keys of a `schedule_config` that nothing reads."""
    return unknown_keys(_CONFIGS[trigger_type], raw, WHERE[1:])


def timing_of(trigger_type: TriggerType, config: Mapping[str, Any]) -> Timing | None:
    """When the schedule of a trigger is due; None: it has none, it waits for events."""
    if trigger_type == "cron":
        return Timing(cron=config["cron_expression"], timezone=config["timezone"])
    if trigger_type == "interval":
        return Timing(interval_s=config["interval_seconds"])
    return Timing(interval_s=config["check_interval_seconds"]) if trigger_type == "conditional" else None
