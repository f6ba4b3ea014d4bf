"""The `json_transform` stage."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from stage_runs import World, ids, rows_of, run, told

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.errors import ValidationError
from mediatheca.stages.json_transform import json_transform
from mediatheca.testing.stages import StageSuite

ROWS = rows_of(0.9, 0.8, title=['say "hi" 🦊', None], price=[3, 4])
TEXT = '{"name": {{DOC.title | tojson}}, "id": "{{doc.document_id}}", "double": {{DOC.price * 2}}}'


class TestJsonTransform(StageSuite):
    stage = json_transform
    parameters: ClassVar[dict[str, Any]] = {"template": '{"t": {{DOC.text | tojson}}}'}


class TestJsonTransformObject(StageSuite):
    stage = json_transform
    parameters: ClassVar[dict[str, Any]] = {"template": {"t": "{{DOC.text}}", "deep": [{"p": "{{DOC.price}}"}]}}


def test_documents_are_replaced_and_keep_who_they_are():
    body = run("json_transform", {"template": TEXT}, ROWS)
    first = body["documents"][0]
    assert (first["name"], first["id"], first["double"]) == ('say "hi" 🦊', "a", 6)
    assert "title" not in first
    assert (first["document_id"], first["score"]) == ("a", 0.9)
    assert first["_internal"]["_ref"] == {"document_id": "a", "collection_id": "col_1", "score": 0.9}
    assert body["documents"][1]["name"] is None


def test_an_object_is_filled_leaf_by_leaf_with_native_values():
    template = {"name": "{{DOC.title}}", "all": ["{{DOC.price}}", "{{DOC.price}} CHF", 7], "q": "{{INPUT.q}}"}
    body = run("json_transform", {"template": template}, ROWS, inputs={"q": [1, 2]})
    assert body["documents"][1]["all"] == [4, "4 CHF", 7]
    assert body["documents"][1]["q"] == [1, 2]


def test_a_document_that_cannot_be_transformed_is_left_out_and_counted():
    body = run("json_transform", {"template": '{"t": "{{DOC.title}}", "n": {{DOC.nothing}}}'}, ROWS)
    assert ids(body) == []
    assert told(body)["failed"] == 2
    assert "2 of 2 documents could not be transformed: the result is not JSON" in body["warnings"][0]
    half = run("json_transform", {"template": '{"t": "{{DOC.title}}"}'}, ROWS)
    assert ids(half) == ["b"]
    listed = run("json_transform", {"template": "[{{DOC.price}}]"}, ROWS)
    assert "must be a JSON object, got list" in listed["warnings"][0]


def test_or_it_fails_the_execution():
    with pytest.raises(ValidationError, match="document 'a': the result is not JSON"):
        run("json_transform", {"template": "{{DOC.title}} {", "fail_on_error": True}, ROWS)


@pytest.mark.parametrize(
    "template",
    [{"said": "{{INPUT.q}}", "by": "{{DOC.document_id}}"}, '{"said": {{INPUT.q | tojson}}, "by": "x"}'],
)
def test_what_a_caller_sends_is_never_rendered(template):
    context = ExecutionContext(secrets={"key": "s3cr3t-value"})
    hostile = "{{SECRET.key}}{{DOC.title}}"
    body = run("json_transform", {"template": template}, ROWS, inputs={"q": hostile}, context=context)
    assert [shown["said"] for shown in body["documents"]] == [hostile, hostile]
    assert "s3cr3t" not in str(body)


def test_later_pages_keep_the_transformed_documents():
    world = World(ROWS)
    cursor = world.run("json_transform", {"template": TEXT}, request={"limit": 1})["pagination"]["cursor"]
    page = world.run("json_transform", {"template": TEXT}, request={"limit": 1, "cursor": cursor})
    assert [(shown["document_id"], shown["double"]) for shown in page["documents"]] == [("b", 8)]


@pytest.mark.parametrize("template", [None, 7, ["{{DOC.x}}"], "{{ DOC.__class__ }}", "{% set x = 1 %}", "{{ DOC."])
def test_wrong_templates_are_refused(template):
    with pytest.raises(ValidationError) as refused:
        run("json_transform", {"template": template}, ROWS)
    assert refused.value.errors[0].loc[:5] == ("stages", 1, "config", "parameters", "template")
