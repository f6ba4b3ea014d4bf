"""Bodies that are checked by hand, because only a part of a request, or their absence, decides."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel

from mediatheca.flows.retrieve.keys import UnknownKey
from mediatheca.flows.retrieve.request import field_errors
from mediatheca.kernel.errors import FieldError, ValidationError

Model = TypeVar("Model", bound=BaseModel)
MAX_NOTES = 20
"""Most unknown keys that are told of."""


def checked(model: type[Model], raw: Any, place: tuple[str | int, ...] = ("body",)) -> Model:
    """`raw` as this model.

    Raises:
        ValidationError: every offending field, below `place`.
    """
    try:
        return model.model_validate(raw)
    except pydantic.ValidationError as error:
        raise ValidationError.of(field_errors(error, place), skip=1) from error


def key_notes(unread: Iterable[UnknownKey], *, strict: bool) -> list[str]:
    """Warnings for keys that nothing reads; their places begin below the body.

    Raises:
        ValidationError: `strict`, and there are some.
    """
    what = "refused" if strict else "ignored"
    found = [
        FieldError((*entry.place, entry.key[:100]), f"unknown key is {what}{entry.hint}", "extra_forbidden")
        for entry in islice(unread, MAX_NOTES)
    ]
    if strict and found:
        raise ValidationError.of([FieldError(("body", *entry.loc), entry.msg, entry.type) for entry in found])
    return [f"{'.'.join(map(str, entry.loc))}: {entry.msg}" for entry in found]
