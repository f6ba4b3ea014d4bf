"""Retrievers as clients write them, and everything that is refused at create."""

from __future__ import annotations

import pytest
from retrieve_shop import ARTICLES, RAW, REVIEWS, Shop, ids, stage, text_search

from mediatheca.flows.retrieve import declared_collections
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.stages import CollectionView
from mediatheca.testing.stages import TEXT_URI

SEARCHES = [{"feature_uri": TEXT_URI, "query": {"input_mode": "text", "text": "{{INPUT.query}}"}, "top_k": 10}]
PARAMETERS = {"searches": SEARCHES, "final_top_k": 5, "fusion": "rrf", "collection_identifiers": ["col_a", "col_b"]}
ASK = {"inputs": {"query": "red fox"}}


@pytest.mark.parametrize(
    "raw",
    [
        {"stage_name": "s", "stage_type": "filter", "config": {"stage_id": "feature_search", "parameters": PARAMETERS}},
        {"stage_name": "s", "stage_id": "feature_search", "parameters": PARAMETERS},
        {"stage_name": "knn_search", "version": "v1", "parameters": PARAMETERS},
        {"stage_name": "s", "config": {"stage_id": "semantic_search", **PARAMETERS}},
        {"stage_id": "hybrid_search", **PARAMETERS},
        {"type": "feature_search", "feature_extractor": {"type": "text"}, "query": "{{INPUT.query}}", "limit": 5},
        {"type": "feature_search", "query": "{{INPUT.query}}", "collection_ids": [], "limit": 5},
        stage("feature_search", feature_searches=SEARCHES, limit=5),
        stage("feature_search", features=[{"feature_uri": TEXT_URI, "query_input": "{{INPUT.query}}"}], limit=5),
        stage("feature_search", feature_uris=[{"uri": TEXT_URI, "input": {"text": "{{INPUT.query}}"}}], limit=5),
        stage("feature_search", feature_uri=TEXT_URI, input={"text": "{{INPUT.query}}"}, limit=5),
        stage(
            "feature_search",
            queries=[{"feature_address": TEXT_URI, "input_mapping": {"text": "{{INPUT.query}}"}, "weight": 1}],
            fusion_method="rrf",
            limit=5,
        ),
        stage(
            "feature_search", searches=[{"vector_name": "hashed_words_for_tests", "query": "{{INPUT.query}}"}], top_k=5
        ),
    ],
)
def test_every_spelling_of_a_search_finds_the_same(shop: Shop, raw):
    assert ids(shop.execute(shop.compile(raw), ASK)) == ["a0", "b0", "a1", "a1", "a3"]


def test_stages_are_shown_in_the_one_form_every_client_parses(shop: Shop):
    raw = {
        "stage_name": "answer",
        "stage_type": "transform",
        "stage_id": "limit",
        "parameters": {"limit": 3},
        "batch_size": 5,
    }
    shown = shop.engine.normalise([raw])
    assert shown[0] == {
        "stage_name": "answer",
        "stage_type": "apply",
        "declared_stage_type": "transform",
        "config": {"stage_id": "limit", "parameters": {"limit": 3}},
        "parameters": {"limit": 3},
        "batch_size": "5",
        "description": None,
        "on_error": "error",
        "output_alias": None,
    }
    assert shop.engine.normalise(shown)[0]["declared_stage_type"] == "transform"
    named = shop.engine.normalise([stage("limit"), stage("limit")])
    assert [entry["stage_name"] for entry in named] == ["limit", "limit_1"]
    assert named[0]["stage_type"] == "reduce"


def test_the_vector_search_of_the_ergonomic_client_works(shop: Shop):
    parameters = {
        "searches": [
            {"feature_uri": "raw_8", "query": {"input_mode": "vector", "value": [1, 0, 0, 0, 0, 0, 0, 0]}, "top_k": 5}
        ],
        "final_top_k": 5,
    }
    raw = {
        "stage_name": "feature_search",
        "stage_type": "filter",
        "config": {"stage_id": "feature_search", "parameters": parameters},
    }
    plan = shop.compile(raw, views=[ARTICLES, RAW])
    body = shop.execute(plan, {"inputs": {}, "filters": {"n": {"lt": 3}}})
    assert ids(body) == ["v0", "v1", "v2"]


def test_the_filtered_search_of_the_ergonomic_client_filters(shop: Shop):
    stages = [
        {"type": "attribute_filter", "conditions": {"category": "thing"}},
        {
            "type": "feature_search",
            "feature_extractor": {"type": "text"},
            "query": "red fox",
            "collection_ids": [],
            "limit": 10,
        },
    ]
    assert sorted(ids(shop.execute(shop.compile(*stages), {"inputs": {"query": "red fox"}}))) == ["a4", "a5"]


@pytest.mark.parametrize(
    ("raw", "place", "message"),
    [
        (stage("feature_serch"), "stages.0.config.stage_id", "did you mean 'feature_search'"),
        ({"parameters": {}}, "stages.0.config.stage_id", "there is no stage"),
        ("limit", "stages.0", "must be an object"),
        (stage("limit", limit=0), "stages.0.config.parameters.limit", "greater than or equal to 1"),
        (stage("limit", limit="x{{INPUT.n}"), "stages.0.config.parameters.limit", "not accepted"),
        ({**stage("limit"), "on_error": "explode"}, "stages.0.on_error", "error or skip"),
        (stage("limit", limit="{{nope}}"), "stages.0.config.parameters.limit", "INPUT"),
        (stage("limit", limit="{{INPUT.__class__}}"), "stages.0.config.parameters.limit", "__class__"),
        (text_search("x", fusion="magic"), "stages.0.config.parameters.fusion", "'rrf'"),
        (stage("feature_search", searches="all"), "stages.0.config.parameters.searches", "list"),
        (stage("feature_search", searches=[SEARCHES[0]] * 11), "stages.0.config.parameters.searches", "at most 10"),
        (
            stage("feature_search", searches=[{"feature_uri": TEXT_URI + "x", "query": "a"}]),
            "stages.0.config.parameters.searches.0.feature_uri",
            "did you mean",
        ),
        (
            stage("feature_search", searches=[{**SEARCHES[0], "collection_identifiers": ["col_zzz"]}]),
            "stages.0.config.parameters.searches.0.collection_identifiers",
            "col_zzz",
        ),
        (
            stage("feature_search", searches=[{**SEARCHES[0], "top_k": 5001}]),
            "stages.0.config.parameters.searches.0.top_k",
            "5000",
        ),
        (
            text_search("x", filters={"field": "a", "operator": "resembles", "value": 1}),
            "stages.0.config.parameters.filters.operator",
            "resembles",
        ),
        ({**text_search("x"), "pre_filters": {"AND": 5}}, "stages.0.config.pre_filters", "object"),
        ({**text_search("x"), "pre_filters": {"a": "{{DOC.b}}"}}, "stages.0.config.pre_filters", "DOC"),
        (stage("attribute_filter"), "stages.0.config.parameters.conditions", "required"),
        (
            stage("attribute_filter", natural_language="like {{DOC.text}}"),
            "stages.0.config.parameters.natural_language",
            "DOC",
        ),
        (stage("sort_attribute", field="a", direction="up"), "stages.0.config.parameters.direction", "'desc'"),
    ],
)
def test_what_cannot_work_is_refused_at_create_with_its_place(shop: Shop, raw, place, message):
    with pytest.raises(ValidationError) as caught:
        shop.compile(raw)
    places = [".".join(map(str, error.loc)) for error in caught.value.errors]
    assert any(found.startswith(place) for found in places), places
    assert message in caught.value.message


@pytest.mark.parametrize("raw", [None, [], {}, "limit"])
def test_a_retriever_has_at_least_one_stage(shop: Shop, raw):
    with pytest.raises(ValidationError, match="stages"):
        shop.engine.compile(raw, [ARTICLES])


def test_all_offences_are_reported_together(shop: Shop):
    with pytest.raises(ValidationError) as caught:
        shop.compile(stage("limit", limit=0), {**stage("limit", limit=-1), "stage_name": "other"})
    assert [error.loc[1] for error in caught.value.errors] == [0, 1]
    same = {**stage("limit"), "stage_name": "x"}
    with pytest.raises(ValidationError, match="used twice"):
        shop.compile(same, same)


def test_a_template_may_only_read_declared_inputs(shop: Shop):
    with pytest.raises(ValidationError, match=r"INPUT\.query.*did you mean 'querry'"):
        shop.compile(text_search(), schema={"querry": {"type": "string"}})
    assert shop.compile(text_search()).inputs == {"query"}


def test_unknown_parameters_are_warned_about_or_refused(shop: Shop):
    raw = stage("limit", limt=3)
    body = shop.run(text_search("red fox"), raw)
    assert "did you mean 'limit'" in body["warnings"][0]
    strict = Shop(options={"strict": True})
    with pytest.raises(ValidationError, match=r"stages\.1.*limt.*did you mean 'limit'"):
        strict.compile(text_search("red fox"), raw)


def test_a_text_query_on_vectors_written_directly_is_refused(shop: Shop):
    raw = stage("feature_search", searches=[{"feature_uri": "raw_8", "query": {"input_mode": "text", "value": "x"}}])
    with pytest.raises(ValidationError, match="input_mode vector"):
        shop.compile(raw, views=[RAW])
    picture = VectorIndex("p", "mixpeek://image_extractor@v1/p", 8, model="p", modalities=("image",))
    raw = stage("feature_search", searches=[{"feature_uri": "p", "query": {"input_mode": "text", "value": "x"}}])
    with pytest.raises(ValidationError, match="cannot be searched with text; it takes image"):
        shop.compile(raw, views=[CollectionView("col_p", "p", (picture,), {})])


def test_a_stage_that_gets_no_documents_is_a_warning(shop: Shop):
    body = shop.run(stage("limit"), text_search("red fox"))
    assert "comes first" in body["warnings"][0]


def test_templates_in_any_typed_position_are_accepted_and_checked_when_known(shop: Shop):
    raw = stage(
        "feature_search",
        searches=[
            {"feature_uri": "{{INPUT.uri}}", "query": "red fox", "top_k": "{{INPUT.k}}", "filters": "{{INPUT.filter}}"}
        ],
        final_top_k="{{INPUT.n}}",
        fusion="{{INPUT.fusion}}",
    )
    plan = shop.compile(raw)
    given = {"uri": TEXT_URI, "k": 3, "n": 2, "fusion": "max", "filter": {"price": {"gte": 1}}}
    assert len(ids(shop.execute(plan, {"inputs": given}))) == 2
    with pytest.raises(ValidationError, match=r"stages\.0\.config\.parameters\.fusion"):
        shop.execute(plan, {"inputs": {**given, "fusion": "magic"}})
    with pytest.raises(ValidationError, match="nope"):
        shop.execute(plan, {"inputs": {**given, "uri": "nope"}})


def test_a_plan_knows_its_features_fusion_and_inputs(shop: Shop):
    plan = shop.compile(stage("feature_search", **PARAMETERS), stage("limit", limit="{{INPUT.n}}"))
    assert (plan.feature_uris, plan.fusion, plan.inputs) == ((TEXT_URI,), "rrf", {"query", "n"})
    assert shop.compile(stage("feature_search", **PARAMETERS), stage("limit", limit="{{INPUT.n}}")).key == plan.key
    assert shop.compile(stage("feature_search", **PARAMETERS)).key != plan.key


def test_collections_are_found_wherever_a_body_names_them():
    body = {
        "collection_identifiers": ["a"],
        "stages": [
            {"config": {"parameters": {"collection_ids": ["b"], "searches": [{"collection_identifiers": ["c", "a"]}]}}},
            {"type": "feature_search", "collection_ids": ["d"]},
            {"stage_id": "x", "parameters": {"collection_id": "{{INPUT.c}}"}},
        ],
    }
    assert declared_collections(body) == ["a", "b", "c", "d"]


def test_the_registry_lists_every_stage_for_any_client(shop: Shop):
    entries = shop.engine.registry()
    assert {e["stage_id"] for e in entries} >= {
        "attribute_filter",
        "feature_search",
        "limit",
        "sort_attribute",
        "sort_relevance",
    }
    assert all(e["category"] in ("filter", "sort", "reduce", "apply", "enrich") for e in entries)
    assert all(e["parameter_schema"]["type"] == "object" and e["description"] and e["icon"] for e in entries)
    reducing = {e["stage_id"] for e in shop.engine.registry("reduce")}
    assert "limit" in reducing
    assert not reducing & {"feature_search", "sort_attribute"}


def test_duplicate_stage_ids_are_a_programming_error(shop: Shop):
    found = list(shop.engine.stages.stages.values())
    with pytest.raises(ValueError, match="two stages"):
        Shop(options={"stages": [*found, found[0]]})


def test_a_static_plan_shares_its_parameters(shop: Shop):
    plan = shop.compile(text_search("red fox"), views=[REVIEWS])
    assert plan.stages[0].params({}, []) is plan.stages[0].params({}, [])
