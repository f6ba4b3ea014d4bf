"""Every way of paging shows one ranking: nothing twice, nothing left out, whatever is written or deleted meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from retrieve_shop import ARTICLES, Shop, ids, stage, text_search

from mediatheca.flows.retrieve import paging
from mediatheca.kernel.errors import ValidationError
from mediatheca.testing.stages import text_documents

SEARCH = text_search("red fox", final_top_k=60, filters={"price": {"gte": 100}})
METHODS = ("cursor", "scroll", "offset", "page", "keyset")
WRITES = st.lists(st.tuples(st.sampled_from(["write", "delete", "change"]), st.integers(0, 59)), max_size=4)


def filled(count: int) -> Shop:
    made = Shop()
    rows = [{"document_id": f"m{n:02}", "text": "red fox " + "x " * (n % 7), "price": 100 + n} for n in range(count)]
    made.searcher.add(ARTICLES, text_documents(ARTICLES, rows))
    return made


def pages(shop: Shop, plan: Any, method: str, limit: int, **more: Any) -> Iterator[dict[str, Any]]:
    """The pages of one walk, as far as `has_next` leads."""
    paging, number = {"method": "offset" if method == "page" else method, "limit": limit}, 1
    while True:
        body = shop.execute(plan, {"pagination": paging, **more})
        yield body
        told = body["pagination"]
        if not told["has_next"]:
            return
        number += 1
        step = {
            "cursor": {"cursor": told.get("cursor")},
            "scroll": {"scroll_id": told.get("scroll_id")},
            "offset": {"offset": (number - 1) * limit},
            "page": {"page_number": number},
            "keyset": {"after": told.get("after")},
        }
        paging = {**paging, **step[method]}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    count=st.integers(0, 40),
    limit=st.integers(1, 13),
    method=st.sampled_from(METHODS),
    rounds=st.lists(WRITES, max_size=8),
    sort=st.sampled_from([None, "-price", "text"]),
    whole=st.booleans(),
)
def test_pages_neither_overlap_nor_skip(count, limit, method, rounds, sort, whole):
    shop = filled(count)
    plan = shop.compile(SEARCH, stage("limit", limit=60)) if whole else shop.compile(SEARCH)
    more = {"sort": sort} if sort else {}
    expected = ids(shop.execute(plan, {"limit": 100, **more}))
    assert len(expected) == count
    seen: list[str] = []
    deleted: set[str] = set()
    for number, body in enumerate(pages(shop, plan, method, limit, **more)):
        seen += ids(body)
        for what, which in rounds[number] if number < len(rounds) else ():
            name = f"m{which:02}"
            if which >= count and what != "write":
                continue
            if what == "delete" and name not in deleted:
                shop.searcher.delete("col_a", name)
                deleted.add(name)
            elif what != "delete":
                ident = f"new{number}-{which}" if what == "write" else name
                if ident in deleted:
                    continue
                row = {"document_id": ident, "text": "red fox", "price": 100 + which}
                shop.searcher.add(ARTICLES, text_documents(ARTICLES, [row]))
    assert len(seen) == len(set(seen))
    assert [name for name in seen if name not in deleted] == [name for name in expected if name not in deleted]


@pytest.mark.parametrize("method", METHODS)
def test_groups_are_paged_from_one_ranking_too(method):
    shop = filled(20)
    plan = shop.compile(SEARCH)
    found = []
    for body in pages(shop, plan, method, 3, group_by={"field": "price"}):
        found += [group["key"] for group in body["final_results"]]
        shop.searcher.add(
            ARTICLES, text_documents(ARTICLES, [{"document_id": f"w{len(found)}", "text": "red fox", "price": 500}])
        )
    assert len(found) == len(set(found)) == 20


def test_a_deleted_mark_does_not_displace_a_keyset_page():
    shop = filled(20)
    plan = shop.compile(SEARCH)
    expected = ids(shop.execute(plan, {"limit": 60}))
    first = shop.execute(plan, {"pagination": {"method": "keyset", "limit": 5}})
    after = first["pagination"]["after"]
    shop.searcher.delete("col_a", after["id"])
    for mark in (after, {"id": after["id"], "score": after["score"]}):
        second = shop.execute(plan, {"pagination": {"method": "keyset", "limit": 5, "after": mark}})
        assert ids(second) == expected[5:10]


@pytest.mark.parametrize("sort", [None, "-price", "text"])
def test_a_keyset_page_carries_its_sort_keys_beyond_the_memory_of_the_ranking(sort, monkeypatch):
    shop = filled(20)
    plan = shop.compile(SEARCH)
    more = {"sort": sort} if sort else {}
    expected = ids(shop.execute(plan, {"limit": 60, **more}))
    first = shop.execute(plan, {"pagination": {"method": "keyset", "limit": 6}, **more})
    after = first["pagination"]["after"]
    assert ("sort" in after) is (sort is not None)
    shop.searcher.delete("col_a", after["id"])
    monkeypatch.setattr(paging, "TTL_S", -1)
    second = shop.execute(plan, {"pagination": {"method": "keyset", "limit": 5, "after": after}, **more})
    assert not set(ids(first)) & set(ids(second))
    assert set(ids(second)) <= set(expected[5:12])
    assert "expired" in " ".join(second["warnings"])


def test_a_mark_of_the_wrong_type_is_refused():
    shop = filled(5)
    plan = shop.compile(SEARCH)
    for mark in ({"ranking": 5}, {"ranking": "x"}, {"id": "gone"}):
        with pytest.raises(ValidationError, match="after"):
            shop.execute(plan, {"pagination": {"method": "keyset", "after": mark}})


def test_an_offset_beyond_an_undeclared_depth_looks_deeper_without_repeating():
    shop = filled(40)
    plan = shop.compile(text_search("red fox", top_k=100, filters={"price": {"gte": 100}}))
    seen = []
    for offset in range(0, 40, 10):
        body = shop.execute(plan, {"limit": 10, "offset": offset})
        seen += ids(body)
        shop.searcher.add(
            ARTICLES, text_documents(ARTICLES, [{"document_id": f"w{offset}", "text": "red fox", "price": 150}])
        )
    assert len(seen) == len(set(seen)) == 40


def test_two_askers_do_not_share_a_walk_by_offset():
    shop = filled(20)
    plan = shop.compile(SEARCH)
    mine = ids(shop.execute(plan, {"limit": 5}, principal="me"))
    shop.searcher.add(ARTICLES, text_documents(ARTICLES, [{"document_id": "top", "text": "red fox", "price": 100}]))
    theirs = shop.execute(plan, {"limit": 5}, principal="you")
    assert theirs["pagination"]["total"] == 21
    second = shop.execute(plan, {"limit": 5, "offset": 5}, principal="me")
    assert second["pagination"]["total"] == 20
    assert not set(mine) & set(ids(second))


def test_a_later_page_says_when_its_ranking_was_made():
    shop = filled(20)
    plan = shop.compile(SEARCH)
    first = shop.execute(plan, {"limit": 5})
    second = shop.execute(plan, {"limit": 5, "cursor": first["pagination"]["cursor"]})
    assert first["ranked_at"] == second["ranked_at"]


def test_later_pages_of_a_degraded_ranking_stay_degraded():
    shop = filled(20)
    bad = {**stage("sort_attribute", field="{{ [] | first | round }}"), "on_error": "skip", "stage_name": "bad"}
    plan = shop.compile(
        SEARCH, stage("aggregate", aggregations=[{"function": "count", "alias": "n"}], include_documents=True), bad
    )
    first = shop.execute(plan, {"limit": 5})
    assert first["status"] == "degraded"
    for more in ({"cursor": first["pagination"]["cursor"]}, {"offset": 5}):
        second = shop.execute(plan, {"limit": 5, **more})
        assert ids(second)
        for name in ("status", "degraded", "limits", "aggregations", "completeness", "seed"):
            assert second[name] == first[name], name
        assert set(first["warnings"]) <= set(second["warnings"])


def test_a_later_page_is_explained_by_running_again():
    shop = filled(20)
    plan = shop.compile(SEARCH)
    first = shop.execute(plan, {"limit": 5})
    second = shop.execute(plan, {"limit": 5, "cursor": first["pagination"]["cursor"], "explain": True})
    assert [d["explanation"]["final"]["rank"] for d in second["documents"]] == [6, 7, 8, 9, 10]
    assert second["explain_plan"]["stages"][0]["output_count"] == 20
