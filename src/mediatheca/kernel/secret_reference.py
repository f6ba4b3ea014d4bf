"""References to secrets in configuration: `{{SECRET.name}}` or `{{secrets.name}}` in the place of a value. Pure.

A reference is stored and shown; what it stands for is read when it is used, and nowhere else.
"""

from __future__ import annotations

import re

_REFERENCE = re.compile(r"\{\{\s*(?:SECRET|secrets?)\.([A-Za-z0-9_][A-Za-z0-9_.-]{0,99})\s*\}\}")


def secret_name(text: str) -> str | None:
    """The name of the secret that a text refers to; None when it is anything else."""
    found = _REFERENCE.fullmatch(text.strip())
    return found[1] if found else None
