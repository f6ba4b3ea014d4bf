"""What holds for every route: paths, bodies, errors, lists, headers, and the order of commit and answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers import failed, ok, places
from mediatheca.settings import Settings
from server import Server, Tenant

SCHEMA = {"properties": {"text": {"type": "text"}}}


@pytest.mark.parametrize(
    "path", ["/v1/buckets", "/buckets", "/api/v1/buckets", "/v1/buckets/", "/buckets/", "/api/v1/buckets/"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_base_path_and_both_slash_forms_answer_directly(client: httpx.Client, path: str, method: str) -> None:
    body = {"json": {"bucket_name": "b1", "bucket_schema": SCHEMA}} if method == "POST" else {}
    answer = client.request(method, path, follow_redirects=False, **body)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", ["/openapi.json", "/docs/openapi.json"])
def test_the_openapi_document_is_at_the_root(server: Server, path: str) -> None:
    document = ok(httpx.get(server.url + path))
    operations = [entry["operationId"] for methods in document["paths"].values() for entry in methods.values()]
    assert len(operations) == len(set(operations))
    assert "create_bucket" in operations


@pytest.mark.parametrize("body", [b"", b"{}", b'{"note":"no JSON body provided"}'])
def test_an_empty_body_is_an_empty_object(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/buckets/list", content=body, headers={"Content-Type": "application/json"})
    assert ok(answer)["results"] == []


def test_a_missing_body_is_checked_like_an_empty_one(client: httpx.Client) -> None:
    assert {"body.bucket_name", "body.bucket_schema"} <= places(failed(client.post("/v1/buckets"), 422))


@pytest.mark.parametrize("path", ["/v1/buckets", "/v1/buckets/list", "/v1/buckets/things/objects"])
@pytest.mark.parametrize("body", [b"{", b"[1]", b'"text"', b"\xff\xfe", b"null x"])
def test_what_is_no_json_object_is_refused(client: httpx.Client, bucket: str, path: str, body: bytes) -> None:
    error = failed(client.post(path, content=body, headers={"Content-Type": "application/json"}), 422)
    assert error["type"] == "ValidationError"
    assert error["details"]["retryable"] is False


def test_unknown_keys_are_ignored_with_a_warning(client: httpx.Client) -> None:
    made = ok(client.post("/v1/buckets", json={"bucket_name": "b1", "bucket_schema": SCHEMA, "descripton": "x"}))
    assert made["warnings"] == ["descripton: unknown key is ignored; did you mean 'description'?"]
    assert made["description"] is None


def test_strict_servers_refuse_unknown_keys(tmp_path: Path) -> None:
    from server import new_tenant

    strict = Server(Settings(data_dir=tmp_path, workers=0, strict=True))
    try:
        with new_tenant(strict).client() as client:
            error = failed(client.post("/v1/namespaces", json={"namespace_name": "aa", "descripton": "x"}), 422)
            assert "did you mean 'description'" in error["message"]
            assert places(error) == {"body.descripton"}
            assert ok(client.get("/v1/namespaces"))["results"] == []
    finally:
        strict.close()


def test_a_validation_error_has_every_shape_that_clients_read(client: httpx.Client) -> None:
    answer = client.post("/v1/buckets", json={"bucket_name": 5, "bucket_schema": SCHEMA})
    error = failed(answer, 422)
    detail = answer.json()["detail"]
    assert detail == error["details"]["errors"]
    assert detail[0]["loc"] == ["body", "bucket_name"]
    assert set(detail[0]) == {"loc", "msg", "type"}
    assert error["details"]["validation_errors"][0]["location"] == ["body", "bucket_name"]


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/nowhere", 404, "NotFoundError"),
        ("GET", "/v1/buckets/bkt_none", 404, "NotFoundError"),
        ("PUT", "/v1/buckets", 405, "MethodNotAllowedError"),
    ],
)
def test_every_error_has_the_envelope(client: httpx.Client, method: str, path: str, status: int, kind: str) -> None:
    assert failed(client.request(method, path), status)["type"] == kind


def test_a_list_is_the_union_of_all_shapes(client: httpx.Client, bucket: str) -> None:
    page = ok(client.get("/v1/buckets?page=1&page_size=5"))
    assert page["pagination"] == {
        "total": 1, "page": 1, "page_size": 5, "total_pages": 1, "next_page": None, "previous_page": None,
        "next_cursor": None, "has_more": False,
    }  # fmt: skip
    assert (page["total"], page["total_count"], page["offset"], page["limit"]) == (1, 1, 0, 5)


@pytest.mark.parametrize(
    "body", [{"limit": 0}, {"limit": 1001}, {"page": "x"}, {"offset": -1}, {"cursor": "!"}, {"search": 5}]
)
def test_bad_paging_is_named(client: httpx.Client, body: dict[str, Any]) -> None:
    error = failed(client.post("/v1/buckets/list", json=body), 422)
    assert next(iter(body)) in error["message"]


def test_paging_in_the_body_wins_over_the_query(client: httpx.Client) -> None:
    for number in range(3):
        ok(client.post("/v1/buckets", json={"bucket_name": f"b{number}", "bucket_schema": SCHEMA}))
    assert len(ok(client.post("/v1/buckets/list?limit=1", json={"limit": 2}))["results"]) == 2
    seen, cursor = [], None
    while True:
        page = ok(client.post("/v1/buckets/list", json={"limit": 1, "cursor": cursor}))
        seen += [row["bucket_name"] for row in page["results"]]
        cursor = page["pagination"]["next_cursor"]
        if cursor is None:
            break
    assert seen == ["b2", "b1", "b0"]
    assert [r["bucket_name"] for r in ok(client.get("/v1/buckets?limit=1&offset=1"))["results"]] == ["b1"]


def test_a_get_that_did_not_change_answers_304(client: httpx.Client, bucket: str) -> None:
    first = client.get(f"/v1/buckets/{bucket}")
    again = client.get(f"/v1/buckets/{bucket}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    ok(client.patch(f"/v1/buckets/{bucket}", json={"description": "new"}))
    assert client.get(f"/v1/buckets/{bucket}", headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_the_namespace_header_takes_ids_and_names_and_the_query_too(admin: httpx.Client, namespace: str) -> None:
    for ident in (namespace, "main"):
        ok(admin.get("/v1/buckets", headers={"X-Namespace": ident}))
        ok(admin.get(f"/v1/buckets?namespace={ident}"))
    assert "X-Namespace" in failed(admin.get("/v1/buckets"), 422)["message"]
    failed(admin.get("/v1/buckets", headers={"X-Namespace": "nope"}), 404)


def test_organization_routes_tolerate_the_namespace_header(client: httpx.Client) -> None:
    ok(client.get("/v1/namespaces", headers={"X-Namespace": "anything"}))


def test_request_ids_come_back(client: httpx.Client) -> None:
    assert client.get("/v1/me", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert client.get("/v1/me").headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_beyond_the_cap_is_refused(client: httpx.Client, server: Server, bucket: str, announced: bool) -> None:
    size = (server.app.services.settings.max_body_mb << 20) + 1
    content: Any = b"x" * size if announced else (b"x" * (1 << 20) for _ in range((size >> 20) + 1))
    answer = client.post(f"/v1/buckets/{bucket}/objects", content=content, headers={"Content-Type": "application/json"})
    assert failed(answer, 413)["type"] == "PayloadTooLargeError"


def test_times_are_utc_with_z(client: httpx.Client, bucket: str) -> None:
    assert ok(client.get(f"/v1/buckets/{bucket}"))["created_at"].endswith("Z")


@pytest.mark.parametrize(
    "raw", [b'{"description":"\\ud800"}', b'{"metadata":{"a":"\\ud800"}}', b'{"metadata":{"a":1e400}}']
)
def test_a_value_that_no_database_takes_is_a_client_error(client: httpx.Client, bucket: str, raw: bytes) -> None:
    before = ok(client.get(f"/v1/buckets/{bucket}"))
    answer = client.patch(f"/v1/buckets/{bucket}", content=raw, headers={"Content-Type": "application/json"})
    if b"1e400" in raw:
        assert ok(answer)["metadata"] == {"a": None}
        return
    failed(answer, 422)
    assert ok(client.get(f"/v1/buckets/{bucket}")) == before


@pytest.mark.parametrize("text", ["nul \u0000 inside", "\U0001f600 ünï 漢字"])
def test_any_text_is_stored_and_comes_back(client: httpx.Client, bucket: str, text: str) -> None:
    made = ok(client.post(f"/v1/buckets/{bucket}/objects", json={"title": text}))
    assert ok(client.get(f"/v1/buckets/{bucket}/objects/{made['object_id']}"))["title"] == text


@pytest.mark.parametrize("raw", [b'{"title":"\\ud800"}', b'{"x":NaN}', b'{"bucket_name":"\\ud800","bucket_schema":{}}'])
def test_what_cannot_be_stored_is_a_client_error(client: httpx.Client, bucket: str, raw: bytes) -> None:
    path = "/v1/buckets" if b"bucket_name" in raw else f"/v1/buckets/{bucket}/objects"
    failed(client.post(path, content=raw, headers={"Content-Type": "application/json"}), 422)


def test_the_commit_comes_before_the_answer(client: httpx.Client, server: Server, tenant: Tenant) -> None:
    """Whoever has the answer finds the row through another connection, every time."""
    for number in range(30):
        made = ok(client.post("/v1/buckets", json={"bucket_name": f"order {number}", "bucket_schema": SCHEMA}))
        with server.app.services.db.engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT id FROM resources WHERE id = ?", (made["bucket_id"],)).all()
        assert len(found) == 1


def test_a_commit_that_fails_is_not_answered_with_success(client: httpx.Client, server: Server) -> None:
    """The answer waits for the commit: an error there reaches the caller. Only that commit fails, not one of the
    server's own that happens to come first."""
    engine, doomed = server.app.services.db.engine, set[int]()

    def look(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if "never committed" in str(parameters):
            doomed.add(id(connection))

    def refuse(connection: Any) -> None:
        if id(connection) in doomed:
            doomed.clear()
            raise RuntimeError("the disk is gone")

    from sqlalchemy import event

    event.listen(engine, "before_cursor_execute", look)
    event.listen(engine, "commit", refuse)
    try:
        answer = client.post("/v1/buckets", json={"bucket_name": "never committed", "bucket_schema": SCHEMA})
    finally:
        event.remove(engine, "commit", refuse)
        event.remove(engine, "before_cursor_execute", look)
    error = failed(answer, 500)
    assert "disk" not in error["message"]
    assert error["details"]["error_id"] == answer.headers["x-request-id"]
    failed(client.get("/v1/buckets/never committed"), 404)


def test_many_writers_and_readers_at_once_do_not_block_each_other(
    client: httpx.Client, tenant: Tenant, namespace: str
) -> None:
    """More requests than threads: whoever holds the write lock must not need another thread to finish."""

    def work(number: int) -> int:
        with tenant.client(namespace) as own:
            if number % 2:
                return own.get("/v1/buckets").status_code
            return own.post("/v1/buckets", json={"bucket_name": f"many {number}", "bucket_schema": SCHEMA}).status_code

    with ThreadPoolExecutor(120) as pool:
        assert set(pool.map(work, range(240))) == {200}
