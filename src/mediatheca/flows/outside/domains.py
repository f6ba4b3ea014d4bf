"""Which hosts an author allows: exact names, and `*.example.com` for everything below a name."""

from __future__ import annotations

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
