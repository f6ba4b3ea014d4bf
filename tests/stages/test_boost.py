"""The `boost` stage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from stage_runs import World, ids, rows_of, run, told

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.stages.boost import boost
from mediatheca.testing.stages import StageSuite

ROWS = rows_of(0.9, 0.8, 0.7, likes=[0, 100, None], kind=["x", "y", "y"])


class TestBoost(StageSuite):
    stage = boost
    parameters: ClassVar[dict[str, Any]] = {"expression": "DOC.score + DOC.price", "bury": ["a"]}


class TestPin(StageSuite):
    stage = boost
    parameters: ClassVar[dict[str, Any]] = {"pin": {"ids": ["d", "nobody"], "when": {"price": 1}}}


def scores(body: dict[str, Any]) -> list[float]:
    return [shown["score"] for shown in body["documents"]]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"expression": "DOC.score * (1 + log(1 + DOC.likes | default(0, true)))"}, ["b", "a", "c"]),
        ({"expression": "{{ DOC.likes | default(-1, true) }}"}, ["b", "a", "c"]),
        ({"expression": "2 if DOC.kind == 'y' else 1", "mode": "multiply"}, ["b", "c", "a"]),
        ({"expression": 5, "mode": "add", "when": {"kind": "y"}}, ["b", "c", "a"]),
        ({"expression": "-DOC.score"}, ["c", "b", "a"]),
        ({"pin": ["c", "b"]}, ["c", "b", "a"]),
        ({"pin": {"when": {"kind": "y"}}}, ["b", "c", "a"]),
        ({"bury": {"when": {"likes": {"lt": 50}}}}, ["b", "c", "a"]),
        ({"pin": ["c"], "bury": ["c", "a"]}, ["c", "b", "a"]),
        ({"pin": ["nobody"]}, ["a", "b", "c"]),
    ],
)
def test_rules_decide_the_order_and_the_scores_tell_it(parameters, expected):
    body = run("boost", parameters, ROWS)
    assert ids(body) == expected
    assert scores(body) == sorted(scores(body), reverse=True)


def test_the_score_before_stays_readable():
    first = run("boost", {"expression": "DOC.score * 10"}, ROWS)["documents"][0]
    assert first["scores"] == {"original_score": 0.9, "boost": 9.0}


def test_documents_without_a_number_keep_their_score_and_are_counted():
    body = run("boost", {"expression": "DOC.score + DOC.likes"}, ROWS)
    assert ids(body) == ["b", "a", "c"]
    assert told(body) == {"boosted": 2, "without_number": 1}
    assert "1 documents keep their score" in body["warnings"][0]


def test_recent_documents_can_come_first():
    now = datetime.now(UTC)
    rows = rows_of(0.9, 0.8, at=[(now - timedelta(days=400)).isoformat(), now.isoformat()])
    assert ids(run("boost", {"expression": "DOC.score * exp(-days_since(DOC.at) / 100)"}, rows)) == ["b", "a"]


@pytest.mark.parametrize(
    "expression", ["1 / DOC.likes", "log(DOC.likes)", "exp(10000 + DOC.score)", "DOC.kind", "[DOC.likes]"]
)
def test_what_cannot_be_computed_changes_nothing(expression):
    body = run("boost", {"expression": expression}, ROWS[:1])
    assert (ids(body), scores(body), body["status"]) == (["a"], [0.9], "completed")
    assert body["warnings"]


def test_pinned_documents_that_were_not_found_are_added_within_the_filters():
    world = World(ROWS)
    world.rows = ROWS[:1]
    parameters = {"pin": {"ids": ["c", "b"], "add": True}}
    assert ids(world.run("boost", parameters)) == ["c", "b", "a"]
    assert ids(world.run("boost", parameters, request={"filters": {"likes": 100}})) == ["b", "a"]
    allowed = ExecutionContext(filter=parse_filter({"kind": "x"}))
    assert ids(world.run("boost", parameters, context=allowed)) == ["a"]


@pytest.mark.parametrize(
    "expression", ["DOC.__class__", "''.__class__.__mro__", "open('/etc/passwd')", "{% for x in DOC %}{% endblock %}"]
)
def test_an_expression_has_no_way_out(expression):
    with pytest.raises(ValidationError):
        run("boost", {"expression": expression}, ROWS)


def test_a_callers_text_is_no_expression():
    body = run("boost", {"expression": "{{INPUT.e}}"}, ROWS, inputs={"e": "{{DOC.likes}}"})
    assert scores(body) == [0.9, 0.8, 0.7]


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({}, "expression"),
        ({"expression": " "}, "expression"),
        ({"expression": "DOC.score *"}, "expression"),
        ({"expression": "likes * 2"}, "expression"),
        ({"expression": 1, "mode": "divide"}, "mode"),
        ({"pin": "a"}, "pin"),
        ({"pin": ["x"] * 501}, "pin.ids"),
    ],
)
def test_wrong_parameters_are_refused_at_their_place(parameters, place):
    with pytest.raises(ValidationError) as refused:
        run("boost", parameters, ROWS)
    assert ".".join(map(str, refused.value.errors[0].loc)) == f"stages.1.config.parameters.{place}"
