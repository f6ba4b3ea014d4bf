"""Events over HTTP: the feed by cursor, the live stream, the types; and that every change writes exactly one."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import httpx
import pytest
from mixpeek.models.list_events_response import ListEventsResponse

from helpers import failed, ok, places, wait_for
from mediatheca.flows.events import live
from mediatheca.kernel import clock
from mediatheca.kernel.event_catalogue import EVENTS
from server import Server, Tenant, new_tenant

EVENTS_PATH = "/v1/events"
STREAM = "/v1/events/stream"
SCHEMA = {"properties": {"title": {"type": "string"}}}


def a_bucket(client: httpx.Client, name: str) -> str:
    return str(ok(client.post("/v1/buckets", json={"bucket_name": name, "bucket_schema": SCHEMA}))["bucket_id"])


def feed(client: httpx.Client, **params: Any) -> list[dict[str, Any]]:
    """Everything, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        answer = ok(client.get(EVENTS_PATH, params=params))
        found += answer["results"]
        params["cursor"] = answer["next_cursor"]
        if not answer["has_more"]:
            return found


# ---- the feed


def test_the_feed_follows_what_happens_in_order(client: httpx.Client, namespace: str) -> None:
    names = [f"b{n}" for n in range(5)]
    made = [a_bucket(client, name) for name in names]
    whole = ok(client.get(EVENTS_PATH, params={"event_type": "bucket.created"}))
    typed = ListEventsResponse.from_dict(whole)
    assert typed is not None
    assert [each.payload for each in typed.results] == [{"name": name} for name in names]
    assert [event["resource_id"] for event in whole["results"]] == made
    assert {event["namespace_id"] for event in whole["results"]} == {namespace}
    assert whole["has_more"] is False
    paged = feed(client, event_type="bucket.created", limit=2)
    assert paged == whole["results"]
    assert [event["seq"] for event in paged] == sorted({event["seq"] for event in paged})


def test_a_cursor_at_an_event_goes_on_behind_it_and_stays_where_nothing_happens(client: httpx.Client) -> None:
    for name in ("a", "b", "c"):
        a_bucket(client, name)
    events = feed(client, page_size=10)
    for spelling in ("cursor", "next_cursor", "after"):
        answer = ok(client.get(EVENTS_PATH, params={spelling: events[-2]["cursor"]}))
        assert [event["event_id"] for event in answer["results"]] == [events[-1]["event_id"]]
    last = ok(client.get(EVENTS_PATH, params={"cursor": events[-1]["cursor"]}))
    assert (last["results"], last["next_cursor"], last["has_more"]) == ([], events[-1]["cursor"], False)


def test_a_namespace_is_named_by_id_or_name_and_one_that_is_not_ours_is_unknown(
    client: httpx.Client, namespace: str, stranger: Tenant
) -> None:
    a_bucket(client, "here")
    ok(client.post("/v1/namespaces", json={"namespace_name": "other"}))
    by_name, by_id = (feed(client, namespace_id=name) for name in ("main", namespace))
    assert [event["event_id"] for event in by_name] == [event["event_id"] for event in by_id]
    assert {event["event_type"] for event in by_name} == {"bucket.created"}
    with stranger.client() as other:
        failed(other.get(EVENTS_PATH, params={"namespace_id": namespace}), 404)
    failed(client.get(EVENTS_PATH, params={"namespace_id": "nothing"}), 404)


def test_strangers_read_neither_our_events_nor_with_our_cursors(client: httpx.Client, stranger: Tenant) -> None:
    a_bucket(client, "private name")
    cursor = feed(client)[0]["cursor"]
    with stranger.client() as other:
        text = other.get(EVENTS_PATH).text
        assert "private name" not in text
        failed(other.get(EVENTS_PATH, params={"cursor": cursor}), 422)
        failed(other.get(STREAM, params={"cursor": cursor}), 422)
        failed(other.get(STREAM, headers={"Last-Event-ID": cursor}), 422)


def test_only_administrators_see_keys_and_users(tenant: Tenant, admin: httpx.Client) -> None:
    keys = f"/v1/organizations/users/{tenant.email}/api-keys"
    made = ok(admin.post(keys, json={"name": "reader", "permissions": ["read"]}))
    assert "api_key.created" in {event["event_type"] for event in feed(admin)}
    cursor = feed(admin)[0]["cursor"]
    with tenant.client(key=made["key"]) as reader:
        assert not {event["event_type"] for event in feed(reader)} & {"api_key.created", "user.created"}
        failed(reader.get(EVENTS_PATH, params={"event_type": "api_key.created"}), 403)
        failed(reader.get(EVENTS_PATH, params={"cursor": cursor}), 422)
        listed = {each["event_type"] for each in ok(reader.get("/v1/events/types"))["results"]}
        assert listed == {name for name, event in EVENTS.items() if event.public}
    assert {each["event_type"] for each in ok(admin.get("/v1/events/types"))["results"]} == set(EVENTS)


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "x" * 10_000}, "cursor"),
        ({"limit": 0}, "query.limit"),
        ({"limit": 1001}, "query.limit"),
        ({"page_size": "many"}, "query.page_size"),
        ({"event_type": "object.exploded"}, "query.event_type"),
        ({"event_type": ",".join(["object.created"] * 101)}, "query.event_type"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_its_place(admin: httpx.Client, params: dict[str, Any], place: str) -> None:
    assert places(failed(admin.get(EVENTS_PATH, params=params), 422)) == {place}


def test_several_types_in_either_spelling(client: httpx.Client) -> None:
    ok(client.delete(f"/v1/buckets/{a_bucket(client, 'gone')}"))
    both = ["bucket.created", "bucket.deleted"]
    assert [event["event_type"] for event in feed(client, event_type=",".join(both))] == both
    assert [event["event_type"] for event in feed(client, event_type=both)] == both


def test_a_cursor_that_has_missed_events_is_gone(tmp_path: Any) -> None:
    from mediatheca.settings import Settings

    server = Server(Settings(data_dir=tmp_path, workers=0, log_level="error"))
    try:
        with new_tenant(server).client() as client:
            for name in ("first", "last"):
                ok(client.post("/v1/namespaces", json={"namespace_name": name}))
            cursor = feed(client)[0]["cursor"]
            server.app.services.feed.forget(clock.now() + timedelta(days=1))
            for path, headers in ((EVENTS_PATH, {}), (STREAM, {}), (STREAM, {"Last-Event-ID": cursor})):
                error = failed(client.get(path, params={} if headers else {"cursor": cursor}, headers=headers), 410)
                assert error["type"] == "GoneError"
            again = ok(client.get(EVENTS_PATH, params={"cursor": error["details"]["oldest_cursor"]}))
            assert [event["payload"]["name"] for event in again["results"]] == ["last"]
    finally:
        server.close()


# ---- the stream


class Reader:
    """Reads a stream in a thread of its own."""

    def __init__(self, response: httpx.Response) -> None:
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.pings = 0
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(response,), daemon=True)
        self._thread.start()

    def _read(self, response: httpx.Response) -> None:
        try:
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    self.ids.append(value)
                elif name == "data":
                    self.events.append(json.loads(value))
                elif line.startswith(":"):
                    self.pings += 1
        except httpx.HTTPError:
            pass
        self.ended.set()

    def types(self) -> list[str]:
        return [event["event_type"] for event in self.events]


@contextmanager
def streaming(client: httpx.Client, headers: dict[str, str] | None = None, **params: Any) -> Iterator[Reader]:
    with client.stream("GET", STREAM, params=params, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        reader = Reader(response)
        wait_for(lambda: reader.ids)
        try:
            yield reader
        finally:  # closing alone would wait for the thread that reads
            with suppress(OSError):
                response.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            reader.ended.wait(60)


def test_a_stream_tells_of_what_happens_as_it_happens(client: httpx.Client, stranger: Tenant) -> None:
    a_bucket(client, "before")
    with streaming(client) as reader:
        a_bucket(client, "first")
        wait_for(lambda: len(reader.events) == 1)
        with stranger.client() as other:
            ok(other.post("/v1/namespaces", json={"namespace_name": "theirs"}))
        a_bucket(client, "second")
        wait_for(lambda: len(reader.events) == 2)
    assert [event["payload"]["name"] for event in reader.events] == ["first", "second"]
    assert reader.ids[1:] == [event["cursor"] for event in reader.events]
    same = [event["event_id"] for event in feed(client, event_type="bucket.created")]
    assert [event["event_id"] for event in reader.events] == same[1:]


def test_a_reader_whose_connection_broke_misses_nothing(client: httpx.Client) -> None:
    with streaming(client, event_type="bucket.created") as reader:
        start = reader.ids[0]
        a_bucket(client, "one")
        wait_for(lambda: reader.events)
        last = reader.ids[-1]
    for name in ("two", "three"):
        a_bucket(client, name)
    with streaming(client, {"Last-Event-ID": last}, event_type="bucket.created") as again:
        wait_for(lambda: len(again.events) == 2)
        a_bucket(client, "four")
        wait_for(lambda: len(again.events) == 3)
    assert [event["payload"]["name"] for event in again.events] == ["two", "three", "four"]
    with streaming(client, cursor=start, event_type="bucket.created") as whole:
        wait_for(lambda: len(whole.events) == 4)
    failed(client.get(STREAM, headers={"Last-Event-ID": last}), 422)  # of other filters


def test_a_stream_of_many_events_is_complete(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_PAGE", 3)
    with streaming(client, event_type="bucket.created") as reader:
        threads = [
            threading.Thread(target=lambda n=n: [a_bucket(client, f"{n}-{m}") for m in range(5)]) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_for(lambda: len(reader.events) >= 20)
    assert [event["seq"] for event in reader.events] == sorted({event["seq"] for event in reader.events})
    assert {event["payload"]["name"] for event in reader.events} == {f"{n}-{m}" for n in range(4) for m in range(5)}


def test_a_quiet_stream_is_kept_open_and_ends_with_its_key(
    tenant: Tenant, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PING_S", 0.2)
    keys = f"/v1/organizations/users/{tenant.email}/api-keys"
    key = ok(admin.post(keys, json={"name": "temp"}))["key"]
    with tenant.client(key=key) as holder, streaming(holder) as reader:
        wait_for(lambda: reader.pings >= 2)
        assert not reader.ended.is_set()
        ok(admin.delete(f"{keys}/temp"))
        wait_for(reader.ended.is_set)


def test_an_organization_cannot_take_all_streams(
    server: Server, client: httpx.Client, stranger: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for(lambda: server.app.services.live.readers == 0)  # those of other tests have left
    monkeypatch.setattr(live, "MAX_OF_ONE", 2)
    monkeypatch.setattr(live, "MAX_STREAMS", 3)
    with streaming(client), streaming(client):
        refused = client.get(STREAM)
        assert "at most 2" in failed(refused, 429)["message"]
        assert refused.headers["retry-after"]
        with stranger.client() as other, streaming(other):
            failed(other.get(STREAM), 429)
    wait_for(lambda: server.app.services.live.readers == 0)
    with streaming(client):
        pass


# ---- every change writes exactly one event


def test_every_change_in_the_life_of_things_writes_exactly_one_event(
    tenant: Tenant, client: httpx.Client, namespace: str
) -> None:
    seen = {event["event_id"] for event in feed(client)}

    def told(act: Callable[[], httpx.Response]) -> tuple[Any, list[str]]:
        answer = act()
        assert answer.status_code in (200, 202, 204), answer.text
        fresh = [event for event in feed(client) if event["event_id"] not in seen]
        seen.update(event["event_id"] for event in fresh)
        assert all(event["event_type"] in EVENTS for event in fresh)
        return answer.json() if answer.content else None, [event["event_type"] for event in fresh]

    def life(path: str, body: dict[str, Any], patch: dict[str, Any], kind: str) -> None:
        made, types = told(lambda: client.post(path, json=body))
        assert types == [f"{kind}.created"]
        made = made.get(kind, made)
        one = f"{path}/{made[f'{kind}_id']}"
        assert told(lambda: client.patch(one, json=patch))[1] == [f"{kind}.updated"]
        assert told(lambda: client.delete(one))[1] == [f"{kind}.deleted"]

    new, types = told(lambda: client.post("/v1/buckets", json={"bucket_name": "kept", "bucket_schema": SCHEMA}))
    assert types == ["bucket.created"]
    bucket = new["bucket_id"]
    life("/v1/buckets", {"bucket_name": "b", "bucket_schema": SCHEMA}, {"description": "d"}, "bucket")
    life("/v1/namespaces", {"namespace_name": "short"}, {"description": "d"}, "namespace")
    hook = {"webhook_name": "w", "url": "https://example.com", "events": ["usage.threshold_exceeded"]}
    life("/v1/webhooks", hook, {"description": "d"}, "webhook")
    extractor = {"feature_extractor_name": "passthrough_extractor", "version": "v1", "input_mappings": {}}
    collection = {
        "collection_name": "col", "source": {"type": "bucket", "bucket_ids": [bucket]}, "feature_extractor": extractor,
    }  # fmt: skip
    life("/v1/collections", collection, {"description": "d"}, "collection")
    life(f"/v1/buckets/{bucket}/objects", {"blobs": [], "title": "t"}, {"metadata": {"a": 1}}, "object")
    assert told(lambda: client.post("/v1/organizations/secrets", json={"secret_name": "S", "secret_value": "v"}))[
        1
    ] == ["secret.created"]
    refused = client.post("/v1/buckets", json={"bucket_name": "kept", "bucket_schema": SCHEMA})
    assert refused.status_code == 409
    assert not [event for event in feed(client) if event["event_id"] not in seen]  # nothing happened, nothing is told


def test_each_event_of_a_change_is_about_one_thing_once(client: httpx.Client) -> None:
    bucket = a_bucket(client, "many")
    objects = [{"blobs": [], "title": f"t{n}"} for n in range(20)]
    ok(client.post(f"/v1/buckets/{bucket}/objects/batch", json={"objects": objects}))
    counts = Counter(event["resource_id"] for event in feed(client, event_type="object.created"))
    assert len(counts) == 20
    assert set(counts.values()) == {1}
