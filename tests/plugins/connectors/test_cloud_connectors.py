"""Google Cloud Storage and Azure Blob Storage against servers that speak their protocols and check what is signed.

What the Azure server takes as signed is itself held against another client: `obstore` writes to it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import obstore
import pytest
from obstore.store import AzureStore

from mediatheca.connectors import Connector, Source, SourceError
from mediatheca.connectors.azure_blob import azure_blob
from mediatheca.connectors.gcs import gcs
from mediatheca.kernel.errors import ValidationError
from mediatheca.stores.fetch import Fetcher
from mediatheca.stores.fetch.storage import StorageHttp
from mediatheca.testing.connectors import ConnectorContract, every, opened
from store_servers import ACCOUNT, ACCOUNT_KEY, AzureServer, Blob, GcsServer, a_gcs_server, an_azure_server

FOLDER = "some/films"


def key_of(name: str) -> str:
    parts: list[str] = []
    for part in PurePosixPath(f"{FOLDER}/{name}").parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(parts)


class GcsFiles:
    path = f"tests/{FOLDER}"

    def __init__(self, server: GcsServer) -> None:
        self.server = server

    def put(self, name: str, data: bytes) -> None:
        self.server.blobs[key_of(name)] = Blob(data, "text/plain", {"author": "ada"})

    def delete(self, name: str) -> None:
        del self.server.blobs[key_of(name)]


@pytest.fixture
def google() -> Iterator[GcsServer]:
    with a_gcs_server() as made:
        yield made


class TestGcs(ConnectorContract):
    @pytest.fixture
    def connector(self) -> Connector:
        return gcs

    @pytest.fixture
    def store(self, google: GcsServer) -> GcsFiles:
        return GcsFiles(google)

    @pytest.fixture
    def config(self, google: GcsServer) -> dict[str, Any]:
        return {"endpoint_url": google.url}

    @pytest.fixture
    def credentials(self, google: GcsServer) -> dict[str, Any]:
        return {"type": "service_account", "service_account_json": google.key}

    @pytest.fixture
    def wrong_credentials(self) -> dict[str, Any]:
        return {"service_account_json": GcsServer().key}

    def test_metadata_and_type_come_with_a_file(self, source: Source, store: GcsFiles, tmp_path: Path) -> None:
        store.put("a.txt", b"x")
        (entry,) = every(source, 10)
        assert entry.content_type == "text/plain"
        assert source.read(entry, tmp_path / "file", 10).metadata == {"author": "ada"}

    def test_a_key_that_is_none_says_so(self, config: dict[str, Any], http: StorageHttp) -> None:
        for key in ("swordfish", "-----BEGIN PRIVATE KEY-----\nswordfish\n-----END PRIVATE KEY-----"):
            held = {"service_account_json": {"client_email": "x", "private_key": key}}
            with pytest.raises(SourceError, match="private_key") as caught:
                opened(gcs, config, held, http, "tests/x").check()
            assert "swordfish" not in caught.value.message
        for held in ({"service_account_json": "swordfish"}, {"service_account_json": {"private_key": "x"}}):
            with pytest.raises(ValueError):
                gcs.credentials.model_validate(held)


class AzureFiles:
    path = f"tests/{FOLDER}"

    def __init__(self, server: AzureServer) -> None:
        self._server = server
        self._store = AzureStore(
            "tests",
            config={"account_name": ACCOUNT, "account_key": ACCOUNT_KEY, "endpoint": server.url},
            client_options={"allow_http": True},
        )

    def put(self, name: str, data: bytes) -> None:
        obstore.put(self._store, key_of(name), data, attributes={"Content-Type": "text/plain"}, use_multipart=False)

    def delete(self, name: str) -> None:
        del self._server.blobs[key_of(name)]


@pytest.fixture
def azure() -> Iterator[AzureServer]:
    with an_azure_server() as made:
        yield made


class TestAzure(ConnectorContract):
    @pytest.fixture
    def connector(self) -> Connector:
        return azure_blob

    @pytest.fixture
    def store(self, azure: AzureServer) -> AzureFiles:
        return AzureFiles(azure)

    @pytest.fixture
    def config(self, azure: AzureServer) -> dict[str, Any]:
        return {"endpoint_url": azure.url}

    @pytest.fixture
    def credentials(self) -> dict[str, Any]:
        return {"type": "account_key", "account_name": ACCOUNT, "account_key": ACCOUNT_KEY}

    @pytest.fixture
    def wrong_credentials(self) -> dict[str, Any]:
        return {"account_name": ACCOUNT, "account_key": base64.b64encode(b"swordfish").decode()}

    def test_tags_and_types_and_archives(
        self, source: Source, store: AzureFiles, azure: AzureServer, tmp_path: Path
    ) -> None:
        store.put("a.txt", b"x")
        (entry,) = every(source, 10)
        assert source.tags(entry) == {"topic": "sea"}
        assert source.read(entry, tmp_path / "file", 10).content_type == "text/plain"
        azure.blobs[key_of("a.txt")].archived = True
        assert "Archive" in every(source, 10)[0].unreadable

    def test_an_account_is_needed(self, http: StorageHttp) -> None:
        with pytest.raises(ValidationError, match="account_name"):
            opened(azure_blob, {}, {"account_key": ACCOUNT_KEY}, http, "tests/x")
        there = opened(azure_blob, {"account_name": "pictures", "container": "tests"}, None, http, "")
        assert "https://pictures.blob.core.windows.net/tests" in repr(there)

    def test_what_leads_elsewhere_is_refused(self) -> None:
        for config in ({"account_name": "evil.example/"}, {"container": "a/b"}, {"endpoint_url": "file:///x"}):
            with pytest.raises(ValueError):
                azure_blob.config.model_validate(config)
        for held in ({"account_key": "no base64!"}, {"type": "managed_identity", "account_key": ACCOUNT_KEY}):
            with pytest.raises(ValueError):
                azure_blob.credentials.model_validate(held)


def test_google_is_where_it_is() -> None:
    with StorageHttp(Fetcher()) as http:
        assert "https://storage.googleapis.com" in repr(opened(gcs, {"bucket": "films"}, None, http, ""))
