"""Keys of parameters that nothing reads, at any depth: a misspelt key changes an answer without a word."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, get_args

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from mediatheca.stages import KeysOf

Place: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class UnknownKey:
    """A key, where it stands, and what is read there."""

    place: Place
    """Of the object that has it."""
    key: str
    known: tuple[str, ...]

    @property
    def hint(self) -> str:
        close = difflib.get_close_matches(self.key[:100], self.known, 1)
        return f"; did you mean '{close[0]}'?" if close else ""


def unknown_keys(model: type[BaseModel], raw: Any, place: Place) -> Iterator[UnknownKey]:
    """The keys of an object that its model does not read, and those of the objects in it. Templates are passed over."""
    if not isinstance(raw, Mapping):
        return
    known = parameter_names(model)
    yield from (UnknownKey(place, str(key), known) for key in raw if key not in known)
    yield from unknown_inside(model, raw, place)


def unknown_inside(model: type[BaseModel], raw: Mapping[str, Any], place: Place) -> Iterator[UnknownKey]:
    """The same for the objects in it alone."""
    for names, inner in _nested(model):
        for name in names:
            yield from _in_value(inner, raw.get(name), (*place, name))


def _in_value(model: type[BaseModel], value: Any, place: Place) -> Iterator[UnknownKey]:
    if isinstance(value, list):
        for number, entry in enumerate(value):
            yield from unknown_keys(model, entry, (*place, number))
    else:
        yield from unknown_keys(model, value, place)


@lru_cache(maxsize=256)
def parameter_names(model: type[BaseModel]) -> tuple[str, ...]:
    """The names a parameter model reads, aliases included."""
    by_name = bool(model.model_config.get("populate_by_name"))
    return tuple(dict.fromkeys(name for own, info in model.model_fields.items() for name in _names(own, info, by_name)))


def _names(own: str, info: FieldInfo, by_name: bool) -> list[str]:
    alias = info.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias or own]
    names = [*choices, *([own] if by_name else [])]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


@lru_cache(maxsize=256)
def _nested(model: type[BaseModel]) -> tuple[tuple[list[str], type[BaseModel]], ...]:
    """The parameters that hold objects of a model, one or a list of them: their names, and the model."""
    by_name = bool(model.model_config.get("populate_by_name"))
    found = []
    for own, info in model.model_fields.items():
        keys = next((entry.model for entry in info.metadata if isinstance(entry, KeysOf)), None)
        inner = keys or next(_models(info.annotation), None)
        if inner is not None:
            found.append((_names(own, info, by_name), inner))
    return tuple(found)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
