"""Results that are shown again, and when they are not."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from pydantic import BaseModel
from retrieve_shop import ARTICLES, Shop, ids, stage, text_search

from mediatheca.flows.retrieve.cache import MAX_ENTRY_BYTES, CachePolicy, ResultCache, cache_policy
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.stages import Stage
from mediatheca.stages import stage as make_stage
from mediatheca.testing.stages import text_documents

POLICY = CachePolicy(60)
RUNS: Counter[str] = Counter()


class Label(BaseModel):
    text: str = ""


@make_stage("labelled", kind="apply", params=Label)
async def labelled(hits, params, ctx):
    """Writes a text into every document, in place."""
    RUNS["labelled"] += 1
    for hit in hits:
        hit.payload["label"] = params.text
    return hits


@make_stage("chancy", kind="apply", params=Label)
async def chancy(hits, params, ctx):
    """Depends on chance."""
    ctx.metadata["drawn"] = ctx.seed
    return hits


@make_stage("degrading", kind="apply", params=Label)
async def degrading(hits, params, ctx):
    """Is not well."""
    ctx.degrade("not well", "try again")
    return hits


@pytest.fixture
def shop() -> Shop:
    RUNS.clear()
    return Shop(options={"stages": [*discover("mediatheca.stages", Stage), labelled, chancy, degrading]})


def ask(shop: Shop, plan, query: str = "red fox", cache: CachePolicy | None = POLICY, context=None, **request):
    return shop.execute(plan, {"inputs": {"query": query}, **request}, cache=cache, **(context or {}))


def test_the_same_question_is_answered_from_memory(shop):
    plan = shop.compile(text_search())
    first, searches = ask(shop, plan), shop.searcher.calls["search"]
    second = ask(shop, plan)
    assert (first["cache_hit"], second["cache_hit"]) == (False, True)
    assert second["cached_at"] is not None
    assert shop.searcher.calls["search"] == searches
    assert ids(first) == ids(second)
    assert first["execution_id"] != second["execution_id"]


def test_without_a_policy_nothing_is_kept(shop):
    plan = shop.compile(text_search())
    assert not any(ask(shop, plan, cache=None)["cache_hit"] for _ in range(2))


def test_a_write_makes_the_cache_miss(shop):
    plan = shop.compile(text_search())
    ask(shop, plan)
    shop.searcher.add(ARTICLES, text_documents(ARTICLES, [{"document_id": "new", "text": "red fox"}]))
    after = ask(shop, plan)
    assert after["cache_hit"] is False
    assert "new" in ids(after)


def test_a_delete_makes_the_cache_miss(shop):
    plan = shop.compile(text_search())
    assert "a0" in ids(ask(shop, plan))
    shop.searcher.delete("col_a", "a0")
    assert "a0" not in ids(ask(shop, plan))


@pytest.mark.parametrize(
    "change",
    [{"query": "red dog"}, {"filters": {"price": 1}}, {"sort": {"field": "price"}}, {"limit": 3}],
    ids=["inputs", "filters", "sort", "page size"],
)
def test_another_question_is_another_entry(shop, change):
    plan = shop.compile(text_search())
    ask(shop, plan)
    assert ask(shop, plan, **change)["cache_hit"] is False


def test_tenants_and_constraints_never_share(shop):
    plan = shop.compile(text_search())
    ask(shop, plan, context={"internal_id": "one"})
    assert ask(shop, plan, context={"internal_id": "two"})["cache_hit"] is False
    narrowed = ask(shop, plan, context={"internal_id": "one", "filter": parse_filter({"category": "thing"})})
    assert narrowed["cache_hit"] is False
    assert {d["category"] for d in narrowed["documents"]} == {"thing"}


@pytest.mark.parametrize("policy", [POLICY, CachePolicy(60, frozenset({"labelled"}))], ids=["results", "stages"])
def test_retrievers_with_the_same_stages_do_not_show_each_others_names(shop, policy):
    plan = shop.compile(text_search(), stage("labelled", text="{{CONTEXT.retriever_name}}"))
    for ident in ("a", "b", "a"):
        who = {"retriever_id": f"ret_{ident}", "retriever_name": ident}
        body = shop.execute(plan, {"inputs": {"query": "red"}}, cache=policy, **who)
        assert {document["label"] for document in body["documents"]} == {ident}
    assert body["cache_hit"] is True


def test_stages_with_other_filters_are_other_entries(shop):
    ask(shop, shop.compile(text_search()))
    assert ask(shop, shop.compile(text_search(post_filters={"price": 1})))["cache_hit"] is False


def test_skip_cache_reads_around_it_and_still_writes(shop):
    plan = shop.compile(text_search())
    ask(shop, plan)
    assert ask(shop, plan, skip_cache=True)["cache_hit"] is False
    assert ask(shop, plan)["cache_hit"] is True


@pytest.mark.parametrize("unfit", ["degrading", "chancy"])
def test_degraded_and_random_results_are_not_kept(shop, unfit):
    plan = shop.compile(text_search(), stage(unfit))
    assert not any(ask(shop, plan)["cache_hit"] for _ in range(2))


def test_a_fixed_seed_is_not_random(shop):
    plan = shop.compile(text_search(), stage("chancy"))
    answers = [ask(shop, plan, context={"seed": 7}) for _ in range(2)]
    assert [answer["cache_hit"] for answer in answers] == [False, True]
    assert answers[1]["seed"] == 7


def test_answers_while_the_index_catches_up_are_not_kept(shop):
    plan = shop.compile(text_search())
    shop.searcher.degraded = True
    assert not any(ask(shop, plan)["cache_hit"] for _ in range(2))


def test_templates_that_read_the_clock_are_not_kept(shop):
    plan = shop.compile(text_search(), stage("labelled", text="{{ utc_now() }}"))
    assert plan.clocked
    assert not any(ask(shop, plan)["cache_hit"] for _ in range(2))


def test_urls_are_signed_behind_the_cache(shop):
    rows = [{"document_id": "p", "text": "red fox", "picture_url": "mediatheca://blobs/k.jpg"}]
    shop.searcher.add(ARTICLES, text_documents(ARTICLES, rows))
    plan = shop.compile(text_search())
    plain = ask(shop, plan)
    signed = ask(shop, plan, return_urls=True)
    assert signed["cache_hit"] is True
    assert ids(plain) == ids(signed)


def test_a_cached_stage_is_not_run_again_for_what_comes_after(shop):
    early = {"stage_name": "label", **stage("labelled", text="{{INPUT.query}}")}
    late = {"stage_name": "cut", **stage("limit", limit="{{INPUT.size}}")}
    plan = shop.compile(text_search(), early, late)
    policy = CachePolicy(60, frozenset({"label"}))
    first = shop.execute(plan, {"inputs": {"query": "red fox", "size": 1}}, cache=policy)
    second = shop.execute(plan, {"inputs": {"query": "red fox", "size": 2}}, cache=policy)
    assert RUNS["labelled"] == 1
    assert (len(first["documents"]), len(second["documents"])) == (1, 2)
    assert second["cache_hit"] is False
    statistics = second["stage_statistics"]["stages"]
    assert (statistics["label"]["stage_cache_hit"], statistics["cut"]["stage_cache_hit"]) == (True, False)
    third = shop.execute(plan, {"inputs": {"query": "blue whale", "size": 2}}, cache=policy)
    assert RUNS["labelled"] == 2
    assert third["documents"][0]["label"] == "blue whale"


def test_later_stages_cannot_change_what_a_cached_stage_gave(shop):
    early = {"stage_name": "search", **text_search()}
    late = stage("labelled", text="{{INPUT.word}}")
    plan, policy = shop.compile(early, late), CachePolicy(60, frozenset({"search"}))
    for word in ("one", "two"):
        body = shop.execute(plan, {"inputs": {"query": "red fox", "word": word}}, cache=policy)
        assert {d["label"] for d in body["documents"]} == {word}
    plain = shop.execute(shop.compile(early), {"inputs": {"query": "red fox"}}, cache=policy)
    assert all("label" not in d for d in plain["documents"])


@pytest.mark.parametrize(
    "config",
    [
        *({"ttl_seconds": 0}, {"ttl_seconds": "60"}, {"ttl_seconds": True}, {"cache_stage_names": "a"}),
        *({"ttl_secs": 5}, {"cache_stage_names": ["search"]}, {"enabled": "yes"}, {"exclude_fields": "email"}),
    ],
)
def test_a_wrong_policy_is_refused_with_its_field(config):
    with pytest.raises(ValidationError, match="cache_config"):
        cache_policy(config)


def test_a_policy_that_is_off_or_absent_is_none():
    assert cache_policy(None) is None
    assert cache_policy({"enabled": False, "ttl_seconds": 5}) is None
    assert cache_policy({}) == CachePolicy()


def test_a_key_or_stage_that_means_nothing_is_refused_with_what_was_meant(shop):
    plan = shop.compile({"stage_name": "search", **text_search()})
    with pytest.raises(ValidationError, match="did you mean 'ttl_seconds'"):
        cache_policy({"ttl_second": 5})
    with pytest.raises(ValidationError, match="did you mean 'search'"):
        cache_policy({"cache_stage_names": ["serch"]}, plan.stages)
    assert cache_policy({"cache_stage_names": ["search"], "stats": {"hits": 1}}, plan.stages) is not None


# ---- what a stage says


def named(behavior: str | None = None, ttl: int | None = None, stage_id: str = "labelled", **own) -> dict:
    said = {"cache_behavior": behavior, "cache_ttl_seconds": ttl}
    return stage(stage_id, **own, **{key: value for key, value in said.items() if value is not None})


@pytest.mark.parametrize("said", [{"behavior": "disabled"}, {"ttl": 0}])
def test_a_stage_that_must_not_be_kept_is_never_kept(shop, said):
    plan = shop.compile(text_search(), {"stage_name": "label", **named(**said)}, stage("limit", limit=2))
    policy = CachePolicy(60, frozenset({"label", "limit"}))
    answers = [ask(shop, plan, cache=policy) for _ in range(2)]
    assert RUNS["labelled"] == 2
    assert not any(answer["cache_hit"] for answer in answers)
    statistics = answers[1]["stage_statistics"]["stages"]
    assert not any(entry["stage_cache_hit"] for entry in statistics.values())


def test_what_comes_before_such_a_stage_is_kept(shop):
    plan = shop.compile({"stage_name": "search", **text_search()}, named("disabled"))
    policy = CachePolicy(60, frozenset({"search"}))
    second = [ask(shop, plan, cache=policy) for _ in range(2)][1]
    assert second["stage_statistics"]["stages"]["search"]["stage_cache_hit"] is True
    assert second["cache_hit"] is False


def test_a_stage_shortens_the_time_of_everything_that_holds_its_result(shop, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("mediatheca.flows.retrieve.cache.time.time", lambda: now[0])
    plan = shop.compile(text_search(cache_ttl_seconds=10), {"stage_name": "label", **named()})
    ask(shop, plan, cache=CachePolicy(60, frozenset({"label"})))
    now[0] += 9
    assert ask(shop, plan, cache=CachePolicy(60, frozenset({"label"})))["cache_hit"] is True
    now[0] += 2
    late = ask(shop, plan, cache=CachePolicy(60, frozenset({"label"})))
    assert late["cache_hit"] is False
    assert late["stage_statistics"]["stages"]["label"]["stage_cache_hit"] is False
    assert CachePolicy(5).within(plan.stages).ttl_s == 5


@pytest.mark.parametrize("unsteady", [{"stage_id": "chancy"}, {"text": "{{ utc_now() }}"}], ids=["chance", "the clock"])
def test_an_aggressive_stage_is_kept_whatever_had_a_part_in_it(shop, unsteady):
    plain = shop.compile(text_search(), named(**unsteady))
    eager = shop.compile(text_search(), named("aggressive", **unsteady))
    assert [ask(shop, plain)["cache_hit"] for _ in range(2)] == [False, False]
    assert [ask(shop, eager)["cache_hit"] for _ in range(2)] == [False, True]


def test_an_aggressive_stage_is_kept_for_what_comes_after_without_being_named(shop):
    draw = {"stage_name": "draw", **named("aggressive", stage_id="chancy")}
    plan = shop.compile(text_search(), draw, named(text="{{INPUT.n}}"))
    for n in ("1", "2"):
        body = shop.execute(plan, {"inputs": {"query": "red fox", "n": n}}, cache=POLICY)
    assert body["stage_statistics"]["stages"]["draw"]["stage_cache_hit"] is True
    assert {document["label"] for document in body["documents"]} == {"2"}


def test_one_aggressive_stage_excuses_no_other(shop):
    plan = shop.compile(text_search(cache_behavior="aggressive"), stage("chancy"))
    assert not any(ask(shop, plan)["cache_hit"] for _ in range(2))


def test_degraded_results_are_not_kept_even_aggressively(shop):
    plan = shop.compile(text_search(), named("aggressive", stage_id="degrading"))
    assert not any(ask(shop, plan)["cache_hit"] for _ in range(2))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"cache_behavior": "sometimes"}, "auto"),
        ({"cache_ttl_seconds": -1}, "greater than or equal to 0"),
        ({"cache_ttl_seconds": "{{INPUT.ttl}}"}, "integer"),
        ({"cache_behavior": "aggressive", "fusion": "learned"}, "learned fusion"),
    ],
)
def test_what_a_stage_says_about_keeping_is_checked(shop, parameters, message):
    with pytest.raises(ValidationError, match=message) as caught:
        shop.compile(text_search(**parameters))
    assert caught.value.errors[0].loc[:4] == ("stages", 0, "config", "parameters")


# ---- fields that are never kept


def held(shop) -> str:
    return repr([[hit.payload for hit in kept.value.hits] for kept in shop.engine._cache._held.values()])


def test_excluded_fields_are_not_in_the_cache_and_still_in_the_answer(shop):
    rows = [{"document_id": "p", "text": "red fox", "who": {"email": "ada@example.com", "age": 36}, "pin": 4711}]
    shop.searcher.add(ARTICLES, text_documents(ARTICLES, rows))
    plan, policy = shop.compile(text_search()), CachePolicy(60, exclude=("who.email", "pin"))
    first, second = (ask(shop, plan, cache=policy) for _ in range(2))
    assert (first["cache_hit"], second["cache_hit"]) == (False, True)
    assert first["documents"] == second["documents"]
    shown = next(document for document in second["documents"] if document["document_id"] == "p")
    assert (shown["who"]["email"], shown["pin"]) == ("ada@example.com", 4711)
    assert "36" in held(shop)
    assert "ada@" not in held(shop)
    assert "4711" not in held(shop)


@pytest.mark.parametrize(
    "stages",
    [
        [text_search(facets=["price"])],
        [text_search(highlight={"fields": ["text"]})],
        [text_search(), stage("labelled", text="x")],
    ],
    ids=["facets", "fragments", "a stage that writes"],
)
def test_a_result_that_may_hold_an_excluded_field_elsewhere_is_not_kept(shop, stages):
    plan = shop.compile(*stages)
    assert not any(ask(shop, plan, cache=CachePolicy(60, exclude=("price",)))["cache_hit"] for _ in range(2))
    assert held(shop) == "[]"


def test_excluded_fields_and_cached_stages_cannot_be_combined(shop):
    plan = shop.compile({"stage_name": "search", **text_search()})
    config = {"cache_stage_names": ["search"], "exclude_fields": ["email"]}
    with pytest.raises(ValidationError, match="cannot be combined with cache_stage_names"):
        cache_policy(config, plan.stages)


def test_the_cache_forgets_the_least_recently_used_first():
    cache: ResultCache[int] = ResultCache(max_bytes=30)
    for name in ("a", "b", "c"):
        cache.keep(name, 1, 10, 60)
    cache.find("a")
    cache.keep("d", 1, 10, 60)
    assert [name for name in "abcd" if cache.find(name)] == ["a", "c", "d"]
    cache.keep("huge", 1, MAX_ENTRY_BYTES + 1, 60)
    assert cache.find("huge") is None
    cache.keep("old", 1, 1, -1)
    assert cache.find("old") is None


def test_concurrent_questions_are_all_answered(shop):
    plan = shop.compile(text_search())

    async def many() -> list[dict]:
        from mediatheca.flows.retrieve import ExecutionContext

        context = ExecutionContext(cache=POLICY)
        return await asyncio.gather(
            *(shop.engine.execute(plan, {"inputs": {"query": "red fox"}}, context) for _ in range(8))
        )

    assert len({tuple(ids(body)) for body in asyncio.run(many())}) == 1
