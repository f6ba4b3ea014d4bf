"""The S3 server of the blob store tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from s3_server import s3_server


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url
