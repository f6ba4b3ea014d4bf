"""What tests say of answers."""

from __future__ import annotations

import time
from typing import Any

import httpx


def ok(response: httpx.Response) -> Any:
    """The body of a 200."""
    assert response.status_code == 200, response.text
    return response.json()


def failed(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of the envelope."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body["success"] is False
    assert body["status"] == status
    error = body["error"]
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    return dict(error)


def places(error: dict[str, Any]) -> set[str]:
    """Dotted places of the offending fields."""
    return {".".join(map(str, entry["loc"])) for entry in error["details"]["errors"]}


def wait_for(check: Any, timeout_s: float = 120) -> Any:
    """The first truthy value of `check()`. The limit only says when to give up: a busy machine may take long."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = check()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")
