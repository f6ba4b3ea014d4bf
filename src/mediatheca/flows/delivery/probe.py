"""For `mediatheca doctor`: whether the mail server and Slack answer, without sending anything."""

from __future__ import annotations

import asyncio

import orjson

from mediatheca.flows.delivery.mail import Mailer
from mediatheca.flows.delivery.setup import SETTING, MailServer, NotifySetup
from mediatheca.flows.outside.probe import Probe
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.notices import ChannelSettings
from mediatheca.settings import Settings
from mediatheca.stores.fetch import Fetcher
from mediatheca.stores.fetch.sender import Sender

_TIMEOUT_S = 10.0


def probe_notices(settings: Settings) -> list[Probe]:
    """Ask what is configured.

    Raises:
        UnavailableError: the setting cannot be read.
    """
    setup = NotifySetup.parse(settings.notify.get_secret_value())
    return [_mail(setup.mail), asyncio.run(_slack(setup.channels, Fetcher(settings.fetch_allow)))]


def _mail(server: MailServer | None) -> Probe:
    if server is None:
        return Probe("mail", "", f"not configured: set smtp://… in {SETTING}")
    where = f"{server.host}:{server.port}"
    mailer = Mailer(server)
    problem = mailer.check()
    mailer.close()
    return Probe("mail", where, problem or "it takes mails", works=not problem, wrong=bool(problem))


async def _slack(settings: ChannelSettings, fetcher: Fetcher) -> Probe:
    if not settings.slack_token:
        return Probe("Slack", "", f"not configured: set slack=TOKEN in {SETTING}; incoming webhooks need none")
    sender = Sender(fetcher)
    headers = {"authorization": f"Bearer {settings.slack_token}"}
    url = f"{settings.slack_url}/auth.test"
    try:
        answer = await sender.send("POST", url, headers=headers, body=b"", timeout_s=_TIMEOUT_S, max_bytes=4096)
        told = orjson.loads(answer.data)
        good = isinstance(told, dict) and told.get("ok") is True
        state = "the token is accepted" if good else f"Slack refuses the token: {str(told.get('error'))[:100]}"
    except (MediathecaError, orjson.JSONDecodeError, AttributeError) as error:
        good, state = False, error.message if isinstance(error, MediathecaError) else "the answer cannot be read"
    finally:
        await sender.close()
    return Probe("Slack", settings.slack_url, state, works=good, wrong=not good)
