"""Which HTTP headers somebody else may set on what we send. Pure."""

from __future__ import annotations

import re

from mediatheca.kernel.errors import ValidationError

MAX_HEADERS = 50
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
    if len(headers) > MAX_HEADERS:
        raise ValidationError.at("headers", f"at most {MAX_HEADERS} headers are sent, got {len(headers)}", "too_long")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
            raise ValidationError.at("headers", f"'{name[:60]}' is not a header that can be set", "header")
        if not _VALUE.fullmatch(value):
            message = f"the value of '{name}' has a line break, a control character, or characters beyond Latin-1"
            raise ValidationError.at("headers", message, "header")
    return headers
