"""Published retrievers: what strangers may do with them, and everything they may not."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from learning_shop import Shop, stage

from helpers import failed, ok
from mediatheca.flows.publishing.door import GUESS_WINDOW_S, Windows, _is_origin
from mediatheca.flows.publishing.passwords import hash_password, matches
from mediatheca.kernel.errors import TooManyRequestsError
from server import Server

PAGE = {"title": "Search the shop", "inputs": [], "exposed_fields": ["title"]}
FREE = {"tier": "unlimited"}


@pytest.fixture
def visitor(learning_server: Server) -> Iterator[httpx.Client]:
    """Somebody without an account."""
    with httpx.Client(base_url=f"{learning_server.url}/v1/public/retrievers", timeout=120) as made:
        yield made


class Public:
    """A published retriever."""

    def __init__(self, shop: Shop, **spec: Any) -> None:
        self.shop = shop
        self.name = f"shop-{uuid.uuid4().hex[:12]}"
        self.retriever = shop.retriever(self.name)
        body = {"public_name": self.name, "display_config": PAGE, "rate_limit_config": FREE, **spec}
        self.path = f"/v1/retrievers/{self.retriever}/publish"
        self.view = ok(shop.client.post(self.path, json=body))

    def search(
        self, visitor: httpx.Client, query: str = "red rose", headers: Any = None, **more: Any
    ) -> httpx.Response:
        body = {"inputs": {"query": query}, **more}
        return visitor.post(f"/{self.name}/execute", json=body, headers=headers)


def idents(answer: httpx.Response) -> list[str]:
    return [document["document_id"] for document in ok(answer)["documents"]]


def test_anybody_may_search_and_sees_only_exposed_fields(shop: Shop, visitor: httpx.Client) -> None:
    public = Public(shop)
    found = ok(public.search(visitor))
    assert found["documents"][0]["document_id"] == "rose"
    assert set(found["documents"][0]) == {"title", "document_id", "collection_id", "score", "feature_id"}
    assert found["results"] == found["documents"]
    text = str(found)
    for hidden in ("secret-", "price", "stage_statistics", "per_feature", shop.namespace):
        assert hidden not in text
    assert public.view["public_url"].endswith(f"/v1/public/retrievers/{public.name}")
    config = ok(visitor.get(f"/{public.name}/config"))
    assert (config["password_protected"], config["display_config"]["title"]) == (False, "Search the shop")


def test_the_owner_sees_that_it_is_public(shop: Shop) -> None:
    public = Public(shop)
    assert shop.get(f"/retrievers/{public.retriever}")["is_published"] is True
    assert shop.get("/retrievers/publish/stats") == {
        "current_count": 1, "max_allowed": 10, "remaining": 9, "at_limit": False,
    }  # fmt: skip
    assert shop.get("/retrievers/published")["results"][0]["public_name"] == public.name
    failed(shop.client.post(public.path, json={}), 409)
    frozen = shop.client.patch(f"/v1/retrievers/{public.retriever}", json={"stages": [stage()]})
    assert "unpublish" in failed(frozen, 409)["message"]
    ok(shop.client.patch(f"/v1/retrievers/{public.retriever}", json={"description": "may change"}))
    ok(shop.client.delete(public.path))
    assert shop.get(f"/retrievers/{public.retriever}")["is_published"] is False
    failed(shop.client.get(public.path), 404)


def test_unpublished_and_switched_off_are_gone_at_once(shop: Shop, visitor: httpx.Client) -> None:
    public = Public(shop)
    ok(public.search(visitor))
    ok(shop.client.patch(public.path, json={"is_active": False}))
    failed(public.search(visitor), 404)
    failed(visitor.get(f"/{public.name}/config"), 404)
    ok(shop.client.patch(public.path, json={"is_active": True}))
    ok(public.search(visitor))
    ok(shop.client.delete(f"/v1/retrievers/{public.retriever}"))
    failed(public.search(visitor), 404)


def test_hidden_fields_cannot_be_guessed_by_filters_sorts_or_groups(shop: Shop, visitor: httpx.Client) -> None:
    public = Public(shop)
    hidden = {"field": "code", "operator": "starts_with", "value": "secret"}
    for request in (
        {"filters": hidden},
        {"filters": {"AND": [{"NOT": [hidden]}]}},
        {"filters": {"code": "secret-6"}},
        {"pre_filters": hidden},
        {"inputs": {"query": "rose", "filters": hidden}},
        {"sort": [{"field": "price", "direction": "asc"}]},
        {"sort": "-price"},
        {"group_by": {"field": "code"}},
        {"filters": {"field": "_internal.object_id", "operator": "exists", "value": True}},
    ):
        answer = visitor.post(f"/{public.name}/execute", json={"inputs": {"query": "rose"}, **request})
        assert "not open here" in failed(answer, 422)["message"], request
    allowed = {"field": "title", "operator": "contains", "value": "rose"}
    assert idents(public.search(visitor, filters=allowed)) == ["rose"]


def test_requests_for_more_than_a_visitor_may_see_are_left_aside(shop: Shop, visitor: httpx.Client) -> None:
    public = Public(shop, rate_limit_config={**FREE, "max_results_per_query": 2})
    more = {"return_vectors": True, "explain": True, "select": ["code", "price"], "version": 99, "expand": ["code"]}
    found = ok(public.search(visitor, collection_identifiers=["other"], **more))
    assert len(found["documents"]) == 2
    assert not {"code", "price", "vectors"} & set(found["documents"][0])
    for paging in ({"limit": 500}, {"page_size": 500}, {"pagination": {"method": "offset", "limit": 500}}):
        assert len(ok(public.search(visitor, **paging))["documents"]) <= 2
    failed(public.search(visitor, pagination={"limit": "500"}), 422)


def test_the_owners_constraint_holds_whatever_a_visitor_sends(shop: Shop, visitor: httpx.Client) -> None:
    cheap = {"field": "price", "operator": "lte", "value": 5}
    public = Public(shop, filters=cheap)
    allowed = {"mug", "cup", "sea", "rose"}
    assert set(idents(public.search(visitor, limit=50))) == allowed
    for request in (
        {"filters": {}},
        {"filters": {"OR": [{"field": "title", "operator": "exists", "value": True}]}},
        {"filters": {"NOT": [{"field": "title", "operator": "eq", "value": "x"}]}},
        {"inputs": {"query": "tree", "price": 1000}},
    ):
        answer = visitor.post(f"/{public.name}/execute", json={"inputs": {"query": "tea"}, "limit": 50, **request})
        assert set(idents(answer)) <= allowed, request
    cursor = ok(public.search(visitor, limit=2, pagination={"method": "cursor", "limit": 2}))
    token = cursor["pagination"]["next_cursor"]
    ok(shop.client.patch(public.path, json={"filters": {"field": "price", "operator": "gt", "value": 1000}}))
    later = public.search(visitor, pagination={"method": "cursor", "limit": 2, "cursor": token})
    assert later.status_code == 422 or idents(later) == []
    assert idents(public.search(visitor)) == []


def _tree(generator: random.Random, depth: int = 3) -> dict[str, Any]:
    if depth and generator.random() < 0.6:
        inner = [_tree(generator, depth - 1) for _ in range(generator.randint(0, 3))]
        return {generator.choice(["AND", "OR", "NOT"]): inner}
    return {
        "field": generator.choice(["title", "document_id", "score"]),
        "operator": generator.choice(["eq", "ne", "in", "nin", "exists", "contains", "is_null"]),
        "value": generator.choice(["red rose", "tree", True, False, ["tree"], [], None, "{{INPUT.query}}"]),
    }


def test_no_filter_escapes_the_constraint(constrained: Public, visitor: httpx.Client) -> None:
    """A generator of its own: the server draws random numbers in the same process."""
    generator = random.Random(11)
    answered = 0
    for _ in range(200):
        tree = _tree(generator)
        answer = constrained.search(visitor, filters=tree, limit=50)
        assert answer.status_code in (200, 422), answer.text
        if answer.status_code == 200:
            answered += 1
            assert set(idents(answer)) <= {"mug", "cup", "sea", "rose"}, tree
    assert answered > 50


@pytest.fixture
def constrained(shop: Shop) -> Public:
    return Public(shop, filters={"field": "price", "operator": "lte", "value": 5})


def test_constraints_must_be_fixed(shop: Shop) -> None:
    retriever = shop.retriever("plain")
    for filters in (
        {"field": "code", "operator": "eq", "value": "{{INPUT.code}}"},
        {"field": "code", "operator": "eq", "value": {"type": "dynamic", "field": "inputs.code"}},
        {"field": "code", "operator": "like a", "value": 1},
    ):
        failed(shop.client.post(f"/v1/retrievers/{retriever}/publish", json={"filters": filters}), 422)


def test_a_password_is_asked_for_and_only_its_hash_is_kept(shop: Shop, visitor: httpx.Client) -> None:
    public = Public(shop, password="open sesame")
    assert public.view["password_protected"] is True
    assert "sesame" not in str(public.view)
    failed(public.search(visitor), 401)
    failed(public.search(visitor, headers={"X-Retriever-Password": "wrong one"}), 401)
    ok(public.search(visitor, headers={"X-Retriever-Password": "open sesame"}))
    assert ok(visitor.post(f"/{public.name}/verify", json={"password": "open sesame"}))["valid"] is True
    assert ok(visitor.post(f"/{public.name}/verify", json={"password": "shut"}))["valid"] is False
    failed(visitor.get(f"/{public.name}/template"), 401)
    with shop.server.app.services.db.read(shop.scope) as tx:
        assert "sesame" not in str(tx.rows("publications", {})) + str(tx.rows("events", {}))
    ok(shop.client.patch(public.path, json={"password": "another one"}))
    failed(public.search(visitor, headers={"X-Retriever-Password": "open sesame"}), 401)
    ok(shop.client.patch(public.path, json={"password": ""}))
    ok(public.search(visitor))
    failed(shop.client.patch(public.path, json={"password": "short"}), 422)


def test_the_password_may_be_a_secret_of_the_vault(shop: Shop, visitor: httpx.Client) -> None:
    with shop.tenant.client() as admin:
        ok(admin.post("/v1/organizations/secrets", json={"secret_name": "door", "secret_value": "open sesame"}))
    public = Public(shop, password_secret_name="door")
    assert public.view["password_protected"] is True
    failed(public.search(visitor), 401)
    ok(public.search(visitor, headers={"X-Retriever-Password": "open sesame"}))
    failed(shop.client.patch(public.path, json={"password_secret_name": "unknown"}), 400)
    ok(shop.client.patch(public.path, json={"password_secret_name": ""}))
    ok(public.search(visitor))


def test_guessing_a_password_ends_after_ten_wrong_ones(
    shop: Shop, visitor: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All within one window of time: another one might begin between two guesses."""
    moment = [3_000_000.0]
    monkeypatch.setattr(shop.server.app.services.door, "_windows", Windows(lambda: moment[0]))
    public = Public(shop, password="open sesame")
    answers = [visitor.post(f"/{public.name}/verify", json={"password": f"guess {n}"}) for n in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    assert int(answers[-1].headers["retry-after"]) >= 0
    failed(public.search(visitor, headers={"X-Retriever-Password": "open sesame"}), 429)
    moment[0] += GUESS_WINDOW_S
    ok(public.search(visitor, headers={"X-Retriever-Password": "open sesame"}))


def test_passwords_are_salted_and_damaged_hashes_match_nothing() -> None:
    first, second = hash_password("secret word"), hash_password("secret word")
    assert first != second
    assert matches("secret word", first)
    assert not matches("secret wore", first)
    for broken in ("", "scrypt$1$2", "scrypt$x$8$1$AA==$AA==", first.replace("scrypt", "plain")):
        assert not matches("secret word", broken)


def test_keys_open_one_retriever_and_nothing_else(shop: Shop, visitor: httpx.Client) -> None:
    public, other = Public(shop, password="open sesame", require_key=True), Public(shop, require_key=True)
    path = f"/v1/retrievers/{public.retriever}/api-keys"
    made = ok(shop.client.post(path, json={"name": "site", "allowed_origins": ["https://*.example.org"]}))
    key = made["key"]
    assert key.startswith("ret_sk_")
    assert len(key) == 60
    site = {"X-Public-API-Key": key, "Origin": "https://shop.example.org"}
    ok(public.search(visitor, headers=site))
    ok(public.search(visitor, headers={"Authorization": f"Bearer {key}", "Origin": "https://a.b.example.org"}))
    failed(public.search(visitor), 401)
    failed(public.search(visitor, headers={**site, "Origin": "https://example.org.evil.test"}), 403)
    failed(public.search(visitor, headers={"X-Public-API-Key": key}), 403)
    failed(other.search(visitor, headers=site), 401)
    failed(public.search(visitor, headers={**site, "X-Public-API-Key": "ret_sk_" + "x" * 53}), 401)
    everywhere = httpx.get(
        f"{shop.server.url}/v1/retrievers/{public.retriever}", headers={"Authorization": f"Bearer {key}"}
    )
    assert everywhere.status_code == 401
    listed = ok(shop.client.get(path))
    assert (listed["total"], listed["results"][0]["status"]) == (1, "active")
    assert key not in str(listed)
    ok(shop.client.delete(f"{path}/{made['key_id']}"))
    failed(public.search(visitor, headers=site), 401)
    assert ok(shop.client.get(path))["total"] == 0
    assert ok(shop.client.get(path, params={"include_revoked": True}))["results"][0]["status"] == "revoked"
    past = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    failed(shop.client.post(path, json={"name": "late", "expires_at": past}), 422)
    failed(shop.client.post(path, json={"name": "odd", "allowed_origins": ["*"]}), 422)


def test_origins_match_exactly_or_by_subdomain() -> None:
    assert _is_origin("https://shop.example.org", "https://shop.example.org/")
    assert _is_origin("https://a.example.org", "https://*.example.org")
    for wrong in (
        "http://a.example.org",
        "https://example.org",
        "https://a.example.org.evil",
        "https://aexample.org",
        "",
    ):
        assert not _is_origin(wrong, "https://*.example.org")


def test_limits_hold_for_all_visitors_together(
    shop: Shop, visitor: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [3_000_030.0]
    monkeypatch.setattr(shop.server.app.services.door, "_windows", Windows(lambda: moment[0]))
    public = Public(shop, rate_limit_config={"requests_per_minute": 3, "tier": "standard"})
    answers = [public.search(visitor) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert failed(answers[-1], 429)["details"]["retry_after_seconds"] == 30
    moment[0] += 30
    ok(public.search(visitor))


def test_windows_count_per_name_and_begin_anew() -> None:
    moment = [86_400.0 * 20_000]
    windows = Windows(lambda: moment[0])
    for _ in range(2):
        windows.take("a", 86_400, 2, "requests")
    windows.take("b", 86_400, 2, "requests")
    moment[0] += 86_399
    with pytest.raises(TooManyRequestsError) as refused:
        windows.take("a", 86_400, 2, "requests")
    assert refused.value.retry_after_s == 1
    moment[0] += 1
    windows.take("a", 86_400, 2, "requests")


def test_visitors_say_what_they_liked(shop: Shop, visitor: httpx.Client) -> None:
    public = Public(shop)
    result = ok(public.search(visitor))
    liked = {
        "document_id": "rose",
        "interaction_type": ["CLICK"],
        "position": 0,
        "execution_id": result["execution_id"],
    }
    made = ok(visitor.post(f"/{public.name}/interactions", json=liked, headers={"X-Session-ID": "s9"}))
    assert made["tracked"] == 1
    stored = shop.post("/retrievers/interactions/list", {"retriever_id": public.retriever})["results"]
    assert (stored[0]["session_id"], stored[0]["interaction_type"]) == ("s9", ["click"])
    batch = [{**liked, "document_id": "mug", "position": 1}, {**liked, "document_id": "cup", "position": 2}]
    assert ok(visitor.post(f"/{public.name}/interactions/batch", json={"interactions": batch}))["tracked"] == 2
    lacking = {name: value for name, value in liked.items() if name != "execution_id"}
    failed(visitor.post(f"/{public.name}/interactions", json=lacking), 422)
    other = shop.run(shop.retriever("private"))["execution_id"]
    failed(visitor.post(f"/{public.name}/interactions", json={**liked, "execution_id": other}), 404)
    failed(visitor.post(f"/{public.name}/interactions/batch", json={"interactions": [liked] * 101}), 422)


def test_public_names_are_checked_and_unique_everywhere(shop: Shop, learning_server: Server) -> None:
    public = Public(shop)
    foreign = Shop(learning_server)
    own = foreign.retriever("own")
    path = f"/v1/retrievers/{own}/publish"
    answer = foreign.client.post(path, json={"public_name": public.name})
    assert public.retriever not in str(failed(answer, 409))
    for name in ("ab", "Shop", "-shop", "shop-", "a_b_c", "x" * 51, "../admin"):
        failed(foreign.client.post(path, json={"public_name": name}), 422)
    free = ok(foreign.client.get(f"{path}/availability", params={"name": public.name}))
    assert free == {"name": public.name, "available": False}
    assert ok(foreign.client.get(f"{path}/availability", params={"name": f"{public.name}x"}))["available"] is True
    made = ok(foreign.client.post(path, json={"display_name": f"Wares & {public.name}!"}))
    assert made["public_name"] == f"wares-{public.name}"
    assert made["display_config"]["exposed_fields"] == ["title"]
    assert [entry["field_name"] for entry in made["display_config"]["inputs"]] == ["query", "user_id", "country"]
    foreign.close()


def test_no_more_than_ten_are_published(shop: Shop) -> None:
    for _ in range(10):
        Public(shop)
    extra = shop.retriever("eleven")
    failed(shop.client.post(f"/v1/retrievers/{extra}/publish", json={"public_name": uuid.uuid4().hex}), 409)
    assert shop.get("/retrievers/publish/stats")["at_limit"] is True


def test_the_ten_are_counted_over_all_namespaces_of_the_organization(shop: Shop, foreign: Shop) -> None:
    first = Public(shop)
    for _ in range(9):
        Public(shop)
    with shop.tenant.client() as admin:
        second = str(ok(admin.post("/v1/namespaces", json={"namespace_name": "second"}))["namespace_id"])
    with shop.tenant.client(second) as other:
        body = {"retriever_name": "eleven", "stages": [{"stage_id": "limit", "parameters": {"limit": 1}}]}
        eleven = ok(other.post("/v1/retrievers", json=body))["retriever_id"]
        path = f"/v1/retrievers/{eleven}/publish"
        error = failed(other.post(path, json={"public_name": uuid.uuid4().hex}), 409)
        assert "organization has 10" in str(error)
        assert ok(other.get("/v1/retrievers/publish/stats"))["current_count"] == 10
        ok(shop.client.delete(first.path))
        ok(other.post(path, json={"public_name": uuid.uuid4().hex}))
    Public(foreign)  # another organization has ten of its own


def test_the_directory_lists_and_finds_the_active_ones(shop: Shop, visitor: httpx.Client) -> None:
    public, locked = Public(shop), Public(shop, password="open sesame")
    off = Public(shop)
    ok(shop.client.patch(off.path, json={"is_active": False}))
    for name, count in ((public.name, 1), (locked.name, 1), (off.name, 0)):
        found = ok(visitor.get("", params={"search": name}))
        assert found["total_count"] == count
    assert ok(visitor.get("", params={"search": locked.name}))["stats"]["total_password_protected"] == 1
    assert ok(visitor.get("", params={"search": "%"}))["total_count"] == 0
    failed(visitor.get("", params={"include_inactive": True}), 403)


def test_a_template_is_shared_only_where_the_owner_agrees(shop: Shop, visitor: httpx.Client) -> None:
    public = Public(shop, filters={"field": "price", "operator": "lte", "value": 5})
    found = ok(visitor.get(f"/{public.name}/template"))
    assert found["stages"][0]["config"]["stage_id"] == "feature_search"
    assert found["collection_identifiers"] == ["goods"]
    assert "price" not in str(found)
    ok(shop.client.patch(public.path, json={"include_metadata": False}))
    failed(visitor.get(f"/{public.name}/template"), 403)


def test_only_the_owner_manages_a_publication(shop: Shop, learning_server: Server) -> None:
    public = Public(shop)
    foreign = Shop(learning_server)
    for method in ("get", "delete"):
        failed(getattr(foreign.client, method)(public.path), 404)
    failed(foreign.client.patch(public.path, json={"is_active": False}), 404)
    failed(foreign.client.post(f"{public.path}/reconcile"), 404)
    failed(foreign.client.get(f"/v1/retrievers/{public.retriever}/api-keys"), 404)
    failed(foreign.client.post(f"/v1/retrievers/{public.retriever}/api-keys", json={"name": "x"}), 404)
    assert foreign.get("/retrievers/published")["total"] == 0
    assert ok(shop.client.post(f"{public.path}/reconcile"))["consistent"] is True
    foreign.close()
