"""Names of indexes that stand side by side while a collection changes its model."""

from __future__ import annotations

from mediatheca.flows.migration.compare import rank_correlation
from mediatheca.flows.migration.plan import redirected
from mediatheca.kernel.uris import marked, output_name, parse_feature_uri, spellings

URI = "mixpeek://text_extractor@v1/e5"


def test_a_mark_makes_another_name_and_leaves_the_output_what_it_is() -> None:
    one, other = marked(URI, "sha256:1"), marked(URI, "sha256:2")
    assert len({URI, one, other}) == 3
    assert marked(one, "sha256:2") == other  # marks do not pile up
    assert {output_name(uri) for uri in (URI, one, other)} == {"e5"}
    assert parse_feature_uri(one).output.startswith("e5.w")
    assert output_name("mixpeek://x@v1/model.with.dots") == "model.with.dots"


def test_every_spelling_of_a_uri_is_known() -> None:
    assert spellings(URI) == {URI, "text_extractor@v1/e5", "e5", "text_extractor_v1_e5"}


def test_redirections_never_form_a_chain_or_a_circle() -> None:
    first = redirected({}, [("a", "b")])
    second = redirected(first, [("b", "c")])
    assert second == {"a": "c", "b": "c"}
    assert redirected(second, [("c", "a")]) == {"b": "a", "c": "a"}
    assert redirected(first, [("b", "a")]) == {"b": "a"}
    assert redirected(redirected(first, [("b", "a")]), [("a", "b")]) == first


def test_the_correlation_of_ranks_is_spearmans_rho_of_what_both_have() -> None:
    assert rank_correlation("abcde", "abcde") == 1
    assert rank_correlation("abc", "cba") == -1
    assert rank_correlation("axbyc", "abc") == 1
    assert rank_correlation("abcd", "abdc") == 0.8
    assert rank_correlation("ab", "ba") is None
