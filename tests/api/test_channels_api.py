"""Stored channels over HTTP, and messages that really arrive."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from helpers import ok
from mail_server import Mailbox, a_mail_server
from mediatheca.settings import Settings
from server import Server, Tenant, new_tenant
from webhook_receiver import Receiver, Reply, a_receiver

PATH = "/v1/organizations/channels"


@pytest.fixture(scope="module")
def box() -> Iterator[Mailbox]:
    with a_mail_server() as made:
        yield made


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory, box: Mailbox) -> Iterator[Server]:
    notify: Any = f"smtp://127.0.0.1:{box.port}?from=robot@example.org"
    folder = tmp_path_factory.mktemp("telling")
    made = Server(Settings(data_dir=folder, workers=0, log_level="error", fetch_allow="127.0.0.1", notify=notify))
    yield made
    made.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with a_receiver() as made:
        yield made


@pytest.fixture
def owner(telling: Server) -> Tenant:
    return new_tenant(telling)


@pytest.fixture
def client(owner: Tenant) -> Iterator[httpx.Client]:
    with owner.client() as made:
        yield made


def made(client: httpx.Client, **spec: Any) -> dict[str, Any]:
    body: dict[str, Any] = ok(client.post(PATH, json={"channel_name": "hook", "channel_type": "webhook", **spec}))
    return body


def after_a_test(client: httpx.Client, channel_id: str) -> dict[str, Any]:
    """A test message, once it has ended."""
    delivery = ok(client.post(f"{PATH}/{channel_id}/test"))["delivery_id"]
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = ok(client.get(f"{PATH}/{channel_id}/deliveries"))["results"]
        (one,) = [each for each in found if each["delivery_id"] == delivery]
        if one["status"] not in ("pending", "sending") or one["attempts"]:
            return dict(one)
        time.sleep(0.02)
    raise AssertionError("it was not sent")


def test_a_channel_is_made_shown_changed_tested_and_deleted(client: httpx.Client, receiver: Receiver) -> None:
    config = {"url": receiver.url, "headers": {"Authorization": "Bearer swordfish-7"}}
    channel = made(client, config=config, description="for tests")
    secret = channel["signing_secret"]
    assert channel["config"] == {"url": receiver.url, "headers": {"Authorization": "***"}, "timeout": 10.0}
    shown = ok(client.get(f"{PATH}/hook"))
    assert "signing_secret" not in shown
    assert "swordfish" not in str(shown)
    assert ok(client.get(PATH))["results"][0]["channel_id"] == channel["channel_id"]
    assert ok(client.post(f"{PATH}/list", json={}))["pagination"]["total"] == 1
    delivery = after_a_test(client, channel["channel_id"])
    assert (delivery["status"], delivery["response_status"], delivery["attempts"]) == ("delivered", 200, 1)
    (got,) = receiver.got
    assert got.headers["authorization"] == "Bearer swordfish-7"
    assert Webhook(secret).verify(got.body, got.headers)["event_type"] == "channel.test"
    moved = {**shown["config"], "url": f"{receiver.url}/new"}
    ok(client.patch(f"{PATH}/hook", json={"config": moved, "channel_name": "hook 2"}))
    after_a_test(client, channel["channel_id"])
    assert (receiver.got[1].path, receiver.got[1].headers["authorization"]) == ("/new", "Bearer swordfish-7")
    gone = client.delete(f"{PATH}/{channel['channel_id']}")
    assert gone.json()["success"] is True
    assert client.get(f"{PATH}/{channel['channel_id']}").status_code == 404


def test_a_delivery_can_be_sent_again_under_its_id(client: httpx.Client, receiver: Receiver) -> None:
    receiver.answer = lambda got: Reply(410 if got.attempt == 1 else 200)
    channel = made(client, config={"url": receiver.url})
    first = after_a_test(client, channel["channel_id"])
    assert first["status"] == "failed"
    replayed = ok(client.post(f"{PATH}/hook/deliveries/{first['delivery_id']}/replay"))
    assert replayed["status"] == "pending"
    end = time.monotonic() + 120
    while len(receiver.got) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    assert [got.message_id for got in receiver.got] == [first["message_id"]] * 2
    assert client.post(f"{PATH}/hook/deliveries/dlv_none/replay").status_code == 404


def test_a_secret_is_rotated_and_both_are_valid(client: httpx.Client, receiver: Receiver) -> None:
    channel = made(client, config={"url": receiver.url})
    second = ok(client.post(f"{PATH}/hook/secret/rotate", json={"grace_seconds": 600}))["signing_secret"]
    after_a_test(client, channel["channel_id"])
    for secret in (channel["signing_secret"], second):
        Webhook(secret).verify(receiver.got[0].body, receiver.got[0].headers)
    made(client, channel_name="quiet", channel_type="none")
    assert client.post(f"{PATH}/quiet/secret/rotate").status_code == 400


def test_a_mail_arrives(client: httpx.Client, box: Mailbox) -> None:
    channel = made(client, channel_type="email", config={"to": "ann@example.org"})
    assert after_a_test(client, channel["channel_id"])["status"] == "delivered"
    mail = box.mails[-1]
    assert (mail["To"], mail["Subject"]) == ("ann@example.org", "Test message")
    assert "test of the channel 'hook'" in mail.get_content()


def test_a_channel_whose_service_nobody_set_up_says_so(client: httpx.Client) -> None:
    channel = made(client, channel_type="slack", config={"channel": "#alerts"})
    delivery = after_a_test(client, channel["channel_id"])
    assert delivery["status"] == "not_configured"
    assert "MEDIATHECA_NOTIFY" in delivery["error"]


@pytest.mark.parametrize(
    "spec",
    [
        {"channel_type": "pigeon"},
        {"config": {"url": "https://10.0.0.1/"}},
        {"config": {"url": "https://169.254.169.254/"}},
        {"config": {"url": 7, "headers": "hunter22"}},
        {"config": "hunter22"},
        {"channel_name": "chn_x", "channel_type": "none"},
        {"channel_type": "email", "config": {"to": "x@y.org\r\nBcc: z@y.org"}},
        {"channel_id": "x", "config": {"url": "https://example.com", "signing_secret": "hunter2"}},
    ],
)
def test_bad_channels_are_refused_without_their_secrets(client: httpx.Client, spec: dict[str, Any]) -> None:
    refused = client.post(PATH, json={"channel_name": "bad", "channel_type": "webhook", **spec})
    assert refused.status_code == 422
    assert "hunter2" not in refused.text


def test_the_types_are_listed_with_their_settings(client: httpx.Client) -> None:
    shown = {each["channel_type"]: each for each in ok(client.get(f"{PATH}/types"))["results"]}
    assert set(shown) == {"email", "none", "slack", "webhook"}
    assert "url" in shown["webhook"]["config_schema"]["properties"]


def test_other_organizations_and_other_keys_see_nothing(client: httpx.Client, telling: Server, owner: Tenant) -> None:
    channel = made(client, channel_type="none")
    with new_tenant(telling).client() as stranger:
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/test"), ("GET", "/deliveries"), ("PATCH", "")):
            body: dict[str, Any] = {"json": {}} if method in ("POST", "PATCH") else {}
            refused = stranger.request(method, f"{PATH}/{channel['channel_id']}{path}", **body)
            assert refused.status_code == 404, (method, path)
        assert ok(stranger.get(PATH))["results"] == []
    keys = f"/v1/organizations/users/{owner.email}/api-keys"
    key = ok(client.post(keys, json={"name": "limited", "permissions": ["read", "write", "delete"]}))["key"]
    with owner.client(key=key) as limited:
        assert limited.get(PATH).status_code == 403
