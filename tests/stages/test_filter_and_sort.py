"""What `attribute_filter`, `sort_attribute`, `sort_relevance` and `limit` do besides their suites."""

from __future__ import annotations

import pytest
from stage_runs import ids, rows_of, run

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.errors import ValidationError

ROWS = rows_of(0.9, 0.8, 0.7, name=["beta", "Alpha", "gamma"], cap=["beta", "x", "gamma"])


def test_a_condition_may_look_at_the_score_and_at_other_fields():
    assert ids(run("attribute_filter", {"field": "score", "operator": "gte", "value": 0.8}, ROWS)) == ["a", "b"]
    assert ids(run("attribute_filter", {"field": "name", "value": "{{DOC.cap}}"}, ROWS)) == ["a", "c"]


def test_what_a_caller_sends_is_compared_and_never_rendered():
    context = ExecutionContext(secrets={"key": "beta"})
    parameters = {"AND": [{"field": "name", "value": "{{INPUT.q}}"}, {"field": "cap", "value": "{{DOC.name}}"}]}
    for hostile in ("{{SECRET.key}}", "{{DOC.name}}"):
        assert ids(run("attribute_filter", parameters, ROWS, inputs={"q": hostile}, context=context)) == []
    assert ids(run("attribute_filter", parameters, ROWS, inputs={"q": "beta"}, context=context)) == ["a"]


def test_sorting_by_text_can_ignore_case():
    parameters = {"field": "name", "direction": "asc"}
    assert ids(run("sort_attribute", parameters, ROWS)) == ["b", "a", "c"]
    folded = run(
        "sort_attribute", {**parameters, "case_sensitive": False}, [*ROWS, *rows_of(0.1, name=["ALPHA"])][::-1]
    )
    assert ids(folded)[:2] == ["a", "b"]


def test_sorting_finds_fields_of_the_system():
    rows = rows_of(0.9, 0.8, object=["o2", "o1"])
    assert ids(run("sort_attribute", {"field": "source_object_id", "direction": "asc"}, rows)) == ["b", "a"]


def test_the_field_to_sort_by_may_come_from_the_caller():
    parameters = {"field": "{{INPUT.by}}", "direction": "{{INPUT.how}}"}
    assert ids(run("sort_attribute", parameters, ROWS, inputs={"by": "name", "how": "desc"})) == ["c", "a", "b"]
    with pytest.raises(ValidationError, match="direction"):
        run("sort_attribute", parameters, ROWS, inputs={"by": "name", "how": "up"})


def test_a_feature_address_is_refused_with_the_way_out():
    with pytest.raises(ValidationError, match="put a feature_search stage before it") as refused:
        run("sort_relevance", {"feature_address": "mixpeek://a@v1/b"}, ROWS)
    assert refused.value.errors[0].loc == ("stages", 1, "config", "parameters", "feature_address")
    assert ids(run("sort_relevance", {"feature_address": None}, ROWS)) == ["a", "b", "c"]


@pytest.mark.parametrize("parameters", [{"limit": 0}, {"limit": 10_001}, {"offset": -1}, {"offset": 10_001}])
def test_limits_have_their_own(parameters):
    with pytest.raises(ValidationError) as refused:
        run("limit", parameters, ROWS)
    assert refused.value.errors[0].loc == ("stages", 1, "config", "parameters", next(iter(parameters)))
