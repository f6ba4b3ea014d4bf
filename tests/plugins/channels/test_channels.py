"""Every channel against a server that speaks its protocol."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from mail_server import Mailbox, a_mail_server
from mediatheca.channels import Channel
from mediatheca.channels.email import email
from mediatheca.channels.none import none
from mediatheca.channels.slack import slack
from mediatheca.channels.webhook import webhook
from mediatheca.flows.delivery.probe import probe_notices
from mediatheca.flows.delivery.setup import NotifySetup
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.notice_templates import render
from mediatheca.kernel.webhook_signing import check_secret, new_secret, sign
from mediatheca.settings import Settings
from mediatheca.testing.channels import ChannelContract, example_notice
from webhook_receiver import Got, Receiver, Reply, a_receiver

TLS = Path(__file__).parents[2] / "stores" / "fetch" / "tls_example.pem"


@pytest.fixture
def server() -> Iterator[Receiver]:
    with a_receiver() as made:
        yield made


@pytest.fixture
def arrived(server: Receiver) -> Callable[[], list[str]]:
    return lambda: [got.body.decode() for got in server.got]


@pytest.fixture
def box() -> Iterator[Mailbox]:
    with a_mail_server() as made:
        yield made


def mail_setup(box: Mailbox, more: str = "") -> NotifySetup:
    return NotifySetup.parse(f"smtp://127.0.0.1:{box.port}?from=robot@example.org{more}")


def test_all_channels_are_here() -> None:
    assert {channel.name for channel in discover("mediatheca.channels", Channel)} == {
        "webhook",
        "slack",
        "email",
        "none",
    }


class TestNone(ChannelContract):
    @pytest.fixture
    def channel(self) -> Channel:
        return none

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {}


class TestWebhook(ChannelContract):
    @pytest.fixture
    def channel(self) -> Channel:
        return webhook

    @pytest.fixture
    def config(self, server: Receiver) -> dict[str, Any]:
        return {"url": server.url, "headers": {"Authorization": "Bearer x"}, "payload_template": None, "timeout": 5}

    @pytest.fixture
    def bad_configs(self) -> list[dict[str, Any]]:
        url = {"url": "https://example.org/"}
        return [
            {}, {"url": 7}, {"url": ""}, {**url, "timeout": 0}, {**url, "timeout": 31},
            {**url, "headers": {"a b": "c"}},
            {**url, "headers": {"x": "a\r\nHost: b"}}, {**url, "headers": {"Host": "b"}},
            {**url, "headers": {"Content-Length": "1"}}, {**url, "headers": {"Webhook-Id": "b"}},
            {**url, "headers": {"X-Mixpeek-Signature": "b"}}, {**url, "headers": {f"h{n}": "" for n in range(101)}},
            {**url, "payload_template": {"a": "{{ x.__class__ }}"}},
            {**url, "payload_template": {"a": "{% include 'x' %}"}},
            {**url, "payload_template": {"a": "{{"}},
        ]  # fmt: skip

    def test_the_official_library_verifies_what_is_sent(self, server: Receiver, config: dict[str, Any]) -> None:
        notice = example_notice()
        self.sent(webhook, config, NotifySetup(), notice)
        (got,) = server.got
        assert Webhook(notice.secrets[0]).verify(got.body, got.headers) == notice.body
        tampered = got.body.replace(b"night", b"light")
        with pytest.raises(Exception, match="No matching signature"):
            Webhook(notice.secrets[0]).verify(tampered, got.headers)

    def test_a_payload_template_makes_another_message(self, server: Receiver, config: dict[str, Any]) -> None:
        template = {
            "{{ key }}": "stays",
            "text": "{{ event_type }}: {{ data.name | upper }}{{ nothing.at.all }}",
            "whole": "{{ data }}",
            "list": ["{{ subject.id }}", 7],
        }
        self.sent(webhook, {**config, "payload_template": template}, NotifySetup(), example_notice())
        assert server.got[0].json == {
            "{{ key }}": "stays",
            "text": "document.created: NIGHT TRAIN",
            "whole": {"document_id": "doc_1", "name": "night train"},
            "list": ["doc_1", 7],
        }

    @pytest.mark.parametrize("template", ["{% for i in range(99999999) %}{{ i }}{% endfor %}", "{{ 'a' * 99999999 }}"])
    def test_a_template_that_takes_too_much_is_stopped(self, template: str) -> None:
        with pytest.raises(ValidationError, match="failed"):
            render({"a": template}, {})


class TestSlackWebhook(ChannelContract):
    @pytest.fixture
    def channel(self) -> Channel:
        return slack

    @pytest.fixture
    def config(self, server: Receiver) -> dict[str, Any]:
        return {"webhook_url": f"{server.url}/services/T/B/X", "username": "robot"}

    @pytest.fixture
    def bad_configs(self) -> list[dict[str, Any]]:
        url = {"webhook_url": "https://hooks.slack.com/services/x"}
        return [
            {}, {"username": "robot"}, {"channel": ""}, {**url, "blocks_template": "no json"},
            {**url, "blocks_template": "7"}, {**url, "blocks_template": "[]"},
            {**url, "blocks_template": '[{"text": "{{ a.__b__ }}"}]'},
        ]  # fmt: skip

    def test_nothing_in_a_message_calls_anybody(self, server: Receiver, config: dict[str, Any]) -> None:
        blocks = '[{"type": "section", "text": {"type": "mrkdwn", "text": "*{{ data.name }}*"}}]'
        notice = example_notice(text="<!channel> & co", body={"data": {"name": "<!here>"}})
        self.sent(slack, {**config, "blocks_template": blocks}, NotifySetup(), notice)
        sent = server.got[0].json
        assert sent["text"] == "&lt;!channel&gt; &amp; co"
        assert sent["blocks"][0]["text"]["text"] == "*&lt;!here&gt;*"
        assert sent["username"] == "robot"

    @pytest.mark.parametrize(
        ("reply", "permanent", "gone"),
        [
            (Reply(404, b"no_service"), True, False),
            (Reply(403, b"invalid_token"), True, False),
            (Reply(410, b"channel_is_archived"), True, False),
            (Reply(500, b"rollup_error"), False, False),
            (Reply(429, b"", {"retry-after": "30"}), False, False),
        ],
    )
    def test_what_slack_answers_decides_whether_it_is_tried_again(
        self, server: Receiver, config: dict[str, Any], reply: Reply, permanent: bool, gone: bool
    ) -> None:
        server.answer = lambda got: reply
        sent = self.sent(slack, config, NotifySetup(), example_notice())
        assert sent.error
        assert (sent.permanent, sent.gone) == (permanent, gone)
        assert sent.retry_after_s == (30 if reply.status == 429 else None)


class TestSlackApi(ChannelContract):
    @pytest.fixture
    def channel(self) -> Channel:
        return slack

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {"channel": "#alerts"}

    @pytest.fixture
    def setup(self, server: Receiver) -> NotifySetup:
        def answer(got: Got) -> Reply:
            good = got.headers.get("authorization") == "Bearer xoxb-1-a" and got.path == "/api/chat.postMessage"
            known = got.json.get("channel") == "#alerts"
            told = (
                {"ok": True}
                if good and known
                else {"ok": False, "error": "channel_not_found" if good else "invalid_auth"}
            )
            return Reply(body=json.dumps(told).encode())

        server.answer = answer
        return NotifySetup.parse(f"slack=xoxb-1-a@{server.url}/api")

    def test_errors_that_stay_are_permanent_and_named(self, setup: NotifySetup) -> None:
        sent = self.sent(slack, {"channel": "#nowhere"}, setup, example_notice())
        assert (sent.permanent, sent.error) == (True, "Slack refused the message: channel_not_found")
        wrong = self.sent(slack, {"channel": "#alerts", "token": "xoxb-other"}, setup, example_notice())
        assert (wrong.permanent, wrong.error) == (True, "Slack refused the message: invalid_auth")

    @pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"ok": false, "error": "ratelimited"}'])
    def test_an_answer_that_cannot_be_read_is_tried_again(
        self, server: Receiver, setup: NotifySetup, body: bytes
    ) -> None:
        server.answer = lambda got: Reply(body=body)
        sent = self.sent(slack, {"channel": "#alerts"}, setup, example_notice())
        assert sent.error
        assert not sent.permanent


class TestEmail(ChannelContract):
    @pytest.fixture
    def channel(self) -> Channel:
        return email

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {"to": "ann@example.org"}

    @pytest.fixture
    def setup(self, box: Mailbox) -> NotifySetup:
        return mail_setup(box)

    @pytest.fixture
    def arrived(self, box: Mailbox) -> Callable[[], list[str]]:
        return box.texts

    @pytest.fixture
    def bad_configs(self) -> list[dict[str, Any]]:
        return [
            {}, {"to": []}, {"to": ""}, {"to": "nobody"}, {"to": "a@b\r\nBcc: c@d"}, {"to": "Ann <ann@example.org>"},
            {"to": ["a@example.org", 7]}, {"to": [f"a{n}@example.org" for n in range(51)]}, {"to": "a..b@example.org"},
            {"to": "a@example.org", "cc": ["no"]}, {"to": "a@example.org", "content_type": "pdf"},
            {"to": "a@example.org", "subject_template": "{{ a.__b__ }}"},
            {"to": "a@example.org", "body_template": "{{"},
        ]  # fmt: skip

    def test_what_it_says_and_who_gets_it(self, box: Mailbox, setup: NotifySetup) -> None:
        config = {
            "to_addresses": ["ann@example.org"],
            "cc": "bob@example.org, carl@example.org",
            "bcc_addresses": ["dan@example.org", "ann@example.org"],
            "subject_template": "New: {{ data.name }}",
            "body_template": "<b>{{ data.name }}</b>",
            "content_type": "html",
        }
        self.sent(email, config, setup, example_notice(body={"data": {"name": "<i>\r\nX: y"}}))
        (mail,) = box.mails
        assert mail["Subject"] == "New: <i> X: y"
        assert (mail["From"], mail["To"], mail["Cc"]) == (
            "robot@example.org", "ann@example.org", "bob@example.org, carl@example.org",
        )  # fmt: skip
        assert mail["Bcc"] is None
        assert mail["X"] is None
        assert mail["Message-ID"] == "<evt_example@example.org>"
        assert mail.get_content_type() == "text/html"
        assert "<b>&lt;i&gt;" in mail.get_content()
        assert box.envelopes == [[f"{name}@example.org" for name in ("ann", "bob", "carl", "dan")]]

    def test_json_is_the_whole_message(self, box: Mailbox, setup: NotifySetup) -> None:
        self.sent(email, {"to": "ann@example.org", "content_type": "json"}, setup, example_notice())
        assert json.loads(box.mails[0].get_content()) == example_notice().body

    def test_refused_recipients_decide_whether_it_is_tried_again(self, box: Mailbox, setup: NotifySetup) -> None:
        box.answers = {"gone@example.org": "550 no such user", "full@example.org": "452 later"}
        gone = self.sent(email, {"to": "gone@example.org"}, setup, example_notice())
        full = self.sent(email, {"to": ["gone@example.org", "full@example.org"]}, setup, example_notice())
        some = self.sent(email, {"to": ["gone@example.org", "ann@example.org"]}, setup, example_notice())
        assert (gone.permanent, full.permanent) == (True, False)
        assert some.error == ""
        assert "gone@example.org" in some.response

    def test_a_server_that_is_busy_or_away_is_tried_again(self, box: Mailbox, setup: NotifySetup) -> None:
        box.busy = "451 busy"
        busy = self.sent(email, {"to": "ann@example.org"}, setup, example_notice())
        box.busy = "554 spam"
        spam = self.sent(email, {"to": "ann@example.org"}, setup, example_notice())
        away = NotifySetup.parse("smtp://127.0.0.1:1?from=a@example.org")
        gone = self.sent(email, {"to": "ann@example.org"}, away, example_notice())
        assert (busy.status, busy.permanent, spam.permanent) == (451, False, True)
        assert "cannot be reached" in gone.error
        assert not gone.permanent


def test_mail_is_sent_over_tls_with_the_operators_password() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS)
    trusting = ssl.create_default_context(cafile=str(TLS))
    trusting.check_hostname = False
    with a_mail_server(context, sign_in=True) as box:
        results = {}
        for user in ("robot:pass%20word", "robot:wrong"):
            setup = NotifySetup.parse(f"smtp://{user}@127.0.0.1:{box.port}?from=robot@example.org")
            assert setup.mail is not None
            setup = replace(setup, mail=replace(setup.mail, context=trusting))
            results[user] = TestEmail().sent(email, {"to": "ann@example.org"}, setup, example_notice())
        strict = NotifySetup.parse(f"smtp://robot:pass%20word@127.0.0.1:{box.port}?from=robot@example.org")
        untrusted = TestEmail().sent(email, {"to": "ann@example.org"}, strict, example_notice())
    assert results["robot:pass%20word"].error == ""
    assert "user and password" in results["robot:wrong"].error
    assert "certificate" in untrusted.error
    assert len(box.mails) == 1


def test_a_password_does_not_go_over_an_open_line(box: Mailbox) -> None:
    setup = NotifySetup.parse(f"smtp://robot:secret@127.0.0.1:{box.port}?from=robot@example.org")
    sent = TestEmail().sent(email, {"to": "ann@example.org"}, setup, example_notice())
    assert "TLS" in sent.error
    assert box.mails == []


@pytest.mark.parametrize(
    "text", ["http://x", "slack=", "slack=a@b", "smtp://h", "smtp://h?from=a", "smtp://?from=a@b", "smtp://h:x?from=a@b",
             "smtp://u:hunter22@h?from=a@b&tls=maybe", "smtp://h?from=a@b&per_hour=-1", "smtp://h?from=a@b&x=1"]
)  # fmt: skip
def test_a_setting_that_cannot_be_read_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(UnavailableError, match="MEDIATHECA_NOTIFY: entry 1") as caught:
        NotifySetup.parse(text)
    assert "hunter22" not in caught.value.message


def test_the_setting_is_read() -> None:
    setup = NotifySetup.parse("smtps://u:p%2Cw@mail.example:2465?from=a@b.org&per_hour=5, slack=xoxb-1")
    assert setup.mail is not None
    assert (setup.mail.host, setup.mail.port, setup.mail.tls, setup.mail.password) == (
        "mail.example",
        2465,
        "implicit",
        "p,w",
    )
    assert (setup.mail.per_hour, setup.channels.mail_from, setup.channels.slack_token) == (5, "a@b.org", "xoxb-1")
    assert NotifySetup.parse("").mail is None
    assert "p,w" not in repr(setup)


def test_signatures_use_the_secret_as_the_standard_and_the_older_header_want_it() -> None:
    """The first is the example of the Standard Webhooks specification's reference libraries."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    headers = sign([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["x-mixpeek-signature"].startswith("t=1614265330,v1=")
    assert sign([], "m", 1, b"") == {"webhook-id": "m", "webhook-timestamp": "1"}
    plain = sign(["my own secret"], "m", 1, b"x")
    assert plain["webhook-signature"] != headers["webhook-signature"]


@pytest.mark.parametrize("secret", ["", "short", "a" * 600, "whsec_", "whsec_!!!!", "whsec_YWJj", "line\nbreak12"])
def test_a_weak_or_broken_secret_is_refused_without_repeating_it(secret: str) -> None:
    with pytest.raises(ValidationError) as caught:
        check_secret(secret, ("body", "signing_secret"))
    assert not secret or secret == "whsec_" or secret not in caught.value.message


def test_new_secrets_differ_and_are_accepted() -> None:
    made = {new_secret() for _ in range(20)}
    assert len(made) == 20
    for secret in made:
        check_secret(secret, ())


def test_the_doctor_asks_the_mail_server_and_slack_without_sending(box: Mailbox, server: Receiver) -> None:
    def asked(notify: str) -> list[tuple[str, bool, bool]]:
        found = probe_notices(Settings(notify=SecretStr(notify), fetch_allow="127.0.0.1"))
        return [(each.name, each.works, each.wrong) for each in found]

    server.answer = lambda got: Reply(body=b'{"ok": true}' if got.path == "/api/auth.test" else b"no")
    assert asked("") == [("mail", False, False), ("Slack", False, False)]
    good = f"smtp://127.0.0.1:{box.port}?from=a@b.org, slack=xoxb@{server.url}/api"
    assert asked(good) == [("mail", True, False), ("Slack", True, False)]
    bad = f"smtp://u:secret@127.0.0.1:{box.port}?from=a@b.org, slack=xoxb@{server.url}"
    assert asked(bad) == [("mail", False, True), ("Slack", False, True)]
    assert box.mails == []
