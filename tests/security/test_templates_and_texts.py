"""Small texts that would take minutes or gigabytes: templates, regular expressions, encodings, JSON paths."""

from __future__ import annotations

import time

import pytest

from mediatheca.extractors._markdown import split_markdown
from mediatheca.extractors._splitting import _sentences
from mediatheca.flows.outside.language_answers import read_answer
from mediatheca.flows.publishing.door import _is_origin
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.passages import sentences
from mediatheca.kernel.sandbox import ALLOWANCE, Allowance
from mediatheca.kernel.template_trees import compile_tree
from mediatheca.kernel.templates import compile_string, translate_ternary
from mediatheca.kernel.web_page import charset_of
from mediatheca.stages._json_path import check_json_path, picked
from mediatheca.stages.sample import allocate

MANY = 100_000
"""Of the same character: linear is milliseconds, quadratic minutes."""


@pytest.mark.parametrize(
    "template",
    [
        "{{ 5 | round(1000000000, 'ceil') }}", "{{ round(5, -1000000000) }}", "{{ 5 | round(-1000000000) }}",
        "{{ ('f' * 1000000) | int(0, 16) // (('f' * 500000) | int(0, 16)) }}",
        "{{ ([[1] * 10000] * 10000) | sum(start=[]) | length }}",
        "{{ INPUT.x.strip('b' * 90000 ~ 'a') }}", "{{ INPUT.x | trim('b' * 90000 ~ 'a') }}",
        "{{ range(10000) | map('string') | map('replace', '1', 'x' * 100000) | list | length }}",
        "{{ [" + "'a' * 999999," * 2000 + "] | length }}", "{{ [" + "INPUT.x[1:]," * 2000 + "] | length }}",
        "{{ [" + "INPUT.x ~ 1," * 2000 + "] | length }}",
    ],
)  # fmt: skip
def test_a_template_pays_for_what_it_makes(template: str) -> None:
    """Each of these took minutes, or gigabytes."""
    with pytest.raises(ValidationError):
        compile_string(template).render({"INPUT": {"x": "a" * 900_000}})


def test_templates_still_round_sum_strip_and_slice() -> None:
    numbers = "{{ 1.2345|round(2) }} {{ round(25, -1) }} {{ [1, 2]|sum }}"
    template = numbers + " {{ ' a '|trim }} {{ '12'|int + 1 }} {{ INPUT.x[:2] }}"
    assert compile_string(template).render({"INPUT": {"x": "abc"}}) == "1.23 20 3 a 13 ab"
    assert (
        compile_string("{{ INPUT.rows | sum(attribute='n') }}").render({"INPUT": {"rows": [{"n": 1}, {"n": 2}]}}) == 3
    )


def test_the_templates_of_an_execution_share_their_time() -> None:
    slow = compile_string("{% for a in range(3000) %}{{ a * 2 }}{% endfor %}")
    scope = {"INPUT": {}, ALLOWANCE: Allowance(0.02)}
    with pytest.raises(ValidationError, match="no time left"):
        for _ in range(1000):
            slow.render(scope)
    tree = compile_tree({str(n): "{% for a in range(9000) %}{{ a * " + str(n) + " }}{% endfor %}" for n in range(300)})
    with pytest.raises(ValidationError, match="no time left"):
        tree.render({"INPUT": {}})


def _seconds(text: str) -> float:
    """Of this thread: servers of other tests may work in others."""
    began = time.thread_time()
    sentences(text)
    _sentences(text)
    list(split_markdown(text, 1000, 0))
    translate_ternary("{{" + text)
    read_answer({"type": "object"}, f"```\n{text}x")
    read_answer({"type": "object"}, f"```{text}x")
    return time.thread_time() - began


@pytest.mark.parametrize("character", [".", "\n", " ", "`", "~", "?!", ".\n", "\n ", "# ", "``` \n", "{{"], ids=repr)
def test_no_text_takes_the_square_of_its_length(character: str) -> None:
    for ending in ("", "x", "`"):
        assert _seconds(character * (MANY // len(character)) + ending) < 10


def test_sentences_end_where_they_did() -> None:
    text = "One... Two?! “Three.” (four.) v1.2 five. 。6。"
    assert [text[slice(*span)] for span in sentences(text)] == [
        "One...",
        "Two?!",
        "“Three.”",
        "(four.)",
        "v1.2 five.",
        "。",
        "6。",
    ]


def test_an_answer_in_a_fence_is_still_found() -> None:
    assert read_answer({"type": "object"}, 'Here:\n```json  \n\n{"a": 1}\n  ```\nDone')[0] == {"a": 1}


@pytest.mark.parametrize("name", ["punycode", "PunyCode", "idna", "no-such", "hex"])
def test_a_page_is_not_decoded_by_an_encoding_of_host_names(name: str) -> None:
    """`punycode` takes the square of the length: a page of 5 MB stopped the server for half an hour."""
    assert charset_of(f"text/plain; charset={name}") == ""
    assert "é".encode(charset_of("text/plain; charset=Latin-1")) == b"\xe9"


@pytest.mark.parametrize("path", ["$..[?$..zz]", "$..*..*", "$[?@.a == $[0].a]", "$..[?@..zz]", "$.a | $.b"])
def test_a_path_that_compares_everything_with_everything_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match=r"one '\.\.'"):
        check_json_path(path)


def test_a_path_may_not_multiply_an_answer() -> None:
    nested: object = "x" * 100_000
    for _ in range(90):
        nested = [nested]
    with pytest.raises(ValidationError, match="8 MB"):
        picked(nested, "$..*")
    assert picked({"a": [{"b": 1}, {"b": 2}]}, "$..b") == [1, 2]


def test_a_sample_of_ten_thousand_strata_is_divided_at_once() -> None:
    sizes = {str(number).encode(): 1 + number % 3 for number in range(100_000)}
    began = time.thread_time()
    shares = allocate(sizes, 1000, 0, equal=False)
    assert time.thread_time() - began < 5
    assert sum(shares.values()) == 1000


@pytest.mark.parametrize("origin", ["https://a.shop.example:99999", "https://[", "https://[::1", "null", ""])
def test_an_origin_that_cannot_be_is_no_origin(origin: str) -> None:
    assert not _is_origin(origin, "https://*.shop.example")
    assert not _is_origin("https://a.shop.example", "https://*.shop.example:99999")
