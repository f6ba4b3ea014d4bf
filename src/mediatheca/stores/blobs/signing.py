"""Signatures of the URLs under which the API itself serves and takes blobs: HMAC-SHA256 over everything they allow."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlencode

from mediatheca.kernel.errors import ForbiddenError

PATH = "/v1/blobs/"
_MIN_SECRET_BYTES = 16
_VERSION = "mediatheca-blob-1"


@dataclass(frozen=True, slots=True)
class SignedGrant:
    """What a signed URL allows. `content_type`: of the answer to a GET. `max_bytes`: of a PUT."""

    method: Literal["GET", "PUT"]
    key: str
    expires_at: int
    """Seconds since 1970."""
    content_type: str | None = None
    max_bytes: int | None = None


class Signer:
    """Signs and verifies grants with one secret of at least 16 bytes."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < _MIN_SECRET_BYTES:
            raise ValueError(f"the secret that signs URLs must have at least {_MIN_SECRET_BYTES} bytes")
        self._secret = secret

    def sign(self, grant: SignedGrant) -> str:
        """The path and query to hand out."""
        query = {"exp": str(grant.expires_at)}
        if grant.content_type is not None:
            query["ct"] = grant.content_type
        if grant.max_bytes is not None:
            query["max"] = str(grant.max_bytes)
        query["sig"] = self._signature(grant)
        return f"{PATH}{quote(grant.key, safe='/')}?{urlencode(query)}"

    def verify(self, method: str, key: str, query: Mapping[str, str]) -> SignedGrant:
        """The grant of a request, if its signature is ours and its time has not passed.

        Raises:
            ForbiddenError: the URL was not signed by this server for this method and key, or has expired.
        """
        signature = query.get("sig", "")
        grant = _grant(method, key, query)
        if grant is None or not hmac.compare_digest(self._signature(grant).encode(), signature.encode()):
            raise ForbiddenError(
                f"this URL is not signed for {method} of this blob; use it exactly as given, or ask for a new one"
            )
        if grant.expires_at <= time.time():
            raise ForbiddenError("this URL has expired; ask for a new one")
        return grant

    def _signature(self, grant: SignedGrant) -> str:
        # Lengths in front of the free texts, so that no two grants give the same message.
        texts = (grant.key, "" if grant.content_type is None else f"={grant.content_type}")
        message = "\n".join(
            [_VERSION, grant.method, str(grant.expires_at), str(grant.max_bytes), *(f"{len(t)}:{t}" for t in texts)]
        )
        digest = hmac.new(self._secret, message.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _grant(method: str, key: str, query: Mapping[str, str]) -> SignedGrant | None:
    """What the URL claims; None when it cannot be one of ours."""
    allowed: Literal["GET", "PUT"] | None = {"GET": "GET", "HEAD": "GET", "PUT": "PUT"}.get(method)  # type: ignore[assignment]
    expires, largest = query.get("exp", ""), query.get("max")
    if allowed is None or not _is_number(expires) or not (largest is None or _is_number(largest)):
        return None
    return SignedGrant(allowed, key, int(expires), query.get("ct"), None if largest is None else int(largest))


def _is_number(text: str) -> bool:
    """Canonical digits only: `007` and `٣` are not what we wrote."""
    return text.isascii() and text.isdigit() and len(text) <= 18 and (text == "0" or text[0] != "0")
