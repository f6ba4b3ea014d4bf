"""The channels of a target: every spelling, what is refused, and secrets that go in and never come out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from delivery_world import CHANNELS, SCOPE, World

from mediatheca.flows.delivery import refs_of, rotate_signing
from mediatheca.flows.delivery.refs import MAX_CHANNELS, open_ref
from mediatheca.kernel.errors import NotFoundError, UnavailableError, ValidationError
from mediatheca.stores.keyring import KeyRing

URL = "https://example.com/hook"
SECRET = "Bearer swordfish-7"
NAMED = {channel.name: channel for channel in CHANNELS}


@pytest.mark.parametrize(
    ("raw", "channel", "config"),
    [
        ({"channel": "webhook", "configs": {"url": URL}}, "webhook", {"url": URL}),
        ({"channel_type": "webhook", "config": {"url": URL}}, "webhook", {"url": URL}),
        ({"channel_type": "Webhook", "channel_id": URL}, "webhook", {"url": URL}),
        ({"channel_type": "slack", "channel_id": "#alerts"}, "slack", {"channel": "#alerts"}),
        ({"channel_type": "slack", "config": {"channel": "#a"}}, "slack", {"channel": "#a"}),
        (
            {"channel_type": "email", "config": {"to": "ann@example.org"}},
            "email",
            {"to_addresses": ["ann@example.org"]},
        ),
        ({"channel_type": "email", "channel_id": "ann@example.org"}, "email", {"to_addresses": ["ann@example.org"]}),
        ({"channel_type": "none"}, "none", {}),
        ({"channel_type": "none", "channel_id": "anything"}, "none", {}),
    ],
)
def test_every_spelling_is_the_same_channel(world: World, raw: Any, channel: str, config: dict[str, Any]) -> None:
    (ref,) = world.resolve(raw)
    assert ref.channel == channel
    assert config.items() <= ref.config.items()


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        ("webhook", "body.channels.0"),
        ({}, "channel_type"),
        ({"channel_type": "pigeon"}, "email, none, slack, webhook"),
        ({"channel_type": 7}, "channel_type"),
        ({"channel_type": "webhook", "config": "x"}, "config"),
        ({"channel_type": "webhook", "config": {}}, "config.url"),
        ({"channel_type": "webhook", "config": {"url": "nonsense"}}, "config.url"),
        ({"channel_type": "webhook", "config": {"url": "ftp://example.com/"}}, "config.url"),
        ({"channel_type": "webhook", "config": {"url": "http://example.com/"}}, "https://"),
        ({"channel_type": "webhook", "config": {"url": "https://user:hunter22@example.com/"}}, "config.url"),
        ({"channel_type": "webhook", "config": {"url": "https://10.0.0.1/"}}, "MEDIATHECA_FETCH_ALLOW"),
        ({"channel_type": "webhook", "config": {"url": "https://169.254.169.254/latest"}}, "metadata"),
        ({"channel_type": "webhook", "config": {"url": "https://[::1]/"}}, "loopback"),
        ({"channel_type": "slack", "config": {"webhook_url": "https://192.168.0.1/hunter22"}}, "private"),
        ({"channel_type": "webhook", "config": {"url": URL, "headers": {"a": "***"}}}, "masked"),
        ({"channel_type": "webhook", "config": {"url": URL, "headers": ["hunter22"]}}, "headers"),
        ({"channel_type": "webhook", "config": {"url": URL, "signing_secret": "hunter2"}}, "signing_secret"),
        ({"channel_type": "webhook", "config": {"url": URL, "signing_secret": 7}}, "signing_secret"),
        ({"channel_type": "webhook", "config": {"url": URL, "payload_template": {"a": "x" * (129 << 10)}}}, "128 kB"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place_and_without_its_secrets(world: World, raw: Any, where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        world.resolve(raw)
    assert where in caught.value.message
    assert "hunter2" not in caught.value.message + str([each.as_dict() for each in caught.value.errors])


def test_a_name_that_does_not_resolve_today_is_accepted(world: World) -> None:
    (ref,) = world.resolve({"channel": "webhook", "configs": {"url": "https://nobody.invalid/"}})
    assert ref.config["url"] == "https://nobody.invalid/"


def test_there_are_not_too_many_channels(world: World) -> None:
    with pytest.raises(ValidationError, match="at most 20"):
        world.resolve(*[{"channel_type": "none"}] * (MAX_CHANNELS + 1))


def test_secrets_are_sealed_and_shown_masked(world: World) -> None:
    hook = {"url": URL, "headers": {"Authorization": SECRET}}
    slack = {"webhook_url": "https://hooks.slack.com/services/swordfish-8"}
    refs = world.resolve({"channel": "webhook", "configs": hook}, {"channel": "slack", "configs": slack})
    stored = json.dumps([ref.stored() for ref in refs])
    assert "swordfish" not in stored
    assert refs[0].secret not in stored
    assert "swordfish" not in repr(refs)
    assert refs[0].config["headers"] == {"Authorization": "***"}
    assert refs[1].config["webhook_url"] == "***"
    opened = open_ref(world.vault, SCOPE, NAMED["webhook"], refs[0])
    assert opened.params.model_dump()["headers"] == {"Authorization": SECRET}
    assert [each.value for each in opened.signing] == [refs[0].secret]
    assert "swordfish" not in repr(opened)


def test_channels_of_one_target_share_a_new_signing_secret(world: World) -> None:
    hook = {"channel": "webhook", "configs": {"url": URL}}
    first, second, own = world.resolve(hook, hook, {**hook, "configs": {"url": URL, "signing_secret": "my own secret"}})
    assert first.secret == second.secret
    assert first.secret.startswith("whsec_")
    assert own.secret == "my own secret"


def test_what_is_sent_back_masked_stays_as_it_was(world: World) -> None:
    raw = {"channel": "webhook", "configs": {"url": URL, "headers": {"A": SECRET, "B": "b"}}}
    before = world.resolve(raw)
    shown = {**before[0].config, "headers": {"A": "***", "C": "c"}, "signing_secret": "redacted", "timeout": 3}
    (after,) = world.resolve({"channel_type": "webhook", "config": shown}, current=before)
    opened = open_ref(world.vault, SCOPE, NAMED["webhook"], after)
    assert opened.params.model_dump()["headers"] == {"A": SECRET, "C": "c"}
    assert [each.value for each in opened.signing] == [before[0].secret]
    assert after.secret == ""


def test_a_masked_secret_does_not_follow_to_another_address(world: World) -> None:
    before = world.resolve({"channel": "webhook", "configs": {"url": URL, "headers": {"A": SECRET}}})
    elsewhere = {"url": "https://example.net/hook", "headers": {"A": "***"}}
    with pytest.raises(ValidationError, match="give its secrets again"):
        world.resolve({"channel": "webhook", "configs": elsewhere}, current=before)


def test_stored_channels_are_named_by_id_or_name(world: World) -> None:
    stored = world.target({"channel_type": "slack", "config": {"channel": "#a"}}, kind="channel")
    by_id, by_name = world.resolve({"channel_id": stored.id}, {"channel_type": "slack", "channel_id": stored.name})
    assert (by_id.channel, by_id.channel_id, by_name.channel_id) == ("slack", stored.id, stored.id)
    with pytest.raises(ValidationError, match="is of type 'slack'"):
        world.resolve({"channel_type": "email", "channel_id": stored.id})
    with pytest.raises(NotFoundError):
        world.resolve({"channel_type": "slack", "channel_id": "chn_nothing"})


def test_a_new_master_key_takes_over_the_secrets_of_channels(world: World) -> None:
    target = world.target({"channel": "webhook", "configs": {"url": URL, "headers": {"A": SECRET}}})
    world.keys = KeyRing([b"n" * 32, b"k" * 32])
    moved = World(world.db)
    moved.keys = world.keys
    with world.db.begin(SCOPE) as tx:
        assert moved.vault.rewrap(tx) == 1
        assert moved.vault.rewrap(tx) == 0
    alone = World(world.db)
    alone.keys = KeyRing([b"n" * 32])
    with world.db.read(SCOPE) as tx:
        (ref,) = refs_of(tx.get("webhook", target.id))
    assert open_ref(alone.vault, SCOPE, NAMED["webhook"], ref).params.model_dump()["headers"] == {"A": SECRET}
    with pytest.raises(UnavailableError, match="MEDIATHECA_SECRET_KEY"):
        open_ref(world.vault, SCOPE, NAMED["webhook"], ref)


def test_rotation_keeps_one_secret_before_and_only_for_its_time(world: World) -> None:
    refs = world.resolve({"channel": "webhook", "configs": {"url": URL}}, {"channel_type": "none"})
    first = refs[0].secret
    secrets = [first]
    for _ in range(3):
        refs, secret = rotate_signing(world.vault, SCOPE, refs, 60)
        secrets.append(secret)
    signing = open_ref(world.vault, SCOPE, NAMED["webhook"], refs[0]).signing
    assert [each.value for each in signing] == [secrets[3], secrets[2]]
    assert signing[0].until is None
    with pytest.raises(ValidationError, match="grace_seconds"):
        rotate_signing(world.vault, SCOPE, refs, -1)
    assert rotate_signing(world.vault, SCOPE, refs[1:], 60)[1] == ""
