"""How large a retriever may be: looked at before anything that takes longer than a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mediatheca.flows.retrieve.normalise import NormalStage
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.templates import templates_in

MAX_NESTING = 40
MAX_VALUES = 20_000
"""Values in the parameters of one stage."""
MAX_TEMPLATES = 500
MAX_CHARACTERS = 256 * 1024
"""Characters of all templates of a retriever: they take microseconds each to compile."""


def check_sizes(stages: Sequence[NormalStage]) -> None:
    """Refuse stages that would take long to check.

    Raises:
        ValidationError: a stage nests too deep or holds too many values, or there are too many templates, or too long
            ones.
    """
    for number, stage in enumerate(stages):
        for key in ("parameters", "pre_filters", "post_filters"):
            _check_tree(getattr(stage, key), ("stages", number, "config", key))
    texts = [t for stage in stages for t in templates_in([stage.parameters, stage.pre_filters, stage.post_filters])]
    if len(texts) > MAX_TEMPLATES:
        message = f"has {len(texts):,} templates; at most {MAX_TEMPLATES} are accepted"
        raise ValidationError.at("stages", message, "too_long")
    size = sum(map(len, texts))
    if size > MAX_CHARACTERS:
        message = f"has {size:,} characters of templates; at most {MAX_CHARACTERS:,} are accepted"
        raise ValidationError.at("stages", message, "too_long")


def _check_tree(raw: Any, where: tuple[str | int, ...]) -> None:
    """Level by level, so that no depth is too much for the check itself."""
    values, level = 0, [raw]
    for _ in range(MAX_NESTING):
        following: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                following.extend(value.values())
            elif isinstance(value, list):
                following.extend(value)
        values += len(following)
        if values > MAX_VALUES:
            message = f"holds more than {MAX_VALUES:,} values; write less, or give a list as an input"
            raise ValidationError.at(where, message, "too_long")
        if not following:
            return
        level = following
    raise ValidationError.at(where, f"is nested deeper than {MAX_NESTING} levels", "too_deep")
