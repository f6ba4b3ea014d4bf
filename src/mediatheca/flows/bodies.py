"""Bodies that are checked by hand, because only a part of a request, or their absence, decides."""

from __future__ import annotations

from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel

from mediatheca.flows.retrieve.request import field_errors
from mediatheca.kernel.errors import ValidationError

Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], raw: Any, place: tuple[str | int, ...] = ("body",)) -> Model:
    """`raw` as this model.

    Raises:
        ValidationError: every offending field, below `place`.
    """
    try:
        return model.model_validate(raw)
    except pydantic.ValidationError as error:
        found = field_errors(error, place)
        raise ValidationError("; ".join(f"{'.'.join(map(str, e.loc[1:]))}: {e.msg}" for e in found), found) from error
