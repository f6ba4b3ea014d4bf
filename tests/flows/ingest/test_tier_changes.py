"""What changes between two batches leaves nothing stale behind: filters, sources that became empty, and retries."""

from __future__ import annotations

from pathlib import Path

import pytest
from datapath_shop import Shop, content, ok, parts_of
from tier_shop import audit, processed, reading


@pytest.fixture
def cheap(shop: Shop) -> str:
    """A collection of the objects whose tag is `cheap`; its id."""
    body = {
        "collection_name": "cheap",
        "source": {"type": "bucket", "bucket_ids": [shop.bucket], "source_filters": {"tag": "cheap"}},
        "feature_extractor": {
            "feature_extractor_name": "datapath_extractor",
            "input_mappings": {"text": "text"},
            "field_passthrough": ["number", "version", "tag"],
        },
    }
    return str(ok(shop.client.post("/v1/collections", json=body))["collection_id"])


@pytest.mark.parametrize("strategy", ["skip", "replace"])
def test_an_object_that_is_not_selected_any_more_takes_its_documents_with_it(
    shop: Shop, cheap: str, strategy: str
) -> None:
    below = reading(shop, "below", [cheap])
    first, _ = shop.create([{**content(number, 1), "tag": "cheap"} for number in range(2)])
    assert processed(shop)["status"] == "COMPLETED"
    shop.update(first, {"tag": "dear"})
    batch = processed(shop, dedup_strategy=strategy)
    assert shop.texts(cheap) == shop.texts(below) == parts_of(1, 1)
    assert batch["status"] == "COMPLETED"
    assert audit(shop, batch["batch_id"])["all_balanced"]
    shop.update(first, {"tag": "cheap"})
    processed(shop)
    assert shop.texts(cheap) == shop.texts(below) == sorted([*parts_of(0, 1), *parts_of(1, 1)])


def test_what_was_processed_stays_when_the_filters_of_a_bucket_change(shop: Shop, cheap: str) -> None:
    shop.create([{**content(0, 1), "tag": "cheap"}, {**content(1, 1), "tag": "dear"}])
    processed(shop)
    ok(shop.client.patch(f"/v1/collections/{cheap}", json={"source_filters": {"tag": "dear"}}))
    processed(shop)
    assert shop.texts(cheap) == sorted([*parts_of(0, 1), *parts_of(1, 1)])
    processed(shop, dedup_strategy="replace")
    assert shop.texts(cheap) == parts_of(1, 1)


def test_other_filters_choose_anew_among_documents_that_did_not_change(shop: Shop) -> None:
    last = reading(shop, "few", [shop.collection], source_filters={"number": 0})
    shop.create([content(number, 1) for number in range(2)])
    processed(shop)
    assert shop.texts(last) == parts_of(0, 1)
    ok(shop.client.patch(f"/v1/collections/{last}", json={"source_filters": {"number": 1}}))
    assert shop.ended(shop.trigger(last))["status"] == "COMPLETED"
    assert shop.texts(last) == parts_of(1, 1)
    assert shop.ended(shop.trigger(last))["documents_written"] == 0


def test_a_trigger_sees_objects_of_which_the_source_holds_nothing_any_more(shop: Shop) -> None:
    last = reading(shop, "last", [shop.collection])
    first, _ = shop.create([content(number, 1) for number in range(2)])
    processed(shop)
    shop.update(first, {"text": "!nothing"})
    processed(shop, collection_ids=[shop.collection])
    assert shop.texts(last) == sorted([*parts_of(0, 1), *parts_of(1, 1)])
    batch = shop.ended(shop.trigger(last))
    assert (batch["status"], shop.texts(last)) == ("COMPLETED", parts_of(1, 1))


def test_the_retry_of_one_document_does_not_hide_that_others_of_its_object_changed(shop: Shop, tmp_path: Path) -> None:
    flag = tmp_path / "now"
    left = reading(shop, "left", [shop.collection])
    right = reading(shop, "right", [shop.collection], text="tag")
    both = reading(shop, "both", [left, right])
    (ident,) = shop.create([{"number": 1, "version": 1, "text": "left one", "tag": f"!until {flag}"}])
    flag.touch()
    processed(shop, collection_ids=[shop.collection, left, right])
    flag.unlink()
    batch = processed(shop)
    assert batch["status"] == "COMPLETED_WITH_ERRORS"
    assert shop.texts(both) == ["left one"]
    flag.touch()
    shop.update(ident, {"text": "left two"})
    processed(shop, collection_ids=[shop.collection, left, right])
    shop.retry(batch["batch_id"])  # reads the document of `right` alone, beside the new one of `left`
    assert shop.ended(batch["batch_id"])["status"] == "COMPLETED"
    processed(shop)
    assert shop.texts(both) == [f"!until {flag}", "left two"]
