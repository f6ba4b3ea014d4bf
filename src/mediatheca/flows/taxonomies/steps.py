"""Labelled documents of a sequence, in the order of their time, as a path of steps: which step leads to which."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import fmean, pstdev
from typing import Any

from mediatheca.flows.services import Services
from mediatheca.flows.taxonomies.config import StepAnalytics, TaxonomyConfig
from mediatheca.kernel.assignments import prefix_of
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import BadRequestError, ValidationError
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.mapping import MISSING, read_path
from mediatheca.kernel.ordering import parse_time
from mediatheca.kernel.present import as_hit
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.significance import percentile
from mediatheca.stores.db.tx import Record
from mediatheca.stores.documents.base import Scan

MAX_EVENTS = 500_000
MAX_PREDICTORS = 50
MAX_PATHS = 100
_DAY_S = 86_400.0
_BINS = {"quartiles": 4, "deciles": 10, "custom": 4}


@dataclass(frozen=True, slots=True)
class Event:
    """One labelled document."""

    at: datetime
    step: str
    values: tuple[Any, ...] = ()
    """Of the covariates, in their order."""


@dataclass(slots=True)
class Sequences:
    """The events of every sequence in the order of their time."""

    config: StepAnalytics
    events: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    read: int = 0
    without: int = 0
    """Documents without a label, a time or a sequence."""


def step_config(taxonomy: Record, override: Mapping[str, Any] | None) -> StepAnalytics:
    """How steps are read: as asked, or as the taxonomy says.

    Raises:
        BadRequestError: neither says it.
    """
    if override:
        return StepAnalytics.model_validate(override)
    config = TaxonomyConfig.model_validate(taxonomy.body["config"]).step_analytics
    if config is None:
        raise BadRequestError(
            f"taxonomy '{taxonomy.name}' has no step_analytics; make a version with "
            "{timestamp_field, sequence_id_field}, or send override_step_analytics"
        )
    return config


def read_sequences(
    services: Services, scope: Scope, taxonomy: Record, collection: Record, config: StepAnalytics, keep: Filter | None
) -> Sequences:
    """Every labelled document of a collection.

    Raises:
        BadRequestError: there are more than can be looked at; filters make them fewer.
    """
    found = Sequences(config)
    prefix = prefix_of(taxonomy.id)
    if services.indexer.unwritten(collection.id):
        return found
    dead = services.indexer.tombstones(scope, collection.id)
    for document in services.documents.scan(collection.id, Scan(filter=keep), tombstones=dead):
        if found.read >= MAX_EVENTS:
            raise BadRequestError(f"there are more than {MAX_EVENTS:,} documents; give filters")
        found.read += 1
        hit = as_hit(document)
        at = parse_time(str(_read(hit.payload, hit.system, config.timestamp_field) or ""))
        sequence = _read(hit.payload, hit.system, config.sequence_id_field)
        step = _step(hit.payload, hit.system, config, prefix)
        if at is None or sequence is None or step is None:
            found.without += 1
            continue
        values = tuple(_read(hit.payload, hit.system, covariate.field_path) for covariate in config.covariates)
        found.events[str(sequence)].append(Event(at, step, values))
    for events in found.events.values():
        events.sort(key=lambda event: event.at)
    return found


def _read(payload: Mapping[str, Any], system: Mapping[str, Any], path: str) -> Any:
    value = read_path(payload, path)
    if value is MISSING and path in ("created_at", "updated_at"):
        value = system.get(path)
    return None if value is MISSING else value


def _step(payload: Mapping[str, Any], system: Mapping[str, Any], config: StepAnalytics, prefix: str) -> str | None:
    if config.step_key_source == "field_path":
        value = _read(payload, system, config.step_key_field_path or "")
    else:
        value = system.get(f"{prefix}label" if config.step_key_source == "assignment_label" else f"{prefix}id")
    return str(value) if value is not None else None


def available(sequences: Sequences) -> dict[str, Any]:
    """The steps there are, the most frequent first."""
    events, holders = Counter[str](), defaultdict[str, set[str]](set)
    times: dict[str, list[datetime]] = defaultdict(list)
    for sequence, own in sequences.events.items():
        for event in own:
            events[event.step] += 1
            holders[event.step].add(sequence)
            times[event.step].append(event.at)
    return {
        "total_events": sum(events.values()),
        "total_sequences": len(sequences.events),
        "documents_without_step": sequences.without,
        "steps": [
            {
                "step_key": step,
                "event_count": count,
                "sequence_count": len(holders[step]),
                "first_seen": wire_time(min(times[step])),
                "last_seen": wire_time(max(times[step])),
            }
            for step, count in events.most_common()
        ],
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """From which step to which, and how long that may take."""

    from_step: str
    to_step: str
    max_days: int | None = None
    min_support: int = 1
    max_length: int = 10


@dataclass(frozen=True, slots=True)
class _Way:
    """One sequence from its first `from_step` on."""

    start: Event
    steps: tuple[str, ...]
    """Empty: it never came to `to_step`."""
    seconds: float = 0.0


def _ways(sequences: Sequences, asked: Asked) -> Iterator[_Way]:
    days = asked.max_days or sequences.config.max_sequence_duration_days
    for events in sequences.events.values():
        first = next((n for n, event in enumerate(events) if event.step == asked.from_step), None)
        if first is None:
            continue
        start = events[first]
        following = events[first + 1 :]
        last = next((n for n, event in enumerate(following) if event.step == asked.to_step), None)
        seconds = (following[last].at - start.at).total_seconds() if last is not None else 0.0
        if last is None or (days is not None and seconds > days * _DAY_S):
            yield _Way(start, ())
            continue
        yield _Way(start, (start.step, *(event.step for event in following[: last + 1])), seconds)


def transitions(sequences: Sequences, asked: Asked) -> dict[str, Any]:
    """How many sequences came from one step to the other, how long it took, and what went along with it."""
    ways = list(_ways(sequences, asked))
    done = [way for way in ways if way.steps]
    rate = len(done) / len(ways) if ways else 0.0
    enough = len(ways) >= asked.min_support
    return {
        "from_step": asked.from_step,
        "to_step": asked.to_step,
        "count": len(ways),
        "converted": len(done),
        "conversion_rate": rate,
        "durations_sec": durations([way.seconds for way in done]) if done and enough else None,
        "top_predictors": _predictors(sequences.config, ways, rate, asked.min_support) if enough else [],
        "metadata": {
            "total_events_analyzed": sum(map(len, sequences.events.values())),
            "documents_without_step": sequences.without,
            "min_support": asked.min_support,
            "supported": enough,
        },
    }


def durations(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "mean": fmean(ordered),
        "median": percentile(ordered, 0.5),
        "p50": percentile(ordered, 0.5),
        "p90": percentile(ordered, 0.9),
        "p95": percentile(ordered, 0.95),
        "std_dev": pstdev(ordered),
        "min": ordered[0],
        "max": ordered[-1],
    }


def _predictors(config: StepAnalytics, ways: Sequence[_Way], rate: float, support: int) -> list[dict[str, Any]]:
    """Values of covariates whose sequences convert more, or less, often than all: lift 1 is no difference."""
    found: list[dict[str, Any]] = []
    for number, covariate in enumerate(config.covariates):
        values = [way.start.values[number] for way in ways]
        named = _named(values, _BINS[covariate.binning_strategy])
        groups: dict[str, list[bool]] = defaultdict(list)
        for value, way in zip(values, ways, strict=True):
            if value is not None:
                groups[named(value)].append(bool(way.steps))
        for value, outcomes in groups.items():
            own = sum(outcomes) / len(outcomes)
            if len(outcomes) >= support:
                lift = own / rate if rate else 0.0
                entry = {"value": value, "count": len(outcomes), "conversion_rate": own, "lift": lift}
                found.append({"field": covariate.name, **entry})
    found.sort(key=lambda entry: (-abs(entry["lift"] - 1.0), entry["field"], entry["value"]))
    return found[:MAX_PREDICTORS]


def _named(values: Sequence[Any], bins: int) -> Callable[[Any], str]:
    """Numbers by the share of the values below them; anything else as it is."""
    numbers = sorted(float(value) for value in values if _is_number(value))
    if len(numbers) < len([value for value in values if value is not None]) or len(set(numbers)) <= bins:
        return lambda value: str(value)[:200]
    edges = [percentile(numbers, share / bins) for share in range(1, bins)]
    return lambda value: f"Q{1 + sum(float(value) > edge for edge in edges)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def paths(sequences: Sequences, asked: Asked) -> dict[str, Any]:
    """The ways that sequences took from step to step, the most frequent first. Repeats of a step count once."""
    ways = list(_ways(sequences, asked))
    done = [way for way in ways if way.steps]
    grouped: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for way in done:
        steps = tuple(step for n, step in enumerate(way.steps) if not n or step != way.steps[n - 1])
        if 2 <= len(steps) <= asked.max_length:
            grouped[steps].append(way.seconds)
    kept = sorted(
        ((steps, seconds) for steps, seconds in grouped.items() if len(seconds) >= asked.min_support),
        key=lambda entry: (-len(entry[1]), entry[0]),
    )
    return {
        "from_step": asked.from_step,
        "to_step": asked.to_step,
        "total_sequences": len(ways),
        "completed_sequences": len(done),
        "completion_rate": len(done) / len(ways) if ways else 0.0,
        "paths": [
            {
                "path": list(steps),
                "count": len(seconds),
                "percentage": 100 * len(seconds) / len(done),
                "avg_duration_sec": fmean(seconds),
            }
            for steps, seconds in kept[:MAX_PATHS]
        ],
        "drop_off": _drop_off(sequences, asked),
    }


def _drop_off(sequences: Sequences, asked: Asked) -> list[dict[str, Any]]:
    """Where the sequences ended that never arrived."""
    last = Counter[str]()
    for events in sequences.events.values():
        steps = [event.step for event in events]
        if asked.from_step in steps:
            following = steps[steps.index(asked.from_step) :]
            if asked.to_step not in following[1:]:
                last[following[-1]] += 1
    return [{"step_key": step, "count": count} for step, count in last.most_common(20)]


def asked_of(body: Mapping[str, Any], *, support: int) -> Asked:
    """What a request asks.

    Raises:
        ValidationError: a step is missing, or a number is none.
    """
    steps = []
    for name in ("from_step", "to_step"):
        value = body.get(name)
        if not isinstance(value, str) or not value:
            raise ValidationError.at(("body", name), "is required: the key of a step", "missing")
        steps.append(value)
    days = _whole(body, "max_window_days", 1, 3650, None)
    least = _whole(body, "min_support", 1, 10**9, support)
    longest = _whole(body, "max_path_length", 2, 20, 10)
    return Asked(steps[0], steps[1], days, least or support, longest or 10)


def _whole(body: Mapping[str, Any], name: str, low: int, high: int, default: int | None) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        message = f"must be an integer from {low} to {high}, got {repr(value)[:40]}"
        raise ValidationError.at(("body", name), message, "int")
    return value
