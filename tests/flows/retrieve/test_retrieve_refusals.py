"""What a retriever says and nothing would read is refused when it is made, or told in the answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel
from retrieve_shop import ARTICLES, FIELDS, Shop, ids, stage, text_search

from mediatheca.flows.retrieve.keys import _nested, unknown_keys
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import empty_branches, written_fields
from mediatheca.stages import CollectionView, Stage
from mediatheca.testing.stages import TEXT_URI

ASK = {"inputs": {"query": "red fox"}}
TYPO = "sizzze"


def refused(shop: Shop, *stages: Any, views: Any = None) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        shop.compile(*stages, views=views)
    return caught.value


def places(error: ValidationError) -> list[str]:
    return [".".join(map(str, found.loc)) for found in error.errors]


# ---- keys


def nested(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Every place inside the parameters where an object of a model stands."""
    for names, inner in _nested(model):
        yield (*path, names[0]), inner
        yield from nested(inner, (*path, names[0]))


EVERY = [
    pytest.param(found.params, path, id=".".join((found.stage_id, *path)))
    for found in sorted(discover("mediatheca.stages", Stage), key=lambda found: found.stage_id)
    for path, _ in nested(found.params)
]


def test_the_list_of_nested_objects_is_long_enough_to_be_the_real_one():
    shown = {param.id for param in EVERY}
    assert len(shown) > 30
    assert {"feature_search.searches.query.document_ref", "query_expand.feature_search_config.searches"} <= shown


@pytest.mark.parametrize(("model", "path"), EVERY)
@pytest.mark.parametrize("listed", [False, True], ids=["object", "list"])
def test_a_typo_in_any_nested_object_is_found_with_its_place(model: type[BaseModel], path: tuple[str, ...], listed):
    value: Any = {TYPO: 1}
    place: tuple[str | int, ...] = ()
    for name in reversed(path):
        value, place = ({name: [value]}, (name, 0, *place)) if listed else ({name: value}, (name, *place))
    (found,) = unknown_keys(model, value, ())
    assert (found.key, found.place) == (TYPO, place)
    assert found.known


@pytest.mark.parametrize(
    ("search", "more", "place", "hint"),
    [
        ({"min_scor": 0.5}, {}, "searches.0.min_scor", "did you mean 'min_score'"),
        ({"query": {"value": "x", "embeding_task": "none"}}, {}, "searches.0.query.embeding_task", "embedding_task"),
        ({"lexical_fields": [{"field": "text", "bost": 2}]}, {}, "searches.0.lexical_fields.0.bost", "boost"),
        ({"query_preprocessing": {"chunk_sise": 5}}, {}, "searches.0.query_preprocessing.chunk_sise", "chunk_size"),
        ({}, {"facets": [{"key": "category", "limt": 3}]}, "facets.0.limt", "limit"),
        ({}, {"group_by": {"field": "category", "max_pre_group": 2}}, "group_by.max_pre_group", "max_per_group"),
        ({}, {"highlight": {"field": "text"}}, "highlight.field", "fields"),
    ],
)  # fmt: skip
def test_a_key_that_means_nothing_is_refused_with_its_place(shop: Shop, search, more, place, hint):
    base = {"feature_uri": TEXT_URI, "query": {"input_mode": "text", "value": "{{INPUT.query}}"}}
    error = refused(shop, stage("feature_search", searches=[{**base, **search}], **more))
    assert places(error) == [f"stages.0.config.parameters.{place}"]
    assert hint in error.message


def test_every_misspelt_key_is_named_at_once(shop: Shop):
    search = {"feature_uri": TEXT_URI, "query": {"value": "x", "valeu": 1}, "wieght": 1}
    cited = stage("rag_prepare", citation={"stile": 1})
    error = refused(shop, stage("feature_search", searches=[search, search]), cited)
    assert len(error.errors) == 5


@pytest.mark.parametrize("name", ["filter", "filters", "pre_filters"])
def test_filters_of_a_search_have_two_names_and_hold(shop: Shop, name: str):
    search = {"feature_uri": TEXT_URI, "query": "{{INPUT.query}}", name: {"category": "thing"}}
    inside = shop.execute(shop.compile(stage("feature_search", searches=[search])), ASK)
    del search[name]
    beside = stage("feature_search", searches=[search], **{name: {"category": "thing"}})
    for body in (inside, shop.execute(shop.compile(beside), ASK)):
        assert {document["category"] for document in body["documents"]} == {"thing"}


def test_a_feature_that_is_not_searched_cannot_cut_the_query(shop: Shop):
    cut = {"feature_uri": "mixpeek://video_extractor@v1/frames", "params": {}}
    error = refused(shop, text_search(query_preprocessing=cut))
    assert "query_preprocessing.feature_uri" in error.message
    shop.compile(text_search(query_preprocessing={"feature_uri": TEXT_URI, "params": {"split_by": "words"}}))


# ---- thresholds


TWO = [{"feature_uri": TEXT_URI, "query": "{{INPUT.query}}"}, {"lexical": True, "query": "{{INPUT.query}}"}]


@pytest.mark.parametrize("between", [[], [stage("limit", limit=5), stage("sort_attribute", field="price")]])
@pytest.mark.parametrize("field", ["score", "scores.feature_search"])
def test_a_threshold_on_a_rank_is_refused_with_what_to_do_instead(shop: Shop, between, field):
    fused = stage("feature_search", searches=TWO)
    error = refused(shop, fused, *between, stage("score_threshold", min_score=0.5, score_field=field))
    assert places(error) == [f"stages.{len(between) + 1}.config.parameters.score_field"]
    for words in ("min_score into the searches", "scores.rerank", "weighted"):
        assert words in error.message


@pytest.mark.parametrize(
    "stages",
    [
        [stage("feature_search", searches=TWO[:1])],
        [stage("feature_search", searches=TWO, fusion="weighted")],
        [stage("feature_search", searches=TWO), stage("rerank", inference_name="shared_words")],
        [stage("feature_search", searches=TWO), stage("score_normalize")],
    ],
    ids=["one search", "weighted", "reranked", "normalised"],
)
def test_a_threshold_on_a_score_that_tells_something_is_accepted(shop: Shop, stages):
    shop.compile(*stages, stage("score_threshold", min_score=0.5))


def test_a_filter_by_a_rank_is_warned_about(shop: Shop):
    by_score = stage("attribute_filter", conditions={"field": "score", "operator": "gte", "value": 0.5})
    plan = shop.compile(stage("feature_search", searches=TWO), by_score)
    assert any("filters by score" in warning for warning in plan.warnings)


# ---- content


@pytest.mark.parametrize(
    "query",
    [
        {"input_mode": "content", "value": "https://example.com/a.jpg"},
        {"input_mode": "content", "value": "data:image/png;base64,AA=="},
        {"input_mode": "content", "value": "data:video/mp4;base64,AA=="},
        {"input_mode": "content", "value": "iVBORw0KGgoAAAANSUhEUg=="},
        {"input_mode": "image", "url": "https://example.com/a.jpg"},
    ],
)
def test_a_picture_cannot_be_looked_for_among_texts(shop: Shop, query):
    error = refused(shop, stage("feature_search", searches=[{"feature_uri": TEXT_URI, "query": query}]))
    assert places(error) == ["stages.0.config.parameters.searches.0.query.input_mode"]
    assert "takes text and no files" in error.message


@pytest.mark.parametrize("value", ["{{INPUT.file}}", "upl_0123456789", "https://example.com/report", "JVBERi0xLjcK"])
def test_what_may_be_a_pdf_is_looked_at_when_it_is_searched_for(shop: Shop, value):
    query = {"input_mode": "content", "value": value}
    plan = shop.compile(stage("feature_search", searches=[{"feature_uri": TEXT_URI, "query": query}]))
    if value.startswith("{{"):
        png = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="
        with pytest.raises(ValidationError, match="takes text"):
            shop.execute(plan, {"inputs": {"file": png}})


def test_a_picture_can_be_looked_for_among_pictures_and_a_text_file_among_texts(shop: Shop):
    pictures = VectorIndex("p", "mixpeek://image_extractor@v1/p", 4, model="p", modalities=("image",))
    view = CollectionView("col_p", "pictures", (pictures,), {})
    query = {"input_mode": "content", "value": "{{INPUT.picture}}"}
    search = {"feature_uri": pictures.feature_uri, "query": query}
    shop.compile(stage("feature_search", searches=[search]), views=[view])
    text = {"input_mode": "content", "value": "data:text/plain,red fox"}
    found = shop.run(stage("feature_search", searches=[{"feature_uri": TEXT_URI, "query": text}]))
    assert ids(found)[0] == "a0"


# ---- filters


BARE = CollectionView("col_a", "articles", ARTICLES.vectors, {name: FIELDS[name] for name in ("text", "price")})


@pytest.mark.parametrize(
    ("found", "where"),
    [
        (text_search(pre_filters={"category": "thing"}), "pre_filters"),
        (text_search(filters={"AND": [{"field": "category", "value": "{{INPUT.c}}"}]}), "searches.0.filters"),
        (text_search(facets=["category"]), "facets"),
        (stage("attribute_filter", field="category", value="thing"), "conditions"),
        (stage("attribute_filter", conditions={"category": "thing"}), "conditions"),
    ],
    ids=["pre_filters", "search", "facet", "simple", "conditions"],
)
def test_a_field_without_an_index_is_told_and_works(shop: Shop, found, where):
    body = shop.execute(shop.compile(found, views=[BARE]), {"inputs": {"query": "red fox", "c": "thing"}})
    assert body["documents"]
    told = [warning for warning in body["warnings"] if "not an indexed field of articles" in warning]
    assert len(told) == 1
    assert f"{where}: 'category'" in told[0]
    assert not any("indexed" in warning for warning in shop.compile(found, views=[ARTICLES]).warnings)


def test_a_search_by_words_where_there_are_no_texts_is_told(shop: Shop):
    search = {"feature_uri": TEXT_URI, "query": "{{INPUT.query}}", "lexical": True}
    found = {"stage_id": "feature_search", "parameters": {"searches": [search]}}
    told = shop.compile(found, views=[replace(ARTICLES, fields={"text": "keyword"})]).warnings
    assert len(told) == 1
    assert "searches.0: no field of articles is of the type text, so no word is found there" in told[0]
    assert shop.compile(found, views=[ARTICLES]).warnings == ()


@pytest.mark.parametrize(
    "found",
    [
        text_search("{{DOC.title}}"),
        text_search(filters={"field": "category", "value": "{{DOC.category}}"}),
        stage("sort_attribute", field="{{DOC.best}}"),
        stage("deduplicate", fields=["{{DOC.best}}"]),
        stage("rerank", query="{{DOC.title}}"),
    ],
    ids=["query", "filter", "sort", "deduplicate", "rerank"],
)
def test_templates_of_one_document_are_refused_where_a_stage_runs_once_for_all(shop: Shop, found):
    error = refused(shop, found)
    assert places(error) == ["stages.0.config.parameters"]
    assert "DOC is not known here" in error.errors[0].msg


def test_the_filters_of_a_request_are_told_too(shop: Shop):
    plan = shop.compile(text_search(), views=[BARE])
    body = shop.execute(plan, {**ASK, "filters": {"category": "thing", "document_id": {"exists": True}, "price": 5}})
    assert [warning for warning in body["warnings"] if "indexed" in warning] == [
        "filters: 'category' is not an indexed field of articles; documents are read one by one for it"
    ]


def test_a_filter_on_what_a_stage_wrote_needs_no_index(shop: Shop):
    plan = shop.compile(text_search(), stage("rerank"), stage("attribute_filter", field="made_here", value=1))
    assert not any("indexed" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"OR": []}, ["f.OR"]),
        ({"OR": [{}, {"a": 1}]}, ["f.OR"]),
        ({"$or": [{"a": 1}, {"AND": []}]}, ["f.$or"]),
        ({"AND": [{"b": 1}, {"should": [{"a": 1}, {}]}]}, ["f.AND.1.should"]),
        ({"operator": "or", "conditions": [{"a": 1}, {}]}, ["f.conditions"]),
        ({"OR": [{"a": 1}, {"field": "b", "value": 2}]}, []),
        ({"operator": "and", "conditions": []}, []),
        ({"AND": [{}]}, []),
        ({"NOT": []}, []),
        ("nonsense", []),
    ],
)
def test_an_or_that_restricts_nothing_is_found(raw, expected):
    assert empty_branches(raw, "f") == expected


def test_an_empty_branch_is_told_wherever_it_stands(shop: Shop):
    idle = {"OR": [{"category": "thing"}, {}]}
    plan = shop.compile(text_search(filters=idle, pre_filters=idle, post_filters=idle))
    assert sum("restricts nothing" in warning for warning in plan.warnings) == 3
    body = shop.execute(shop.compile(text_search()), {**ASK, "filters": idle})
    assert any(warning.startswith("filters.OR: a branch of this OR") for warning in body["warnings"])
    assert len(body["documents"]) == len(shop.execute(shop.compile(text_search()), ASK)["documents"])


def test_fields_are_read_from_every_spelling_of_a_filter():
    assert written_fields({"a": 1, "OR": [{"field": "b", "operator": "gt", "value": "{{INPUT.x}}"}]}) == {"a", "b"}
    assert written_fields({"operator": "and", "conditions": [{"key": "c", "match": {"value": 1}}]}) == {"c"}
    assert written_fields({"NOT": {"d": {"gte": 5}}, "case_sensitive": True}) == {"d"}
    assert written_fields("nonsense") == set()


# ---- budgets


def test_templates_see_what_is_left_of_the_budget(shop: Shop):
    shown = stage("json_transform", template='{"left": {{ CONTEXT.budget_remaining | tojson }}}')
    plan = shop.compile(text_search(), shown)
    assert shop.execute(plan, ASK, max_credits=4.5)["documents"][0]["left"] == 4.5
    assert shop.execute(plan, ASK)["documents"][0]["left"] is None
