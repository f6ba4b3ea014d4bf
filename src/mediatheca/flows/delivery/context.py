"""What a channel may use while it sends: the guarded client, the operator's mail server, templates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from typing import Any

from mediatheca.flows.delivery.mail import Mailer
from mediatheca.flows.delivery.setup import NotifySetup
from mediatheca.flows.outside.rates import Rates
from mediatheca.kernel import notice_templates
from mediatheca.kernel.errors import TooManyRequestsError, UnavailableError
from mediatheca.kernel.notices import ChannelSettings, Escape, Sent
from mediatheca.kernel.outside import HttpAnswer, HttpRequest
from mediatheca.stores.fetch import Fetcher
from mediatheca.stores.fetch.sender import Sender

MAX_MAILING = 32
"""Mails that wait for the one connection; more would keep webhooks from being sent while the mail server hangs."""
_TURN_S = 1.0


class Means:
    """What all deliveries of a process share. Made in the loop that uses it."""

    def __init__(self, fetcher: Fetcher, setup: NotifySetup, now: Callable[[], datetime]) -> None:
        self.sender = Sender(fetcher)
        self.settings = setup.channels
        self.now = now
        self.rates = Rates()
        self.mailing = 0
        self.mailer = Mailer(setup.mail) if setup.mail is not None else None
        # A template may take half a second: not in the loop that everybody's deliveries share.
        self.renderers = ThreadPoolExecutor(2, "render")

    def bound(self, organization_id: str) -> BoundContext:
        return BoundContext(self, organization_id)

    async def close(self) -> None:
        await self.sender.close()
        self.renderers.shutdown(wait=False, cancel_futures=True)
        if self.mailer is not None:
            self.mailer.close()


@dataclass(frozen=True, slots=True)
class BoundContext:
    """`ChannelContext` for one organization."""

    means: Means
    organization_id: str

    @property
    def settings(self) -> ChannelSettings:
        return self.means.settings

    def timestamp(self) -> int:
        return int(self.means.now().timestamp())

    async def http(self, request: HttpRequest) -> HttpAnswer:
        """See `mediatheca.kernel.notices.ChannelContext`."""
        done = await self.means.sender.send(
            request.method,
            request.url,
            headers=request.headers,
            body=request.body,
            timeout_s=request.timeout_s,
            max_bytes=request.max_bytes,
        )
        return HttpAnswer(done.status, done.headers, done.data, done.content_type, done.final_url)

    async def mail(self, message: EmailMessage, recipients: list[str]) -> Sent:
        """See `mediatheca.kernel.notices.ChannelContext`."""
        mailer = self.means.mailer
        if mailer is None:
            raise UnavailableError("no mail server is set up: name one with smtp://… in MEDIATHECA_NOTIFY")
        if self.means.mailing >= MAX_MAILING:
            raise TooManyRequestsError("many mails wait for the mail server; this one waits its turn", _TURN_S)
        wait = self.means.rates.take(self.organization_id, "mail", 0, mailer.server.per_hour)
        if wait:
            raise self.means.rates.refuse("mail", wait)
        self.means.mailing += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(mailer.threads, mailer.send, message, recipients)
        finally:
            self.means.mailing -= 1

    async def render(self, template: Any, values: Mapping[str, Any], escape: Escape = "none") -> Any:
        """See `mediatheca.kernel.notices.ChannelContext`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.means.renderers, notice_templates.render, template, values, escape)
