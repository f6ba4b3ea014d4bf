"""Documents by the thousand: batch, bulk, upsert, group commit, and questions about many of them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from documents_world import TEXT, Tenant, vector_of
from mixpeek.models.batch_delete_documents_response import BatchDeleteDocumentsResponse
from mixpeek.models.batch_get_documents_response import BatchGetDocumentsResponse
from mixpeek.models.batch_list_documents_response import BatchListDocumentsResponse
from mixpeek.models.batch_update_documents_response import BatchUpdateDocumentsResponse
from mixpeek.models.bulk_update_documents_response import BulkUpdateDocumentsResponse
from mixpeek.models.byo_upsert_response import BYOUpsertResponse
from mixpeek.models.distinct_values_response import DistinctValuesResponse
from mixpeek.models.document_aggregation_response import DocumentAggregationResponse
from mixpeek.models.document_count_response import DocumentCountResponse

from mediatheca.flows.document_reads import DocumentReader
from mediatheca.flows.document_rows import creation, patching
from mediatheca.flows.documents import Change
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import ConflictError, NotFoundError, UnavailableError


def fill(home: Tenant, count: int, **fields: Any) -> None:
    """Documents d000, d001, … with a number, a color and a vector each."""
    rows = [
        {
            "document_id": f"d{n:03}",
            "vectors": {"letters": vector_of("aeiou"[n % 5] * 3)},
            "payload": {"n": n, "color": ["red", "blue"][n % 2], **fields},
        }
        for n in range(count)
    ]
    assert home.call("POST", "/namespaces/shop/documents/upsert", {"documents": rows})["inserted"] == count


def commits(home: Tenant, collection_id: str) -> int:
    with home.world.db.read(home.scope) as tx:
        row = tx.row("document_tables", {"collection_id": collection_id})
    assert row is not None
    return int(row["commits"])


# ---- batch update


def test_a_batch_update_tells_the_outcome_of_every_row(home: Tenant, path: str) -> None:
    fill(home, 3)
    updates: list[Any] = [
        {"document_id": "d000", "update_data": {"n": 100}},
        {"document_id": "nothing", "update_data": {"n": 1}},
        {"document_id": "d001", "update_data": {"_internal": {}}},
        {"document_id": "d001", "update_data": {"vectors": {"letters": [1, 2]}}},
        "text",
        {"document_id": "d002", "update_data": {"n": 102}},
        {"document_id": "d002", "update_data": {"extra": True}},
    ]
    done = home.call("POST", f"{path}/batch", {"updates": updates})
    BatchUpdateDocumentsResponse.from_dict(done)
    assert [row["success"] for row in done["results"]] == [True, False, False, False, False, True, True]
    assert (done["updated_count"], done["failed_count"]) == (3, 4)
    assert "updates.2.update_data._internal" in done["results"][2]["error"]
    assert "8 dimensions" in done["results"][3]["error"]
    shown = home.call("GET", f"{path}/d002")
    assert (shown["n"], shown["extra"]) == (102, True)


def test_a_batch_update_is_one_commit(home: Tenant, path: str) -> None:
    fill(home, 50)
    before = commits(home, path.split("/")[2])
    updates = [{"document_id": f"d{n:03}", "update_data": {"n": -n}} for n in range(50)]
    assert home.call("POST", f"{path}/batch", {"updates": updates})["updated_count"] == 50
    assert commits(home, path.split("/")[2]) == before + 1
    assert home.call("GET", f"{path}/d049")["n"] == -49


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"updates": []},
        {"updates": [{"document_id": "d", "update_data": {}}] * 1001},
        {"updates": [{}], "filters": {"a": 1}},
        {"filters": {"a": 1}},
        {"filters": {}, "update_data": {"a": 1}},
        {"filters": [], "update_data": {"a": 1}},
        {"filters": {"n": 0}, "update_data": {}},
        {"filters": {"a": 1}, "update_data": {"document_id": "x"}},
        {"filters": {"a": 1}, "update_data": []},
    ],
)
def test_a_batch_update_that_says_too_little_or_too_much_is_refused(home: Tenant, path: str, body: Any) -> None:
    fill(home, 1)
    home.call("POST", f"{path}/batch", body, status=422)
    assert home.call("GET", f"{path}/d000")["n"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"update_data": {}},
        {"filters": [], "update_data": {"n": -1}},
        {"filters": {}, "update_data": {"n": -1}},
        {"filters": {"AND": []}, "update_data": {"n": -1}},
        {"filters": {"n": {"$nonsense": 1}}, "update_data": {"n": -1}},
        {"filters": {"n": 0}, "update_data": {"_internal": 1}},
    ],
)
def test_a_bulk_update_that_says_nothing_is_refused_and_changes_nothing(home: Tenant, path: str, body: Any) -> None:
    fill(home, 3)
    before = commits(home, path.split("/")[2])
    refused = home.call("PATCH", f"{path}/bulk", body, status=422)
    assert refused["error"]["details"]["errors"]
    assert commits(home, path.split("/")[2]) == before
    assert [home.call("GET", f"{path}/d00{n}")["n"] for n in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("body", [{}, {"filters": []}, {"document_ids": []}, {"filters": {"OR": []}}])
def test_a_batch_delete_that_says_nothing_is_refused(home: Tenant, path: str, body: Any) -> None:
    fill(home, 2)
    home.call("DELETE", f"{path}/batch", body, status=422)
    assert home.call("GET", f"{path}/count")["count"] == 2


def test_documents_are_updated_and_deleted_by_filter(home: Tenant, path: str) -> None:
    fill(home, 10)
    red = {"field": "color", "operator": "eq", "value": "red"}
    done = home.call("POST", f"{path}/batch", {"filters": red, "update_data": {"color": "green"}})
    assert (done["updated_count"], done["failed_count"]) == (5, 0)
    bulk = home.call("PATCH", f"{path}/bulk", {"update_data": {"metadata": {"seen": True}}})
    BulkUpdateDocumentsResponse.from_dict(bulk)
    assert (bulk["updated_count"], bulk["status"]) == (10, "COMPLETED")
    assert home.call("GET", f"{path}/d000")["metadata"] == {"seen": True}
    gone = home.call("DELETE", f"{path}/batch", {"filters": {"color": "green"}})
    BatchDeleteDocumentsResponse.from_dict(gone)
    assert gone["deleted_count"] == 5
    assert home.call("GET", f"{path}/count")["count"] == 5


def test_a_batch_delete_tells_the_outcome_of_every_id(home: Tenant, path: str) -> None:
    fill(home, 3)
    gone = home.call("DELETE", f"{path}/batch", {"document_ids": ["d000", "nothing", "d002", "d002"], "reason": "old"})
    BatchDeleteDocumentsResponse.from_dict(gone)
    assert (gone["deleted_count"], gone["failed_count"]) == (2, 1)
    assert [row["success"] for row in gone["results"]] == [True, False, True]
    assert [d["document_id"] for d in home.call("GET", path)["results"]] == ["d001"]
    found = home.call("POST", "/documents/search", {"query": "aaa iii"})
    assert [d["document_id"] for d in found["results"]] == ["d001"]
    for body in (
        {},
        {"document_ids": []},
        {"document_ids": ["a"] * 1001},
        {"filters": {}},
        {"document_ids": ["a"], "filters": {"a": 1}},
    ):
        home.call("DELETE", f"{path}/batch", body, status=422)


# ---- own vectors


def test_an_upsert_inserts_replaces_and_is_searchable_at_once(home: Tenant, path: str) -> None:
    rows = [
        {"document_id": "a", "vectors": {"letters": vector_of("aaa")}, "payload": {"title": "A"}, "metadata": {"m": 1}},
        {"vectors": {TEXT.feature_uri: vector_of("eee")}, "payload": {"title": "E"}, "root_object_id": "obj_9"},
        {"document_id": "c", "vectors": {}, "payload": {"title": "C"}},
    ]
    done = home.call("POST", "/namespaces/shop/documents/upsert", {"documents": rows, "options": {"write_token": True}})
    BYOUpsertResponse.from_dict(done)
    assert (done["inserted"], done["failed_count"], done["document_ids"][0]) == (3, 0, "a")
    assert done["write_token"].startswith(path.split("/")[2])
    assert done["unsearchable_document_ids"] == ["c"]
    assert done["consistency"]["retriever_visible"] == "immediate"
    found = home.call("POST", "/documents/search", {"query": "eee", "page_size": 1})["results"][0]
    assert (found["title"], found["root_object_id"]) == ("E", "obj_9")
    assert home.call("GET", f"{path}/a")["metadata"] == {"m": 1}
    again = [{"document_id": "a", "vectors": {"pixels": [1, 2, 3, 4]}, "payload": {"other": 1}}]
    home.call("POST", "/namespaces/shop/documents/upsert", {"documents": again, "collection_id": "things"})
    shown = home.call("GET", f"{path}/a", return_vectors=True)
    assert ("title" in shown, shown["other"], set(shown["vectors"])) == (False, 1, {"image_extractor_v1_pixels"})
    assert home.call("GET", f"{path}/count")["count"] == 3


def test_bad_rows_of_an_upsert_do_not_stop_the_good_ones(home: Tenant, path: str) -> None:
    home.derive(
        path.split("/")[2], [Document("derived", path.split("/")[2], {"a": 1}, object_id="o", root_object_id="o")]
    )
    rows: list[Any] = [
        {
            "document_id": "good",
            "vectors": {"letters": vector_of("a")},
            "payload": {"document_id": "x", "__y": 1, "ok": 1},
        },
        {"document_id": "short", "vectors": {"letters": [1.0]}},
        {"document_id": "sparse", "vectors": {"letters": {"indices": [1], "values": [1.0]}}},
        {"document_id": "acl", "vectors": {}, "acl": {"public": True}},
        {"document_id": "big", "vectors": {}, "payload": {"text": "x" * (1 << 20)}},
        {"document_id": "derived", "vectors": {}},
        7,
    ]
    done = home.call("POST", "/namespaces/shop/documents/upsert", {"documents": rows})
    BYOUpsertResponse.from_dict(done)
    assert (done["inserted"], done["failed_count"], done["document_ids"]) == (1, 6, ["good"])
    assert done["dropped_payload_fields"] == {"good": ["__y", "document_id"]}
    assert [row["status"] for row in done["results"][1:]] == [422, 422, 422, 422, 409, 422]
    assert "documents.1.vectors.letters" in done["results"][1]["error"]
    assert home.call("GET", f"{path}/good")["ok"] == 1
    assert home.call("GET", f"{path}/derived")["a"] == 1


def test_an_upsert_with_only_bad_rows_is_refused(home: Tenant, path: str) -> None:
    refused = home.call(
        "POST", "/namespaces/shop/documents/upsert", {"documents": [{"vectors": {"letters": [1.0]}}]}, status=422
    )
    assert refused["detail"][0]["loc"] == ["body", "documents", 0, "vectors", "letters"]
    for body in ({"documents": []}, {"documents": [{}] * 1001}, {"documents": [{}], "collection_id": "nothing"}, {}):
        status = 404 if "collection_id" in body else 422
        home.call("POST", "/namespaces/shop/documents/upsert", body, status=status)
    home.collection("second")
    refused = home.call("POST", "/namespaces/shop/documents/upsert", {"documents": [{"vectors": {}}]}, status=422)
    assert "collection_id" in refused["error"]["message"]


def test_an_idempotency_key_answers_the_same_again_and_refuses_another_body(home: Tenant, path: str) -> None:
    options = {"idempotency_key": "k1"}
    body = {"documents": [{"vectors": {}, "payload": {"a": 1}}], "options": options}
    first = home.call("POST", "/namespaces/shop/documents/upsert", body)
    assert home.call("POST", "/namespaces/shop/documents/upsert", body) == first
    assert home.call("GET", f"{path}/count")["count"] == 1
    other = {"documents": [{"vectors": {}, "payload": {"a": 2}}], "options": options}
    home.call("POST", "/namespaces/shop/documents/upsert", other, status=409)


# ---- group commit


def test_concurrent_patches_share_commits_and_all_arrive(home: Tenant, path: str) -> None:
    fill(home, 2)
    record = DocumentReader(home.world.services, home.scope).collection("things")
    before = commits(home, record.id)
    seen: list[int] = []

    def patch(number: int) -> None:
        change = patching(record, f"d{number % 2:03}", {f"k{number}": number})
        done = home.world.services.writer.write(home.scope, f"actor{number}", record, [change])[0]
        seen.append(done.result().payload[f"k{number}"])

    threads = [threading.Thread(target=patch, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    assert sorted(seen) == list(range(40))
    assert commits(home, record.id) - before < 40
    for parity in range(2):
        shown = home.call("GET", f"{path}/d{parity:03}")
        assert {key for key in shown if key[0] == "k"} == {f"k{n}" for n in range(parity, 40, 2)}
    assert len(home.events("document.updated")) == 40
    assert {actor for _, actor in home.events("document.updated")} == {f"actor{n}" for n in range(40)}


def test_requests_that_wait_together_apply_in_order_with_their_own_outcomes(home: Tenant, path: str) -> None:
    fill(home, 1)
    services = home.world.services
    record = DocumentReader(services, home.scope).collection("things")
    started, results = threading.Event(), {}

    def slow(held: Document | None) -> Document:
        started.set()
        assert gate.wait(120)
        return patching(record, "d000", {"step": "first"}).apply(held)

    changes = [
        Change("d000", slow),
        patching(record, "d000", {"step": "second", "by": "b"}),
        patching(record, "missing", {"a": 1}),
        creation(record, {"document_id": "d000"}),
        patching(record, "d000", {"step": "third", "by": None}),
    ]
    gate = threading.Event()

    def run(number: int) -> None:
        results[number] = services.writer.write(home.scope, "key", record, [changes[number]])[0]

    threads = []
    for number in range(len(changes)):
        threads.append(threading.Thread(target=run, args=(number,)))
        threads[-1].start()
        if number == 0:
            assert started.wait(120)
        else:
            waiting = services.writer._queues[record.id].pending
            while len(waiting) < number:
                threading.Event().wait(0.005)
    before = commits(home, record.id)
    gate.set()
    for thread in threads:
        thread.join(180)
    assert commits(home, record.id) - before == 2
    assert results[1].result().payload["step"] == "second"
    assert isinstance(results[2].error, NotFoundError)
    assert isinstance(results[3].error, ConflictError)
    shown = home.call("GET", f"{path}/d000")
    assert (shown["step"], "by" in shown) == ("third", False)


def test_a_row_the_store_refuses_fails_only_its_own_request(home: Tenant, path: str) -> None:
    fill(home, 1)
    services = home.world.services
    record = DocumentReader(services, home.scope).collection("things")
    broken = Document("bad\0id", record.id, {})
    started, gate, failures = threading.Event(), threading.Event(), []

    def slow(held: Document | None) -> Document:
        started.set()
        assert gate.wait(120)
        return patching(record, "d000", {"n": 1}).apply(held)

    def run(change: Change) -> None:
        try:
            services.writer.write(home.scope, "key", record, [change])[0].result()
        except Exception as error:
            failures.append(error)

    good = patching(record, "d000", {"good": True})
    threads = [
        threading.Thread(target=run, args=(c,))
        for c in (Change("d000", slow), Change("bad\0id", lambda _: broken), good)
    ]
    threads[0].start()
    assert started.wait(120)
    for thread in threads[1:]:
        thread.start()
    while len(services.writer._queues[record.id].pending) < 2:
        threading.Event().wait(0.005)
    gate.set()
    for thread in threads:
        thread.join(180)
    assert [type(error).__name__ for error in failures] == ["ValidationError"]
    assert home.call("GET", f"{path}/d000")["good"] is True


class PanicError(BaseException):
    """As what is raised where an engine written in Rust panics."""


def test_a_panic_in_the_middle_of_a_commit_acknowledges_nobody_who_waits_with_it(home: Tenant, path: str) -> None:
    fill(home, 1)
    services = home.world.services
    record = DocumentReader(services, home.scope).collection("things")
    started, gate, failures = threading.Event(), threading.Event(), dict[int, BaseException]()

    def slow(held: Document | None) -> Document:
        started.set()
        assert gate.wait(120)
        return patching(record, "d000", {"n": 1}).apply(held)

    def panic(held: Document | None) -> Document:
        raise PanicError

    def run(number: int, change: Change) -> None:
        try:
            services.writer.write(home.scope, "key", record, [change])[0].result()
        except BaseException as error:
            failures[number] = error

    changes = [Change("d000", slow), patching(record, "d000", {"n": 2}), Change("d000", panic)]
    threads = [threading.Thread(target=run, args=numbered) for numbered in enumerate(changes)]
    threads[0].start()
    assert started.wait(120)
    for number, thread in enumerate(threads[1:], 1):
        thread.start()
        while len(services.writer._queues[record.id].pending) < number:
            threading.Event().wait(0.005)
    gate.set()
    for thread in threads:
        thread.join(180)
    # The first of those who waited leads: what broke in its hands it is told as it is.
    assert {number: type(error) for number, error in failures.items()} == {1: PanicError, 2: UnavailableError}
    assert home.call("GET", f"{path}/d000")["n"] == 1
    assert home.call("PATCH", f"{path}/d000", {"n": 8})["n"] == 8


def test_a_commit_that_fails_acknowledges_nobody_and_the_next_one_works(home: Tenant, path: str) -> None:
    fill(home, 1)
    services = home.world.services
    record = DocumentReader(services, home.scope).collection("things")
    with services.leases.acquire(home.scope, record.id) as lease:
        with services.db.begin(home.scope) as tx:  # somebody else takes the lease over
            tx.update("document_tables", {"collection_id": record.id}, {"lease_token": "other", "lease_until": 1 << 60})
        lease.ended = True

    def late(held: Document | None) -> Document:
        with services.db.begin(home.scope) as tx:
            tx.update("document_tables", {"collection_id": record.id}, {"lease_token": "other", "lease_until": 1})
        return patching(record, "d000", {"n": 7}).apply(held)

    with services.db.begin(home.scope) as tx:
        tx.update("document_tables", {"collection_id": record.id}, {"lease_token": None})
    with pytest.raises(UnavailableError, match="try again"):
        services.writer.write(home.scope, "key", record, [Change("d000", late)])
    assert home.call("GET", f"{path}/d000")["n"] == 0
    assert home.call("PATCH", f"{path}/d000", {"n": 8})["n"] == 8


def test_writes_deletes_and_rewrites_at_once_leave_index_and_store_the_same(home: Tenant, path: str) -> None:
    services = home.world.services
    record = DocumentReader(services, home.scope).collection("things")

    def work(number: int) -> None:
        ident = f"d{number % 3}"
        for turn in range(6):
            body = {"document_id": ident, "turn": turn, "vectors": {"letters": vector_of("a")}}
            services.writer.write(home.scope, "key", record, [creation(record, body)])
            services.writer.delete(home.scope, "key", record.id, [ident])
            services.writer.write(home.scope, "key", record, [creation(record, body)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    services.indexer.catch_up(home.scope, record.id)
    stored = {hit.document_id: hit.system["write_seq"] for hit in DocumentReader(services, home.scope).walk(record.id)}
    indexed = {hit.document_id: hit.system["write_seq"] for hit in services.indexer.index.scroll(record.id, None, 10)}
    assert stored == indexed
    with services.db.read(home.scope) as tx:
        counted = tx.row("derivations", {"collection_id": record.id, "object_id": ""})
    assert counted is not None
    assert counted["documents"] == len(stored)


# ---- questions


def test_documents_are_counted_and_their_values_listed(home: Tenant, path: str) -> None:
    fill(home, 5, tags=["x", "y"])
    counted = home.call("GET", f"{path}/count")
    DocumentCountResponse.from_dict(counted)
    assert counted["count"] == 5
    assert home.call("GET", f"{path}/count", filters='{"color": "red"}')["count"] == 3
    found = home.call("POST", f"{path}/distinct", {"field": "color"})
    DistinctValuesResponse.from_dict(found)
    assert found["values"] == [{"value": "red", "count": 3}, {"value": "blue", "count": 2}]
    assert home.call("POST", f"{path}/distinct", {"field": "tags", "filters": {"color": "blue"}, "limit": 1})[
        "values"
    ] == [{"value": "x", "count": 2}]
    assert home.call("POST", f"{path}/distinct", {"field": "nothing"})["values"] == []
    home.call("POST", f"{path}/distinct", {}, status=422)
    home.call("POST", f"{path}/distinct", {"field": "a", "limit": 0}, status=422)


def test_documents_are_aggregated(home: Tenant, path: str) -> None:
    fill(home, 5)
    names = ("count", "sum", "avg", "min", "max")
    body = {
        "group_by": [{"field": "color", "alias": "shade"}],
        "aggregations": [{"function": name, "field": "n", "alias": name} for name in names],
        "sort_by": "sum",
    }
    found = home.call("POST", f"{path}/aggregate", body)
    DocumentAggregationResponse.from_dict(found)
    assert found["results"] == [
        {"group": {"shade": "red"}, "metrics": {"count": 3, "sum": 6, "avg": 2.0, "min": 0, "max": 4}},
        {"group": {"shade": "blue"}, "metrics": {"count": 2, "sum": 4, "avg": 2.0, "min": 1, "max": 3}},
    ]
    kept = home.call(
        "POST", f"{path}/aggregate", {**body, "having": [{"field": "count", "operator": "gt", "value": 2}]}
    )
    assert (kept["total_groups"], kept["results"][0]["group"]) == (1, {"shade": "red"})
    total = home.call(
        "POST", f"{path}/aggregate", {"aggregations": [{"function": "count", "alias": "n"}], "filters": {"color": "x"}}
    )
    assert total["results"] == [{"group": {}, "metrics": {"n": 0}}]
    ranged = {
        "group_by": ["tags", "n"],
        "unwind": "tags",
        "range_buckets": [{"field": "n", "boundaries": [1, 3]}],
        "aggregations": [{"function": "count"}],
    }
    home.call("PATCH", f"{path}/bulk", {"update_data": {"tags": ["a", "b"]}})
    found = home.call("POST", f"{path}/aggregate", ranged)
    shown = {(row["group"]["tags"], row["group"]["n"]): row["metrics"]["count"] for row in found["results"]}
    assert shown == {(tag, label): n for tag in "ab" for label, n in (("<=1", 2), ("1-3", 2), (">3", 1))}
    for bad in (
        {"aggregations": []},
        {"aggregations": [{"function": "median", "field": "n", "alias": "m"}]},
        {"aggregations": [{"function": "sum", "alias": "m"}]},
        {**body, "sort_by": "nothing"},
        {**body, "having": [{"field": "other", "operator": "gt", "value": 1}]},
        {"aggregations": [{"function": "count", "alias": "n"}] * 2},
    ):
        home.call("POST", f"{path}/aggregate", bad, status=422)


def test_documents_are_fetched_together(home: Tenant, path: str) -> None:
    fill(home, 2)
    other = home.collection("others")
    home.call("POST", f"/collections/{other}/documents", {"document_id": "x"})
    found = home.call("POST", "/documents/batch-get", {"document_ids": ["x", "d001", "nothing", "d001"]})
    BatchGetDocumentsResponse.from_dict(found)
    assert [document["document_id"] for document in found["documents"]] == ["x", "d001"]
    assert found["not_found"] == ["nothing"]
    for bad in ([], ["a"] * 1001):
        home.call("POST", "/documents/batch-get", {"document_ids": bad}, status=422)


def test_several_lists_come_in_one_answer(home: Tenant, path: str) -> None:
    fill(home, 3)
    queries = [
        {"key": "red", "request": {"filters": {"color": "red"}, "limit": 1}},
        {"key": "typo", "request": {"collection_ids": ["nothing"]}},
        {"key": "bad", "request": {"limit": -1}},
        {"key": "worse", "request": {"group_by": 5}},
        {"key": "groups", "request": {"group_by": "color"}},
    ]
    found = home.call("POST", "/documents/list/batch", {"queries": queries})
    BatchListDocumentsResponse.from_dict(found)
    by_key = {entry["key"]: entry for entry in found["results"]}
    assert by_key["red"]["response"]["total_documents"] == 2
    assert [by_key[key]["response"] for key in ("typo", "bad", "worse")] == [None] * 3
    assert "limit" in by_key["bad"]["error"]
    assert len(by_key["groups"]["response"]["groups"]) == 2
    home.call("POST", "/documents/list/batch", {"queries": []}, status=422)
    home.call("POST", "/documents/list/batch", {"queries": queries * 3}, status=422)


def test_a_search_takes_collections_filters_and_words(home: Tenant, path: str) -> None:
    fill(home, 10)
    words = home.collection("words", indexes=())
    for title in ("a large red chair", "a small table"):
        home.call("POST", f"/collections/{words}/documents", {"title": title})
    found = home.call("POST", "/documents/search", {"query": "eee", "collection_ids": ["things"], "page_size": 2})
    assert [document["n"] for document in found["results"]] == [1, 6]
    assert all(isinstance(document["score"], float) for document in found["results"])
    red = home.call(
        "POST", "/documents/search", {"query": "eee", "collection_ids": ["things"], "filters": {"color": "red"}}
    )
    assert {document["color"] for document in red["results"]} == {"red"}
    assert red["results"][0]["n"] == 6
    by_word = home.call("POST", "/documents/search", {"query": "chair", "collection_ids": [words]})
    assert [document["title"] for document in by_word["results"]] == ["a large red chair"]
    merged = home.call("POST", "/documents/search", {"query": "table", "page_size": 2})
    assert "a small table" in [document.get("title") for document in merged["results"]]
    home.call("POST", "/documents/search", {"query": " "}, status=422)
    home.call("POST", "/documents/search", {"query": "a", "collection_ids": ["nothing"]}, status=404)
    home.call("POST", "/documents/search", {"query": "a", "page_size": 501}, status=422)
