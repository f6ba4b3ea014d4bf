"""References resolved into `_expanded`, and reads that wait for the index."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from retrieve_shop import ARTICLES, RAW, REVIEWS, Shop, stage, text_search

from mediatheca.flows.retrieve.seams import NoNeighbours
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.stages import CollectionView
from mediatheca.testing.stages import MemorySearcher, text_documents


class Around(NoNeighbours):
    """A namespace with one more collection, one object, and what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def collection(self, identifier: str) -> CollectionView:
        if identifier not in ("col_v", "vectors"):
            raise NotFoundError("collection", identifier)
        return RAW

    async def collections(self) -> list[CollectionView]:
        return [ARTICLES, REVIEWS, RAW]

    async def records(self, idents: Collection[str]) -> Mapping[str, dict[str, Any]]:
        self.asked.extend(idents)
        return {ident: {"object_id": ident, "title": "an object"} for ident in idents if ident == "obj_1"}


@pytest.fixture
def linked(shop: Shop) -> Shop:
    rows = [
        {
            "document_id": "links",
            "text": "linked",
            "self": "a0",
            "far": {"collection_id": "vectors", "document_id": "v3"},
            "only_id": "v5",
            "object": "obj_1",
            "parts": [{"id": "a1"}, {"id": "nowhere"}],
            "number": 7,
        }
    ]
    shop.searcher.add(ARTICLES, text_documents(ARTICLES, rows))
    return shop


def expanded(shop: Shop, paths: list[str], query: str = "linked", **context: Any) -> tuple[dict[str, Any], str]:
    plan = shop.compile(text_search(query, final_top_k=1), views=[ARTICLES])
    body = shop.execute(plan, {"expand": paths}, neighbours=context.pop("neighbours", Around()), **context)
    return body["documents"][0]["_expanded"], " ".join(body["warnings"])


def test_ids_become_what_they_name(linked: Shop):
    found, warnings = expanded(linked, ["self", "far", "only_id", "object"])
    assert found["self"]["text"] == "red fox"
    assert "_expanded" not in found["self"]
    assert (found["far"]["n"], found["only_id"]["n"]) == (3, 5)
    assert found["object"] == {"object_id": "obj_1", "title": "an object"}
    assert "expand" not in warnings


def test_lists_keep_their_places_and_what_is_lost_is_null_and_told(linked: Shop):
    found, warnings = expanded(linked, ["parts.id", "number", "absent"])
    assert found["parts.id"][0]["document_id"] == "a1"
    assert found["parts.id"][1] is None
    assert (found["number"], found["absent"]) == (None, None)
    assert "'nowhere'" in warnings
    assert "'number' holds no id" in warnings


def test_constraints_of_the_caller_hold_for_references(linked: Shop):
    around = Around()
    keep = parse_filter({"field": "document_id", "operator": "in", "value": ["links", "a1"]})
    found, warnings = expanded(linked, ["self", "far", "only_id", "object", "parts.id"], filter=keep, neighbours=around)
    assert [found[name] for name in ("self", "far", "only_id", "object")] == [None] * 4
    assert found["parts.id"][0]["document_id"] == "a1"
    assert around.asked == []
    assert "constraints" in warnings


def test_at_most_fifty_references_are_resolved(shop: Shop):
    rows = [{"document_id": "many", "text": "linked", "refs": [f"a{n % 6}" if n < 6 else f"x{n}" for n in range(60)]}]
    shop.searcher.add(ARTICLES, text_documents(ARTICLES, rows))
    plan = shop.compile(text_search("linked", final_top_k=1), views=[ARTICLES])
    body = shop.execute(plan, {"expand": ["refs"]}, neighbours=Around())
    assert [entry["name"] for entry in body["limits"]] == ["expand"]
    found = body["documents"][0]["_expanded"]["refs"]
    assert (len(found), found[0]["document_id"], found[59]) == (60, "a0", None)


def test_every_page_is_expanded_and_select_keeps_it(linked: Shop):
    plan = linked.compile(text_search("red fox"), views=[ARTICLES])
    first = linked.execute(plan, {"limit": 1, "expand": ["self"], "select": ["price"]})
    assert "_expanded" in first["documents"][0]
    cursor = first["pagination"]["cursor"]
    later = linked.execute(plan, {"limit": 1, "cursor": cursor, "expand": ["self"]})
    assert "_expanded" in later["documents"][0]


@pytest.mark.parametrize("expand", ["self", [1], ["x" * 600], [""], ["a"] * 51])
def test_what_is_no_list_of_paths_is_refused(shop: Shop, expand):
    with pytest.raises(ValidationError, match="expand"):
        shop.run(text_search("red"), expand=expand)


# ---- consistency


class Behind(MemorySearcher):
    """An index that never catches up."""

    async def catch_up(self, collection_id: str, seq: int) -> int:
        await asyncio.sleep(60)
        return 0


def test_a_strong_read_waits_for_every_collection(shop: Shop):
    body = shop.run(text_search("red"), consistency={"mode": "strong"})
    assert shop.searcher.calls["catch_up"] == 2
    assert (body["consistency_mode"], body["status"]) == ("strong", "completed")


@pytest.mark.parametrize("asked", [{}, {"consistency": {"mode": "eventual"}}])
def test_an_eventual_read_waits_for_nothing(shop: Shop, asked):
    assert shop.run(text_search("red"), **asked)["consistency_mode"] == "eventual"
    assert shop.searcher.calls["catch_up"] == 0


def test_an_age_limit_is_met_by_waiting(shop: Shop):
    shop.run(text_search("red"), consistency={"mode": "eventual", "max_staleness_ms": 100})
    assert shop.searcher.calls["catch_up"] == 2


def test_a_token_waits_for_its_collection_only(shop: Shop):
    body = shop.run(text_search("red"), write_token="col_a:1")
    assert (shop.searcher.calls["catch_up"], body["consistency_mode"]) == (1, "strong")


def test_a_token_of_another_collection_is_told(shop: Shop):
    body = shop.run(text_search("red"), write_token="col_other:1")
    assert "col_other" in " ".join(body["warnings"])
    assert shop.searcher.calls["catch_up"] == 0


def test_a_write_that_is_not_there_degrades_the_answer(shop: Shop):
    body = shop.run(text_search("red"), write_token="col_a:999")
    assert body["status"] == "degraded"
    assert body["degraded"][0]["id"] == "col_a"
    assert body["consistency_mode"] == "eventual"
    assert body["documents"]


def test_waiting_ends_with_the_time_budget():
    shop = Shop(searcher=Behind())
    plan = shop.compile(text_search("red"), stage("limit", limit=1))
    body = shop.execute(plan, {"consistency": {"mode": "strong"}}, max_time_ms=50)
    assert body["status"] == "degraded"
    assert [entry["id"] for entry in body["degraded"] if entry["resource"] == "collection"] == ["col_a", "col_b"]


@pytest.mark.parametrize("token", ["", "col_a", "col_a:", ":5", "col_a:x", "col_a:" + "9" * 40, "a b:1"])
def test_what_is_no_token_is_refused(shop: Shop, token):
    with pytest.raises(ValidationError, match="write_token"):
        shop.run(text_search("red"), write_token=token)


@pytest.mark.parametrize(
    "asked", [{"mode": "weak"}, {"mode": "strong", "quorum": 2}, {"max_staleness_ms": 5}, "strong"]
)
def test_an_unknown_consistency_is_refused(shop: Shop, asked):
    with pytest.raises(ValidationError, match="consistency"):
        shop.run(text_search("red"), consistency=asked)
