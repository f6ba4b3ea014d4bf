"""Both indexes keep the contract of patches; a patch survives the process and leaves the graph as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from mediatheca.stores.index.base import SearchIndex
from mediatheca.stores.index.edge import EdgeIndex
from mediatheca.stores.index.qdrant import QdrantIndex
from mediatheca.testing.index_data import COLLECTION, SPEC, document, key
from mediatheca.testing.index_patches import IndexPatchContract, kept


class TestEdgePatches(IndexPatchContract):
    @pytest.fixture
    def index(self, tmp_path: Path) -> Iterator[SearchIndex]:
        index = EdgeIndex(tmp_path / "index", max_open=4)
        yield index
        index.close()


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")
@pytest.mark.filterwarnings("ignore:Local mode performs exact")
class TestQdrantPatches(IndexPatchContract):
    @pytest.fixture
    def index(self) -> Iterator[SearchIndex]:
        # Local mode knows the default tokenizer only.
        index = QdrantIndex("", tokenizer="word", connect=lambda url, key: QdrantClient(":memory:"))
        yield index
        index.close()


def test_a_patch_is_there_after_closing_and_opening(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path / "index")
    index.ensure(SPEC)
    index.upsert(COLLECTION, [document(1, 1, {"a": 1, "b": 1})])
    index.flush(COLLECTION, 1)
    assert index.patch(COLLECTION, [kept(document(1, 2, {"a": 2}), 1)]) == []
    index.close()
    again = EdgeIndex(tmp_path / "index")
    assert again.get(COLLECTION, [key(1)])[0].payload == {"a": 2}
    assert again.watermark(COLLECTION) == 1
    again.close()


def test_points_that_were_rebuilt_stay_where_they_are(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path / "index")
    index.ensure(SPEC)
    documents = [document(number, 1, {"brand": "A", "title": "red fox"}) for number in range(300)]
    index.rebuild(SPEC, iter([documents]), 1)
    before = index.stats(COLLECTION)
    labelled = [kept(document(number, 2, {"brand": "A", "title": "red fox", "label": "x"}), 1) for number in range(300)]
    assert index.patch(COLLECTION, labelled) == []
    after = index.stats(COLLECTION)
    assert (after["points"], after["segments"]) == (before["points"], before["segments"]) == (300, before["segments"])
    assert index.get(COLLECTION, [key(7)])[0].payload["label"] == "x"
    index.close()
