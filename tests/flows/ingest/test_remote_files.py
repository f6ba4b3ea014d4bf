"""Files in an object store: read when they are needed, and only then."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from counted_shop import Counted
from datapath_app import Application
from datapath_shop import SEPARATOR, Shop, ok
from s3_app import files_in_s3

from mediatheca.jobs.runner_supply import AHEAD


@pytest.fixture
def counted(s3_application: Application, tmp_path: Path) -> Counted:
    return Counted(s3_application, s3_application.shop(), tmp_path)


@pytest.fixture(scope="module")
def large_chunks(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with files_in_s3(s3_endpoint, tmp_path_factory.mktemp("large"), chunk_size=60) as made:
        yield made


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


class Watch:
    """Looks at the files of a folder again and again: how many there were at once, at least, at the worst moment. A
    look takes its time, and files come and go meanwhile: those that are there in two looks were there between them."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size, self.most = folder, size, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        before = self.look()
        while not self._over.wait(0.002):
            now = self.look()
            self.most = max(self.most, len(before & now))
            before = now

    def look(self) -> set[tuple[int, int]]:
        """What is behind the names: a child has its own name of a file."""
        found = set()
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    state = os.stat(os.path.join(folder, name))
                    found |= {(state.st_ino, state.st_mtime_ns)} if state.st_size >= self._size else set()
        return found

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize("kept", [True, False])
def test_only_a_few_files_of_a_chunk_are_here_at_once(large_chunks: Application, tmp_path: Path, kept: bool) -> None:
    counted = Counted(large_chunks, large_chunks.shop(), tmp_path)
    create(counted.shop, 60)
    collection = counted.collection() if kept else counted.shop.collection
    with Watch(counted.application.folder / "scratch", 9000) as watch:
        assert counted.process(collection)["status"] == "COMPLETED"
    assert len(counted.shop.texts(collection)) == 120
    assert 0 < watch.most <= AHEAD + 3  # ahead, in the hands of the one process, and those that come and go meanwhile
    assert watch.look() == set()


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
