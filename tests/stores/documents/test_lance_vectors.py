"""Lance keeps the contract of reading vectors in bulk, also where old versions are removed at once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from mediatheca.stores.documents.lance import LanceDocuments
from mediatheca.testing.document_vectors import DocumentVectorsContract


class TestLanceVectors(DocumentVectorsContract):
    @pytest.fixture(params=[timedelta(minutes=10), timedelta(0)], ids=["keeps", "forgets"])
    def store(self, tmp_path: Path, request: pytest.FixtureRequest) -> LanceDocuments:
        return LanceDocuments(str(tmp_path / "documents"), keep_versions=request.param)
