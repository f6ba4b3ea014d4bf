"""Fields that are accepted because clients send them, and that nothing reads: marked, so that using one is told.

A value that asks for something gives a warning in the answer, or is refused by a strict server; the JSON Schema of the
model (the catalogue) has the reason as `x-no-effect`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

KEY = "x-no-effect"
CODE = "no_effect"
"""`FieldError.type` where a strict server refuses such a value."""
_SHOWN = 60


@dataclass(frozen=True)
class NoEffect:
    """In the annotation of a field: `use_cdn: Annotated[bool, NoEffect("addresses are signed")] = False`."""

    reason: str
    """Why, and what to do instead; follows "has no effect: "."""
    harmless: tuple[Any, ...] = ()
    """Values besides the default that ask for nothing: what is done anyway, or what clients send by themselves."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), KEY: self.reason}

    def asks(self, value: Any, info: FieldInfo) -> bool:
        """Whether somebody who gives this value expects something of it."""
        plain = (info.get_default(call_default_factory=True), *self.harmless)
        return not any(value == each and type(value) is type(each) for each in plain)


def marker(info: FieldInfo) -> NoEffect | None:
    """The mark of a field, if it has one."""
    return next((entry for entry in info.metadata if isinstance(entry, NoEffect)), None)


def without_effect(model: BaseModel) -> Iterator[tuple[tuple[str, ...], str]]:
    """The place of each value that asks for something and has no effect, also in models inside, and what to tell."""
    for name, info in type(model).model_fields.items():
        value, mark = getattr(model, name), marker(info)
        if mark is not None and mark.asks(value, info):
            yield (name,), f"{_shown(value)} has no effect: {mark.reason}"
        elif isinstance(value, BaseModel):
            for place, told in without_effect(value):
                yield (name, *place), told


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
