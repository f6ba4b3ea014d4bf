"""The Qdrant server adapter, against the client's local mode and, where one is named, a real server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from qdrant_client import QdrantClient

from mediatheca.kernel.errors import UnavailableError
from mediatheca.stores.index.base import SearchIndex
from mediatheca.stores.index.qdrant import QdrantIndex
from mediatheca.testing.index import SearchIndexContract
from mediatheca.testing.index_languages import LanguageContract

SERVER = os.environ.get("MEDIATHECA_TEST_QDRANT_URL")


@pytest.fixture
def index() -> Iterator[SearchIndex]:
    if SERVER:
        index = QdrantIndex(SERVER, prefix=f"test_{uuid.uuid4().hex}_")
    else:
        # Local mode knows the default tokenizer only.
        index = QdrantIndex("", tokenizer="word", connect=lambda url, key: QdrantClient(":memory:"))
    yield index
    index.drop("col_contract")
    index.close()


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")
@pytest.mark.filterwarnings("ignore:Local mode performs exact")
class TestQdrantIndex(SearchIndexContract):
    pass


if SERVER:  # local mode knows no languages

    class TestQdrantLanguages(LanguageContract):
        pass


def test_a_server_that_does_not_answer_is_named() -> None:
    index = QdrantIndex("http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
        index.check()
