"""S3 and its relatives against a real S3 server; the signature against the published example."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mediatheca.connectors import Connector, Source, SourceError
from mediatheca.connectors._s3_client import Keys, query_of, signed
from mediatheca.connectors.backblaze import BackblazeConfig, backblaze
from mediatheca.connectors.s3 import S3Config, base_url, s3
from mediatheca.connectors.tigris import tigris
from mediatheca.kernel.errors import ValidationError
from mediatheca.stores.fetch import Fetcher
from mediatheca.stores.fetch.storage import StorageHttp
from mediatheca.testing.connectors import ConnectorContract, every, opened
from s3_server import KEY, SECRET, s3_server
from store_folders import BUCKET, S3Files


@pytest.fixture(scope="module")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


class _OverS3(ConnectorContract):
    @pytest.fixture
    def store(self, s3_endpoint: str) -> S3Files:
        return S3Files(s3_endpoint, f"{uuid.uuid4().hex}/films")

    @pytest.fixture
    def config(self, store: S3Files) -> dict[str, Any]:
        return dict(store.config)


class TestS3(_OverS3):
    @pytest.fixture
    def connector(self) -> Connector:
        return s3

    @pytest.fixture
    def credentials(self, store: S3Files) -> dict[str, str]:
        return store.credentials

    @pytest.fixture
    def wrong_credentials(self) -> dict[str, str]:
        return {"access_key_id": KEY, "secret_access_key": "swordfish-42"}

    def test_a_bucket_of_the_connection_makes_the_path_one_inside_it(
        self, store: S3Files, credentials: dict[str, str], http: StorageHttp
    ) -> None:
        store.put("a.txt", b"x")
        first, _, rest = store.folder.partition("/")
        for config, path in (
            ({"bucket": BUCKET}, f"/{store.folder}/"),
            ({"bucket_name": BUCKET, "prefix": first}, rest),
            ({"bucket": BUCKET, "prefix": f"/{store.folder}/"}, ""),
            ({}, f"s3://{BUCKET}/{store.folder}"),
            ({"bucket": BUCKET}, f"s3://{BUCKET}/{store.folder}"),
        ):
            source = opened(s3, {**store.config, **config}, credentials, http, path)
            assert [entry.path for entry in every(source, 10)] == ["a.txt"]
        with pytest.raises(ValidationError, match="source_path"):
            opened(s3, {**store.config, "bucket": BUCKET}, credentials, http, "s3://another/folder")

    def test_a_connection_without_a_bucket_can_be_tried(
        self, store: S3Files, credentials: dict[str, str], http: StorageHttp
    ) -> None:
        opened(s3, store.config, credentials, http, "").check()
        wrong = {"access_key_id": "nobody", "secret_access_key": "swordfish"}
        with pytest.raises(SourceError, match="refuses these credentials"):
            opened(s3, store.config, wrong, http, "").check()

    def test_metadata_tags_and_types_come_with_a_file(self, source: Source, store: S3Files, tmp_path: Path) -> None:
        store.put("a.txt", b"x", "text/markdown", {"Author": "ada"}, {"topic": "sea"})
        (entry,) = every(source, 10)
        content = source.read(entry, tmp_path / "file", 10)
        assert (content.content_type, content.metadata) == ("text/markdown", {"author": "ada"})
        assert source.tags(entry) == {"topic": "sea"}
        store.put("b.txt", b"x")
        assert source.tags(every(source, 10)[1]) == {}

    def test_without_credentials_the_servers_own_are_not_used(
        self, store: S3Files, http: StorageHttp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in (("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET), ("ENDPOINT_URL", store.endpoint)):
            monkeypatch.setenv(f"AWS_{name}", value)
        with pytest.raises(SourceError, match="refuses these credentials"):
            opened(s3, store.config, None, http, store.path).check()


class TestTigris(_OverS3):
    @pytest.fixture
    def connector(self) -> Connector:
        return tigris

    @pytest.fixture
    def credentials(self, store: S3Files) -> dict[str, str]:
        return store.credentials

    @pytest.fixture
    def wrong_credentials(self) -> dict[str, str]:
        return {"access_key_id": KEY, "secret_access_key": "swordfish-42"}


class TestBackblaze(_OverS3):
    @pytest.fixture
    def connector(self) -> Connector:
        return backblaze

    @pytest.fixture
    def credentials(self) -> dict[str, str]:
        return {"key_id": KEY, "application_key": SECRET}

    @pytest.fixture
    def wrong_credentials(self) -> dict[str, str]:
        return {"key_id": KEY, "application_key": "swordfish-42"}


def test_the_signature_is_the_one_of_the_published_example() -> None:
    """ "GET Bucket (List Objects)" of "Examples: Signature calculations in AWS Signature Version 4"."""
    keys = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    url = f"https://examplebucket.s3.amazonaws.com/?{query_of({'prefix': 'J', 'max-keys': '2'})}"
    headers = signed("GET", url, keys, "us-east-1", datetime(2013, 5, 24, tzinfo=UTC))
    assert headers["authorization"].endswith(
        "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )


@pytest.mark.parametrize(
    ("config", "bucket", "address"),
    [
        ({}, "films", "https://films.s3.us-east-1.amazonaws.com"),
        ({"region": "cn-north-1"}, "films", "https://films.s3.cn-north-1.amazonaws.com.cn"),
        ({"region": "eu-west-1"}, "my.films", "https://s3.eu-west-1.amazonaws.com/my.films"),
        ({"path_style": True}, "films", "https://s3.us-east-1.amazonaws.com/films"),
        ({}, "", "https://s3.us-east-1.amazonaws.com"),
        ({"endpoint_url": "https://minio.example:9000/"}, "films", "https://minio.example:9000/films"),
        ({"endpoint": "minio.example", "use_ssl": False}, "films", "http://minio.example/films"),
        ({"endpoint_url": "https://s3.example/base", "path_style": False}, "films", "https://films.s3.example/base"),
    ],
)
def test_where_a_bucket_is(config: dict[str, Any], bucket: str, address: str) -> None:
    assert base_url(S3Config.model_validate(config), bucket) == address


@pytest.mark.parametrize(
    "config",
    [
        {"region": "x.evil.example/"}, {"bucket": "a/b"}, {"bucket": "https://x"}, {"endpoint_url": "ftp://x"},
        {"endpoint_url": "https://user:word@x"}, {"endpoint_url": "https://x/?a=b"}, {"verify_ssl": False},
        {"endpoint_url": "https://x y"}, {"endpoint_url": "https://ünï.example"},
    ],
)  # fmt: skip
def test_a_configuration_that_leads_elsewhere_is_refused(config: dict[str, Any]) -> None:
    for connector in (s3, tigris, backblaze):
        with pytest.raises(ValueError):
            connector.config.model_validate(config)


def test_a_role_is_refused_as_there_is_no_account_to_take_it_on() -> None:
    with pytest.raises(ValueError):
        s3.credentials.model_validate(
            {"type": "iam_role", "role_arn": "arn:aws:iam::1:role/x", "external_id": "12345678"}
        )


def test_backblaze_and_tigris_are_where_they_are() -> None:
    with StorageHttp(Fetcher()) as http:
        there = opened(backblaze, BackblazeConfig(region="eu-central-003").model_dump(), None, http, "films/new")
        assert "https://s3.eu-central-003.backblazeb2.com/films" in repr(there)
        assert "https://fly.storage.tigris.dev/films" in repr(opened(tigris, {}, None, http, "films"))
