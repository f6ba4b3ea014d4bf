"""Templates: values keep their types, absent inputs are seen, and nothing gets out of the sandbox."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.relaxation import Absent
from mediatheca.kernel.sandbox import ALLOWANCE, MAX_SECONDS, Allowance
from mediatheca.kernel.template_trees import BLANK, compile_tree
from mediatheca.kernel.templates import compile_string, translate_ternary

SCOPE = {
    "INPUT": {"q": "red", "n": 5, "tags": ["a", "b"], "items": 3, "yes": True, "evil": "{{INPUT.q}}"},
    "CONTEXT": {"namespace_id": "ns_1"},
    "STAGE": {"search": {"top_score": 0.5}},
    "SECRET": {"key": "hunter22"},
    "DOC": {"title": "Fox", "_internal": {"a": 1}},
}


def render(source: str) -> object:
    return compile_string(source).render(SCOPE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{INPUT.q}}", "red"),
        ("{{ inputs.n }}", 5),
        ("{{Input.tags}}", ["a", "b"]),
        ("{{INPUT['q']}}", "red"),
        ("{{INPUT.tags[0]}}", "a"),
        ("{{INPUT.q[0:2]}}", "re"),
        ("{{INPUT.items}}", 3),
        ("{{INPUT.yes}}", True),
        ("{{INPUT.n + 1}}", 6),
        ("{{INPUT.tags|map('upper')}}", ["A", "B"]),
        ("{{range(3)}}", [0, 1, 2]),
        ("<{{INPUT.q}}>", "<red>"),
        ("{{INPUT.q ~ '-' ~ INPUT.n}}", "red-5"),
        ("{{INPUT.tags|join(', ')}}", "a, b"),
        ("{{'big' if INPUT.n > 3 else 'small'}}", "big"),
        ("{% for t in INPUT.tags %}{{loop.index}}{{t}};{% endfor %}", "1a;2b;"),
        ("{% if INPUT.nope %}yes{% else %}no{% endif %}", "no"),
        ("{{INPUT.nope|default('x')}}", "x"),
        ("{{'Hello, World!'|slugify}}", "hello-world"),
        ("{{'false'|bool}}", False),
        ("{{max(INPUT.n, 7)}}", 7),
        ("{{[ceil(1.2), floor(1.8), abs(-1), round(2.6), min(1, 2)]}}", [2, 1, 1, 3, 1]),
        ("{{doc.title}} {{DOCUMENT.title}}", "Fox Fox"),
        ("{{DOC._internal.a}}", 1),
        ("{{context.namespace_id}}", "ns_1"),
        ("{{Stage.search.top_score}}", 0.5),
        ("{{secrets.key}}", "hunter22"),
        ("{{INPUT.evil}}", "{{INPUT.q}}"),
        ("{{INPUT.tags|tojson}}", '["a", "b"]'),
        ("{# nothing #}", ""),
        ("a {{INPUT.nope}}b", "a b"),
    ],
)
def test_a_template_renders_to(source, expected):
    assert render(source) == expected


def test_times_are_iso_texts():
    assert str(render("{{time_ago(minutes=5)}}")) < str(render("{{utc_now()}}"))


@pytest.mark.parametrize(
    "source", ["{{INPUT.nope}}", "{{INPUT.nope.deeper}}", "{{ INPUT.nope.upper() }}", "{{INPUT[9]}}"]
)
def test_an_absent_value_is_absent_and_not_an_error(source):
    assert isinstance(render(source), Absent)


ESCAPES = [
    "{{''.__class__.__mro__}}",
    "{{INPUT.__class__}}",
    "{{''['__class__']}}",
    "{{cycler.__init__.__globals__.os}}",
    "{{self}}",
    "{{self.__init__}}",
    "{{lipsum.__globals__}}",
    "{{namespace()}}",
    "{{joiner()}}",
    "{{INPUT.q.format(1)}}",
    "{{'{0.__class__}'.format(1)}}",
    "{{'%s' % INPUT}}",
    "{{'x'|attr('__class__')}}",
    "{{'x'|format(1)}}",
    "{{INPUT.tags.append(1)}}",
    "{{'a'.encode('rot13')}}",
    "{{config}}",
    "{% set x = 1 %}",
    "{% macro f() %}{{f()}}{% endmacro %}",
    "{% include 'x' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
    "{% call f() %}{% endcall %}",
    "{% for x in INPUT.tags recursive %}{{loop(x)}}{% endfor %}",
    "{{__budget}}",
    "{{",
    "{% for %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_ways_out_of_the_sandbox_are_refused(source):
    with pytest.raises(ValidationError):
        render(source)


def test_an_attribute_spelled_in_pieces_is_only_data_that_is_absent():
    assert isinstance(render("{{''['__cl' ~ 'ass__']}}"), Absent)
    assert isinstance(render("{{INPUT['__cl' ~ 'ass__']}}"), Absent)
    assert isinstance(render("{{(INPUT.tags|list)['__cl' ~ 'ass__']}}"), Absent)


BOMBS = [
    "{{'a' * 10**9}}",
    "{{[1] * 10**9}}",
    "{{'%1000000000d' % 1}}",
    "{{'x'|center(1000000000)}}",
    "{{range(10**9)}}",
    "{{(range(10000)|list * 1)|tojson ~ 'x' * 1048570}}",
    "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
    "{% for a in range(1000) %}{{'a' * 10000}}{% endfor %}",
    "{{10**60 * 10**60 ** 9}}",
    "{{[2 ** 64]}}",
    "{{2 ** (10**9)}}",
    "{{('a' * 1000000)|replace('a', 'b' * 1000000)}}",
    "{{['a' * 1000000, 'a' * 1000000]|join}}",
    "{{('a' * 1000000) ~ ('a' * 1000000)}}",
    "{{('a' * 1000000) + ('a' * 1000000)}}",
    "{% for a in [[1, INPUT.q]] %}{{a}}{% endfor %}",
    "{{range(10000)|map('string')|join('x' * 1000)}}",
    "{{1 / 0}}",
    "{{ [[[[INPUT.tags] * 9000] * 9000] * 9000] }}",
]


@pytest.mark.parametrize("source", BOMBS)
def test_a_template_cannot_take_much_time_or_memory(source):
    start = time.monotonic()
    with pytest.raises(ValidationError):
        render(source)
    assert time.monotonic() - start < 60


def test_waiting_for_a_processor_is_not_charged_to_a_template():
    class Late(dict[str, Any]):
        def __contains__(self, name: object) -> bool:
            time.sleep(MAX_SECONDS + 0.1)  # as long as others have it
            return super().__contains__(name)

    allowance = Allowance(MAX_SECONDS)
    template = compile_string("{% for letter in INPUT.word %}{{ letter | upper }}{% endfor %}")
    assert template.render({"INPUT": Late(word="ab"), ALLOWANCE: allowance}) == "AB"
    assert allowance.left > MAX_SECONDS / 2


def test_a_long_template_is_refused():
    with pytest.raises(ValidationError, match="65,536"):
        compile_string("{{INPUT.q}}" + "x" * 70_000)


def test_an_unknown_name_says_which_names_there_are():
    with pytest.raises(ValidationError, match=r"'query'.*INPUT"):
        compile_tree({"a": "{{query}}"})


def test_an_error_names_the_place_and_the_template_but_no_secret():
    tree = compile_tree({"a": {"b": ["{{INPUT.q * 'x'}}"]}}, ("stages", 0))
    with pytest.raises(ValidationError, match=r"stages\.0\.a\.b\.0.*INPUT\.q"):
        tree.render(SCOPE)
    with pytest.raises(ValidationError) as caught:
        render("{{SECRET.key + 1}}")
    assert "hunter22" not in str(caught.value)


def test_a_tree_without_templates_is_returned_as_it_is():
    raw = {"a": [1, {"b": "c"}]}
    tree = compile_tree(raw)
    assert not tree.templated
    assert tree.render(SCOPE) is raw


def test_a_tree_renders_a_copy_and_leaves_the_raw_one_alone():
    raw = {"a": ["{{INPUT.q}}", "{{INPUT.nope}}"], "b": "{{INPUT.nope}}", "c": {"d": "{{INPUT.n}}"}}
    tree = compile_tree(raw)
    assert tree.render(SCOPE) == {"a": ["red"], "c": {"d": 5}}
    assert raw["a"] == ["{{INPUT.q}}", "{{INPUT.nope}}"]
    assert tree.inputs == {"q", "n", "nope"}
    assert ("c", "d") in tree.places


def test_per_document_templates_are_left_for_the_stage():
    tree = compile_tree({"prompt": "{{DOC.title}} {{INPUT.q}}", "top": "{{INPUT.n}}"})
    assert tree.render(SCOPE) == {"prompt": "{{DOC.title}} {{INPUT.q}}", "top": 5}


def test_the_inputs_a_tree_reads_are_seen_in_every_spelling():
    raw = ["{{INPUT.a}}", "{{inputs['b']}}", "x{{ input.c.d|upper }}", "{% for i in INPUT.e %}{{i}}{% endfor %}"]
    assert compile_tree(raw).inputs == {"a", "b", "c", "e"}
    assert compile_tree("{{INPUT|tojson}}").inputs == {"*"}


def filter_of(raw: object) -> tuple[object, list[str]]:
    relaxations: list = []
    made = compile_tree({"filters": raw}, ("s",)).render(SCOPE, relaxations)
    return made.get("filters"), [f"{r.field} {r.template} {r.place}" for r in relaxations]


def test_a_condition_without_its_input_is_dropped_and_reported():
    made, relaxed = filter_of(
        {"AND": [{"field": "a", "value": "{{INPUT.nope}}"}, {"field": "b", "value": "{{INPUT.q}}"}]}
    )
    assert made == {"AND": [{"field": "b", "value": "red"}]}
    assert relaxed == ["a {{INPUT.nope}} s.filters.AND.0.value"]


@pytest.mark.parametrize(
    "raw",
    [
        {"field": "a", "value": "{{INPUT.nope}}"},
        {"NOT": [{"field": "a", "value": "{{INPUT.nope}}"}]},
        {"OR": [{"AND": [{"a": "{{INPUT.nope}}"}]}]},
        {"a": {"$in": ["{{INPUT.nope}}"]}},
        {"field": "a", "value": {"type": "dynamic", "field": "inputs.nope"}},
        {"field": "a", "value": "pre-{{INPUT.nope}}"},
        {"field": "a", "value": "{{INPUT.nope}}", "on_missing": "drop"},
    ],
)
def test_a_branch_that_loses_all_its_conditions_restricts_nothing(raw):
    made, relaxed = filter_of(raw)
    assert made is None
    assert relaxed[0].startswith("a ")


def test_a_dynamic_value_is_an_input():
    assert filter_of({"field": "a", "value": {"type": "dynamic", "field": "inputs.q"}})[0] == {
        "field": "a",
        "value": "red",
    }


def test_a_condition_may_forbid_to_be_dropped():
    leaf = {"field": "a", "value": "{{INPUT.nope}}"}
    with pytest.raises(ValidationError, match="needs"):
        filter_of({**leaf, "on_missing": "error"})
    made, relaxed = filter_of({**leaf, "on_missing": "match_none"})
    assert made == {"field": "document_id", "operator": "in", "value": []}
    assert relaxed == []
    given, _ = filter_of({"field": "a", "value": "{{INPUT.q}}", "on_missing": "error"})
    assert given == {"field": "a", "value": "red"}


def test_a_blank_scope_checks_the_rest_of_a_tree():
    tree = compile_tree({"limit": "{{INPUT.n}}", "x": 1, "filters": {"a": "{{INPUT.q}}", "on_missing": "error"}})
    assert tree.render(BLANK) == {"x": 1, "filters": {"on_missing": "error"}}


def test_the_ternary_of_older_documents_is_translated():
    source = translate_ternary("{{INPUT.n > 3 ? 50 : 10}}")
    assert compile_string(source).render(SCOPE) == 50
    assert translate_ternary("{{INPUT.n}}") == "{{INPUT.n}}"
