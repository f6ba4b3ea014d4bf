"""Tigris: the protocol of S3 at one address for the whole world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from mediatheca.connectors import Connector, Http, Source
from mediatheca.connectors.s3 import S3Config, S3Credentials, open_s3

_ADDRESS = "https://fly.storage.tigris.dev"


class TigrisConfig(S3Config):
    """Where it is."""

    provider_type: Literal["tigris"] = "tigris"  # type: ignore[assignment]
    region: str = Field("auto", pattern=r"^[a-z0-9-]{1,40}$")


def _open(config: TigrisConfig, credentials: S3Credentials | None, http: Http, path: str) -> Source:
    placed = config if config.endpoint_url else config.model_copy(update={"endpoint_url": _ADDRESS})
    return open_s3(placed, credentials, http, path)


def _addresses(config: TigrisConfig) -> Sequence[str]:
    return [config.endpoint_url] if config.endpoint_url else []


tigris = Connector("tigris", "Tigris.", TigrisConfig, S3Credentials, _open, _addresses)
