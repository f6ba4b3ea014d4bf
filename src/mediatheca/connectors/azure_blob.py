"""Azure Blob Storage, with the key of a storage account.

Signature: "Authorize with Shared Key", learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree as ET

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
)
from mediatheca.connectors._answers import children, elements, moment, refusal, text, whole
from mediatheca.connectors._paths import FolderConfig, placed
from mediatheca.connectors._s3_client import query_of
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ValidationError

_VERSION = "2023-11-03"
_META = "x-ms-meta-"
_NAME = re.compile(r"\$?[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class AzureConfig(FolderConfig):
    """Where it is. `endpoint_url` is for other clouds and emulators: the address of the account."""

    provider_type: Literal["azure_blob"] = "azure_blob"
    account_name: str | None = Field(None, pattern=r"^[a-z0-9]{3,24}$")
    container: str | None = Field(None, validation_alias=AliasChoices("container", "container_name", "bucket"))

    @field_validator("container")
    @classmethod
    def _a_container(cls, value: str | None) -> str | None:
        if value is not None and not _NAME.fullmatch(value):
            raise ValueError("is not the name of a container")
        return value


class AzureCredentials(ConnectorCredentials):
    """The key of a storage account. A managed identity needs a machine in Azure."""

    type: Literal["account_key"] = "account_key"
    account_name: str | None = Field(None, pattern=r"^[a-z0-9]{3,24}$")
    account_key: str = Field(min_length=8, max_length=500)

    @field_validator("account_key")
    @classmethod
    def _base64(cls, value: str) -> str:
        if "{{" not in value:
            try:
                base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                raise ValueError("must be in base64, as the portal shows it") from None
        return value


@dataclass(frozen=True, slots=True)
class _Key:
    account: str
    key: bytes = field(repr=False)


def signed(method: str, url: str, key: _Key | None, now: datetime, match: str = "") -> dict[str, str]:
    """The headers of a request without a body. `match`: the version that it wants."""
    headers = {"x-ms-date": format_datetime(now, usegmt=True), "x-ms-version": _VERSION}
    condition = {"if-match": match} if match else {}
    if key is None:
        return {**headers, **condition}
    parts = urlsplit(url)
    named = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    query = sorted((name.lower(), value) for name, value in parse_qsl(parts.query, keep_blank_values=True))
    resource = f"/{key.account}{parts.path}" + "".join(f"\n{name}:{value}" for name, value in query)
    told = "\n".join((method, "", "", "", "", "", "", "", match, "", "", "", named + resource))
    proof = base64.b64encode(hmac.digest(key.key, told.encode(), "sha256")).decode()
    return {**headers, **condition, "authorization": f"SharedKey {key.account}:{proof}"}


@dataclass(frozen=True)
class AzureFolder:
    """A `Source`: everything below `prefix` in a container. `base`: its address, without a slash at the end."""

    http: Http
    base: str
    container: str
    prefix: str
    key: _Key | None = field(repr=False)
    now: Callable[[], datetime] = clock.now

    def check(self) -> None:
        self.page(None, 1)

    def page(self, cursor: str | None, limit: int) -> Listing:
        """The cursor is the marker of the service."""
        asked = {"restype": "container", "comp": "list", "maxresults": str(min(limit, 5000))}
        asked |= {"prefix": self.prefix} if self.prefix else {}
        asked |= {"marker": cursor} if cursor is not None else {}
        reply = self._send("GET", f"{self.base}?{query_of(asked)}")
        if reply.status != 200:
            raise refusal(reply, f"the container '{self.container}'", file=False)
        root = elements(reply.data)
        blobs = [blob for held in children(root, "Blobs") for blob in children(held, "Blob")]
        entries = [self._entry(blob) for blob in blobs]
        return Listing([e for e in entries if not e.key.endswith("/")], text(root, "NextMarker") or None)

    def _entry(self, blob: ET.Element) -> Entry:
        name = next(children(blob, "Name"))
        key = unquote(name.text or "") if name.get("Encoded") == "true" else (name.text or "")
        told = next(children(blob, "Properties"))
        archived = text(told, "AccessTier") == "Archive"
        return Entry(
            key=key,
            path=key.removeprefix(self.prefix),
            size=whole(text(told, "Content-Length")),
            etag=text(told, "Etag").strip('"'),
            modified=moment(text(told, "Last-Modified")),
            content_type=text(told, "Content-Type"),
            unreadable="it lies in the access tier Archive" if archived else "",
        )

    def stat(self, entry: Entry) -> Entry:
        reply = self._send("HEAD", self._url(entry))
        if reply.status != 200:
            raise refusal(reply, f"'{entry.key}'", file=True)
        told = reply.headers
        etag, changed = told.get("etag", "").strip('"'), moment(told.get("last-modified", ""))
        size = whole(told.get("content-length"))
        return Entry(entry.key, entry.path, size, etag, changed, told.get("content-type", ""))

    def read(self, entry: Entry, target: Path, max_bytes: int) -> Content:
        url = self._url(entry)
        headers = signed("GET", url, self.key, self.now(), f'"{entry.etag}"')
        reply = self.http.download(url, headers=headers, target=target, max_bytes=max_bytes)
        if reply.status != 200:
            raise refusal(reply, f"'{entry.key}'", file=True)
        metadata = {n.removeprefix(_META): value for n, value in reply.headers.items() if n.startswith(_META)}
        return Content(entry.etag, reply.headers.get("content-type", ""), metadata)

    def tags(self, entry: Entry) -> Mapping[str, str]:
        reply = self._send("GET", f"{self._url(entry)}?comp=tags")
        if reply.status != 200:
            raise refusal(reply, f"the tags of '{entry.key}'", file=True)
        sets = children(elements(reply.data), "TagSet")
        return {text(tag, "Key"): text(tag, "Value") for each in sets for tag in children(each, "Tag")}

    def _url(self, entry: Entry) -> str:
        return f"{self.base}/{quote(entry.key, safe='/-_.~')}"

    def _send(self, method: str, url: str) -> Reply:
        return self.http.send(method, url, headers=signed(method, url, self.key, self.now()))


def _open(config: AzureConfig, credentials: AzureCredentials | None, http: Http, path: str) -> Source:
    account = (credentials.account_name if credentials else None) or config.account_name
    if account is None:
        message = "is required: the name of the storage account"
        raise ValidationError.at(("body", "provider_config", "account_name"), message, "missing")
    container, prefix = placed(path, config.container, config.prefix)
    if not _NAME.fullmatch(container):
        message = f"'{container[:80]}' is not the name of a container"
        raise ValidationError.at(("body", "source_path"), message, "source_path")
    key = None if credentials is None else _Key(account, base64.b64decode(credentials.account_key))
    address = config.endpoint_url or f"https://{account}.blob.core.windows.net"
    return AzureFolder(http, f"{address}/{container}", container, prefix, key)


def _addresses(config: AzureConfig) -> Sequence[str]:
    return [config.endpoint_url] if config.endpoint_url else []


azure_blob = Connector(
    "azure_blob", "Azure Blob Storage.", AzureConfig, AzureCredentials, _open, _addresses, also=("azure", "az")
)
