"""What an object tells of what came of it: its status, the reason where nothing came, how many documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datapath_process import wait_until
from datapath_shop import Shop, content, ok, parts_of
from tier_shop import reading, submitted


def told(shop: Shop, object_id: str) -> tuple[str, str | None, int]:
    """By itself and in the list alike."""
    shown = ok(shop.client.get(f"/v1/buckets/{shop.bucket}/objects/{object_id}"))
    row = shop.objects()[object_id]
    found = (shown["status"], shown["error"], shown["document_count"])
    assert found == (row["status"], row["error"], row["document_count"])
    return found


def failed_count(shop: Shop) -> int:
    count: int = ok(shop.client.get(f"/v1/buckets/{shop.bucket}"))["failed_object_count"]
    return count


def test_an_object_of_which_nothing_came_has_failed_and_says_why(shop: Shop) -> None:
    good, bad, empty = shop.create([content(1, 1), {"number": 2, "text": "!raise"}, {"number": 3}])
    assert told(shop, bad) == ("PENDING", None, 0)
    shop.process()
    assert told(shop, good) == ("COMPLETED", None, len(parts_of(1, 1)))
    status, error, count = told(shop, bad)
    assert (status, count) == ("FAILED", 0)
    assert "poison" in str(error)
    assert "no value for the mapped input field: text" in str(told(shop, empty)[1])
    assert failed_count(shop) == 2


def test_an_object_that_failed_is_processed_again_once_it_was_mended(shop: Shop) -> None:
    (bad,) = shop.create([{"number": 2, "version": 1, "text": "!raise"}])
    shop.process()
    shop.update(bad, content(2, 2))
    shop.process()
    assert told(shop, bad) == ("COMPLETED", None, len(parts_of(2, 2)))
    assert failed_count(shop) == 0


def test_what_came_of_an_object_in_one_collection_counts_whatever_another_makes_of_it(shop: Shop) -> None:
    config = {"feature_extractor_name": "datapath_extractor", "input_mappings": {"text": "tag"}}
    source = {"type": "bucket", "bucket_ids": [shop.bucket]}
    body: dict[str, Any] = {"collection_name": "tags", "source": source, "feature_extractor": config}
    ok(shop.client.post("/v1/collections", json=body))
    (half,) = shop.create([{**content(1, 1), "tag": "!raise"}])
    shop.ended(submitted(shop))
    assert told(shop, half) == ("COMPLETED", None, len(parts_of(1, 1)))


def test_the_reason_of_a_failure_is_not_hidden_by_a_collection_that_reads_something_else(shop: Shop) -> None:
    config = {"feature_extractor_name": "datapath_extractor", "input_mappings": {"text": "tag"}}
    for name in ("before", "between", "behind"):
        source = {"type": "bucket", "bucket_ids": [shop.bucket]}
        body = {"collection_name": name, "source": source, "feature_extractor": config}
        ok(shop.client.post("/v1/collections", json=body))
    (bad,) = shop.create([{"number": 1, "text": "!raise"}])
    for _ in range(2):
        shop.ended(submitted(shop))
        assert "poison" in str(told(shop, bad)[1])


def test_documents_of_every_tier_count_until_they_are_deleted(shop: Shop) -> None:
    behind = reading(shop, "behind", [shop.collection])
    (made,) = shop.create([content(1, 1)])
    shop.ended(submitted(shop))
    count = len(parts_of(1, 1))
    assert told(shop, made)[2] == 2 * count
    shop.delete_document(shop.documents()[0]["document_id"])
    assert told(shop, made)[2] == 2 * count - 1
    ok(shop.client.delete(f"/v1/collections/{behind}"))
    wait_until(lambda: told(shop, made)[2] == count - 1)


def test_an_object_has_not_failed_while_it_is_tried_again(shop: Shop, tmp_path: Path, back_off: Any) -> None:
    back_off(3600.0, 3600.0)
    (waits,) = shop.create([{"number": 1, "text": f"!later {tmp_path / 'now'}"}])
    batch_id = shop.trigger()
    wait_until(lambda: shop.batch(batch_id)["progress"]["retrying"])
    assert told(shop, waits) == ("PENDING", None, 0)
    shop.cancel(batch_id)


def test_the_count_is_left_out_on_request(shop: Shop) -> None:
    (made,) = shop.create([content(1, 1)])
    path = f"/v1/buckets/{shop.bucket}/objects/{made}"
    assert ok(shop.client.get(path, params={"include_document_count": "false"}))["document_count"] is None
