"""What becomes of objects whose files are gone, changed, or filtered out."""

from __future__ import annotations

from typing import Any

import pytest
from sync_world import SyncWorld

from helpers import ok, wait_for


@pytest.fixture
def three(world: SyncWorld) -> SyncWorld:
    for name in ("a.txt", "b.txt", "c.md"):
        world.files.put(name, name.encode())
    return world


def documents(world: SyncWorld, collection: str) -> list[dict[str, Any]]:
    return list(ok(world.client.post(f"/v1/collections/{collection}/documents/list", json={}))["results"])


def test_objects_of_files_that_are_gone_are_kept_unless_asked(three: SyncWorld) -> None:
    sync = three.sync()
    three.run(sync)
    three.files.delete("a.txt")
    job = three.run(sync)
    assert (job["progress"]["deleted"], job["progress"]["missing"]) == (0, 1)
    assert len(three.objects()) == 3
    assert three.run(sync)["progress"]["missing"] == 0
    three.files.put("a.txt", b"a.txt")  # it is back, as it was
    ident = three.objects()["a.txt"]["object_id"]
    assert three.run(sync)["files_synced"] == 0
    assert three.objects()["a.txt"]["object_id"] == ident


def test_objects_of_files_that_are_gone_go_where_it_is_asked_with_their_documents(three: SyncWorld) -> None:
    collection = three.collection()
    sync = three.sync(reconcile={"on_delete": True})
    three.run(sync)
    wait_for(lambda: len(documents(three, collection)) == 3)
    three.files.delete("a.txt")
    assert three.run(sync)["progress"]["deleted"] == 1
    assert sorted(three.objects()) == ["b.txt", "c.md"]
    assert sorted(each["source_path"].rsplit("/", 1)[-1] for each in documents(three, collection)) == ["b.txt", "c.md"]
    assert three.stored_files() == 2
    three.files.put("a.txt", b"a.txt")
    assert three.run(sync)["files_synced"] == 1
    assert len(three.objects()) == 3


def test_a_listing_that_broke_off_says_nothing_of_what_is_gone(
    three: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = three.sync(reconcile={})
    three.run(sync)
    monkeypatch.setattr("mediatheca.flows.syncs.run.PAGE", 1)
    from mediatheca.connectors import Listing, SourceError
    from mediatheca.connectors._s3_client import S3Folder

    real = S3Folder.page

    def broken(self: S3Folder, cursor: str | None, limit: int) -> Listing:
        if cursor is not None:
            raise SourceError("access_denied", "no more of it", fatal=True)
        return real(self, cursor, limit)

    with monkeypatch.context() as patch:
        patch.setattr(S3Folder, "page", broken)
        job = three.run(sync, "failed")
    assert job["error"] == "no more of it"
    assert len(three.objects()) == 3
    assert three.run(sync)["progress"]["deleted"] == 0


def test_an_emptied_folder_empties_the_bucket(three: SyncWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediatheca.flows.syncs.run._CUT", 2)
    sync = three.sync(reconcile={})
    three.run(sync)
    for name in ("a.txt", "b.txt", "c.md"):
        three.files.delete(name)
    assert three.run(sync)["progress"]["deleted"] == 3
    assert three.objects() == {}
    with three.read() as tx:
        assert tx.count("sync_items", {}) == 0


def test_files_that_the_filters_leave_out_now_go_unless_drift_is_off(three: SyncWorld) -> None:
    kept, strict = three.sync(reconcile={"on_filter_drift": False}), three.sync(reconcile={}, skip_duplicates=False)
    three.run(kept)
    three.run(strict)
    for sync in (kept, strict):
        ok(three.client.patch(f"{three.path}/{sync}", json={"file_filters": {"include_patterns": ["*.txt"]}}))
    assert three.run(kept)["progress"]["deleted"] == 0
    assert three.run(strict)["progress"]["deleted"] == 1
    with three.read() as tx:
        assert tx.count("objects", {}) == 5


def test_changes_are_left_alone_where_it_is_asked(three: SyncWorld) -> None:
    sync = three.sync(reconcile={"on_update": False})
    three.run(sync)
    three.files.put("a.txt", b"changed")
    job = three.run(sync)
    assert (job["files_synced"], job["progress"]["skipped"]) == (0, 1)
    assert three.content("a.txt") == b"a.txt"
    ok(three.client.patch(f"{three.path}/{sync}", json={"reconcile": {"on_update": True}}))
    assert three.run(sync)["progress"]["updated"] == 1


def test_changed_objects_are_not_processed_again_where_it_is_asked(three: SyncWorld) -> None:
    three.collection()
    sync = three.sync(reconcile={"re_extract_on_update": False})
    assert len(three.run(sync)["batch_ids"]) == 1
    three.files.put("a.txt", b"changed")
    job = three.run(sync)
    assert (job["progress"]["updated"], job["batch_ids"]) == (1, [])


def test_an_object_shared_by_content_goes_with_its_own_file_only(world: SyncWorld) -> None:
    for name in ("a.txt", "b.txt"):
        world.files.put(name, b"same")
    sync = world.sync(reconcile={}, batch_size=1)
    world.run(sync)
    world.files.delete("b.txt")  # which has no object of its own
    assert world.run(sync)["progress"]["deleted"] == 0
    assert sorted(world.objects()) == ["a.txt"]
    world.files.put("b.txt", b"same")
    world.run(sync)
    world.files.delete("a.txt")
    assert world.run(sync)["progress"]["deleted"] == 1
    assert world.run(sync)["files_synced"] == 1
    assert sorted(world.objects()) == ["b.txt"]


def test_another_folder_is_another_source(three: SyncWorld) -> None:
    three.files.put("../other/d.txt", b"d")
    sync = three.sync(reconcile={})
    three.run(sync)
    path = three.files.folder.rsplit("/", 1)[0] + "/other"
    ok(three.client.patch(f"{three.path}/{sync}", json={"source_path": path}))
    job = three.run(sync)
    assert (job["files_synced"], job["progress"]["deleted"]) == (1, 3)
    assert sorted(three.objects()) == ["d.txt"]
