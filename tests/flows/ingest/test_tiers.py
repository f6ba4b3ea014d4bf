"""Collections that read from collections, through the front door with real extraction processes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from counted_shop import Counted
from datapath_app import Application
from datapath_plugins.counted import NAME as COUNTED
from datapath_process import wait_until
from datapath_shop import Shop, content, ok, parts_of
from tier_shop import audit, diamond, listed, processed, reading, statuses, submitted, tier

from mediatheca.flows.ingest.sources import UNCHANGED

TEXTS = sorted(part for number in range(4) for part in parts_of(number, 1))


def fill(shop: Shop, count: int = 4, **fields: Any) -> list[str]:
    return shop.create([{**content(number, 1), **fields} for number in range(count)])


def named(shop: Shop, **ids: str) -> dict[str, list[dict[str, Any]]]:
    return {name: shop.documents(ident) for name, ident in ids.items()}


# ---- what comes out


def test_a_diamond_of_five_collections_in_four_tiers_is_processed_in_order(shop: Shop) -> None:
    ids = diamond(shop)
    fill(shop)
    batch = processed(shop)
    assert batch["status"] == "COMPLETED"
    assert batch["dag_tiers"] == [[ids["a"]], [ids["b"], ids["c"]], [ids["d"]], [ids["e"]]]
    assert (batch["total_tiers"], batch["current_tier"]) == (4, 3)
    assert statuses(batch) == ["COMPLETED"] * 4
    assert [found["source_type"] for found in batch["tier_tasks"]] == ["bucket", *["collection"] * 3]
    made = named(shop, **ids)
    assert [sorted(row["text"] for row in made[name]) for name in "abc"] == [TEXTS] * 3
    assert sorted(row["text"] for row in made["d"]) == sorted([*TEXTS, *TEXTS])
    assert len({row["document_id"] for row in made["e"]}) == 2 * len(TEXTS)
    assert all(row["number"] is not None for row in made["e"])  # passed through four times


def test_counters_add_up_at_every_tier(shop: Shop) -> None:
    ids = diamond(shop)
    fill(shop, 6)
    batch = processed(shop)
    parts = sum(len(parts_of(number, 1)) for number in range(6))
    found = audit(shop, batch["batch_id"])
    assert found["all_balanced"]
    assert {row["collection_id"]: (row["tier_num"], row["submitted"], row["processed"]) for row in found["tiers"]} == {
        ids["a"]: (0, 6, 6),
        ids["b"]: (1, parts, parts),
        ids["c"]: (1, parts, parts),
        ids["d"]: (2, 2 * parts, 2 * parts),
        ids["e"]: (3, 2 * parts, 2 * parts),
    }
    second = batch["tier_tasks"][1]
    assert second["source_documents_fetched"] == second["documents_submitted_to_engine"] == 2 * parts
    assert second["documents_written"] == 2 * parts
    assert second["source_collection_ids"] == [ids["a"]]
    assert second["task_id"] != batch["task_id"]
    assert ok(shop.client.get(f"/v1/tasks/{second['task_id']}"))["status"] == "COMPLETED"
    assert batch["progress"]["processed"] == batch["progress"]["total"] == 5 * 6


def test_every_document_knows_where_it_comes_from(shop: Shop) -> None:
    (ident,) = shop.create([content(0, 1)])
    middle = reading(shop, "middle", [shop.collection])
    last = reading(shop, "last", ["middle"])  # by name
    assert processed(shop)["status"] == "COMPLETED"
    document = shop.documents(last)[0]
    assert (document["root_object_id"], document["source_type"]) == (ident, "collection")
    assert document["source_collection_id"] == middle
    lineage = document["_internal"]["lineage"]
    assert lineage["path"] == f"{shop.bucket}/{shop.collection}/{middle}/{last}"
    assert [step["collection_id"] for step in lineage["chain"]] == [shop.collection, middle, last]
    path = f"/v1/collections/{last}/documents/{document['document_id']}"
    ancestors = ok(shop.client.get(f"{path}/ancestors"))
    assert [row["collection_id"] for row in ancestors] == [middle, shop.collection]
    top = ancestors[-1]["document_id"]
    children = ok(shop.client.get(f"/v1/collections/{shop.collection}/documents/{top}/descendants"))
    assert [row["document_id"] for row in children] == [ancestors[0]["document_id"]]
    tree = ok(shop.client.get(f"/v1/objects/{ident}/decomposition-tree"))
    assert tree["total_collections"] == 3
    assert tree["tree"][0]["children"][0]["children"][0]["collection_id"] == last


def test_documents_of_every_tier_are_found_by_search(shop: Shop) -> None:
    last = reading(shop, "last", [shop.collection])
    fill(shop)
    processed(shop)
    shop.retriever = shop.add_retriever("over-last", last)
    assert all(shop.finds(text) for text in TEXTS)


def test_each_collection_of_a_batch_says_when_its_documents_are_searchable(
    application: Application, shop: Shop
) -> None:
    last = reading(shop, "last", [shop.collection])
    fill(shop)
    batch = processed(shop)
    with application.db.read(application.scope(shop)) as tx:
        events = tx.rows("events", {"type": "collection.documents.batch_completed"}, order=("seq",))
    assert [(event["resource_id"], event["payload"]) for event in events] == [
        (ident, {"batch_id": batch["batch_id"], "collection_id": ident, "tier": number})
        for number, ident in enumerate([shop.collection, last])
    ]


# ---- changing and deleting


def test_deleting_an_object_empties_every_tier_at_once(shop: Shop) -> None:
    ids = diamond(shop)
    first, *_ = fill(shop)
    processed(shop)
    shop.delete(first)
    left = sorted(part for number in range(1, 4) for part in parts_of(number, 1))
    assert [shop.texts(ids[name]) for name in "abc"] == [left] * 3
    assert shop.texts(ids["e"]) == sorted([*left, *left])


def test_an_updated_object_shows_one_version_in_every_tier_and_never_none(shop: Shop) -> None:
    ids = diamond(shop)
    (ident,) = shop.create([content(7, 1)])
    processed(shop)
    odd: list[tuple[str, set[int]]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for name, collection in ids.items():
                versions = {row["version"] for row in shop.documents(collection)}
                if len(versions) != 1:
                    odd.append((name, versions))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for version in range(2, 5):
            shop.update(ident, content(7, version))
            assert processed(shop)["status"] == "COMPLETED"
            assert {row["version"] for rows in named(shop, **ids).values() for row in rows} == {version}
    finally:
        done.set()
        thread.join()
    assert odd == []
    assert shop.texts(ids["e"]) == sorted(parts_of(7, 4) * 2)


def test_an_object_that_gives_no_documents_any_more_has_none_in_any_tier(shop: Shop) -> None:
    ids = diamond(shop)
    (ident,) = shop.create([content(1, 1)])
    processed(shop)
    shop.update(ident, {"text": "!nothing"})
    assert processed(shop)["status"] == "COMPLETED"
    assert all(not shop.documents(collection) for collection in ids.values())


def test_unchanged_objects_are_computed_at_no_tier_again(application: Application, shop: Shop, tmp_path: Path) -> None:
    counted = Counted(application, shop, tmp_path)
    first = counted.collection()
    reading(shop, "again", [first], extractor=COUNTED, parameters=counted.parameters, passthrough=["number"])
    fill(shop)
    assert processed(shop)["status"] == "COMPLETED"
    before = counted.computed
    assert before
    batch = processed(shop)
    assert batch["status"] == "COMPLETED"
    assert counted.computed == before
    assert batch["documents_written"] == 0
    assert {row["outcome"] for row in listed(shop, batch["batch_id"], outcome="all")} == {"skipped"}
    assert audit(shop, batch["batch_id"])["all_balanced"]


def test_documents_stay_unchanged_while_others_join_them_in_their_source(shop: Shop) -> None:
    last = reading(shop, "last", [shop.collection])
    fill(shop)
    assert processed(shop)["status"] == "COMPLETED"
    before = len(shop.documents(last))
    shop.create([content(number, 1) for number in range(10, 14)])
    batch = processed(shop)
    left_out = [row for row in listed(shop, batch["batch_id"], outcome="all") if row["collection_id"] == last]
    assert {row["reason"] for row in left_out} == {UNCHANGED}  # they were not even looked at
    assert len(left_out) == before


def test_only_what_changed_is_computed_at_the_tiers_behind_it(shop: Shop) -> None:
    last = reading(shop, "last", [shop.collection])
    ids = fill(shop)
    processed(shop)
    before = {row["document_id"]: row["updated_at"] for row in shop.documents(last)}
    shop.update(ids[0], content(0, 2))
    batch = processed(shop)
    second = batch["tier_tasks"][1]
    assert second["documents_written"] == len(parts_of(0, 2))
    kept = {row["document_id"]: row["updated_at"] for row in shop.documents(last) if row["number"] != 0}
    assert kept.items() <= before.items()


def test_a_document_is_deleted_with_what_was_made_from_it_only_on_demand(shop: Shop) -> None:
    ids = diamond(shop)
    shop.create([content(0, 1)])  # three parts
    processed(shop)
    first, second, *_ = sorted(row["document_id"] for row in shop.documents(ids["a"]))
    path = f"/v1/collections/{ids['a']}/documents"
    ok(shop.client.delete(f"{path}/{first}"))
    assert len(shop.documents(ids["e"])) == 6
    gone = ok(shop.client.delete(f"{path}/{second}", params={"cascade": True}))
    assert gone["deleted"] == {ids["a"]: 1, ids["b"]: 1, ids["c"]: 1, ids["d"]: 2, ids["e"]: 2}
    assert all(second not in str(row["_internal"]["lineage"]) for row in shop.documents(ids["e"]))


# ---- failures


def test_one_document_that_fails_at_a_later_tier_is_listed_and_retried_alone(shop: Shop, tmp_path: Path) -> None:
    flag = tmp_path / "now"
    last = reading(shop, "last", [shop.collection], text="tag")
    end = reading(shop, "end", [last])
    shop.create([{**content(number, 1), "tag": f"fine {number}"} for number in range(3)])
    shop.create([{"number": 9, "version": 1, "text": "one", "tag": f"!until {flag}"}])
    batch = processed(shop)
    assert batch["status"] == "COMPLETED_WITH_ERRORS"
    assert statuses(batch) == ["COMPLETED", "COMPLETED_WITH_ERRORS", "COMPLETED"]
    (failure,) = listed(shop, batch["batch_id"], tier_num=1)
    assert (failure["kind"], failure["collection_id"], failure["reason"]) == ("document", last, "not yet")
    assert failure["source_document_id"] in {row["document_id"] for row in shop.documents(shop.collection)}
    assert audit(shop, batch["batch_id"])["all_balanced"]
    written = {row["document_id"]: row["updated_at"] for row in shop.documents(last)}
    flag.touch()
    shop.retry(batch["batch_id"])
    again = shop.ended(batch["batch_id"])
    assert again["status"] == "COMPLETED"
    after = {row["document_id"]: row["updated_at"] for row in shop.documents(last)}
    assert written.items() <= after.items()
    assert len(after) == len(written) + 1
    assert f"!until {flag}" in shop.texts(end)
    found = audit(shop, batch["batch_id"])
    assert found["all_balanced"], found
    assert {row["failed"] for row in found["tiers"]} == {0}


def test_the_rest_of_an_object_stays_when_one_of_its_documents_fails(shop: Shop, tmp_path: Path) -> None:
    """Two documents of one object: one fails, the other is replaced, and what the failed one gave before stays."""
    flag = tmp_path / "now"
    flag.touch()
    both = reading(
        shop, "both", [reading(shop, "left", [shop.collection]), reading(shop, "right", [shop.collection], text="tag")]
    )
    (ident,) = shop.create([{"number": 1, "version": 1, "text": "left one", "tag": f"!until {flag}"}])
    assert processed(shop)["status"] == "COMPLETED"
    assert shop.texts(both) == [f"!until {flag}", "left one"]
    flag.unlink()
    shop.update(ident, {"text": "left two"})
    batch = processed(shop)
    assert batch["status"] == "COMPLETED_WITH_ERRORS"
    assert shop.texts(both) == [f"!until {flag}", "left two"]
    flag.touch()
    shop.retry(batch["batch_id"])
    assert shop.ended(batch["batch_id"])["status"] == "COMPLETED"
    assert shop.texts(both) == [f"!until {flag}", "left two"]
    assert audit(shop, batch["batch_id"])["all_balanced"]


def test_what_failed_at_the_first_tier_starts_nothing_behind_it_and_is_made_up_for_by_a_retry(
    shop: Shop, tmp_path: Path
) -> None:
    ids = diamond(shop)
    shop.create([{"number": 1, "version": 1, "text": f"!until {tmp_path / 'now'}"}])
    batch = processed(shop)
    assert batch["status"] == "FAILED"
    assert statuses(batch) == ["FAILED", "SKIPPED", "SKIPPED", "SKIPPED"]
    (tmp_path / "now").touch()
    shop.retry(batch["batch_id"])
    again = shop.ended(batch["batch_id"])
    assert again["status"] == "COMPLETED"
    assert len(shop.documents(ids["e"])) == 2
    assert audit(shop, batch["batch_id"])["all_balanced"]


def test_failures_of_one_tier_or_of_some_documents_are_retried_by_name(shop: Shop) -> None:
    reading(shop, "last", [shop.collection], text="tag")
    shop.create([{"number": n, "version": 1, "text": f"part {n}", "tag": "!fail"} for n in range(3)])
    batch = processed(shop)
    failures = listed(shop, batch["batch_id"])
    path = f"/v1/buckets/{shop.bucket}/batches/{batch['batch_id']}/retry"
    assert ok(shop.client.post(path, json={"tier_nums": [0]}))["retried_object_count"] == 0
    chosen = failures[0]["source_document_id"]
    assert ok(shop.client.post(path, json={"document_ids": [chosen]}))["retried_object_count"] == 1
    shop.ended(batch["batch_id"])
    attempts = {row["source_document_id"]: row["attempt"] for row in listed(shop, batch["batch_id"])}
    assert attempts == {row["source_document_id"]: 1 + (row["source_document_id"] == chosen) for row in failures}
    assert ok(shop.client.post(path, json={"max_retry_count": 1}))["retried_object_count"] == 2
    shop.ended(batch["batch_id"])
    assert {row["attempt"] for row in listed(shop, batch["batch_id"])} == {2}
    assert audit(shop, batch["batch_id"])["all_balanced"]


# ---- stopping, switching off, deleting collections


@pytest.fixture
def gated(shop: Shop, tmp_path: Path) -> tuple[Shop, Path, str, str]:
    """A batch that waits at its second tier of three until the file is there."""
    gate = tmp_path / "gate"
    middle = reading(shop, "middle", [shop.collection], text="tag")
    last = reading(shop, "last", [middle])
    shop.create([{"number": 1, "version": 1, "text": "one", "tag": f"!wait {gate}"}])
    return shop, gate, middle, last


def test_a_canceled_tier_leaves_the_others_and_can_be_run_again(gated: tuple[Shop, Path, str, str]) -> None:
    shop, gate, middle, last = gated
    batch_id = submitted(shop)
    wait_until(Path(f"{gate}.waiting").exists)
    wait_until(lambda: statuses(shop.batch(batch_id)) == ["COMPLETED", "PROCESSING", "PENDING"])
    running = shop.batch(batch_id)
    assert tier(shop, running, 1, "cancel")["canceled"] == 1
    gate.touch()
    ended = shop.ended(batch_id)
    assert statuses(ended) == ["COMPLETED", "CANCELED", "SKIPPED"]
    assert (ended["status"], shop.documents(last)) == ("COMPLETED_WITH_ERRORS", [])
    assert tier(shop, ended, 1, "retry")["retried_object_count"] == 1
    again = shop.ended(batch_id)
    assert (again["status"], statuses(again)) == ("COMPLETED", ["COMPLETED"] * 3)
    assert len(shop.documents(middle)) == len(shop.documents(last)) == 1


def test_a_job_of_a_tier_is_canceled_by_the_name_of_its_collection(gated: tuple[Shop, Path, str, str]) -> None:
    shop, gate, middle, _ = gated
    batch = shop.batch(submitted(shop))
    wait_until(Path(f"{gate}.waiting").exists)
    assert tier(shop, batch, 1, f"jobs/{middle}/cancel")["canceled"] == 1
    gate.touch()
    (job,) = shop.ended(batch["batch_id"])["tier_tasks"][1]["extractor_jobs"]
    assert (job["ray_job_id"], job["status"]) == (middle, "CANCELED")


def test_a_canceled_batch_runs_no_tier_behind_it(gated: tuple[Shop, Path, str, str]) -> None:
    shop, gate, _, last = gated
    batch_id = submitted(shop)
    wait_until(Path(f"{gate}.waiting").exists)
    wait_until(lambda: statuses(shop.batch(batch_id)) == ["COMPLETED", "PROCESSING", "PENDING"])
    shop.cancel(batch_id)
    gate.touch()
    canceled = shop.batch(batch_id)
    assert statuses(canceled) == ["COMPLETED", "CANCELED", "CANCELED"]
    assert (canceled["lifecycle_reason"], shop.documents(last)) == ("canceled by request", [])
    assert tier(shop, canceled, 1, "retry")["retried_object_count"] == 1
    again = shop.ended(batch_id)
    assert (again["status"], again["lifecycle_reason"]) == ("COMPLETED", None)


def test_a_batch_that_ends_with_its_only_collection_says_so(shop: Shop, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    shop.create([{"number": 1, "version": 1, "text": f"!wait {gate}"}])
    batch_id = shop.trigger()
    wait_until(Path(f"{gate}.waiting").exists)
    ok(shop.client.delete(f"/v1/collections/{shop.collection}"))
    gate.touch()
    ended = shop.ended(batch_id)
    assert (ended["status"], "collection was deleted" in str(ended["lifecycle_reason"])) == ("CANCELED", True)


def test_a_collection_that_is_switched_off_in_the_middle_takes_nothing_more(gated: tuple[Shop, Path, str, str]) -> None:
    shop, gate, middle, last = gated
    batch_id = submitted(shop)
    wait_until(Path(f"{gate}.waiting").exists)
    ok(shop.client.patch(f"/v1/collections/{last}", json={"enabled": False}))
    gate.touch()
    batch = shop.ended(batch_id)
    assert statuses(batch) == ["COMPLETED", "COMPLETED", "SKIPPED"]
    assert batch["tier_tasks"][2]["notes"] == ["the collection is disabled"]
    assert (len(shop.documents(middle)), shop.documents(last)) == (1, [])
    assert [found["collection_ids"] for found in processed(shop)["tier_tasks"]] == [[shop.collection], [middle]]


def test_deleting_a_collection_in_the_middle_switches_off_what_is_made_from_it(
    gated: tuple[Shop, Path, str, str],
) -> None:
    shop, gate, middle, last = gated
    batch_id = submitted(shop)
    wait_until(Path(f"{gate}.waiting").exists)
    assert ok(shop.client.delete(f"/v1/collections/{middle}"))["disabled_collection_ids"] == [last]
    gate.touch()
    batch = shop.ended(batch_id)
    assert (batch["status"], statuses(batch)) == ("COMPLETED", ["COMPLETED", "CANCELED", "SKIPPED"])
    found = ok(shop.client.get(f"/v1/collections/{last}"))
    assert found["enabled"] is False
    assert found["disabled_reason"]["code"] == "source_collection_deleted"
    assert found["disabled_reason"]["source_collection_name"] == "middle"
    refused = shop.client.patch(f"/v1/collections/{last}", json={"enabled": True})
    assert refused.status_code == 409
    assert "clone it" in refused.text


def test_a_collection_is_deleted_with_all_that_is_made_from_it_on_demand(shop: Shop) -> None:
    ids = diamond(shop)
    fill(shop)
    processed(shop)
    gone = ok(shop.client.delete(f"/v1/collections/{ids['b']}", params={"cascade": True}))
    assert sorted(gone["deleted_collection_ids"]) == sorted([ids["d"], ids["e"]])
    for name in "bde":
        assert shop.client.get(f"/v1/collections/{ids[name]}").status_code == 404
    assert shop.texts(ids["c"]) == TEXTS


# ---- which documents are read


def test_source_filters_choose_documents_of_the_source(shop: Shop) -> None:
    wanted = {"field": "number", "operator": "lt", "value": 2}
    last = reading(shop, "few", [shop.collection], source_filters=wanted)
    fill(shop)
    batch = processed(shop)
    assert batch["status"] == "COMPLETED"
    assert {row["number"] for row in shop.documents(last)} == {0, 1}
    second = batch["tier_tasks"][1]
    assert second["source_documents_fetched"] == len(TEXTS)
    assert second["documents_after_source_filter"] == len(shop.documents(last))
    left = listed(shop, batch["batch_id"], outcome="filtered")
    assert {row["source_document_id"] for row in left} == {
        row["document_id"] for row in shop.documents(shop.collection) if row["number"] >= 2
    }


def test_a_field_map_gives_each_source_names_of_its_own(shop: Shop) -> None:
    left = reading(shop, "left", [shop.collection])
    mapped = {shop.collection: [{"source_path": "text", "target_path": "raw"}], left: ["number"]}
    last = reading(shop, "mapped", [shop.collection, left], text="raw", passthrough=[], field_map=mapped)
    fill(shop, 1)
    batch = processed(shop)
    assert shop.texts(last) == parts_of(0, 1)
    assert batch["status"] == "COMPLETED"  # `left` gives no text: nothing is made of its documents, nothing has failed
    without = listed(shop, batch["batch_id"], outcome="dropped")
    assert {(row["phase"], row["kind"]) for row in without} == {("input", "document")}
    assert batch["tier_tasks"][2]["documents_missing_input_fields"] == len(parts_of(0, 1))


def test_documents_that_were_written_directly_stand_for_themselves(shop: Shop) -> None:
    last = reading(shop, "copies", [shop.collection])
    path = f"/v1/collections/{shop.collection}/documents"
    for number in range(3):
        ok(shop.client.post(path, json={"document_id": f"own-{number}", "text": f"written {number}"}))
    triggered = ok(shop.client.post(f"/v1/collections/{last}/trigger", json={}))
    assert (triggered["object_count"], triggered["source_collection_ids"]) == (3, [shop.collection])
    look = f"/v1/batches/{triggered['batch_id']}"
    wait_until(lambda: ok(shop.client.get(look))["status"] == "COMPLETED")
    assert shop.texts(last) == [f"written {number}" for number in range(3)]
    assert {row["source_document_id"] for row in shop.documents(last)} == {"own-0", "own-1", "own-2"}
    ok(shop.client.delete(f"{path}/own-0", params={"cascade": True}))
    assert shop.texts(last) == ["written 1", "written 2"]


def test_a_new_collection_over_old_documents_is_filled_by_a_trigger(shop: Shop) -> None:
    fill(shop)
    processed(shop)
    last = reading(shop, "later", [shop.collection])
    end = reading(shop, "end", [last])
    batch = shop.ended(shop.trigger(last))
    assert (batch["status"], batch["type"], batch["dag_tiers"]) == ("COMPLETED", "COLLECTION", [[last], [end]])
    assert shop.texts(last) == shop.texts(end) == TEXTS
    only = {"source_filters": {"field": "number", "operator": "eq", "value": 3}, "dedup_strategy": "replace"}
    batch = shop.ended(shop.trigger(last, **only))
    assert batch["object_count"] == 1
    assert shop.texts(end) == TEXTS


def test_a_batch_is_run_again_from_a_tier(shop: Shop) -> None:
    ids = diamond(shop)
    fill(shop)
    first = processed(shop)
    before = {row["document_id"]: row["updated_at"] for row in shop.documents(ids["b"])}
    path = f"/v1/buckets/{shop.bucket}/batches/{first['batch_id']}/resubmit"
    with_all = {"dedup_strategy": "replace"}
    again = processed(shop, **with_all)
    path = f"/v1/buckets/{shop.bucket}/batches/{again['batch_id']}/resubmit"
    changed = {row["document_id"]: row["updated_at"] for row in shop.documents(ids["b"])}
    assert before.keys() == changed.keys()
    ok(shop.client.post(path, params={"from_tier": 2}))
    batch = shop.ended(again["batch_id"])
    assert statuses(batch) == ["SKIPPED", "SKIPPED", "COMPLETED", "COMPLETED"]
    assert {row["document_id"]: row["updated_at"] for row in shop.documents(ids["b"])} == changed
    assert shop.client.post(path, params={"from_tier": 9}).status_code == 422


def test_a_batch_may_name_some_of_the_collections(shop: Shop) -> None:
    ids = diamond(shop)
    fill(shop)
    batch = processed(shop, collection_ids=[ids["a"], "left"])
    assert batch["dag_tiers"] == [[ids["a"]], [ids["b"]]]
    assert shop.documents(ids["c"]) == []


def test_bad_collections_of_collections_are_refused(shop: Shop) -> None:
    def create(**source: Any) -> Any:
        extractor = {"feature_extractor_name": "datapath_extractor", "input_mappings": {"text": "text"}}
        body = {"collection_name": "new one", "source": source, "feature_extractor": extractor}
        return shop.client.post("/v1/collections", json=body)

    assert create(type="collection", collection_id="col_nowhere").status_code == 404
    assert create(type="collection", collection_id="new one").status_code == 404  # itself: it is not there yet
    assert create(type="collection", collection_ids=[]).status_code == 422
    assert create(type="collection", collection_ids=[shop.collection], bucket_ids=[shop.bucket]).status_code == 422
    assert create(type="bucket", bucket_ids=[shop.bucket], source_namespace_id="ns_other").status_code == 422
    assert create(type="dream", bucket_ids=[shop.bucket]).status_code == 422
    unknown = create(type="collection", collection_id=shop.collection, field_map={"col_x": ["text"]})
    assert (unknown.status_code, "col_x" in unknown.text) == (422, True)
    colliding = {shop.collection: ["text"]}
    other = reading(shop, "other", [shop.collection])
    refused = create(type="collection", collection_ids=[shop.collection, other], field_map=colliding)
    assert (refused.status_code, "target_path" in refused.text) == (422, True)
    odd = create(
        type="collection", collection_id=shop.collection, source_filters={"field": "nope", "operator": "eq", "value": 1}
    )
    assert "nope" in ok(odd)["warnings"][0]
