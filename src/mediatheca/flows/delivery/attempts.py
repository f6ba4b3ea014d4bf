"""One attempt: the message as its channel gets it, and what its outcome means for the delivery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
import structlog

from mediatheca.flows.delivery.addresses import Address
from mediatheca.flows.delivery.backoff import next_delay
from mediatheca.flows.delivery.signing import kept
from mediatheca.kernel.errors import MediathecaError, PayloadTooLargeError, TooManyRequestsError
from mediatheca.kernel.notices import ChannelContext, Notice, Sent
from mediatheca.stores.db.deliveries import Claimed, Result

log = structlog.get_logger()

MAX_RESPONSE = 1024
MAX_ERROR = 500
_MAX_TEXT = 4_000
POSTPONED = -1
"""Status of a `Sent` that was no attempt."""


async def attempt(claimed: Claimed, address: Address, context: ChannelContext, now: datetime) -> Sent:
    """Send a message once. Whatever goes wrong is in the result."""
    if address.channel is None or address.params is None:
        return Sent(error=address.problem)
    try:
        return await address.channel.send(_notice(claimed, address, now), address.params, context)
    except TooManyRequestsError as error:
        return Sent(POSTPONED, error=error.message, retry_after_s=error.retry_after_s)
    except MediathecaError as error:
        return Sent(error=error.message, permanent=isinstance(error, PayloadTooLargeError))
    except Exception as error:
        log.error("delivery.channel_crashed", channel=address.channel.name, exc_info=error)
        return Sent(error=f"the channel '{address.channel.name}' failed ({type(error).__name__}); see the server's log")


def outcome(claimed: Claimed, address: Address, sent: Sent, backoff: Sequence[float]) -> Result:
    """What becomes of the delivery. Secrets that the other side repeated are masked."""
    error = _storable(address.redactor.message(sent.error)[:MAX_ERROR]) or None  # it may repeat what came back
    response = _storable(address.redactor.text(sent.response)[:MAX_RESPONSE]) or None
    base = Result(claimed.delivery_id, "delivered", 0.0, True, sent.status or None, error, response)
    if sent.status == POSTPONED:
        return replace(base, status="pending", delay_s=sent.retry_after_s or 1.0, counted=False, last_status=None)
    if not sent.error:
        return base
    if address.status and address.status != "pending":
        return replace(base, status=address.status)
    delay = next_delay(claimed.attempts + 1, backoff, sent.retry_after_s)
    if sent.permanent or delay is None:
        return replace(base, status="failed")
    return replace(base, status="pending", delay_s=delay)


def _storable(text: str) -> str:
    """PostgreSQL keeps no NUL."""
    return text.replace("\0", "\ufffd")


def _notice(claimed: Claimed, address: Address, now: datetime) -> Notice:
    body = claimed.body
    subject, text = _for_people(claimed.event_type, body)
    secrets = tuple(each.value for each in kept(address.signing, now))
    return Notice(claimed.message_id, claimed.event_type, subject, text, body, secrets)


def _for_people(event_type: str, body: Mapping[str, Any]) -> tuple[str, str]:
    """`title` and `text` of the body, or what can be said without them."""
    about = body.get("subject")
    named = f" {about.get('id')}" if isinstance(about, dict) and about.get("id") else ""
    subject = str(body.get("title") or f"{event_type}{named}")
    if body.get("text"):
        return subject, str(body["text"])
    data = orjson.dumps(body.get("data", body), default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    return subject, f"{subject}\n\n{data.decode('utf-8', 'replace')[:_MAX_TEXT]}"
