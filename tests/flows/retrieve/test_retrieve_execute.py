"""The engine around the stages: filters, failures, budgets, templates, answers."""

from __future__ import annotations

import asyncio
import json

import pytest
from pydantic import BaseModel
from retrieve_shop import ARTICLES, Shop, ids, stage, text_search

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.stages import Stage
from mediatheca.stages import stage as make_stage

KEYS = {
    *("execution_id", "retriever_id", "status", "documents", "results", "final_results", "pagination", "budget"),
    *("stage_statistics", "stage_results", "execution_time", "warnings", "degraded", "limits", "interpretation"),
}


class Nothing(BaseModel):
    hard_timeout_ms: int | None = None
    interactive: bool = False
    text: str = ""


@make_stage("broken", kind="apply", params=Nothing)
async def broken(hits, params, ctx):
    """Always fails."""
    raise RuntimeError("the key hunter22 was refused")


@make_stage("unavailable", kind="apply", params=Nothing)
async def unavailable(hits, params, ctx):
    """Its backend is away."""
    raise UnavailableError("the reranker is not there")


@make_stage("slow", kind="apply", params=Nothing)
async def slow(hits, params, ctx):
    """Takes long."""
    await asyncio.sleep(120)
    return hits


@make_stage("slow_search", kind="filter", params=Nothing, starts=True)
async def slow_search(hits, params, ctx):
    """Takes long to find."""
    ctx.side["tries"] = ctx.side.get("tries", 0) + 1
    await asyncio.sleep(120)
    return hits


@make_stage("echo", kind="apply", params=Nothing)
async def echo(hits, params, ctx):
    """Writes rendered text into every document."""
    for hit in hits:
        hit.payload["echo"] = ctx.render(params.text, hit)
    return hits


@pytest.fixture
def shop() -> Shop:
    found = [*discover("mediatheca.stages", Stage), broken, unavailable, slow, slow_search, echo]
    return Shop(options={"stages": found})


def test_the_answer_satisfies_every_client(shop: Shop):
    body = shop.execute(shop.compile(text_search("red fox")), {}, retriever_id="ret_1")
    assert body.keys() >= KEYS
    assert body["documents"] == body["results"] == body["final_results"]
    assert body["retriever_id"] == "ret_1"
    assert body["execution_id"].startswith("exec_")
    top = body["documents"][0]
    assert top["text"] == "red fox"
    assert top["metadata"] == {}
    assert top["feature_id"] == top["document_id"]
    assert top["source_object_id"] == "obj_1"
    assert isinstance(top["score"], float)
    assert json.dumps(body)


def test_statistics_are_kept_per_stage(shop: Shop):
    body = shop.run(text_search("red fox", final_top_k=4), stage("limit", limit=1), optimize="off")
    entry = body["stage_statistics"]["stages"]["limit"]
    assert (entry["input_count"], entry["output_count"], entry["efficiency"]) == (4, 1, 0.25)
    assert [result["stage_name"] for result in body["stage_results"]] == ["feature_search", "limit"]


def test_request_filters_pre_filters_and_post_filters_all_apply(shop: Shop):
    search = text_search(
        "red fox", pre_filters={"price": {"gte": 1}}, post_filters={"field": "category", "value": "animal"}
    )
    body = shop.run(search, filters={"AND": [{"field": "price", "operator": "lte", "value": 4}]})
    assert sorted(ids(body)) == ["a1", "a2", "a3"]


def test_pre_filters_of_a_later_stage_narrow_what_it_gets(shop: Shop):
    body = shop.run(text_search("red fox"), {**stage("limit", limit=5), "pre_filters": {"price": {"lt": 2}}})
    assert sorted(ids(body)) == ["a0", "a1"]


def test_filters_inside_inputs_count_as_filters(shop: Shop):
    plan = shop.compile(text_search(), schema={"query": {"type": "string"}})
    body = shop.execute(plan, {"inputs": {"query": "red fox", "filters": {"price": 1}}})
    assert ids(body) == ["a1"]
    assert body["interpretation"]["ignored_input_keys"] == []


def test_an_attribute_filter_before_a_search_narrows_the_search(shop: Shop):
    body = shop.run(
        stage("attribute_filter", field="price", operator="lt", value=2), text_search("red fox", final_top_k=3)
    )
    assert sorted(ids(body)) == ["a0", "a1"]
    assert shop.searcher.calls["scroll"] == 0
    assert body["optimization_applied"] is True
    assert body["stage_statistics"]["stages"]["attribute_filter"]["metadata"] == {"pushed_into": "feature_search"}


def test_a_condition_without_its_input_is_relaxed_and_reported(shop: Shop):
    found = text_search("red fox", pre_filters={"field": "category", "value": "{{INPUT.category}}"})
    everything = shop.run(found)
    assert len(ids(everything)) == 8
    assert everything["interpretation"]["relaxations"] == [
        {"field": "category", "template": "{{INPUT.category}}", "place": "stages.0.config.pre_filters.value"}
    ]
    assert len(ids(shop.run(found, inputs={"category": "thing"}))) == 2


def test_mandatory_constraints_are_never_relaxed_and_hold_for_every_read(shop: Shop):
    only_cheap = parse_filter({"field": "price", "operator": "lte", "value": 1})
    plans = [
        shop.compile(text_search("red fox")),
        shop.compile(text_search("red fox", filters={"price": "{{INPUT.nope}}"})),
        shop.compile(text_search("{{INPUT.q}}", on_empty="random")),
        shop.compile(stage("attribute_filter", conditions={"OR": [{"price": 1}, {"price": {"gte": 0}}]})),
        shop.compile(stage("feature_search", searches=[{"query": "red fox", "lexical": True}])),
    ]
    for plan in plans:
        found = shop.execute(plan, {}, filter=only_cheap)
        assert sorted(ids(found)) == ["a0", "a1"], plan
    facets = shop.execute(shop.compile(text_search("fox", facets=["price"])), {}, filter=only_cheap)["facets"]
    assert {value["value"] for value in facets[0]["values"]} == {0, 1}
    hidden = {"input_mode": "document", "document_ref": {"collection_id": "col_a", "document_id": "a4"}}
    plan = shop.compile(stage("feature_search", searches=[{"feature_uri": "hashed_words_for_tests", "query": hidden}]))
    with pytest.raises(Exception, match="not found"):
        shop.execute(plan, {}, filter=only_cheap)


def test_a_failing_stage_fails_the_execution_and_says_so(shop: Shop):
    body = shop.execute(shop.compile(text_search("red fox"), stage("broken")), {}, secrets={"k": "hunter22"})
    assert body["status"] == "failed"
    assert body["documents"] == []
    assert "broken" in body["error"]
    assert "hunter22" not in json.dumps(body)
    assert body["stage_statistics"]["stages"]["broken"]["error"]


@pytest.mark.parametrize("failing", ["broken", "unavailable"])
def test_on_error_skip_keeps_the_documents_and_degrades(shop: Shop, failing):
    body = shop.run(text_search("red fox"), {**stage(failing), "on_error": "skip"}, stage("limit", limit=2))
    assert ids(body) == ["a0", "b0"]
    assert body["status"] == "degraded"
    assert body["degraded"][0]["stage"] == failing
    assert set(body["degraded"][0]) == {"resource", "id", "reason", "next_step", "stage"}


def test_a_missing_backend_is_an_error_that_names_it(shop: Shop):
    with pytest.raises(UnavailableError, match="reranker"):
        shop.run(text_search("red fox"), stage("unavailable"))


def test_a_stage_that_takes_too_long_keeps_the_incoming_order(shop: Shop):
    body = shop.run(text_search("red fox"), stage("slow", hard_timeout_ms=10))
    assert ids(body)[0] == "a0"
    assert body["status"] == "degraded"
    assert "10 ms" in body["degraded"][0]["reason"]


@pytest.mark.parametrize(("interactive", "tries"), [(False, 2), (True, 1)])
def test_a_search_that_takes_too_long_is_tried_again_unless_interactive(shop: Shop, interactive, tries):
    plan = shop.compile(
        stage("slow_search", hard_timeout_ms=10, interactive=interactive), stage("slow_search", hard_timeout_ms=1)
    )
    body = shop.execute(shop.compile(stage("slow_search", hard_timeout_ms=10, interactive=interactive)))
    assert plan.stages[1].name == "slow_search_1"
    assert body["documents"] == []
    assert body["status"] == "degraded"
    assert body["warnings"]
    assert "did not answer within 10 ms" in body["diagnostics"]["summary"]


def test_the_time_budget_stops_the_walk_with_what_there_is(shop: Shop):
    plan = shop.compile(text_search("red fox"), stage("slow"), stage("limit", limit=1))
    for limit_ms in (30, 3_000, 30_000):  # on a busy machine the search alone may take the first
        body = shop.execute(plan, {}, max_time_ms=limit_ms)
        assert body["status"] == "degraded"
        if ids(body):
            break
    assert len(ids(body)) == 8
    assert "limit" not in body["stage_statistics"]["stages"]


def test_a_ceiling_on_the_timeout_is_reported(shop: Shop):
    body = shop.run(text_search("red fox", hard_timeout_ms=10**9))
    assert body["limits"] == [
        {"name": "hard_timeout_ms", "requested": 10**9, "applied": 60_000, "ceiling": 60_000, "stage": "feature_search"}
    ]


def test_a_degraded_index_is_said_once_per_collection(shop: Shop):
    shop.searcher.degraded = True
    body = shop.run(text_search("red fox", facets=["price"]))
    assert body["status"] == "degraded"
    assert [entry["id"] for entry in body["degraded"]] == ["col_a", "col_b"]
    assert len(ids(body)) == 8


def test_stages_see_documents_earlier_stages_and_aliases_in_templates(shop: Shop):
    text = (
        "{{DOC.document_id}} {{STAGE.feature_search.count}} {{CONTEXT.found[0].document_id}} {{INPUT.q}} {{DOC.nope}}"
    )
    body = shop.run(
        text_search("red fox", output_alias="found", final_top_k=2), stage("echo", text=text), inputs={"q": "?"}
    )
    assert body["documents"][1]["echo"] == "b0 2 a0 {{INPUT.q}} ".replace("{{INPUT.q}}", "?")


def test_an_empty_result_says_why(shop: Shop):
    body = shop.run(text_search("red fox"), filters={"category": "plant"})
    assert body["status"] == "completed"
    assert "holds other values" in body["diagnostics"]["summary"]
    assert "animal" in body["diagnostics"]["fields"][0]["samples"]
    body = shop.run(text_search("red fox"), stage("attribute_filter", field="colour", value="red"), optimize="off")
    assert "not a field" in body["diagnostics"]["summary"]
    assert body["diagnostics"]["stages"]["attribute_filter"] == [8, 0]
    assert "stage 'attribute_filter' got 8 documents and left none" in body["diagnostics"]["summary"]


def test_zero_documents_stay_zero_without_listing_anything(shop: Shop):
    body = shop.run(
        text_search("red fox", min_score=1.5),
        stage("attribute_filter", price=1),
        stage("sort_attribute", field="price"),
        stage("limit"),
    )
    assert ids(body) == []
    assert shop.searcher.calls["scroll"] == 0


def test_sort_select_group_and_vectors_shape_the_final_result(shop: Shop):
    body = shop.run(
        text_search("red fox"), sort=[{"field": "price", "direction": "desc"}], select=["price", "metadata", "text"]
    )
    assert [d.get("price") for d in body["documents"]][:3] == [99, 5, 4]
    assert set(body["documents"][0]) == {
        "document_id",
        "collection_id",
        "score",
        "feature_id",
        "price",
        "metadata",
        "text",
    }
    body = shop.run(text_search("red fox"), group_by={"field": "category", "max_features": 2, "sort": "price:desc"})
    assert [(group["key"], len(group["group"])) for group in body["final_results"]] == [
        ("animal", 2),
        (None, 2),
        ("thing", 2),
    ]
    assert body["final_results"][0]["group"][0]["document_id"] == "a3"
    assert len(body["documents"]) == 6
    body = shop.run(text_search("red fox"), return_vectors=True, limit=1)
    assert len(body["documents"][0]["vectors"][ARTICLES.vectors[0].name]) == 64


def test_blob_keys_become_addresses_when_asked(shop: Shop):
    document = shop.searcher.documents["col_a"]["a0"]
    document.payload["thumbnail_url"] = "org/thumb.jpg"
    document.system["document_blobs"] = [{"field": "thumbnail_url", "key": "org/thumb.jpg"}]
    document.system["source_blobs"] = [{"field": "image", "key": "", "url": "https://x/y.jpg"}]
    top = shop.run(text_search("red fox"), return_urls=True)["documents"][0]
    assert top["thumbnail_url"] == "/v1/blobs/org/thumb.jpg?signed"
    assert top["source_blobs"][0]["presigned_url"] == "https://x/y.jpg"
    assert document.system["document_blobs"][0] == {"field": "thumbnail_url", "key": "org/thumb.jpg"}
    assert shop.run(text_search("red fox"))["documents"][0]["thumbnail_url"] == "org/thumb.jpg"


def test_inputs_are_checked_filled_and_reported(shop: Shop):
    schema = {"properties": {"query": {"type": "string", "required": True}, "n": {"type": "integer", "default": 2}}}
    plan = shop.compile(text_search(), stage("limit", limit="{{INPUT.n}}"), schema=schema)
    body = shop.execute(plan, {"inputs": {"query": "red fox", "top_k": 5}})
    assert len(ids(body)) == 2
    assert body["interpretation"] == {
        "provided_input_keys": ["query", "top_k"],
        "inferred_inputs": {"n": 2},
        "ignored_input_keys": ["top_k"],
        "relaxations": [],
    }
    with pytest.raises(ValidationError, match=r"inputs\.query"):
        shop.execute(plan, {"inputs": {}})
    with pytest.raises(ValidationError, match=r"stages\.1\.config\.parameters\.limit"):
        shop.execute(plan, {"inputs": {"query": "x", "n": 10**6}})


def test_a_retriever_that_is_executed_twice_does_not_remember(shop: Shop):
    plan = shop.compile(text_search(filters={"price": "{{INPUT.price}}"}), stage("echo", text="x{{INPUT.price}}"))
    first = shop.execute(plan, {"inputs": {"query": "red", "price": 1}})
    second = shop.execute(plan, {"inputs": {"query": "red", "price": 4}})
    assert (ids(first), ids(second)) == (["a1"], ["a4"])


def test_concurrent_executions_do_not_see_each_other(shop: Shop):
    plan = shop.compile(text_search(filters={"price": "{{INPUT.price}}"}))

    async def together():
        runs = [
            shop.engine.execute(plan, {"inputs": {"query": "red", "price": n % 6}}, ExecutionContext())
            for n in range(60)
        ]
        return await asyncio.gather(*runs)

    for n, body in enumerate(asyncio.run(together())):
        assert ids(body) == [f"a{n % 6}"]


def test_an_explained_execution_shows_its_stages(shop: Shop):
    body = shop.run(text_search("red fox"), explain=True)
    assert body["explain_plan"]["stages"][0]["stage_id"] == "feature_search"
    assert "explain_plan" not in shop.run(text_search("red fox"))


@pytest.mark.parametrize("depth", [10, 11])
def test_filters_are_ten_deep_at_most(shop: Shop, depth):
    tree: dict = {"field": "price", "operator": "gte", "value": 0}
    for _ in range(depth - 1):
        tree = {"AND": [tree]}
    if depth == 10:
        assert len(ids(shop.run(text_search("red fox"), filters=tree))) == 7
    else:
        with pytest.raises(ValidationError, match="deep"):
            shop.run(text_search("red fox"), filters=tree)


def test_a_not_with_a_list_means_none_of_them(shop: Shop):
    tree = {"NOT": [{"field": "category", "value": "animal"}, {"field": "price", "value": 5}]}
    assert sorted(ids(shop.run(text_search("red fox"), filters=tree))) == ["a1", "a4", "b0"]


def test_a_catastrophic_pattern_is_harmless(shop: Shop):
    shop.searcher.documents["col_a"]["a0"].payload["text"] = "a" * 50_000 + "!"
    tree = {"field": "text", "operator": "regex", "value": "^(a+)+$"}
    assert ids(shop.run(text_search("red fox"), filters=tree)) == []
