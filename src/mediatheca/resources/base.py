"""A resource is a value: what a caller writes and reads, and which CRUD verbs derive. Actions are plain routes.

`mediatheca.api.crud` derives from a declaration: create, get, list (GET and POST …/list), update (PATCH, PUT), delete,
name-or-id lookup, unique names, events and warnings for unknown keys. Storage is one row of `resources`.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mediatheca.api.deps import Caller
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import FieldError, ValidationError
from mediatheca.kernel.no_effect import CODE, without_effect
from mediatheca.stores.db.tx import ReadTx, Record, Tx

MAX_NOTES = 50
"""Most unknown keys of one request that are spelled out: looking for the likely meaning of a million takes a minute."""


class Spec(BaseModel):
    """Base of every request body. Unknown keys are kept aside: reported, or refused when `strict` is set."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    def unknown(self) -> list[str]:
        """Dotted names of keys no field knows, here and in nested specs."""
        found = list(self.model_extra or {})
        for name in type(self).model_fields:
            value = getattr(self, name)
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Spec):
                    found += [f"{name}.{key}" for key in item.unknown()]
        return found


def unknown_keys(spec: Spec, *, strict: bool) -> list[str]:
    """Warnings for unknown keys of a request, with the likely meaning, and for values that have no effect.

    Raises:
        ValidationError: when `strict`.
    """
    notes, errors = [], []
    unknown = spec.unknown()
    for name in unknown[:MAX_NOTES]:
        inside, _, key = name.rpartition(".")
        close = difflib.get_close_matches(key[:100], _fields_at(spec, inside), 1, 0.7)
        note = "unknown key is ignored" + (f"; did you mean '{close[0]}'?" if close else "")
        notes.append(f"{name}: {note}")
        errors.append(
            FieldError(("body", *name.split(".")), note.replace("is ignored", "is refused"), "extra_forbidden")
        )
    if len(unknown) > MAX_NOTES:
        notes.append(f"{len(unknown) - MAX_NOTES} more unknown keys are ignored")
    for place, told in without_effect(spec):
        notes.append(f"{'.'.join(place)}: {told}")
        errors.append(FieldError(("body", *place), told, CODE))
    if strict and errors:
        raise ValidationError.of(errors, skip=1)
    return notes


def _fields_at(spec: Spec, inside: str) -> list[str]:
    """The fields of a spec, or of the one at a dotted place in it."""
    for name in filter(None, inside.split(".")):
        held = getattr(spec, name, None)
        found = next((item for item in (held if isinstance(held, list) else [held]) if isinstance(item, Spec)), None)
        if found is None:
            return []
        spec = found
    return [*type(spec).model_fields]


def notes_on(caller: Caller, spec: Spec, *others: str) -> dict[str, list[str]]:
    """`{"warnings": […]}` for what has no effect, or nothing; asked before any work, because strict servers refuse it.
    `others`: what else the caller is to know; never refused.

    Raises:
        ValidationError: the server is strict.
    """
    notes = [*unknown_keys(spec, strict=caller.services.settings.strict), *others]
    return {"warnings": notes} if notes else {}


@dataclass(frozen=True, slots=True)
class Context:
    """What hooks of a declaration get besides the transaction."""

    services: Services
    absolute: Callable[[str], str]
    """Makes a URL of the blob store usable for this client."""
    query: Mapping[str, str] = field(default_factory=dict)
    """The query parameters of the request."""


def is_true(value: str | None) -> bool:
    """A flag of the query string."""
    return str(value).lower() in ("true", "1", "yes")


@dataclass(frozen=True)
class Resource:
    """A configuration resource. A resource that needs a third special flag writes that route by hand instead."""

    name: str
    """Singular, as events and errors call it: `bucket`."""
    path: str
    """Below `/v1`: `/buckets`."""
    prefix: str
    """Of ids: `bkt`."""
    spec: type[Spec]
    """The body of create, and of PUT."""
    patch: type[Spec]
    """The body of PATCH: every field optional."""
    present: Callable[[ReadTx, Sequence[Record], Context], list[dict[str, Any]]]
    """What callers read, for a page at a time."""
    create: Callable[[Tx, Any, Context], tuple[str, dict[str, Any]]] | None
    """Check a spec and give (name, body to store). None, here and below: the verb does not derive."""
    change: Callable[[Tx, Record, Any, Context], tuple[str, dict[str, Any]]] | None
    """Check a patch against what is stored and give (name, new body)."""
    remove: Callable[[Tx, Record, Context, Mapping[str, str]], dict[str, Any]] | None
    """Refuse, or do what must go with it; gives extra keys for the answer. Gets the query parameters (`force`, …)."""
    created: Callable[[Tx, Record], None] = lambda tx, record: None
    """What must exist with it from the first moment, in the same transaction."""
    level: Literal["organization", "namespace"] = "namespace"
    prepare: Callable[[Any, Caller], Awaitable[Any]] | None = None
    """What must be asked of others before the transaction of create begins; gives the spec to go on with."""

    @property
    def id_field(self) -> str:
        return f"{self.name}_id"

    @property
    def name_field(self) -> str:
        return f"{self.name}_name"


def merge(record: Record, patch: Spec, name_field: str) -> tuple[str, dict[str, Any]]:
    """The usual `change`: fields that were sent replace those that are stored."""
    sent = patch.model_dump(mode="json", exclude_unset=True, include=set(type(patch).model_fields))
    name = sent.pop(name_field, None) or record.name
    return name, {**record.body, **sent}


def keep(tx: Tx, record: Record, context: Context, query: Mapping[str, str]) -> dict[str, Any]:
    """The usual `remove` of something nothing depends on."""
    return {}
