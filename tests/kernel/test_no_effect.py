"""Marked fields: which values are told, and what the JSON Schema says."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from mediatheca.kernel.no_effect import NoEffect, marker, without_effect


class Inside(BaseModel):
    count: Annotated[int, NoEffect("there is one")] = 1


class Params(BaseModel):
    used: int = 5
    cdn: Annotated[bool, NoEffect("addresses are signed")] = Field(False, description="d")
    size: Annotated[int | None, NoEffect("as the model's", harmless=(3072,))] = Field(None, ge=1)
    names: Annotated[list[str], NoEffect("no names")] = Field(default_factory=list)
    inside: Inside = Field(default_factory=Inside)


@pytest.mark.parametrize("given", [{}, {"used": 7}, {"cdn": False}, {"size": None}, {"size": 3072}, {"names": []}])
def test_defaults_and_what_asks_for_nothing_are_not_told(given: dict[str, Any]) -> None:
    assert list(without_effect(Params(**given))) == []


def test_a_value_that_asks_for_something_is_told_with_its_place_and_the_reason() -> None:
    told = list(without_effect(Params(cdn=True, size=256, names=["a"], inside=Inside(count=2))))
    assert told == [
        (("cdn",), "True has no effect: addresses are signed"),
        (("size",), "256 has no effect: as the model's"),
        (("names",), "['a'] has no effect: no names"),
        (("inside", "count"), "2 has no effect: there is one"),
    ]


def test_a_long_value_is_cut() -> None:
    ((_, told),) = without_effect(Params(names=["x" * 1000]))
    assert len(told) < 150
    assert "…" in told


def test_a_flag_and_a_number_are_not_the_same() -> None:
    class Mixed(BaseModel):
        one: Annotated[Any, NoEffect("nothing")] = 1

    assert list(without_effect(Mixed(one=1))) == []
    assert list(without_effect(Mixed(one=True)))


def test_the_schema_says_why() -> None:
    shown = Params.model_json_schema()["properties"]
    assert shown["cdn"] == {
        "default": False, "description": "d", "title": "Cdn", "type": "boolean", "x-no-effect": "addresses are signed",
    }  # fmt: skip
    assert "x-no-effect" not in shown["used"]


def test_bounds_of_a_marked_field_still_hold() -> None:
    with pytest.raises(ValueError, match="size"):
        Params(size=0)
    assert marker(Params.model_fields["size"]) is not None
    assert marker(Params.model_fields["used"]) is None
