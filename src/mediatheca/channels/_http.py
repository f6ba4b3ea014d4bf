"""What an HTTP answer means for a message, and JSON that is posted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from mediatheca.kernel.errors import PayloadTooLargeError
from mediatheca.kernel.notices import Sent
from mediatheca.kernel.outside import HttpAnswer

MAX_BODY = 1 << 20
MAX_ANSWER = 64 << 10
_SHOWN = 1024
_LONGEST_WAIT_S = 12 * 3600.0


def as_json(body: Any) -> bytes:
    """Raises PayloadTooLargeError: more than may be posted."""
    data = orjson.dumps(body, default=str, option=orjson.OPT_NON_STR_KEYS)
    if len(data) > MAX_BODY:
        raise PayloadTooLargeError(f"the message has {len(data):,} bytes; at most {MAX_BODY:,} are posted")
    return data


def text_of(answer: HttpAnswer) -> str:
    """The beginning of an answer, for the log."""
    return answer.data[:_SHOWN].decode("utf-8", "replace")


def judged(answer: HttpAnswer, now: int) -> Sent:
    """2xx arrived; 410 wants nothing more; anything else may be tried again."""
    status, text = answer.status, text_of(answer)
    if 200 <= status < 300:
        return Sent(status, text)
    if status == 410:
        error = "the receiver answered with status 410 (gone): it wants no more messages"
        return Sent(status, text, error, permanent=True, gone=True)
    error = f"the receiver answered with status {status}"
    if 300 <= status < 400:
        error += "; redirects are not followed: give the final address"
    return Sent(status, text, error, retry_after_s=patience(answer.headers, now))


def patience(headers: Mapping[str, str], now: int) -> float | None:
    """`Retry-After`, in seconds or as a date (RFC 9110, 10.2.3)."""
    told = headers.get("retry-after", "").strip()
    if told.isascii() and told.isdigit() and len(told) < 10:
        return min(float(told), _LONGEST_WAIT_S)
    try:
        moment = parsedate_to_datetime(told)
    except (ValueError, TypeError, OverflowError):
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, aware.timestamp() - now), _LONGEST_WAIT_S)
