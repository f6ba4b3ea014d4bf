"""The rules of a document store in several hands, threads and processes; a part of `mediatheca.testing.documents`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import ConflictError, MediathecaError
from mediatheca.stores.documents.base import DocumentStore, Scan
from mediatheca.testing.document_data import (
    COLLECTION,
    DENSE,
    DocumentTable,
    changed,
    dense,
    found,
    ids,
    make,
)


class SharingRules(DocumentTable):
    """Readers and writers do not disturb each other."""

    def test_another_store_sees_every_commit_at_once(self, store: DocumentStore, other: DocumentStore) -> None:
        for number in range(1, 30):
            writer, reader = (store, other) if number % 2 else (other, store)
            writer.upsert(COLLECTION, [make(f"{number:02d}")], number)
            assert ids(reader.get(COLLECTION, [f"{number:02d}"])) == [f"{number:02d}"]
            assert reader.count(COLLECTION) == number == reader.last_seq(COLLECTION)

    def test_maintenance_changes_no_document(self, store: DocumentStore, other: DocumentStore) -> None:
        for number in range(1, 40):
            rows = [make(f"{i}", {"v": number}, object_id=f"o{i}") for i in range(number % 7, 20)]
            store.upsert(COLLECTION, rows, number, [f"o{number % 5}"])
        before = changed(store)
        store.maintain(COLLECTION)
        assert _plain(changed(store)) == _plain(before) == _plain(changed(other))
        other.upsert(COLLECTION, [make("new")], 100)
        assert store.last_seq(COLLECTION) == 100

    def test_a_tag_holds_through_maintenance_and_its_name_is_unique(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make("a")], 1)
        store.tag(COLLECTION, "snap")
        with pytest.raises(ConflictError, match="snap"):
            store.tag(COLLECTION, "snap")
        store.upsert(COLLECTION, [make("b")], 2)
        store.maintain(COLLECTION)
        assert found(store) == ["a", "b"]

    def test_threads_read_while_others_write_and_maintain(self, store: DocumentStore) -> None:
        stop, faults = threading.Event(), []

        def read() -> None:
            try:
                while not stop.is_set():
                    seen = store.get(COLLECTION, [f"{i}" for i in range(10)], vectors=True)
                    # All ten are written in each commit: a read is never torn between two.
                    assert len({(d.write_seq, d.payload["v"], float(d.vectors[DENSE.name][0])) for d in seen}) <= 1
                    assert len(list(store.scan(COLLECTION, Scan()))) in (0, 10)
                    store.count(COLLECTION)
            except BaseException as fault:
                faults.append(fault)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for thread in readers:
            thread.start()
        for number in range(1, 41):
            rows = [make(f"{i}", {"v": number}, vectors=dense(number, 0, 0, 1)) for i in range(10)]
            store.upsert(COLLECTION, rows, number)
            if number % 10 == 0:
                store.maintain(COLLECTION)
        stop.set()
        for thread in readers:
            thread.join()
        assert faults == []

    def test_threads_that_write_take_turns(self, store: DocumentStore) -> None:
        """The lease is the caller's; here a lock gives out the numbers, in order."""
        lock, numbers, faults = threading.Lock(), iter(range(1, 1000)), []

        def write(worker: int) -> None:
            try:
                for turn in range(10):
                    with lock:
                        store.upsert(
                            COLLECTION, [make(f"{turn}", {"by": worker}), make(f"{worker}-{turn}")], next(numbers)
                        )
            except BaseException as fault:
                faults.append(fault)

        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        assert len(set(found(store))) == len(found(store)) == 50

    def test_a_store_that_works_passes_its_check(self, store: DocumentStore) -> None:
        store.check()

    def test_a_closed_store_says_so(self, store: DocumentStore) -> None:
        store.close()
        with pytest.raises(MediathecaError, match="closed"):
            store.count(COLLECTION)


def _plain(documents: Sequence[Document]) -> list[tuple[Any, ...]]:
    return [(d.document_id, d.write_seq, d.deleted, d.payload, d.object_id, d.created_at) for d in documents]
