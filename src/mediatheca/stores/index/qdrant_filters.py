"""Filters as conditions of a vector engine."""

from __future__ import annotations

from typing import Any

from mediatheca.kernel.filters import Filter


def compile_qdrant(filter: Filter, models: Any) -> tuple[Any | None, bool]:
    """(native filter or None for everything, exact)."""
    return None, False
