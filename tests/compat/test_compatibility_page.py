"""The compatibility page says what is true of the OpenAPI document."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import httpx
import mixpeek.api
import pytest
from compat_served import KEY, Served
from test_generated import GROUPS, NOT_YET

PAGE = (Path(__file__).parents[2] / "docs" / "COMPATIBILITY.md").read_text()
OPERATION = re.compile(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`\s]+)`")


def section(title: str) -> set[tuple[str, str]]:
    """The operations named below a heading."""
    text = PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    return set(OPERATION.findall(text))


def plain(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path).rstrip("/")


def generated(operation: str) -> tuple[str, str]:
    """Method and path of a generated method, as its serializer has them."""
    class_name, method = operation.split(".")
    source = inspect.getsource(getattr(getattr(mixpeek.api, class_name), f"_{method}_serialize"))
    verb, path = re.search(r"method='(\w+)'", source), re.search(r"resource_path='([^']+)'", source)
    assert verb is not None
    assert path is not None
    return verb[1], plain(path[1])


@pytest.fixture(scope="module")
def served_operations(served: Served) -> set[tuple[str, str]]:
    paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    return {(method.upper(), plain(path)) for path, methods in paths.items() for method in methods}


def test_every_operation_listed_as_working_is_served(served_operations: set[tuple[str, str]]) -> None:
    listed = section("What works")
    assert len(listed) > 120
    assert listed - served_operations == set()


def test_every_generated_method_under_test_is_listed() -> None:
    tested = {generated(operation) for group in GROUPS.values() for operation in group}
    assert tested - section("What works") == set()
    assert {generated(operation) for operation in NOT_YET} - section("Not there yet") == set()


def test_what_is_listed_as_missing_is_missing_and_answers_404(
    served: Served, namespace: str, served_operations: set[tuple[str, str]]
) -> None:
    missing = section("Not there yet")
    assert missing & served_operations == set()
    headers = {"Authorization": f"Bearer {KEY}", "X-Namespace": namespace}
    with httpx.Client(base_url=served.url, headers=headers) as client:
        for method, path in sorted(missing):
            answer = client.request(method, path.replace("{}", "unknown"), json={} if method != "GET" else None)
            assert answer.status_code in (404, 405), (method, path, answer.text)
            assert answer.json()["success"] is False
