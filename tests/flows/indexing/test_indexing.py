"""The index follows the documents: replay, rebuild, purge, compaction, and exact answers while it is behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datapath_app import Application, settings
from datapath_process import wait_until
from datapath_shop import Shop, content, ok, parts_of
from fastapi.testclient import TestClient

from mediatheca.app import App, build
from mediatheca.kernel.errors import NotFoundError, UnavailableError


def texts_of(*numbers: int, version: int = 1) -> list[str]:
    return [part for number in numbers for part in parts_of(number, version)]


def commits(application: Application, shop: Shop) -> dict[str, Any]:
    return application.row(shop, "document_tables", collection_id=shop.collection)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


class Stopped:
    """An application on existing data whose threads are not started: what it is right after a start."""

    def __init__(self, folder: Path, shop: Shop) -> None:
        self.app: App = build(settings(folder, workers=0))
        self.shop = shop.at(TestClient(self.app.asgi, headers=dict(shop.client.headers)))
        self.indexer = self.app.services.indexer

    def close(self) -> None:
        self.app.close()
        self.shop.client.close()


@pytest.fixture
def filled(folder: Path) -> Shop:
    """A shop whose application has stopped cleanly: ten objects, one updated, one deleted, one document deleted."""
    made = Application(folder)
    shop = made.shop()
    ids = shop.create([content(number, 1) for number in range(10)])
    shop.process()
    shop.update(ids[0], content(0, 2))
    shop.process()
    shop.delete(ids[1])
    shop.delete_document(next(row["document_id"] for row in shop.documents() if row["number"] == 2))
    made.close()
    return shop


def test_a_clean_restart_replays_nothing(folder: Path, filled: Shop) -> None:
    again = Stopped(folder, filled)
    table = again.indexer._table(again.indexer._known(filled.collection).scope, filled.collection)
    with again.app.services.db.read(table.scope) as tx:
        row = tx.row("document_tables", {"collection_id": filled.collection})
    assert row is not None
    assert row["lease_token"] is None
    assert again.indexer.index.watermark(filled.collection) == row["committed_seq"]
    assert list(again.app.services.documents.changes(filled.collection, row["committed_seq"])) == []
    again.close()


def test_before_the_replay_answers_are_exact_and_say_that_they_are_degraded(folder: Path, filled: Shop) -> None:
    for path in (folder / "index").iterdir():  # nothing of the index is left
        if path.is_dir():
            path.rename(folder / f"gone-{path.name}")
    again = Stopped(folder, filled)
    wanted = again.shop.texts()
    assert texts_of(1)[0] not in wanted
    for text in [*wanted, *texts_of(1), texts_of(0)[0]]:
        answer = again.shop.execute(text)
        assert answer["degraded"], "an answer of the documents must say so"
        assert (answer["documents"][0]["text"] == text) == (text in wanted)
    before = [ranking(again.shop, text) for text in wanted]
    again.indexer.tick()
    after = [ranking(again.shop, text) for text in wanted]
    assert not again.shop.execute(wanted[0])["degraded"]
    assert [hits.keys() for hits in before] == [hits.keys() for hits in after]
    assert all(a == pytest.approx(b, abs=1e-5) for a, b in zip(before, after, strict=True))
    again.close()


def ranking(shop: Shop, text: str) -> dict[str, float]:
    """All documents, so that no tie is cut, with their scores."""
    return {hit["text"]: hit["score"] for hit in shop.search(text, limit=20)}


class Watch:
    """Searches in a thread, all the time; collects what it must not see."""

    def __init__(self, application: Application, shop: Shop, check: Callable[[Shop], str | None]) -> None:
        self._view, self._check, self._done = application.again(shop), check, threading.Event()
        self.seen: list[str] = []
        self.looks = 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._done.is_set():
            wrong = self._check(self._view)
            self.looks += 1
            if wrong:
                self.seen.append(wrong)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def test_a_rebuild_hides_nothing_and_revives_nothing_while_there_is_writing_and_searching(
    application: Application, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fresh index is built as of its beginning; what comes later is deleted and written while it is built."""
    ids = shop.create([content(number, 1) for number in range(30)])
    shop.process()
    indexer, (kept, gone) = application.services.indexer, (texts_of(3)[0], texts_of(1))
    rebuild, late = indexer.index.rebuild, threading.Event()

    def interrupted(*args: Any, before_swap: Callable[[], None]) -> None:
        def meanwhile() -> None:
            shop.delete(ids[1])
            shop.update(ids[2], content(2, 2))
            shop.create([content(77, 1)])
            assert shop.process()["status"] == "COMPLETED"
            late.set()
            before_swap()

        rebuild(*args, before_swap=meanwhile)

    def check(view: Shop) -> str | None:
        if not view.finds(kept):
            return f"not found: {kept}"
        if late.is_set():
            if not view.finds(texts_of(77)[0]) or not view.finds(texts_of(2, version=2)[0]):
                return "what was written while it was built is hidden"
            if {gone[0], texts_of(2)[0]} & {hit["text"] for hit in view.search(gone[0])}:
                return "what was deleted while it was built is back"
        return None

    monkeypatch.setattr(indexer.index, "rebuild", interrupted)
    with Watch(application, shop, check) as watch:
        indexer.rebuild(application.scope(shop), shop.collection)
        looks = watch.looks
        wait_until(lambda: watch.looks > looks + 20)
    assert watch.seen == []
    assert sorted(application.indexed(shop).values()) == shop.texts()
    assert indexer.ready(shop.collection)


def test_two_rebuilds_at_once_and_writes_beside_them_end_with_index_and_documents_alike(
    application: Application, shop: Shop
) -> None:
    ids = shop.create([content(number, 1) for number in range(20)])
    shop.process()
    indexer, scope = application.services.indexer, application.scope(shop)
    rebuilds = [threading.Thread(target=indexer.rebuild, args=(scope, shop.collection)) for _ in range(2)]
    for thread in rebuilds:
        thread.start()
    for version in (2, 3):
        for number, ident in enumerate(ids[:10]):
            shop.update(ident, content(number, version))
        shop.delete(ids[10 + version])
        assert shop.process()["status"] == "COMPLETED"
    for thread in rebuilds:
        thread.join()
    assert sorted(application.indexed(shop).values()) == shop.texts()
    assert all(shop.finds(text) for text in shop.texts())


def test_a_rebuild_that_fails_leaves_the_old_index_answering(
    application: Application, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.create([content(number, 1) for number in range(5)])
    shop.process()
    indexer = application.services.indexer

    def fail(*args: Any, before_swap: Callable[[], None]) -> None:
        before_swap()
        raise UnavailableError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(indexer.index, "rebuild", fail)
        with pytest.raises(UnavailableError):
            indexer.rebuild(application.scope(shop), shop.collection)
    assert all(shop.finds(text) for text in texts_of(0, 1, 2, 3, 4))
    wait_until(lambda: indexer.ready(shop.collection))
    assert all(shop.finds(text) for text in texts_of(0, 1, 2, 3, 4))


def test_a_collection_that_was_dropped_meanwhile_is_not_rebuilt(application: Application, shop: Shop) -> None:
    shop.create([content(1, 1)])
    shop.process()
    indexer = application.services.indexer
    state = indexer._table(application.scope(shop), shop.collection)  # as whoever is about to rebuild it has it
    ok(shop.client.delete(f"/v1/collections/{shop.collection}"))
    wait_until(lambda: not application.jobs("collection.drop"))
    with pytest.raises(NotFoundError):
        indexer._upkeep.rebuild(state)
    assert list(application.folder.glob(f"*/{shop.collection}*")) == []


def test_deletes_are_purged_from_the_documents_and_the_tombstones_go(application: Application, shop: Shop) -> None:
    ids = shop.create([content(number, 1) for number in range(10)])
    shop.process()
    shop.update(ids[0], content(0, 2))
    shop.process()  # leaves dead rows
    shop.delete(ids[1])
    (document,) = [row for row in shop.documents() if row["text"] == texts_of(2)[0]]
    shop.delete_document(document["document_id"])
    wanted = shop.texts()

    def purged() -> bool:
        with application.db.read(application.scope(shop)) as tx:
            return not tx.count("tombstones", {"collection_id": shop.collection})

    wait_until(purged)
    rows = [row for page in application.services.documents.changes(shop.collection, 0) for row in page]
    assert sorted(row.payload["text"] for row in rows) == wanted
    assert shop.texts() == sorted(application.indexed(shop).values()) == wanted
    shop.update(ids[2], content(2, 3))  # a document that was deleted comes back with a new version of its object
    shop.process()
    assert shop.finds(parts_of(2, 3)[0])
    assert shop.texts() == sorted(application.indexed(shop).values())


def test_compaction_under_load_loses_nothing_and_hides_nothing(tmp_path: Path) -> None:
    application = Application(tmp_path / "data", chunk_size=1)
    shop = application.shop()
    ids = shop.create([content(number, 1) for number in range(70)])
    kept = texts_of(5)[0]
    batch = shop.trigger()
    wait_until(lambda: shop.batch(batch)["progress"]["fetched"] > 20)
    with Watch(application, shop, lambda view: None if view.finds(kept) else f"not found: {kept}") as watch:
        shop.ended(batch)
        for number in range(10, 50):
            shop.update(ids[number], content(number, 2))
        for ident in ids[60:]:
            shop.delete(ident)
        assert shop.process()["status"] == "COMPLETED"
        wait_until(lambda: commits(application, shop)["commits"] < 100)
    assert watch.seen == []
    unchanged = [*range(10), *range(50, 60)]
    wanted = sorted(texts_of(*unchanged) + texts_of(*range(10, 50), version=2))
    assert shop.texts() == wanted == sorted(application.indexed(shop).values())
    application.close()


def test_a_delete_that_the_index_could_not_follow_is_invisible_all_the_same(
    application: Application, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = shop.create([content(number, 1) for number in range(5)])
    shop.process()
    indexer = application.services.indexer

    def refuse(*_: Any) -> None:
        raise UnavailableError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(indexer.index, "delete_objects", refuse)
        shop.delete(ids[1])
        answer = shop.execute(texts_of(1)[0])
        assert texts_of(1)[0] not in [hit["text"] for hit in answer["documents"]]
        assert answer["degraded"]
    wait_until(lambda: indexer.ready(shop.collection))
    assert texts_of(1)[0] not in application.indexed(shop).values()


def test_one_collection_in_trouble_does_not_stop_the_others(
    application: Application, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.create([content(number, 1) for number in range(5)])
    shop.process()
    other = application.shop("other")
    changes = application.services.documents.changes

    def broken(collection_id: str, *args: Any) -> Any:
        if collection_id == shop.collection:
            raise TypeError("something nobody thought of")
        return changes(collection_id, *args)

    with monkeypatch.context() as patch:
        patch.setattr(application.services.documents, "changes", broken)
        shop.create([content(9, 1)])
        late = shop.trigger()
        other.create([content(1, 1)])
        assert other.process()["status"] == "COMPLETED"
        assert shop.batch(late)["status"] in ("QUEUED", "PROCESSING")
    assert shop.ended(late)["status"] == "COMPLETED"
    assert shop.finds(texts_of(9)[0])


def test_a_writer_in_trouble_does_not_stop_the_other_collections(application: Application, shop: Shop) -> None:
    """Housekeeping of one collection waits for its lease; indexing of the others goes on."""
    shop.create([content(number, 1) for number in range(5)])
    shop.process()
    other = application.shop("other")
    with application.services.leases.acquire(application.scope(shop), shop.collection):
        ok(shop.client.get(f"/v1/collections/{shop.collection}"))
        shop.delete(min(shop.objects()))
        other.create([content(1, 1)])
        assert other.process()["status"] == "COMPLETED"
    assert texts_of(0)[0] not in [hit["text"] for hit in shop.search(texts_of(0)[0])]
