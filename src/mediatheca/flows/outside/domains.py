"""Which hosts an author allows: exact names, and `*.example.com` for everything below a name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mediatheca.kernel.errors import ValidationError

_WILD = "*."


def permitted(host: str, allowed: Sequence[str]) -> bool:
    """Whether a host (ASCII, lower case) is one of those allowed; an empty list allows every one."""
    if not allowed:
        return True
    names = [entry.strip().lower().rstrip(".") for entry in allowed]
    return any(host.endswith(name[1:]) if name.startswith(_WILD) else host == name for name in names)


def check_permitted(host: str, allowed: Sequence[str]) -> None:
    """Raises ValidationError when a host is not allowed."""
    if not permitted(host, allowed):
        message = f"'{host}' is not one of the allowed_domains ({', '.join(allowed)[:200]})"
        raise ValidationError.at("url", message, "domain_refused")


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,8192}")
_OURS = frozenset({
    "host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect",
    "accept-encoding", "proxy-authorization", "proxy-connection",
})  # fmt: skip


def check_headers(headers: dict[str, str]) -> dict[str, str]:
    """Headers a caller may set.

    Raises:
        ValidationError: a name or value is none, or the header belongs to the connection.
    """
    if len(headers) > 50:
        raise ValidationError.at("headers", f"at most 50 headers are sent, got {len(headers)}", "too_long")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
            raise ValidationError.at("headers", f"'{name[:60]}' is not a header that can be set", "header")
        if not _VALUE.fullmatch(value):
            message = f"the value of '{name}' has a line break, a control character, or characters beyond Latin-1"
            raise ValidationError.at("headers", message, "header")
    return headers
