"""Google Cloud Storage by its JSON interface, with the key of a service account.

The key signs its own tokens (google.aip.dev/auth/4111): nobody is asked for one, whatever address a key file names.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import orjson
from pydantic import AliasChoices, Field, field_validator

from mediatheca.connectors import (
    Connector,
    ConnectorCredentials,
    Content,
    Entry,
    Http,
    Listing,
    Reply,
    Source,
    SourceError,
)
from mediatheca.connectors._answers import moment, refusal, whole
from mediatheca.connectors._paths import FolderConfig, placed
from mediatheca.connectors._s3_client import BUCKET, query_of

_ADDRESS = "https://storage.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_META = "x-goog-meta-"
_FIELDS = "nextPageToken,items(name,size,generation,updated,contentType)"
_TOKEN_S = 3600


class GcsConfig(FolderConfig):
    """Where it is. `endpoint_url` is for stores that speak the same, such as emulators."""

    provider_type: Literal["gcs"] = "gcs"
    bucket: str | None = Field(None, validation_alias=AliasChoices("bucket", "bucket_name"))

    @field_validator("bucket")
    @classmethod
    def _a_bucket(cls, value: str | None) -> str | None:
        if value is not None and not BUCKET.fullmatch(value):
            raise ValueError("is not the name of a bucket")
        return value


class GcsCredentials(ConnectorCredentials):
    """The whole key file, as it was downloaded."""

    type: Literal["service_account"] = "service_account"
    service_account_json: dict[str, Any]

    @field_validator("service_account_json", mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError:
                raise ValueError("must be the key file of a service account, as an object or as its text") from None
        named = isinstance(value, dict) and all(isinstance(value.get(n), str) for n in ("client_email", "private_key"))
        if not named:
            raise ValueError("must hold client_email and private_key, as the key file does")
        return value


@dataclass
class _Tokens:
    """Tokens that the key signs, each used for most of its life. Thread-safe."""

    key: Mapping[str, Any] = field(repr=False)
    _held: tuple[float, str] = field(default=(0.0, ""), repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def token(self) -> str:
        """Raises SourceError: the key is none."""
        with self._lock:
            if self._held[0] < time.time():
                self._held = (time.time() + _TOKEN_S * 0.8, self._signed())
            return self._held[1]

    def _signed(self) -> str:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding, rsa

        now, email = int(time.time()), self.key["client_email"]
        head = {"alg": "RS256", "typ": "JWT", "kid": str(self.key.get("private_key_id", ""))}
        claims = {"iss": email, "sub": email, "scope": _SCOPE, "iat": now - 30, "exp": now + _TOKEN_S - 30}
        told = b".".join(_base64(orjson.dumps(part)) for part in (head, claims))
        try:
            key = serialization.load_pem_private_key(self.key["private_key"].encode(), None)
        except (ValueError, TypeError) as error:
            raise SourceError("access_denied", "private_key of the key file cannot be read", fatal=True) from error
        if not isinstance(key, rsa.RSAPrivateKey):
            raise SourceError("access_denied", "private_key of the key file is no RSA key", fatal=True)
        return b".".join((told, _base64(key.sign(told, padding.PKCS1v15(), hashes.SHA256())))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@dataclass(frozen=True)
class GcsFolder:
    """A `Source`: everything below `prefix` in a bucket. An ETag is the generation of an object."""

    http: Http
    address: str
    bucket: str
    prefix: str
    tokens: _Tokens | None = field(repr=False)

    def check(self) -> None:
        self.page(None, 1)

    def page(self, cursor: str | None, limit: int) -> Listing:
        """The cursor is the last name."""
        asked = {"maxResults": str(min(limit, 1000)), "fields": _FIELDS}
        if self.prefix:
            asked["prefix"] = self.prefix
        if cursor is not None:
            asked["startOffset"] = cursor
        reply = self._send(f"{self._objects}?{query_of(asked)}")
        if reply.status != 200:
            raise refusal(reply, f"the bucket '{self.bucket}'", file=False)
        answer = _parsed(reply)
        found = [each for each in answer.get("items", ()) if each["name"] != cursor]
        entries = [self._entry(each) for each in found if not each["name"].endswith("/")]
        if not answer.get("nextPageToken"):
            return Listing(entries, None)
        if not found:
            raise SourceError("bad_answer", "the store's listing does not advance", fatal=True)
        return Listing(entries, str(found[-1]["name"]))

    def stat(self, entry: Entry) -> Entry:
        reply = self._send(self._url(entry))
        if reply.status != 200:
            raise refusal(reply, f"'{entry.key}'", file=True)
        return self._entry(_parsed(reply))

    def read(self, entry: Entry, target: Path, max_bytes: int) -> Content:
        url = f"{self._url(entry)}?{query_of({'alt': 'media', 'generation': entry.etag})}"
        reply = self.http.download(url, headers=self._headers(), target=target, max_bytes=max_bytes)
        if reply.status == 404:
            raise SourceError("changed", f"'{entry.key}' changed since it was listed", transient=True)
        if reply.status != 200:
            raise refusal(reply, f"'{entry.key}'", file=True)
        metadata = {n.removeprefix(_META): value for n, value in reply.headers.items() if n.startswith(_META)}
        return Content(entry.etag, reply.headers.get("content-type", ""), metadata)

    def tags(self, entry: Entry) -> Mapping[str, str]:
        return {}  # there are none; metadata takes their place

    @property
    def _objects(self) -> str:
        return f"{self.address}/storage/v1/b/{quote(self.bucket, safe='')}/o"

    def _url(self, entry: Entry) -> str:
        return f"{self._objects}/{quote(entry.key, safe='')}"

    def _entry(self, item: Mapping[str, Any]) -> Entry:
        name = str(item["name"])
        path, size, etag = name.removeprefix(self.prefix), whole(str(item["size"])), str(item["generation"])
        return Entry(name, path, size, etag, moment(str(item.get("updated", ""))), str(item.get("contentType", "")))

    def _headers(self) -> dict[str, str]:
        return {} if self.tokens is None else {"authorization": f"Bearer {self.tokens.token()}"}

    def _send(self, url: str) -> Reply:
        return self.http.send("GET", url, headers=self._headers())


def _parsed(reply: Reply) -> dict[str, Any]:
    try:
        found = orjson.loads(reply.data)
        items = found.get("items", [found] if "name" in found else [])
        if all({"name", "size", "generation"} <= item.keys() for item in items):
            return dict(found)
    except (orjson.JSONDecodeError, AttributeError, TypeError):
        pass
    raise SourceError("bad_answer", "the store's answer is no listing; check endpoint_url", fatal=True)


def _open(config: GcsConfig, credentials: GcsCredentials | None, http: Http, path: str) -> Source:
    bucket, prefix = placed(path, config.bucket, config.prefix)
    tokens = None if credentials is None else _Tokens(credentials.service_account_json)
    return GcsFolder(http, config.endpoint_url or _ADDRESS, bucket, prefix, tokens)


def _addresses(config: GcsConfig) -> Sequence[str]:
    return [config.endpoint_url] if config.endpoint_url else []


gcs = Connector(
    "gcs", "Google Cloud Storage.", GcsConfig, GcsCredentials, _open, _addresses, also=("google_cloud_storage",)
)
