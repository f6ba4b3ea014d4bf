"""Pages: one page size out of five spellings, cursors that hold still, and the limits of both."""

from __future__ import annotations

import base64

import pytest
from retrieve_shop import ARTICLES, Shop, ids, stage, text_search

from mediatheca.flows.retrieve import paging
from mediatheca.flows.retrieve.paging import Snapshots, page_request
from mediatheca.flows.retrieve.request import ExecuteRequest
from mediatheca.kernel.errors import ForbiddenError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.search import Hit
from mediatheca.testing.stages import text_documents


@pytest.fixture
def shop() -> Shop:
    made = Shop()
    rows = [{"document_id": f"m{n:02}", "text": "red fox " + "x " * n, "price": n} for n in range(30)]
    made.searcher.add(ARTICLES, text_documents(ARTICLES, rows))
    return made


SEARCH = text_search("red fox", final_top_k=30, filters={"price": {"lt": 40}})


def page_of(body: dict) -> tuple[str, int | None, int]:
    page = page_request(ExecuteRequest.parse(body))
    return page.method, page.limit, page.offset


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ("cursor", None, 0)),
        ({"limit": 7}, ("cursor", 7, 0)),
        ({"page_size": 6}, ("cursor", 6, 0)),
        ({"settings": {"limit": 5}}, ("cursor", 5, 0)),
        ({"limit": 7, "page_size": 6, "settings": {"limit": 5}}, ("cursor", 7, 0)),
        ({"limit": 7, "pagination": {"method": "offset", "page_size": 3, "page_number": 4}}, ("offset", 3, 9)),
        ({"limit": 5, "offset": 10}, ("offset", 5, 10)),
        ({"limit": 5, "page": 3}, ("offset", 5, 10)),
        ({"settings": {"limit": 5, "offset": 2}}, ("offset", 5, 2)),
        ({"pagination": {"limit": 4}}, ("cursor", 4, 0)),
        ({"pagination": {"limit": 4, "offset": 8}}, ("offset", 4, 8)),
        ({"pagination": {"method": "scroll", "limit": 900}}, ("scroll", 900, 0)),
        ({"pagination": {"after": {"score": 1, "id": "x"}}}, ("keyset", None, 0)),
    ],
)
def test_a_page_is_asked_for_in_many_ways(body, expected):
    assert page_of(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        {"limit": 0},
        {"limit": 501},
        {"limit": "many"},
        {"offset": -1},
        {"offset": 10_001},
        {"page": 0},
        {"page": 300, "limit": 500},
        {"settings": {"limit": 0}},
        {"settings": {"limit": "5"}},
        {"pagination": {"method": "telepathy"}},
        {"pagination": {"limit": 501}},
        {"pagination": {"limit": True}},
        {"pagination": {"cursor": 5}},
        {"pagination": {"after": "x"}},
    ],
)
def test_a_number_out_of_range_is_refused_by_name(body):
    with pytest.raises(ValidationError) as caught:
        page_of(body)
    assert caught.value.errors


def test_conflicting_sizes_are_warned_about_and_pagination_wins(shop: Shop):
    body = shop.run(SEARCH, limit=5, page_size=6, pagination={"limit": 2})
    assert len(ids(body)) == 2
    assert len(body["warnings"]) == 2


def test_the_default_page_is_the_declared_final_top_k_else_ten(shop: Shop):
    assert len(ids(shop.run(text_search("red fox", final_top_k=12)))) == 12
    assert len(ids(shop.run(text_search("red fox")))) == 10


def test_offset_pages_cover_everything_once(shop: Shop):
    seen = []
    for offset in range(0, 40, 7):
        body = shop.run(SEARCH, limit=7, offset=offset)
        assert body["pagination"]["total"] == 30
        assert body["pagination"]["has_next"] is (offset + 7 < 30)
        seen += ids(body)
    assert len(seen) == len(set(seen)) == 30
    assert shop.run(SEARCH, limit=7, offset=35)["documents"] == []


def walk(shop: Shop, plan, request: dict, between=lambda: None) -> list[str]:
    seen, cursor = [], None
    while True:
        body = shop.execute(plan, {**request, **({"cursor": cursor} if cursor else {})})
        seen += ids(body)
        cursor = body["pagination"]["cursor"]
        if cursor is None:
            assert body["pagination"]["has_next"] is False
            return seen
        between()


def test_cursor_pages_hold_still_while_documents_are_written(shop: Shop):
    plan = shop.compile(SEARCH)
    expected = ids(shop.execute(plan, {"limit": 30}))
    number = iter(range(100))

    def write() -> None:
        rows = [{"document_id": f"new{next(number)}", "text": "red fox", "price": 1}]
        shop.searcher.add(ARTICLES, text_documents(ARTICLES, rows))

    assert walk(shop, plan, {"limit": 4}, write) == expected


def test_a_deleted_document_is_gone_from_later_pages_and_said_to_be(shop: Shop):
    plan = shop.compile(SEARCH)
    expected = ids(shop.execute(plan, {"limit": 30}))
    first = shop.execute(plan, {"limit": 5})
    shop.searcher.delete("col_a", expected[7])
    second = shop.execute(plan, {"limit": 5, "cursor": first["pagination"]["cursor"]})
    assert ids(second) == [name for name in expected[5:10] if name != expected[7]]
    assert "deleted" in second["warnings"][-1]
    assert second["documents"][0]["score"] > 0


def test_later_pages_obey_mandatory_constraints(shop: Shop):
    plan = shop.compile(SEARCH)
    keep = parse_filter({"price": {"lt": 20}})
    first = shop.execute(plan, {"limit": 5}, filter=keep)
    for document in shop.searcher.documents["col_a"].values():
        document.payload["price"] = 30
    second = shop.execute(plan, {"limit": 5, "cursor": first["pagination"]["cursor"]}, filter=keep)
    assert ids(second) == []
    with pytest.raises(ValidationError, match="another query"):
        shop.execute(plan, {"limit": 5, "cursor": first["pagination"]["cursor"]})


def test_what_stages_made_is_kept_whole_and_sorted_results_too(shop: Shop):
    plan = shop.compile(SEARCH)
    expected = ids(shop.execute(plan, {"limit": 30, "sort": "-price"}))
    assert walk(shop, plan, {"limit": 7, "sort": "-price"}) == expected
    groups = shop.execute(plan, {"limit": 2, "group_by": {"field": "price"}})
    later = shop.execute(plan, {"limit": 2, "group_by": {"field": "price"}, "cursor": groups["pagination"]["cursor"]})
    keys = [group["key"] for group in groups["final_results"] + later["final_results"]]
    assert len(keys) == len(set(keys)) == 4


def test_a_ranking_kept_whole_shows_no_deleted_document_either(shop: Shop):
    plan = shop.compile(SEARCH, stage("limit", limit=25))
    expected = ids(shop.execute(plan, {"limit": 25}))
    cursor = shop.execute(plan, {"limit": 5})["pagination"]["cursor"]
    shop.searcher.delete("col_a", expected[6])
    second = shop.execute(plan, {"limit": 5, "cursor": cursor})
    assert ids(second) == [name for name in expected[5:10] if name != expected[6]]
    third = shop.execute(plan, {"limit": 5, "cursor": second["pagination"]["cursor"]})
    assert ids(third) == expected[10:15]


def test_a_cursor_is_bound_to_its_query_and_signed(shop: Shop):
    plan = shop.compile(text_search(final_top_k=30))
    cursor = shop.execute(plan, {"inputs": {"query": "red"}, "limit": 3})["pagination"]["cursor"]
    with pytest.raises(ValidationError, match="another query"):
        shop.execute(plan, {"inputs": {"query": "blue"}, "limit": 3, "cursor": cursor})
    with pytest.raises(ValidationError, match="another query"):
        shop.execute(plan, {"inputs": {"query": "red"}, "limit": 3, "cursor": cursor}, namespace_id="ns_other")
    forged = base64.urlsafe_b64encode(base64.urlsafe_b64decode(cursor + "==")[:-3] + b"999").decode()
    for bad in (forged, "eyJvZmZzZXQiOjIwfQ==", "☃", "x", "A" * 200):
        with pytest.raises(ValidationError, match="not a cursor"):
            shop.execute(plan, {"inputs": {"query": "red"}, "limit": 3, "cursor": bad})


def test_an_expired_ranking_is_made_again_with_a_warning(shop: Shop, monkeypatch):
    plan = shop.compile(SEARCH)
    first = shop.execute(plan, {"limit": 5})
    monkeypatch.setattr(paging, "TTL_S", -1)
    second = shop.execute(plan, {"limit": 5, "cursor": first["pagination"]["cursor"]})
    assert len(ids(second)) == 5
    assert not set(ids(first)) & set(ids(second))
    assert "expired" in second["warnings"][0]


def test_memory_of_rankings_is_bounded():
    held = Snapshots(b"key", max_entries=100)
    names = [held.keep("k", [Hit(f"d{n}", "c", 1.0, {}, {}) for n in range(30)], {}, whole=False) for _ in range(5)]
    assert [held.find(name) is not None for name in names] == [False, False, True, True, True]


def test_scroll_and_keyset_walk_too(shop: Shop):
    plan = shop.compile(SEARCH)
    expected = ids(shop.execute(plan, {"limit": 30}))
    first = shop.execute(plan, {"pagination": {"method": "scroll", "limit": 20}})
    rest = shop.execute(
        plan, {"pagination": {"method": "scroll", "limit": 20, "scroll_id": first["pagination"]["scroll_id"]}}
    )
    assert ids(first) + ids(rest) == expected
    first = shop.execute(plan, {"pagination": {"method": "keyset", "limit": 20}})
    after = first["pagination"]["after"]
    rest = shop.execute(plan, {"pagination": {"method": "keyset", "limit": 20, "after": after}})
    assert ids(first) + ids(rest) == expected
    shop.searcher.delete("col_a", after["id"])
    rest = shop.execute(plan, {"pagination": {"method": "keyset", "limit": 20, "after": {**after, "id": "gone"}}})
    assert after["id"] not in ids(rest)
    with pytest.raises(ValidationError, match="after"):
        shop.execute(plan, {"pagination": {"method": "keyset", "after": {"id": "gone"}}})


def test_unknown_request_keys_are_ignored_with_a_warning(shop: Shop):
    body = shop.run(SEARCH, colour="red")
    assert "colour" in " ".join(body["warnings"])


def test_writing_results_is_refused_instead_of_ignored(shop: Shop):
    with pytest.raises(ForbiddenError, match="target_collection_id"):
        shop.run(SEARCH, target_collection_id="col_x")
    with pytest.raises(ValidationError, match="stream"):
        shop.run(SEARCH, target_collection_id="col_x", stream=True)


def test_nulls_and_query_parameters_count_as_not_given():
    request = ExecuteRequest.parse({"limit": None, "inputs": None}, {"return_presigned_urls": True, "limit": 3})
    assert (request.limit, request.return_urls, request.inputs) == (3, True, {})


def test_a_limit_stage_reaches_the_total(shop: Shop):
    assert shop.run(SEARCH, stage("limit", limit=3, offset=1))["pagination"]["total"] == 3
