"""The contract of notification channels, as tests: subclass `ChannelContract` and give it a server that listens.

```python
class TestMyChannel(ChannelContract):
    @pytest.fixture
    def channel(self): return my_channel

    @pytest.fixture
    def config(self, server): return {"url": server.url}        # settings that work

    @pytest.fixture
    def bad_configs(self): return [{}, {"url": 7}]              # settings that are refused

    @pytest.fixture
    def arrived(self, server): return lambda: server.texts      # what came, as texts
```

The context is the one of the server: the guarded client, here also for this machine, and `setup` for mail and Slack.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError as PydanticError

from mediatheca.channels import Channel
from mediatheca.flows.delivery.context import Means
from mediatheca.flows.delivery.setup import NotifySetup
from mediatheca.kernel import clock
from mediatheca.kernel.errors import MediathecaError, ValidationError
from mediatheca.kernel.notices import ChannelSettings, Notice, Sent
from mediatheca.kernel.webhook_signing import new_secret
from mediatheca.stores.fetch import Fetcher

HOSTILE = (
    "\r\nBcc: victim@example.org\r\n\r\n<!channel> <script>alert(1)</script> {{ 7 * 7 }} {% for x in y %} "
    "\x00 \u2028 é 漢"
)
"""Breaks out of headers, markup and templates, where somebody forgot something."""


def example_notice(**changes: Any) -> Notice:
    body = {
        "event_id": "evt_example",
        "event_type": "document.created",
        "subject": {"type": "document", "id": "doc_1"},
        "data": {"document_id": "doc_1", "name": "night train"},
    }
    notice = Notice("evt_example", "document.created", "a document", "night train to Lisbon", body, (new_secret(),))
    return replace(notice, **changes)


class ChannelContract:
    """What every channel promises. Fixtures to give: `channel`, `config`, `arrived`; `bad_configs`, `setup`."""

    @pytest.fixture
    def bad_configs(self) -> Sequence[Mapping[str, Any]]:
        return ()

    @pytest.fixture
    def setup(self) -> NotifySetup:
        return NotifySetup()

    def sent(self, channel: Channel, config: Mapping[str, Any], setup: NotifySetup, notice: Notice) -> Sent:
        """One attempt."""

        async def attempt() -> Sent:
            means = Means(Fetcher("127.0.0.1"), setup, clock.now)
            try:
                return await channel.send(notice, channel.params.model_validate(config), means.bound("org_1"))
            finally:
                await means.close()

        return asyncio.run(attempt())

    def test_it_is_described(self, channel: Channel) -> None:
        assert re.fullmatch(r"[a-z][a-z0-9_]{0,31}", channel.name)
        assert channel.summary.strip()
        fields = channel.params.model_fields
        assert set(channel.secret_fields) <= set(fields)
        assert channel.short in {"", *fields}

    def test_settings_that_work_are_accepted(self, channel: Channel, config: Mapping[str, Any]) -> None:
        params = channel.params.model_validate({**config, "some_key_of_tomorrow": 1})
        channel.check(params, ("config",))
        assert all(isinstance(url, str) for url in channel.addresses(params))

    def test_settings_come_back_as_json(self, channel: Channel, config: Mapping[str, Any]) -> None:
        params = channel.params.model_validate(config)
        again = channel.params.model_validate(json.loads(json.dumps(params.model_dump(mode="json", exclude_none=True))))
        assert again == params

    def test_bad_settings_are_refused(self, channel: Channel, bad_configs: Sequence[Mapping[str, Any]]) -> None:
        for config in bad_configs:
            with pytest.raises((ValidationError, PydanticError)):
                channel.check(channel.params.model_validate(config), ("config",))

    def test_a_notice_arrives(
        self, channel: Channel, config: Mapping[str, Any], setup: NotifySetup, arrived: Callable[[], list[str]]
    ) -> None:
        before = len(arrived())
        sent = self.sent(channel, config, setup, example_notice())
        assert sent.error == ""
        assert not sent.permanent
        assert not sent.gone
        if channel.addresses(channel.params.model_validate(config)):
            assert len(arrived()) == before + 1

    def test_hostile_text_is_text(
        self, channel: Channel, config: Mapping[str, Any], setup: NotifySetup, arrived: Callable[[], list[str]]
    ) -> None:
        """It arrives, and nothing in it is carried out; or it is refused with a reason."""
        body = {"event_type": HOSTILE, "data": {"name": HOSTILE}, "title": HOSTILE}
        notice = example_notice(subject=HOSTILE, text=HOSTILE, body=body)
        sent = self.sent(channel, config, setup, notice)
        assert sent.error == "" or sent.permanent
        assert not any("\nBcc: victim@example.org" in text.split("\n\n")[0] for text in arrived())
        assert not any("49" in text and "7 * 7" not in text for text in arrived()[-1:])

    def test_a_long_text_is_no_trouble(self, channel: Channel, config: Mapping[str, Any], setup: NotifySetup) -> None:
        notice = example_notice(text="word " * 40_000, body={"data": {"text": "word " * 40_000}})
        assert self.sent(channel, config, setup, notice).error == ""

    def test_what_is_too_long_is_refused_with_a_reason(
        self, channel: Channel, config: Mapping[str, Any], setup: NotifySetup
    ) -> None:
        notice = example_notice(body={"data": "x" * (3 << 20)})
        with suppress(MediathecaError):  # the deliverer records its message
            sent = self.sent(channel, config, setup, notice)
            assert sent.error == "" or sent.permanent

    def test_what_is_missing_is_said(self, channel: Channel, config: Mapping[str, Any]) -> None:
        """An operator who set up nothing reads which setting it is."""
        missing = channel.missing(channel.params.model_validate(config), ChannelSettings())
        assert missing == "" or "MEDIATHECA_" in missing

    def test_the_same_notice_twice_is_no_trouble(
        self, channel: Channel, config: Mapping[str, Any], setup: NotifySetup
    ) -> None:
        """A crash between sending and recording sends it again."""
        notice = example_notice()
        assert [self.sent(channel, config, setup, notice).error for _ in range(2)] == ["", ""]
