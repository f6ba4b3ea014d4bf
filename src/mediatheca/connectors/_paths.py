"""What `source_path` means: a folder, with or without the store it is in."""

from __future__ import annotations

import re
from typing import Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, field_validator, model_validator

from mediatheca.connectors import ConnectorConfig
from mediatheca.kernel.errors import ValidationError

MAX_PATH = 1024
_SCHEME = re.compile(r"[a-z0-9]{2,8}://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class FolderConfig(ConnectorConfig):
    """A folder of a store. `endpoint_url` is the address of the service where it is not the one that everybody uses."""

    prefix: str = Field("", max_length=1024)
    endpoint_url: str | None = Field(None, max_length=500, validation_alias=AliasChoices("endpoint_url", "endpoint"))

    @property
    def secure(self) -> bool:
        """Whether an address without a scheme means https."""
        return True

    @field_validator("prefix", mode="before")
    @classmethod
    def _no_prefix(cls, value: object) -> object:
        return "" if value is None else value

    @model_validator(mode="after")
    def _an_address(self) -> Self:
        if self.endpoint_url is not None:
            self.endpoint_url = service_address(self.endpoint_url, secure=self.secure)
        return self


def folder(*parts: str) -> str:
    """The prefix of a folder's keys: no slash in front, one at the end; empty for everything."""
    joined = "/".join(stripped for part in parts if (stripped := part.strip("/")))
    return f"{joined}/" if joined else ""


def placed(path: str, container: str | None, prefix: str) -> tuple[str, str]:
    """(container, prefix of the keys). With a container in the connection the path is one inside it; without, its first
    part names the container. `s3://container/path` names it, too.

    Raises:
        ValidationError: at `source_path`.
    """
    if len(path) > MAX_PATH or _CONTROL.search(path):
        message = f"must have at most {MAX_PATH} characters, none of them a control character"
        raise ValidationError.at(("body", "source_path"), message, "source_path")
    named, inner = container, path
    if _SCHEME.match(path):
        named, _, inner = path.partition("://")[2].partition("/")
    elif container is None:
        named, _, inner = path.strip("/").partition("/")
    if not named or (container is not None and named != container):
        where = f"'{container}', the one of the connection" if container else "the name of a bucket or container"
        message = f"'{path[:100]}' must begin with {where}: bucket/folder"
        raise ValidationError.at(("body", "source_path"), message, "source_path")
    return named, folder(prefix, inner)


def service_address(given: str, *, secure: bool) -> str:
    """An address of a service that a caller chose, without a slash at the end.

    Raises:
        ValueError: it is none, as pydantic wants it told.
    """
    address = given.strip().rstrip("/")
    if "://" not in address:
        address = f"{'https' if secure else 'http'}://{address}"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or not address.isascii():
        raise ValueError("must be an address such as https://s3.example.com")
    if parts.username is not None or parts.query or parts.fragment or re.search(r"[\s\\]", address):
        raise ValueError("must be a plain address: no user name, no query, no blanks")
    return address
