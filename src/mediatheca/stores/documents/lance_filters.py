"""Filters as SQL of a Lance scan."""

from __future__ import annotations

from mediatheca.kernel.filters import Filter


def compile_lance(filter: Filter) -> tuple[str | None, bool]:
    """(SQL or None for everything, exact)."""
    return None, False
