"""Whose data a piece of work may touch. Every statement of a transaction is bound to one scope."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Scope:
    """One organization, or one namespace of it. `namespace_id=""` is the organization level."""

    organization_id: str
    namespace_id: str = ""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who calls: the key behind the request, what it may do, and where."""

    organization_id: str
    key_id: str
    user_id: str
    permissions: frozenset[str] = field(default_factory=frozenset)
    principal_id: str | None = None
