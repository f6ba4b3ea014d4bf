"""An application in this process whose files lie in an object store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from datapath_app import Application

from mediatheca.kernel.ids import new_uuid
from s3_server import KEY, SECRET


@contextmanager
def files_in_s3(s3_endpoint: str, folder: Path, **changed: Any) -> Iterator[Application]:
    """An application with its files in an object store; `changed` are settings."""
    names = {"ENDPOINT": s3_endpoint, "ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET, "REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**names, "ALLOW_HTTP": "true"}.items():
            patch.setenv(f"AWS_{name}", value)
        made = Application(folder, blobs_url=f"s3://tests/{new_uuid()}", **changed)
    yield made
    made.close()
