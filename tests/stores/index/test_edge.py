"""Qdrant Edge: the contract, ownership of the directory, open shards, damage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.errors import NotFoundError, UnavailableError
from mediatheca.kernel.search import TextQuery, VectorQuery
from mediatheca.kernel.sparse import sparse_vector
from mediatheca.stores.index import edge_shard
from mediatheca.stores.index.base import IndexSpec
from mediatheca.stores.index.edge import EdgeIndex
from mediatheca.testing.index import SearchIndexContract
from mediatheca.testing.index_data import COLLECTION, SPEC, document, key, vector
from mediatheca.testing.index_languages import LanguageContract


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EdgeIndex]:
    index = EdgeIndex(tmp_path / "index", max_open=2)
    yield index
    index.close()


class TestEdgeIndex(SearchIndexContract):
    pass


def reopened(index: EdgeIndex) -> EdgeIndex:
    index.close()
    return EdgeIndex(index._root)


def shard_directory(index: EdgeIndex) -> Path:
    (path,) = index._root.glob("*/gen-*/shard")
    return path


def test_what_was_written_is_there_after_closing_and_opening(index: EdgeIndex) -> None:
    index.ensure(SPEC)
    index.upsert(COLLECTION, [document(1, 5, {"brand": "Ä"}), document("odd", 6)])
    index.flush(COLLECTION, 6)
    index.upsert(COLLECTION, [document(2, 7)])
    again = reopened(index)
    assert again.watermark(COLLECTION) == 6
    assert sorted(again.ids(COLLECTION)) == sorted([key(1), key(2), "odd"])
    again.upsert(COLLECTION, [document(2, 3, {"stale": True})])
    assert again.get(COLLECTION, [key(2)])[0].payload == {}
    again.close()


def test_a_second_index_on_the_same_directory_is_refused(index: EdgeIndex) -> None:
    with pytest.raises(UnavailableError, match="in use"):
        EdgeIndex(index._root)
    code = "import sys; from mediatheca.stores.index.edge import EdgeIndex; EdgeIndex(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", code, str(index._root)], capture_output=True, text=True)
    assert "in use by another process" in result.stderr


def test_an_unwritable_directory_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot be used"):
        EdgeIndex(tmp_path / "file")


def test_more_collections_than_may_be_open_all_answer(index: EdgeIndex) -> None:
    names = [f"col_{n}" for n in range(5)]
    for name in names:
        index.ensure(IndexSpec(name, (VectorIndex("v", "u", 2),)))
        index.upsert(name, [Document(key(1), name, {"of": name}, {"v": vector(1, 0)}, write_seq=1)])
    for name in [*names, *reversed(names)]:
        (hit,) = index.query(name, VectorQuery("v", vector(1, 0), 3))
        assert hit.payload == {"of": name}
    assert len(index._pool._open) <= 2


def test_threads_may_query_write_and_evict_at_the_same_time(index: EdgeIndex) -> None:
    names = [f"col_{n}" for n in range(4)]
    for name in names:
        index.ensure(IndexSpec(name, (VectorIndex("v", "u", 2),)))
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for n in range(40):
                name = names[(n * seed) % 4]
                index.upsert(name, [Document(key(n), name, {}, {"v": vector(1, n)}, write_seq=n)])
                index.query(name, VectorQuery("v", vector(1, 0), 3))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_hostile_collection_ids_stay_inside_the_directory(index: EdgeIndex, tmp_path: Path) -> None:
    names = ["../x", "..", "a/b", "ü" * 90, "CURRENT"]
    for name in names:
        index.ensure(IndexSpec(name, (VectorIndex("v", "u", 2),)))
        index.flush(name, len(name))
    assert {path.name for path in tmp_path.iterdir()} == {"index"}
    assert [index.watermark(name) for name in names] == [len(name) for name in names]


def damage_configuration(shard: Path) -> None:
    (shard / "edge_config.json").write_text("{half")


def damage_segment(shard: Path) -> None:
    for path in shard.glob("segments/*/segment.json"):
        path.write_bytes(b"\xff" * 40)


def damage_log(shard: Path) -> None:
    for path in shard.glob("wal/*"):
        path.write_bytes(b"\xff" * 40)


def lose_everything(shard: Path) -> None:
    for path in sorted(shard.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("damage", [damage_configuration, damage_segment, damage_log, lose_everything])
def test_a_damaged_shard_is_set_aside_and_counts_as_empty(index: EdgeIndex, damage: Any) -> None:
    index.ensure(SPEC)
    index.upsert(COLLECTION, [document(1, 5)])
    index.flush(COLLECTION, 5)
    index.close()
    damage(shard_directory(index))
    again = EdgeIndex(index._root)
    assert again.watermark(COLLECTION) == 0
    assert again.count(COLLECTION) == 0
    again.upsert(COLLECTION, [document(1, 5)])
    again.flush(COLLECTION, 5)
    again = reopened(again)
    assert (again.watermark(COLLECTION), again.count(COLLECTION)) == (5, 1)
    assert len(list(index._root.glob("*/corrupt-*"))) == 1
    again.close()


def test_a_lost_specification_needs_ensure_and_a_lost_watermark_a_replay(index: EdgeIndex) -> None:
    index.ensure(SPEC)
    index.flush(COLLECTION, 5)
    index.close()
    generation = shard_directory(index).parent
    (generation / "watermark.json").write_text("[")
    again = EdgeIndex(index._root)
    assert again.watermark(COLLECTION) == 0
    again.close()
    (generation / "spec.json").unlink()
    again = EdgeIndex(index._root)
    with pytest.raises(NotFoundError):
        again.count(COLLECTION)
    again.ensure(SPEC)
    assert again.count(COLLECTION) == 0
    again.close()


def test_a_killed_build_child_leaves_the_old_index(index: EdgeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index.ensure(SPEC)
    index.upsert(COLLECTION, [document(1, 5)])
    children: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def remember(*args: Any, **more: Any) -> subprocess.Popen[bytes]:
        child = start(*args, **more)
        if threading.current_thread() is threading.main_thread():  # in others are servers of other tests
            children.append(child)
        return child

    monkeypatch.setattr(subprocess, "Popen", remember)

    def pages() -> Iterator[list[Document]]:
        yield [document(2, 6)]
        os.kill(children[0].pid, signal.SIGKILL)
        children[0].wait()
        for n in range(50):
            yield [document(n, 7, {"long": "x" * 100_000})]

    with pytest.raises(UnavailableError, match="the old index goes on"):
        index.rebuild(SPEC, pages(), 9)
    assert list(index.ids(COLLECTION)) == [key(1)]
    assert len(list(index._root.glob("*/gen-*"))) == 1


def test_a_rebuild_says_which_document_it_cannot_take(index: EdgeIndex) -> None:
    with pytest.raises(UnavailableError, match=r"vectors\.text"):
        index.rebuild(SPEC, iter([[document(2, 6, vectors={"text": vector(1)})]]), 9)


def test_leftovers_of_an_interrupted_rebuild_are_removed(index: EdgeIndex) -> None:
    index.ensure(SPEC)
    index.flush(COLLECTION, 3)
    index.close()
    folder = shard_directory(index).parents[1]
    (folder / "gen-halfbuilt" / "shard").mkdir(parents=True)
    (folder / ".CURRENT.abc").write_text("gen-halfbuilt")
    again = EdgeIndex(index._root)
    assert again.watermark(COLLECTION) == 3
    assert sorted(path.name[:4] for path in folder.iterdir()) == ["CURR", "gen-"]
    again.close()


def test_a_large_shard_gets_a_graph_that_finds_what_a_scan_finds(
    index: EdgeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_shard, "EXACT_BELOW", 1000)
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((50, 16))
    rows = (centres[rng.integers(50, size=24_000)] + 0.4 * rng.standard_normal((24_000, 16))).astype(np.float32)
    spec = IndexSpec(COLLECTION, (VectorIndex("v", "u", 16),))
    pages = ([document(n, 1, vectors={"v": rows[n]}) for n in range(at, at + 500)] for at in range(0, 24_000, 500))
    index.rebuild(spec, pages, 1)
    assert index.stats(COLLECTION)["indexed_points"] == 24_000
    agreed = 0
    for row in rows[:40]:
        scan = {hit.document_id for hit in index.query(COLLECTION, VectorQuery("v", row, 10, exact=True))}
        agreed += len(scan & {hit.document_id for hit in index.query(COLLECTION, VectorQuery("v", row, 10))})
    assert agreed >= 392


class TestEdgeLanguages(LanguageContract):
    pass


def test_sparse_vectors_and_languages_are_there_after_closing_and_opening(index: EdgeIndex) -> None:
    spec = IndexSpec(COLLECTION, SPEC.vectors, {"body": "text"}, {"body": "english"})
    index.ensure(spec)
    terms = {"terms": sparse_vector([5], [2.0])}
    index.upsert(COLLECTION, [document(1, 5, {"body": "He drinks"}, vectors=terms)])
    index.flush(COLLECTION, 5)
    again = reopened(index)
    again.ensure(spec)
    assert [hit.document_id for hit in again.query(COLLECTION, TextQuery("drinking", 5))] == [key(1)]
    assert [hit.score for hit in again.query(COLLECTION, VectorQuery("terms", terms["terms"], 5))] == [4.0]
    again.close()


def test_a_dense_query_is_exact_while_there_are_few_points(index: EdgeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index.ensure(SPEC)
    index.upsert(COLLECTION, [document(n, 1) for n in range(5)])
    query = VectorQuery("text", vector(1, 0, 0, 0), 3)
    assert index.exact(COLLECTION, query)
    monkeypatch.setattr(edge_shard, "EXACT_BELOW", 4)
    assert not index.exact(COLLECTION, query)
