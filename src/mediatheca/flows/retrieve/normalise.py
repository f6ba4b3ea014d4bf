"""Stages in every spelling of the wire, made one.

Accepted: the nested form `{stage_name, stage_type, config: {stage_id, parameters, pre_filters, post_filters}}`; the
same with `stage_id` and `parameters` at the outer level; the oldest, where `stage_name` is the stage id; and the flat
form of `mp.search`, `{type, …parameters}`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mediatheca.kernel.errors import FieldError, ValidationError
from mediatheca.stages import Stage

OUTER = (
    *("stage_name", "name", "stage_id", "type", "stage_type", "declared_stage_type", "config", "parameters", "version"),
    *("pre_filters", "post_filters", "batch_size", "description", "on_error", "output_alias", "stage"),
)
_CONFIG = ("stage_id", "parameters", "pre_filters", "post_filters")
MAX_STAGES = 100
WIRE_TYPES = ("filter", "sort", "reduce", "apply", "enrich")


@dataclass(frozen=True, slots=True)
class NormalStage:
    """One stage of a retriever, its parameters as given."""

    name: str
    stage: Stage
    parameters: dict[str, Any]
    declared_type: str | None = None
    pre_filters: Any = None
    post_filters: Any = None
    batch_size: Any = None
    description: str | None = None
    on_error: str = "error"
    output_alias: str | None = None
    ignored: tuple[str, ...] = ()
    """Keys beside `config` or `parameters` that mean nothing."""

    def as_dict(self) -> dict[str, Any]:
        """The stage as every answer shows it. Clients accept five stage types and refuse the rest."""
        config: dict[str, Any] = {"stage_id": self.stage.stage_id, "parameters": self.parameters}
        if self.pre_filters is not None:
            config["pre_filters"] = self.pre_filters
        if self.post_filters is not None:
            config["post_filters"] = self.post_filters
        shown: dict[str, Any] = {"stage_name": self.name, "stage_type": self.wire_type, "config": config}
        if self.declared_type not in (None, self.wire_type):
            shown["declared_stage_type"] = self.declared_type
        if self.batch_size is not None:
            shown["batch_size"] = str(self.batch_size)
        shown.update(description=self.description, on_error=self.on_error, output_alias=self.output_alias)
        return {**shown, "parameters": self.parameters}

    @property
    def wire_type(self) -> str:
        if self.declared_type in WIRE_TYPES:
            return str(self.declared_type)
        return "apply" if self.declared_type == "transform" else wire_kind(self.stage)


def wire_kind(stage: Stage) -> str:
    return "reduce" if stage.kind == "group" else stage.kind


class Registry:
    """The stages there are, by id and by older ids."""

    def __init__(self, stages: Iterable[Stage]) -> None:
        self.stages: dict[str, Stage] = {}
        for stage in stages:
            if stage.stage_id in self.stages:
                raise ValueError(f"two stages are called '{stage.stage_id}'")
            self.stages[stage.stage_id] = stage
        self._names = {alias: stage for stage in self.stages.values() for alias in stage.aliases} | self.stages

    def find(self, name: Any) -> Stage | None:
        return self._names.get(name) if isinstance(name, str) else None

    def explain_unknown(self, name: Any) -> str:
        shown = str(name)[:100]
        close = difflib.get_close_matches(shown, self._names, 1)
        hint = f"did you mean '{self._names[close[0]].stage_id}'? " if close else ""
        return f"there is no stage '{shown}'; {hint}stages: {', '.join(sorted(self.stages))}"


@dataclass(slots=True)
class _Reading:
    registry: Registry
    errors: list[FieldError] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def stage(self, raw: Any, number: int) -> NormalStage | None:
        place: tuple[str | int, ...] = ("stages", number)
        if not isinstance(raw, Mapping):
            self.fail(place, f"must be an object, got {type(raw).__name__}", "dict_type")
            return None
        config = raw.get("config") if isinstance(raw.get("config"), Mapping) else {}
        assert config is not None
        stage_id = _stage_id(raw, config)
        stage = self.registry.find(stage_id)
        if stage is None:
            kind = "missing" if stage_id is None else "unknown_stage"
            self.fail((*place, "config", "stage_id"), self.registry.explain_unknown(stage_id), kind)
            return None
        on_error = raw.get("on_error") or config.get("on_error") or "error"
        if on_error not in ("error", "skip"):
            self.fail((*place, "on_error"), f"must be error or skip, got {on_error!r}", "enum")
            return None
        name = self.name(raw, stage, place)
        if name is None:
            return None
        return NormalStage(
            name=name,
            stage=stage,
            parameters=_parameters(raw, config),
            declared_type=raw.get("declared_stage_type") or raw.get("stage_type"),
            pre_filters=_either(raw, config, "pre_filters"),
            post_filters=_either(raw, config, "post_filters"),
            batch_size=_either(raw, config, "batch_size"),
            description=raw.get("description"),
            on_error=on_error,
            output_alias=_either(raw, config, "output_alias"),
            ignored=_ignored(raw, config),
        )

    def name(self, raw: Mapping[str, Any], stage: Stage, place: tuple[str | int, ...]) -> str | None:
        """The given name, which must be unique; or one made from the stage id."""
        given = raw.get("stage_name") or raw.get("name")
        if given is None:
            candidates = (f"{stage.stage_id}_{n}" if n else stage.stage_id for n in range(len(self.names) + 2))
            given = next(name for name in candidates if name not in self.names)
        if not isinstance(given, str):
            self.fail((*place, "stage_name"), f"must be a text, got {given!r}", "string_type")
            return None
        if given in self.names:
            self.fail((*place, "stage_name"), f"'{given}' is used twice; names are unique", "duplicate")
            return None
        self.names.add(given)
        return given

    def fail(self, place: tuple[str | int, ...], message: str, kind: str) -> None:
        self.errors.append(FieldError(place, message, kind))


def _stage_id(raw: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    for given in (config.get("stage_id"), raw.get("stage_id"), raw.get("type"), raw.get("stage")):
        if given is not None:
            return given
    return raw.get("stage_name")


def _parameters(raw: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """`config.parameters`, else the outer ones, else what is written flat beside the known keys."""
    for given in (config.get("parameters"), raw.get("parameters")):
        if isinstance(given, Mapping) and given:
            return dict(given)
    flat = {key: value for key, value in config.items() if key not in (*_CONFIG, "on_error", "output_alias")}
    return flat or {key: value for key, value in raw.items() if key not in OUTER}


def _ignored(raw: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys that are read nowhere: those of a stage whose parameters are written elsewhere than flat beside them."""
    outer = [key for key in raw if key not in OUTER] if config or raw.get("parameters") else []
    inner = [key for key in config if key not in (*_CONFIG, *OUTER)] if config.get("parameters") else []
    return tuple(map(str, [*outer, *inner]))


def _either(raw: Mapping[str, Any], config: Mapping[str, Any], key: str) -> Any:
    return config[key] if config.get(key) is not None else raw.get(key)


def normalise_stages(raw: Any, registry: Registry) -> list[NormalStage]:
    """The stages of a retriever.

    Raises:
        ValidationError: every stage that is not one, with its place.
    """
    if not isinstance(raw, list) or not raw:
        raise ValidationError.at("stages", f"must be a list of at least one stage, got {repr(raw)[:100]}", "too_short")
    if len(raw) > MAX_STAGES:
        raise ValidationError.at("stages", f"has {len(raw):,} entries; at most {MAX_STAGES} are accepted", "too_long")
    reading = _Reading(registry)
    stages = [stage for number, entry in enumerate(raw) if (stage := reading.stage(entry, number)) is not None]
    if reading.errors:
        raise ValidationError.of(reading.errors)
    return stages


def declared_collections(body: Mapping[str, Any]) -> list[str]:
    """Every collection a retriever or ad-hoc body names: at the top level, in stages, and in their searches."""
    found: dict[str, None] = {}
    _collect(body, found, 0)
    return list(found)


def _collect(value: Any, found: dict[str, None], depth: int) -> None:
    if depth > 8:
        return
    if isinstance(value, list):
        for item in value:
            _collect(item, found, depth + 1)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key in ("collection_identifiers", "collection_ids", "collection_names", "collections", "collection_id"):
                names = item if isinstance(item, list) else [item]
                found.update(dict.fromkeys(n for n in names if isinstance(n, str) and "{{" not in n))
            elif key in ("stages", "config", "parameters", "searches", "feature_searches", "queries"):
                _collect(item, found, depth + 1)
