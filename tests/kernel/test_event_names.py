"""Names of events as subscribers know them."""

from __future__ import annotations

import pytest

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.event_catalogue import EVENTS, EXPANDED
from mediatheca.kernel.event_names import (
    ALL,
    NOT_YET,
    PRIVATE,
    TOLD,
    WIRE,
    each_for,
    for_subscribers,
    name_for,
    normal_names,
    silent,
    types_told_as,
    wire_names,
)

LOC = ("body", "event_types")


def test_the_closed_list_has_forty_three_names_once_each() -> None:
    assert len(WIRE) == len(set(WIRE)) == 43


def test_every_name_of_the_closed_list_is_told_by_something_or_said_to_be_silent() -> None:
    assert set(WIRE) <= {*TOLD, *NOT_YET}
    assert not set(TOLD) & NOT_YET


def test_what_is_private_is_told_under_no_name() -> None:
    assert not PRIVATE & set(for_subscribers())
    assert {"api_key.created", "secret.accessed", "user.deleted"} <= PRIVATE


@pytest.mark.parametrize("name", for_subscribers())
def test_every_name_becomes_names_of_the_closed_list_and_never_none(name: str) -> None:
    assert normal_names([name], LOC) == [name]
    found = wire_names([name])
    assert found
    assert set(found) <= set(WIRE)


def test_names_of_older_clients_have_their_counterparts() -> None:
    assert wire_names(["batch.completed", "batch.failed"]) == [
        "collection.documents.batch_completed",
        "resource.execution_failed",
    ]


def test_everything_is_a_star_in_either_spelling() -> None:
    assert normal_names(["object.created", "*"], LOC) == [ALL]
    assert normal_names(WIRE, LOC) == [ALL]
    assert wire_names([ALL]) == list(WIRE)


def test_an_unknown_name_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(ValidationError) as caught:
        normal_names(["object.created", "object.exploded"], LOC)
    assert "'object.exploded'" in caught.value.message
    assert "batch.completed" in caught.value.message
    assert caught.value.errors[0].loc == LOC


@pytest.mark.parametrize("names", [[], [f"x{n}" for n in range(500)], ["api_key.created"]])
def test_none_too_many_and_private_ones_are_refused(names: list[str]) -> None:
    with pytest.raises(ValidationError):
        normal_names(names, LOC)


def test_a_name_that_nothing_tells_is_kept_with_a_warning() -> None:
    name = sorted(NOT_YET)[0]
    assert normal_names([name, "object.created"], LOC) == [name, "object.created"]
    (warning,) = silent([name, "object.created"])
    assert name in warning


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_is_told_at_most_once_to_one_who_asked_for_everything(event: str) -> None:
    name = name_for(event, frozenset({ALL}))
    assert name == (event if EVENTS[event].public else None)
    assert each_for(event, frozenset({ALL})) is None


def test_an_event_is_told_under_the_name_that_was_asked_for() -> None:
    assert name_for("batch.completed", frozenset({"batch.completed"})) == "batch.completed"
    other = "collection.documents.batch_completed"
    assert name_for("batch.completed", frozenset({other})) == other
    assert name_for("batch.completed", frozenset({other, "batch.completed"})) == "batch.completed"
    assert name_for("batch.completed", frozenset({"batch.failed"})) is None


@pytest.mark.parametrize(("batch", "single"), EXPANDED.items())
def test_documents_are_told_one_by_one_only_to_those_who_asked(batch: str, single: str) -> None:
    assert name_for(batch, frozenset({single})) is None
    assert each_for(batch, frozenset({single})) == single
    assert name_for(batch, frozenset({batch})) == batch
    assert each_for(batch, frozenset({batch})) is None
    assert {batch, single} <= types_told_as(single)
