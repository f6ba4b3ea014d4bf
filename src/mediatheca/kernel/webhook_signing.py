"""Signatures of what we post, pure: Standard Webhooks (https://www.standardwebhooks.com), with an older header beside.

* `webhook-signature: v1,<base64>` over `id.timestamp.body`, one for each secret that is valid now. The key is what
  follows `whsec_`, base64; a secret of another form is its own UTF-8 bytes.
* `X-Mixpeek-Signature: t=<seconds>,v1=<hex>` over `t.body`, one `v1` for each secret. The key is the whole secret as
  text, `whsec_` too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets as randomness
from collections.abc import Sequence

from mediatheca.kernel.errors import ValidationError

PREFIX = "whsec_"
KEY_BYTES = 32
MIN_KEY, MAX_KEY = 24, 64
"""Bytes of a key that the standard allows."""
MIN_TEXT, MAX_TEXT = 8, 512


def new_secret() -> str:
    """A fresh signing secret: `whsec_` and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(randomness.token_bytes(KEY_BYTES)).decode()


def check_secret(secret: str, where: tuple[str | int, ...]) -> None:
    """Accept a signing secret that a caller brings.

    Raises:
        ValidationError: too short or too long, or `whsec_` is not followed by base64; the secret is not repeated.
    """
    if not MIN_TEXT <= len(secret) <= MAX_TEXT or not secret.isprintable():
        message = f"must have {MIN_TEXT} to {MAX_TEXT} printable characters; leave it out and one is made"
        raise ValidationError.at(where, message, "signing_secret")
    if secret.startswith(PREFIX) and not MIN_KEY <= len(_decoded(secret)) <= MAX_KEY:
        message = f"'{PREFIX}' must be followed by {MIN_KEY} to {MAX_KEY} bytes in base64; leave it out and one is made"
        raise ValidationError.at(where, message, "signing_secret")


def key_of(secret: str) -> bytes:
    """The key of the standard's signature."""
    return _decoded(secret) if secret.startswith(PREFIX) else secret.encode()


def _decoded(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        return b""


def sign(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers for one attempt. Every secret signs, so that receivers may change theirs in their own time."""
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if not secrets:
        return headers
    headers["webhook-signature"] = " ".join(_standard(secret, message_id, timestamp, body) for secret in secrets)
    headers["x-mixpeek-signature"] = ",".join(
        [f"t={timestamp}", *(f"v1={_older(secret, timestamp, body)}" for secret in secrets)]
    )
    return headers


def _standard(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key_of(secret), signed, hashlib.sha256)).decode()


def _older(secret: str, timestamp: int, body: bytes) -> str:
    return hmac.digest(secret.encode(), str(timestamp).encode() + b"." + body, hashlib.sha256).hex()
