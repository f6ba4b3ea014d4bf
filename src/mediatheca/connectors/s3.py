"""Amazon S3, and whatever speaks its protocol: MinIO, Cloudflare R2, Wasabi, Ceph, SeaweedFS, Supabase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, field_validator

from mediatheca.connectors import Connector, ConnectorCredentials, Http, Source
from mediatheca.connectors._paths import FolderConfig, placed
from mediatheca.connectors._s3_client import BUCKET, Keys, S3Account, S3Folder
from mediatheca.kernel.errors import ValidationError


class S3Config(FolderConfig):
    """Where it is. `endpoint_url` is left out for Amazon, and needed for every other service."""

    provider_type: Literal["s3"] = "s3"
    bucket: str | None = Field(None, validation_alias=AliasChoices("bucket", "bucket_name"))
    region: str = Field("us-east-1", pattern=r"^[a-z0-9-]{1,40}$")
    path_style: bool | None = None
    use_ssl: bool = True
    verify_ssl: Literal[True] = True

    @field_validator("bucket")
    @classmethod
    def _a_bucket(cls, value: str | None) -> str | None:
        if value is not None and not BUCKET.fullmatch(value):
            raise ValueError("is not the name of a bucket; its path goes into prefix, its address into endpoint_url")
        return value

    @property
    def secure(self) -> bool:
        return self.use_ssl


class S3Credentials(ConnectorCredentials):
    """An access key. A role needs an account of this server's own, which it has not."""

    type: Literal["access_key"] = "access_key"
    access_key_id: str = Field(min_length=1, max_length=500, pattern=r"^[\x21-\x7e]+$")
    secret_access_key: str = Field(min_length=1, max_length=1000)
    session_token: str | None = Field(None, max_length=8000, pattern=r"^[\x21-\x7e]*$")


def base_url(config: S3Config, bucket: str) -> str:
    """The address of a bucket, without a slash at the end; of the service where the bucket is empty."""
    if config.endpoint_url is not None:
        if not bucket or config.path_style is not False:
            return f"{config.endpoint_url}/{bucket}".rstrip("/")
        parts = urlsplit(config.endpoint_url)
        return f"{parts.scheme}://{bucket}.{parts.netloc}{parts.path}"
    domain = f"{config.region}.amazonaws.com" + (".cn" if config.region.startswith("cn-") else "")
    if not bucket or "." in bucket or "_" in bucket or config.path_style:  # certificates cover one label
        return f"https://s3.{domain}/{bucket}".rstrip("/")
    return f"https://{bucket}.s3.{domain}"


def open_s3(config: S3Config, credentials: S3Credentials | None, http: Http, path: str) -> Source:
    """See `Connector.open`."""
    keys = None
    if credentials is not None:
        keys = Keys(credentials.access_key_id, credentials.secret_access_key, credentials.session_token or "")
    if config.bucket is None and not path.strip("/"):
        return S3Account(http, base_url(config, ""), "", "", config.region, keys)
    bucket, prefix = placed(path, config.bucket, config.prefix)
    if not BUCKET.fullmatch(bucket):
        raise ValidationError.at(("body", "source_path"), f"'{bucket[:80]}' is not the name of a bucket", "source_path")
    return S3Folder(http, base_url(config, bucket), bucket, prefix, config.region, keys)


def _addresses(config: S3Config) -> Sequence[str]:
    return [] if config.endpoint_url is None else [base_url(config, config.bucket or "")]


s3 = Connector(
    "s3",
    "Amazon S3, and stores with its protocol by endpoint_url.",
    S3Config,
    S3Credentials,
    open_s3,
    _addresses,
    also=("r2", "cloudflare_r2", "wasabi", "minio", "supabase"),
)
