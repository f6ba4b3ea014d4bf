"""Lance keeps the contract of every document store."""

from __future__ import annotations

from pathlib import Path

import pytest

from mediatheca.stores.documents.lance import LanceDocuments
from mediatheca.testing.documents import DocumentStoreContract


class TestLanceDocuments(DocumentStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LanceDocuments:
        return LanceDocuments(str(tmp_path / "documents"))

    @pytest.fixture
    def other(self, tmp_path: Path, store: LanceDocuments) -> LanceDocuments:
        return LanceDocuments(str(tmp_path / "documents"))
