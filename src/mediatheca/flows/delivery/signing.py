"""Signing secrets of a channel: one that is current, and one before it for as long as receivers need to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mediatheca.channels import Where
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.webhook_signing import check_secret, new_secret

ACTIVE = 2
"""Secrets that sign at the same time."""
MAX_GRACE_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Signing:
    """A signing secret. `until`: seconds since 1970; None: for good."""

    value: str = field(repr=False)
    until: float | None = None


def fresh() -> Signing:
    return Signing(new_secret())


def given(secret: Any, where: Where) -> Signing:
    """A secret that a caller brings. Raises ValidationError, which does not repeat it."""
    if not isinstance(secret, str):
        raise ValidationError.at(where, "must be a text", "string_type")
    check_secret(secret, where)
    return Signing(secret)


def kept(signing: Sequence[Signing], now: datetime | None = None) -> tuple[Signing, ...]:
    """Those that are still valid, the newest first."""
    moment = (now or clock.now()).timestamp()
    return tuple(each for each in signing if each.until is None or each.until > moment)


def rotated(signing: Sequence[Signing], value: str, grace_s: float) -> tuple[Signing, ...]:
    """A new secret first; the one that was first signs for `grace_s` more, older ones no longer.

    Raises:
        ValidationError: the grace is negative or longer than thirty days.
    """
    if not 0 <= grace_s <= MAX_GRACE_S:
        raise ValidationError.at("grace_seconds", f"must be from 0 to {MAX_GRACE_S}, got {grace_s:g}", "range")
    until = clock.now().timestamp() + grace_s
    before = [Signing(each.value, until) for each in kept(signing) if grace_s][: ACTIVE - 1]
    return (Signing(value), *before)
