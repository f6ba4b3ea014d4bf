"""What these tests say of answers."""

from __future__ import annotations

from typing import Any

import httpx

BUCKET = {"properties": {"text": {"type": "text"}, "file": {"type": "file"}}}


def ok(response: httpx.Response) -> Any:
    """The body of a 200."""
    assert response.status_code == 200, response.text[:500]
    return response.json()


def failed(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of the envelope."""
    assert response.status_code == status, response.text[:500]
    return dict(response.json()["error"])
