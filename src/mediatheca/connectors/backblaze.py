"""Backblaze B2, by its protocol of S3: an application key is an access key there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from mediatheca.connectors import Connector, ConnectorCredentials, Http, Source
from mediatheca.connectors.s3 import S3Config, S3Credentials, open_s3


class BackblazeConfig(S3Config):
    """Where it is: `region` is the part of the endpoint between `s3.` and `.backblazeb2.com`."""

    provider_type: Literal["backblaze"] = "backblaze"  # type: ignore[assignment]
    region: str = Field("us-west-004", pattern=r"^[a-z0-9-]{1,40}$")


class ApplicationKey(ConnectorCredentials):
    """As the console shows it."""

    type: Literal["application_key"] = "application_key"
    key_id: str = Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")
    application_key: str = Field(min_length=1, max_length=200)


def _open(config: BackblazeConfig, credentials: ApplicationKey | None, http: Http, path: str) -> Source:
    address = config.endpoint_url or f"https://s3.{config.region}.backblazeb2.com"
    keys = None
    if credentials is not None:
        keys = S3Credentials(access_key_id=credentials.key_id, secret_access_key=credentials.application_key)
    return open_s3(config.model_copy(update={"endpoint_url": address}), keys, http, path)


def _addresses(config: BackblazeConfig) -> Sequence[str]:
    return [config.endpoint_url] if config.endpoint_url else []


backblaze = Connector(
    "backblaze", "Backblaze B2.", BackblazeConfig, ApplicationKey, _open, _addresses, also=("b2", "backblaze_b2")
)
