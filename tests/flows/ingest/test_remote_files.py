"""Files in an object store: read when they are needed, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest
from counted_shop import Counted
from datapath_app import Application
from datapath_shop import SEPARATOR, Shop, ok


@pytest.fixture
def counted(s3_application: Application, tmp_path: Path) -> Counted:
    return Counted(s3_application, s3_application.shop(), tmp_path)


def long_text(number: int) -> str:
    """Too long for the database row."""
    return SEPARATOR.join(f"text {number} part {part} " + "x" * 9000 for part in range(2))


def create(shop: Shop, count: int) -> list[str]:
    path = f"/v1/buckets/{shop.bucket}/objects/batch"
    objects = [{"blobs": [{"property": "text", "data": long_text(number)}]} for number in range(count)]
    return [row["object_id"] for row in ok(shop.client.post(path, json={"objects": objects}))["succeeded"]]


def test_files_of_an_object_store_become_documents(counted: Counted) -> None:
    create(counted.shop, 12)
    collection = counted.collection()
    assert counted.process(collection)["status"] == "COMPLETED"
    texts = sorted(part for number in range(12) for part in long_text(number).split(SEPARATOR))
    assert counted.shop.texts(collection) == texts
    counted.shop.process()  # with the extractor that keeps nothing
    assert counted.shop.texts() == texts


def test_results_that_are_kept_need_no_file(counted: Counted) -> None:
    ids = create(counted.shop, 3)
    counted.process(counted.collection())
    with counted.application.db.read(counted.scope) as tx:
        counted.application.services.blobs.delete_many(tx.column("blobs", "store_key", {"object_id": ids}))
    assert counted.process(counted.collection())["status"] == "COMPLETED"
    assert counted.computed == 3


def test_an_object_whose_file_is_gone_fails_alone(counted: Counted) -> None:
    ids = create(counted.shop, 3)
    with counted.application.db.read(counted.scope) as tx:
        (blob,) = tx.rows("blobs", {"object_id": ids[1]})
    counted.application.services.blobs.delete(blob["store_key"])
    batch = counted.process(counted.collection())
    assert batch["status"] == "COMPLETED_WITH_ERRORS"
    (failure,) = counted.shop.failures(batch["batch_id"])
    assert (failure["object_id"], failure["phase"]) == (ids[1], "fetch")
    assert "gone from the blob store" in failure["reason"]
