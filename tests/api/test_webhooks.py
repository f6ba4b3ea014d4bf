"""Webhooks over HTTP: their shapes, what they are told, how it is signed, and what happens when nobody answers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from mixpeek.models.list_webhooks_response import ListWebhooksResponse
from mixpeek.models.webhook_output import WebhookOutput
from standardwebhooks import Webhook, WebhookVerificationError

from helpers import failed, ok, places, wait_for
from mediatheca.kernel.event_names import WIRE
from mediatheca.kernel.scope import Scope
from outside_site import Asked, Reply, Site, a_site
from server import Server, Tenant

ORG = "/v1/organizations/webhooks"
PATIENT = {"wait_seconds": 15}
"""A test message is waited for as long as may be: the machine may be busy."""


@pytest.fixture
def site() -> Iterator[Site]:
    with a_site() as made:
        made.routes["*"] = Reply(b"thanks")
        yield made


def make(client: httpx.Client, site: Site, *names: str, path: str = "/hook", **more: Any) -> dict[str, Any]:
    body = {"webhook_name": "hook", "url": site.url + path, "events": list(names) or ["bucket.created"], **more}
    return dict(ok(client.post(ORG, json=body)))


def a_bucket(client: httpx.Client, name: str) -> str:
    schema = {"properties": {"title": {"type": "string"}}}
    return str(ok(client.post("/v1/buckets", json={"bucket_name": name, "bucket_schema": schema}))["bucket_id"])


def arrived(site: Site, count: int = 1, event_type: str = "") -> list[Asked]:
    def look() -> list[Asked]:
        found = [asked for asked in site.asked if event_type in asked.json["event_type"]]
        return found if len(found) >= count else []

    return list(wait_for(look))


def log(client: httpx.Client, hook: dict[str, Any], **params: Any) -> list[dict[str, Any]]:
    return list(ok(client.get(f"{ORG}/{hook['webhook_id']}/deliveries", params=params))["results"])


# ---- shapes

SHAPES: list[dict[str, Any]] = [
    {"url": "https://example.com/hook", "events": ["batch.completed", "batch.failed"]},
    {
        "event_types": ["batch.completed", "batch.failed"], "enabled": True,
        "channels": [{"channel_type": "webhook", "config": {"url": "https://example.com/hook"}}],
    },
    {
        "event_types": ["batch.completed", "batch.failed"], "is_active": True,
        "channels": [{"channel": "webhook", "configs": {"url": "https://example.com/hook"}}],
    },
]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/webhooks", ORG, f"{ORG}/", "/organizations/webhooks/"])
def test_three_shapes_at_three_paths_make_the_same_webhook(admin: httpx.Client, path: str) -> None:
    shown = []
    for number, shape in enumerate(SHAPES):
        made = ok(admin.post(path, json={"webhook_name": f"hook {number}", **shape}))
        assert WebhookOutput.from_dict(made) is not None
        assert made["signing_secret"].startswith("whsec_")
        for key in ("webhook_id", "webhook_name", "created_at", "updated_at", "signing_secret"):
            made.pop(key)
        for channel in made["channels"]:
            channel["configs"].pop("signing_secret")
            channel["config"].pop("signing_secret", None)
        shown.append(made)
    assert shown[0] == shown[1] == shown[2]
    assert shown[0]["events"] == ["batch.completed", "batch.failed"]
    assert shown[0]["event_types"] == ["collection.documents.batch_completed", "resource.execution_failed"]
    (channel,) = shown[0]["channels"]
    assert channel["channel"] == channel["channel_type"] == "webhook"
    assert channel["configs"] == channel["config"]
    assert channel["config"]["url"] == "https://example.com/hook"
    assert shown[0]["is_active"] is shown[0]["enabled"] is True


def test_everything_is_shown_as_all_names_of_the_closed_list(admin: httpx.Client) -> None:
    made = ok(admin.post(ORG, json={**SHAPES[0], "webhook_name": "all", "events": ["*"]}))
    assert made["events"] == ["*"]
    assert made["event_types"] == list(WIRE)
    assert WebhookOutput.from_dict(made) is not None
    again = {"webhook_name": "all", "event_types": made["event_types"], "channels": made["channels"]}
    assert ok(admin.put(f"{ORG}/all", json=again))["events"] == ["*"]


def test_the_official_classes_read_every_answer(admin: httpx.Client) -> None:
    made = ok(admin.post(ORG, json={**SHAPES[2], "webhook_name": "typed", "event_types": ["retriever.created"]}))
    assert made["event_types"] == ["resource.executed"]  # it has no counterpart, and the list may not be empty
    typed = WebhookOutput.from_dict(ok(admin.get(f"{ORG}/typed")))
    assert typed is not None
    assert typed.webhook_id == made["webhook_id"]
    body = {key: value for key, value in typed.to_dict().items() if key != "created_at"} | {"is_active": False}
    changed = ok(admin.put(f"{ORG}/{typed.webhook_id}", json=json.loads(json.dumps(body, default=str))))
    assert changed["events"] == ["retriever.created"]  # sent back as it was shown
    assert changed["is_active"] is False
    listed = ListWebhooksResponse.from_dict(ok(admin.post(f"{ORG}/list")))
    assert listed is not None
    assert [each.webhook_id for each in listed.results] == [typed.webhook_id]


def test_a_webhook_is_found_listed_changed_and_removed_at_both_paths(admin: httpx.Client) -> None:
    made = ok(admin.post(ORG, json={**SHAPES[0], "webhook_name": "one"}))
    ok(admin.post(ORG, json={**SHAPES[0], "webhook_name": "two", "events": ["*"], "is_active": False}))
    for base in (ORG, "/v1/webhooks"):
        assert ok(admin.get(f"{base}/one"))["webhook_id"] == made["webhook_id"]
        assert ok(admin.get(base))["total"] == 2
        by_type = ok(admin.post(f"{base}/list", json={"event_type": "object.created"}))["results"]
        assert [each["webhook_name"] for each in by_type] == ["two"]
        assert [e["webhook_name"] for e in ok(admin.post(f"{base}/list", json={"is_active": True}))["results"]] == [
            "one"
        ]
        assert [e["webhook_name"] for e in ok(admin.get(f"{base}?is_active=false"))["results"]] == ["two"]
    changed = ok(admin.patch(f"/v1/webhooks/{made['webhook_id']}", json={"webhook_name": "three", "enabled": False}))
    assert (changed["webhook_name"], changed["is_active"], changed["events"]) == ("three", False, made["events"])
    gone = admin.delete(f"{ORG}/three")
    assert (gone.status_code, gone.content) == (204, b"")
    failed(admin.get(f"{ORG}/three"), 404)
    failed(admin.delete(f"{ORG}/{made['webhook_id']}"), 404)


def test_a_replacement_names_everything_and_a_patch_what_changes(admin: httpx.Client) -> None:
    ok(admin.post(ORG, json={**SHAPES[2], "webhook_name": "whole", "resource_types": ["batch"]}))
    for lacking in ("webhook_name", "event_types", "channels"):
        body = {"webhook_name": "whole", **SHAPES[2]}
        body.pop(lacking)
        assert places(failed(admin.put(f"{ORG}/whole", json=body), 422)) == {f"body.{lacking}"}
    assert ok(admin.put(f"{ORG}/whole", json={"webhook_name": "whole", **SHAPES[2]}))["resource_types"] is None
    assert ok(admin.patch(f"{ORG}/whole", json={"resource_types": ["document"]}))["resource_types"] == ["document"]
    events = ok(admin.patch(f"{ORG}/whole", json={"event_types": ["object.created"]}))["events"]
    assert events == ["object.created"]


def test_the_header_of_the_short_path_narrows_a_webhook_and_an_unknown_one_does_not(
    client: httpx.Client, namespace: str
) -> None:
    body = {"webhook_name": "narrow", **SHAPES[0]}
    assert ok(client.post("/v1/webhooks", json=body))["namespace_id"] == namespace
    assert ok(client.post(ORG, json={**body, "webhook_name": "wide"}))["namespace_id"] is None
    strange = {"X-Namespace": "ns_production"}
    made = ok(client.post("/v1/webhooks", json={**body, "webhook_name": "strange"}, headers=strange))
    assert made["namespace_id"] is None
    assert "ns_production" in made["warnings"][0]
    failed(client.post("/v1/webhooks", json={**body, "webhook_name": "x", "namespace_id": "ns_production"}), 404)
    kept = ok(client.put(f"{ORG}/narrow", json={"webhook_name": "narrow", **SHAPES[2]}))
    assert kept["namespace_id"] == namespace  # older clients do not know the field: it must not widen


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"events": ["object.exploded"]}, "body.events"),
        ({"events": []}, "body.events"),
        ({"events": None}, "body.event_types"),
        ({"events": ["secret.created"]}, "body.events"),
        ({"url": None}, "body.channels"),
        ({"channels": []}, "body.url"),
        ({"url": None, "channels": []}, "body.channels"),
        ({"url": None, "channels": [{"channel": "webhook", "configs": {}}] * 21}, "body.channels"),
        ({"url": None, "channels": ["webhook"]}, "body.channels.0"),
        ({"url": None, "channels": [{"channel": "pigeon", "configs": {}}]}, "body.channels.0.channel_type"),
        ({"resource_types": ["unicorn"]}, "body.resource_types"),
        ({"webhook_name": "wh_0011223344556677"}, "webhook_name"),
        ({"webhook_name": ""}, "webhook_name"),
        ({"webhook_name": None}, "body.webhook_name"),
        ({"headers": {f"x-{n}": "v" for n in range(101)}}, "body.channels.0.config.headers"),
        ({"headers": {"Host": "example.org"}}, "body.channels.0.config.headers"),
        ({"headers": {"webhook-id": "1"}}, "body.channels.0.config.headers"),
        ({"headers": {"x-a": "1\r\nx-b: 2"}}, "body.channels.0.config.headers"),
        ({"timeout": 31}, "body.channels.0.config.timeout"),
        ({"metadata": {"a": "x" * 20_000}}, "body.metadata"),
    ],
)
def test_what_cannot_work_is_refused_at_its_place(admin: httpx.Client, change: dict[str, Any], place: str) -> None:
    body = {key: value for key, value in ({"webhook_name": "bad", **SHAPES[0]} | change).items() if value is not None}
    assert places(failed(admin.post(ORG, json=body), 422)) == {place}
    assert ok(admin.get(ORG))["total"] == 0


def test_an_unknown_event_is_refused_with_the_list(admin: httpx.Client) -> None:
    error = failed(admin.post(ORG, json={"webhook_name": "bad", **SHAPES[0], "events": ["object.exploded"]}), 422)
    assert "'object.exploded'" in error["message"]
    assert "document.created" in error["message"]


@pytest.mark.parametrize(
    "url",
    ["http://example.com/", "https://10.0.0.1/", "https://[::1]/", "https://169.254.169.254/latest", "ftp://example.com/",
     "https://0x7f000001:99999/", "javascript:alert(1)", "https://user:pw@10.1.2.3/", "nonsense"],
)  # fmt: skip
def test_addresses_that_lead_inside_are_refused_when_a_webhook_is_made(admin: httpx.Client, url: str) -> None:
    made = ok(admin.post(ORG, json={"webhook_name": "good", **SHAPES[0]}))
    failed(admin.post(ORG, json={"webhook_name": "bad", **SHAPES[0], "url": url}), 422)
    failed(admin.patch(f"{ORG}/{made['webhook_id']}", json={"url": url}), 422)


def test_names_are_unique_and_their_number_is_limited(admin: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediatheca.flows.webhooks.changes.MAX_WEBHOOKS", 2)
    ok(admin.post(ORG, json={"webhook_name": "a", **SHAPES[0]}))
    failed(admin.post(ORG, json={"webhook_name": "a", **SHAPES[0]}), 409)
    ok(admin.post(ORG, json={"webhook_name": "b", **SHAPES[0]}))
    assert "2 webhooks" in failed(admin.post(ORG, json={"webhook_name": "c", **SHAPES[0]}), 409)["message"]


def test_all_webhooks_together_have_only_so_many_channels(admin: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediatheca.flows.webhooks.changes.MAX_ALL_CHANNELS", 3)
    two = {"event_types": "*", "channels": [{"channel": "webhook", "configs": {"url": SHAPES[0]["url"]}}] * 2}
    first = ok(admin.post(ORG, json={"webhook_name": "a", **two}))["webhook_id"]
    assert "at most 3 channels" in failed(admin.post(ORG, json={"webhook_name": "b", **two}), 409)["message"]
    ok(admin.post(ORG, json={"webhook_name": "b", **SHAPES[0]}))
    failed(admin.patch(f"{ORG}/b", json={"channels": two["channels"]}), 409)
    ok(admin.patch(f"{ORG}/{first}", json={"channels": two["channels"], "description": "as many as before"}))


def test_a_stranger_sees_and_changes_nothing(admin: httpx.Client, stranger: Tenant, site: Site) -> None:
    hook = make(admin, site)
    delivery = ok(admin.post(f"{ORG}/hook/test"))["deliveries"][0]["delivery_id"]
    with stranger.client() as other:
        assert ok(other.get(ORG))["results"] == []
        for ident in (hook["webhook_id"], "hook"):
            one = f"{ORG}/{ident}"
            failed(other.get(one), 404)
            failed(other.patch(one, json={"is_active": False}), 404)
            failed(other.put(one, json={"webhook_name": "x", **SHAPES[2]}), 404)
            failed(other.delete(one), 404)
            failed(other.post(f"{one}/test"), 404)
            failed(other.get(f"{one}/deliveries"), 404)
            failed(other.get(f"{one}/deliveries/{delivery}"), 404)
            failed(other.post(f"{one}/deliveries/{delivery}/replay"), 404)
            failed(other.post(f"{one}/replay", json={"since": "2026-01-01T00:00:00Z"}), 404)
            failed(other.post(f"{one}/secret/rotate"), 404)
        own = ok(other.post(ORG, json={"webhook_name": "hook", **SHAPES[0]}))
        failed(other.get(f"{ORG}/{own['webhook_id']}/deliveries/{delivery}"), 404)


def test_a_key_that_may_only_read_makes_no_webhook(server: Server, tenant: Tenant, admin: httpx.Client) -> None:
    keys = f"/v1/organizations/users/{tenant.email}/api-keys"
    key = ok(admin.post(keys, json={"name": "r", "permissions": ["read"]}))
    with tenant.client(key=key["key"]) as reader:
        failed(reader.post(ORG, json={"webhook_name": "a", **SHAPES[0]}), 403)
        assert ok(reader.get(ORG))["results"] == []


# ---- secrets


def test_a_secret_is_shown_once_and_nowhere_else(
    server: Server, tenant: Tenant, admin: httpx.Client, site: Site
) -> None:
    password = "Bearer hunter2-hunter2"
    hook = make(admin, site, "*", headers={"Authorization": password})
    secret = hook["signing_secret"]
    texts = [
        admin.get(f"{ORG}/hook").text,
        admin.get(ORG).text,
        admin.patch(f"{ORG}/hook", json={"enabled": True}).text,
    ]
    ok(admin.post(f"{ORG}/hook/test"))
    texts += [admin.get(f"{ORG}/hook/deliveries").text, admin.get("/v1/events").text]
    with server.app.services.db.read(Scope(tenant.organization_id)) as tx:
        texts += [json.dumps(tx.rows("resources", {}), default=str), json.dumps(tx.rows("deliveries", {}), default=str)]
    for text in texts:
        assert secret not in text
        assert "hunter2" not in text
    assert ok(admin.get(f"{ORG}/hook"))["signing_secret"] == "redacted"
    assert arrived(site)[0].headers["authorization"] == password


def test_a_masked_secret_sent_back_stays_as_it_was(admin: httpx.Client, site: Site) -> None:
    hook = make(admin, site, headers={"X-Key": "sesame sesame"})
    shown = ok(admin.get(f"{ORG}/hook"))
    again = {key: shown[key] for key in ("webhook_name", "event_types", "channels")}
    changed = ok(admin.put(f"{ORG}/hook", json=again))
    assert changed["signing_secret"] == "redacted"
    assert ok(admin.post(f"{ORG}/hook/test", json=PATIENT))["success"]
    (asked,) = site.asked
    assert asked.headers["x-key"] == "sesame sesame"
    Webhook(hook["signing_secret"]).verify(asked.body, asked.headers)


def test_messages_verify_with_the_official_library_and_the_older_header(client: httpx.Client, site: Site) -> None:
    secret = make(client, site)["signing_secret"]
    a_bucket(client, "signed")
    (asked,) = arrived(site)
    assert Webhook(secret).verify(asked.body, asked.headers)["event_type"] == "bucket.created"
    assert asked.headers["webhook-id"] == asked.json["event_id"]
    assert abs(int(asked.headers["webhook-timestamp"]) - time.time()) < 60
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(asked.body + b" ", asked.headers)
    moment, given = (part.split("=")[1] for part in asked.headers["x-mixpeek-signature"].split(","))
    wanted = hmac.new(secret.encode(), f"{moment}.".encode() + asked.body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(given, wanted)


def test_while_a_secret_is_changed_over_both_verify_and_afterwards_only_the_new_one(
    client: httpx.Client, site: Site
) -> None:
    old = make(client, site)["signing_secret"]
    new = ok(client.post(f"{ORG}/hook/secret/rotate", json={"grace_seconds": 600}))["signing_secret"]
    assert new != old
    ok(client.post(f"{ORG}/hook/test", json=PATIENT))
    for secret in (old, new):
        Webhook(secret).verify(site.asked[-1].body, site.asked[-1].headers)
    newest = ok(client.post(f"{ORG}/hook/secret/rotate", json={"grace_seconds": 0}))["signing_secret"]
    ok(client.post(f"{ORG}/hook/test", json=PATIENT))
    Webhook(newest).verify(site.asked[-1].body, site.asked[-1].headers)
    for secret in (old, new):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(site.asked[-1].body, site.asked[-1].headers)
    failed(client.post(f"{ORG}/hook/secret/rotate", json={"grace_seconds": -1}), 422)
    failed(client.post(f"{ORG}/hook/secret/rotate", json={"grace_seconds": 10**9}), 422)


def test_a_webhook_without_a_signed_channel_has_no_secret_to_rotate(admin: httpx.Client) -> None:
    mail = [{"channel_type": "email", "config": {"to": "ops@example.org"}}]
    made = ok(admin.post(ORG, json={"webhook_name": "mail", "event_types": ["batch.failed"], "channels": mail}))
    assert made["signing_secret"] is None
    assert made["channels"][0]["configs"]["to_addresses"] == ["ops@example.org"]
    assert WebhookOutput.from_dict(made) is not None
    failed(admin.post(f"{ORG}/mail/secret/rotate"), 409)


def test_a_secret_of_the_callers_own_is_used(client: httpx.Client, site: Site) -> None:
    mine = "a secret of my own making"
    make(client, site, signing_secret=mine)
    assert ok(client.post(f"{ORG}/hook/test", json=PATIENT))["success"]
    (asked,) = site.asked
    moment = asked.headers["webhook-timestamp"]
    signed = f"{asked.headers['webhook-id']}.{moment}.".encode() + asked.body
    wanted = hmac.new(mine.encode(), signed, hashlib.sha256).digest()
    assert asked.headers["webhook-signature"] == "v1," + base64.b64encode(wanted).decode()
    assert mine not in client.get(f"{ORG}/hook").text


# ---- what is told


def test_an_event_arrives_once_with_everything_a_receiver_needs(
    client: httpx.Client, namespace: str, tenant: Tenant, site: Site
) -> None:
    make(client, site, "bucket.created")
    bucket = a_bucket(client, "told")
    (asked,) = arrived(site)
    body = asked.json
    (event,) = [e for e in ok(client.get("/v1/events"))["results"] if e["event_type"] == "bucket.created"]
    assert (body["event_id"], body["metadata"]["position"]) == (event["event_id"], event["seq"])
    assert body["occurred_at"] == event["created_at"]
    assert (body["namespace_id"], body["organization_id"]) == (namespace, tenant.organization_id)
    assert body["subject"] == {"type": "bucket", "id": bucket}
    assert body["data"] == {"name": "told"}
    assert body["cache_scope"] == {"scope": "key", "id": bucket}
    assert body["truncated"] is False
    assert len(site.asked) == 1


def test_webhooks_are_told_only_of_what_they_asked_for(client: httpx.Client, namespace: str, site: Site) -> None:
    more = {
        "channels": [{"channel": "webhook", "configs": {"url": f"{site.url}/2"}}],
        "event_types": ["bucket.deleted"],
    }
    make(client, site, "bucket.created", webhook_name="one", path="/1")
    ok(client.post(ORG, json={"webhook_name": "two", **more}))
    ok(client.post(ORG, json={"webhook_name": "off", "url": f"{site.url}/off", "events": ["*"], "is_active": False}))
    make(client, site, "*", webhook_name="of", path="/of", resource_types=["collection"])
    other = ok(client.post("/v1/namespaces", json={"namespace_name": "other"}))["namespace_id"]
    make(client, site, "*", webhook_name="there", path="/there", namespace_id=other)
    bucket = a_bucket(client, "wanted")
    ok(client.delete(f"/v1/buckets/{bucket}"))
    schema = {"bucket_name": "far", "bucket_schema": {"properties": {"a": {"type": "string"}}}}
    ok(client.post("/v1/buckets", json=schema, headers={"X-Namespace": other}))
    wait_for(lambda: {"/1", "/2", "/there"} <= set(site.paths()) and site.paths().count("/1") == 2)
    assert sorted(site.paths()) == ["/1", "/1", "/2", "/there"]


def test_a_webhook_is_not_told_of_itself_but_others_are(admin: httpx.Client, site: Site) -> None:
    make(admin, site, "*", webhook_name="self", path="/self")
    make(admin, site, "webhook.updated", webhook_name="other", path="/other")
    ok(admin.patch(f"{ORG}/self", json={"description": "changed"}))
    (asked,) = [asked for asked in arrived(site, 2) if asked.path == "/other"]
    assert asked.json["subject"]["type"] == "webhook"
    told = [asked.json["event_type"] for asked in site.asked if asked.path == "/self"]
    assert told == ["webhook.created"]  # the other one's


def test_events_of_keys_and_secrets_never_leave(
    tenant: Tenant, admin: httpx.Client, client: httpx.Client, site: Site
) -> None:
    make(admin, site, "*")
    ok(admin.post(f"/v1/organizations/users/{tenant.email}/api-keys", json={"name": "new"}))
    ok(admin.post("/v1/organizations/secrets", json={"secret_name": "S", "secret_value": "value of it"}))
    a_bucket(client, "after")
    arrived(site, 1, "bucket.created")
    assert {asked.json["event_type"].split(".")[0] for asked in site.asked} <= {"bucket", "namespace"}


def test_documents_of_an_ingest_are_told_one_by_one_or_together(client: httpx.Client, site: Site) -> None:
    make(client, site, "document.created", webhook_name="each", path="/each")
    make(client, site, "collection.documents.written", "batch.completed", webhook_name="all", path="/all")
    bucket = a_bucket(client, "docs")
    collection = {
        "collection_name": "docs",
        "source": {"type": "bucket", "bucket_ids": [bucket]},
        "feature_extractor": {
            "feature_extractor_name": "passthrough_extractor", "version": "v1",
            "field_passthrough": [{"source_path": "title"}], "input_mappings": {},
        },
    }  # fmt: skip
    collection_id = ok(client.post("/v1/collections", json=collection))["collection_id"]
    for number in range(5):
        ok(client.post(f"/v1/buckets/{bucket}/objects", json={"blobs": [], "metadata": {}, "title": f"t{number}"}))
    assert client.post(f"/v1/collections/{collection_id}/trigger").status_code == 202
    arrived(site, 1, "batch.completed")
    each = [asked.json for asked in arrived(site, 5, "document.created")]

    def written() -> list[str]:
        bodies = [asked.json for asked in site.asked if asked.json["event_type"] == "collection.documents.written"]
        return [ident for body in bodies for ident in body["data"]["document_ids"]]

    wait_for(lambda: len(written()) >= 5)  # messages arrive in any order
    named = set(written())
    assert {body["subject"]["id"] for body in each} == named
    assert len(named) == len(each) == len({body["event_id"] for body in each}) == 5
    assert all(body["data"]["collection_id"] == collection_id for body in each)
    assert {asked.path for asked in site.asked if "written" in asked.json["event_type"]} == {"/all"}


# ---- receivers that do not answer


def test_a_failed_delivery_is_logged_and_sent_again_by_hand(client: httpx.Client, site: Site) -> None:
    site.routes["*"] = Reply(b"no, thanks", 500)
    hook = make(client, site)
    a_bucket(client, "lost")
    arrived(site)
    entry = wait_for(lambda: [each for each in log(client, hook) if each["attempts"]])[0]
    assert (entry["status"], entry["response_status"], entry["response_body"]) == ("pending", 500, "no, thanks")
    assert "500" in entry["error"]
    assert entry["request"]["data"] == {"name": "lost"}
    assert entry["next_attempt_at"] is not None
    one = f"{ORG}/hook/deliveries/{entry['delivery_id']}"
    assert ok(client.get(one))["delivery_id"] == entry["delivery_id"]
    health = wait_for(lambda: ok(client.get(f"{ORG}/hook"))["delivery_health"])
    assert health["consecutive_failures"] in (1, 2)  # the next attempt follows after five seconds
    assert "500" in health["last_error"]
    site.routes["*"] = Reply(b"thanks")
    ok(client.post(f"{one}/replay"))
    wait_for(lambda: ok(client.get(one))["status"] == "delivered")
    assert len({asked.headers["webhook-id"] for asked in site.asked}) == 1
    assert ok(client.get(f"{ORG}/hook"))["delivery_health"]["consecutive_failures"] == 0
    assert log(client, hook, status="delivered")
    assert log(client, hook, status="failed") == []
    failed(client.get(f"{ORG}/hook/deliveries", params={"status": "lost"}), 422)
    failed(client.get(f"{ORG}/hook/deliveries/dlv_none"), 404)


def test_what_arrived_in_a_span_of_time_is_sent_again(client: httpx.Client, site: Site) -> None:
    hook = make(client, site)
    before = datetime.now(UTC) - timedelta(minutes=1)
    for number in range(3):
        a_bucket(client, f"again {number}")
    wait_for(lambda: len(log(client, hook, status="delivered")) == 3)
    span = {"since": before.isoformat(), "status": "delivered"}
    assert ok(client.post(f"{ORG}/hook/replay", json=span))["replayed"] == 3
    arrived(site, 6)
    ids = [asked.headers["webhook-id"] for asked in site.asked]
    assert len(set(ids)) == 3
    past = {**span, "until": before.isoformat()}
    assert ok(client.post(f"{ORG}/hook/replay", json=past))["replayed"] == 0
    failed(client.post(f"{ORG}/hook/replay", json={}), 422)
    failed(client.post(f"{ORG}/hook/replay", json={"since": "2026-01-01T00:00:00"}), 422)
    failed(client.post(f"{ORG}/hook/replay", json={**span, "status": "lost"}), 422)


def test_a_receiver_that_is_gone_is_switched_off_and_its_messages_can_be_replayed(
    client: httpx.Client, site: Site
) -> None:
    make(client, site, "webhook.disabled", webhook_name="watcher", path="/watcher")
    site.routes["/hook"] = Reply(b"", 410)
    make(client, site)
    a_bucket(client, "gone")
    (told,) = arrived(site, 1, "webhook.disabled")
    assert told.path == "/watcher"
    assert "410" in told.json["data"]["reason"]
    hook = ok(client.get(f"{ORG}/hook"))
    assert hook["is_active"] is False
    assert "410" in hook["delivery_health"]["disabled_reason"]
    assert hook["delivery_health"]["paused_at"]
    a_bucket(client, "unheard")
    failed(client.post(f"{ORG}/hook/replay", json={"since": "2026-01-01T00:00:00Z"}), 409)
    site.routes["/hook"] = Reply(b"")
    again = ok(client.patch(f"{ORG}/hook", json={"is_active": True}))
    assert (again["is_active"], again["delivery_health"]["disabled_reason"]) == (True, None)
    assert ok(client.post(f"{ORG}/hook/replay", json={"since": "2026-01-01T00:00:00Z"}))["replayed"] == 1
    wait_for(lambda: [e["status"] for e in log(client, hook)] == ["delivered"])
    assert [asked.json["data"] for asked in site.asked if asked.path == "/hook"] == [{"name": "gone"}] * 2


def test_a_redirect_is_a_failure_and_is_not_followed(client: httpx.Client, site: Site) -> None:
    site.routes["/hook"] = Reply(b"", 302, {"location": "/elsewhere"})
    make(client, site)
    tested = ok(client.post(f"{ORG}/hook/test", json=PATIENT))
    assert tested["success"] is False
    assert "redirect" in tested["deliveries"][0]["error"]
    assert site.paths() == ["/hook"]


def test_a_test_message_reaches_every_channel_also_of_a_webhook_that_is_off(client: httpx.Client, site: Site) -> None:
    channels = [{"channel": "webhook", "configs": {"url": f"{site.url}/{name}"}} for name in ("a", "b")]
    ok(client.post(ORG, json={"webhook_name": "t", "event_types": ["*"], "channels": channels, "is_active": False}))
    tested = ok(client.post(f"{ORG}/t/test", json=PATIENT))
    assert tested["success"] is True
    assert [each["status"] for each in tested["deliveries"]] == ["delivered", "delivered"]
    assert sorted(site.paths()) == ["/a", "/b"]
    assert {asked.json["event_type"] for asked in site.asked} == {"webhook.test"}
    failed(client.post(f"{ORG}/t/test", json={"wait_seconds": 100}), 422)


def test_a_slow_receiver_holds_up_neither_requests_nor_others(client: httpx.Client, site: Site) -> None:
    told = threading.Event()

    def slow(asked: Asked) -> Reply:
        told.wait(60)
        return Reply(b"")

    site.routes["/slow"] = slow
    make(client, site, webhook_name="slow", path="/slow", timeout=30)
    make(client, site, webhook_name="quick", path="/quick")
    a_bucket(client, "patience")
    try:
        wait_for(lambda: "/quick" in site.paths(), 25)  # less than the slow one may take
    finally:
        told.set()


def test_a_webhook_that_is_deleted_gets_nothing_more(client: httpx.Client, site: Site) -> None:
    site.routes["/hook"] = Reply(b"", 500)
    hook = make(client, site)
    a_bucket(client, "one")
    arrived(site)
    assert client.delete(f"{ORG}/hook").status_code == 204
    failed(client.get(f"{ORG}/{hook['webhook_id']}/deliveries"), 404)
    before = site.paths().count("/hook")
    make(client, site, path="/new")
    a_bucket(client, "two")
    wait_for(lambda: "/new" in site.paths())
    assert site.paths().count("/hook") == before
