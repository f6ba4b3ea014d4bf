"""What the contract suites of document stores write and read: one table and its documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.stores.documents.base import DocumentStore, Scan

DENSE = VectorIndex("text_v1_dense", "mixpeek://text@v1/dense", 4)
OTHER = VectorIndex("image_v1_Other.näme/2", "mixpeek://image@v1/other", 3)
MULTI = VectorIndex("page_v1_tokens", "mixpeek://page@v1/tokens", 3, multi=True)
COLLECTION = "col_contract"


def make(ident: str, payload: dict[str, Any] | None = None, **fields: Any) -> Document:
    """A document of the contract's collection."""
    return Document(ident, COLLECTION, {"n": ident} if payload is None else payload, **fields)


def dense(*values: float) -> dict[str, Vector]:
    return {DENSE.name: np.array(values, np.float32)}


def ids(documents: Sequence[Document]) -> list[str]:
    return [document.document_id for document in documents]


def found(store: DocumentStore, scan: Scan | None = None, **options: Any) -> list[str]:
    return ids(list(store.scan(COLLECTION, scan or Scan(), **options)))


def changed(store: DocumentStore, after: int = 0, upto: int | None = None) -> list[Document]:
    return [document for page in store.changes(COLLECTION, after, upto) for document in page]


class DocumentTable:
    """Gives the rules of a contract an empty table."""

    @pytest.fixture
    def store(self) -> DocumentStore:
        raise NotImplementedError("give a fixture `store`: an empty document store")

    @pytest.fixture
    def other(self) -> DocumentStore:
        raise NotImplementedError("give a fixture `other`: a second store on the same data")

    @pytest.fixture(autouse=True)
    def _table(self, store: DocumentStore) -> None:
        store.ensure(COLLECTION, [DENSE])
