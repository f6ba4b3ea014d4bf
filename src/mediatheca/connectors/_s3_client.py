"""The part of S3 that reading needs: signed requests (version 4), listings, files, tags.

Signature: "AWS Signature Version 4 for API requests", docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, unquote_plus, urlsplit
from xml.etree import ElementTree as ET

from mediatheca.connectors import Content, Entry, Http, Listing, Reply, SourceError
from mediatheca.connectors._answers import children, elements, moment, refusal, text, whole
from mediatheca.kernel import clock

_EMPTY = hashlib.sha256(b"").hexdigest()
_META = "x-amz-meta-"
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials of S3."""

    key: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


def query_of(values: Mapping[str, str]) -> str:
    """A canonical query string."""
    return "&".join(f"{quote(name, safe='-_.~')}={quote(values[name], safe='-_.~')}" for name in sorted(values))


def signed(method: str, url: str, keys: Keys | None, region: str, now: datetime) -> dict[str, str]:
    """The headers of a request without a body. `url` has its path and query encoded as they are sent."""
    parts = urlsplit(url)
    if keys is None:
        return {}
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": parts.netloc, "x-amz-content-sha256": _EMPTY, "x-amz-date": stamp}
    if keys.token:
        headers["x-amz-security-token"] = keys.token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = "\n".join((method, parts.path or "/", parts.query, lines, names, _EMPTY))
    place = f"{stamp[:8]}/{region}/s3/aws4_request"
    told = "\n".join(("AWS4-HMAC-SHA256", stamp, place, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{keys.secret}".encode()
    for part in (stamp[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    proof = hmac.digest(key, told.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.key}/{place}, SignedHeaders={names}, Signature={proof}"
    )
    return headers


@dataclass(frozen=True)
class S3Folder:
    """A `Source`: everything below `prefix` in a bucket. `base`: its address, without a slash at the end."""

    http: Http
    base: str
    bucket: str
    prefix: str
    region: str
    keys: Keys | None = field(repr=False)
    now: Callable[[], datetime] = clock.now

    def check(self) -> None:
        self.page(None, 1)

    def page(self, cursor: str | None, limit: int) -> Listing:
        """The cursor is the last key: pages go on behind it, whatever happened to the rest."""
        asked = {"list-type": "2", "max-keys": str(min(limit, _MAX_PAGE)), "encoding-type": "url"}
        if self.prefix:
            asked["prefix"] = self.prefix
        if cursor is not None:
            asked["start-after"] = cursor
        reply = self._send("GET", "", query_of(asked))
        if reply.status != 200:
            raise refusal(reply, f"the bucket '{self.bucket}'", file=False)
        root = elements(reply.data)
        encoded = text(root, "EncodingType") == "url"
        found = [(_key(each, encoded), each) for each in children(root, "Contents")]
        entries = [self._entry(key, each) for key, each in found if key != self.prefix and not key.endswith("/")]
        more = text(root, "IsTruncated") == "true" and bool(found)
        if not more:
            return Listing(entries, None)
        last = max(key for key, _ in found)
        if cursor is not None and last <= cursor:
            raise SourceError("bad_answer", "the store's listing does not advance: it ignores start-after", fatal=True)
        return Listing(entries, last)

    def _entry(self, key: str, listed: ET.Element) -> Entry:
        kind = text(listed, "StorageClass")
        return Entry(
            key=key,
            path=key.removeprefix(self.prefix),
            size=whole(text(listed, "Size")),
            etag=text(listed, "ETag").strip('"'),
            modified=moment(text(listed, "LastModified")),
            unreadable=f"it lies in the storage class {kind}" if kind in _ARCHIVES else "",
        )

    def stat(self, entry: Entry) -> Entry:
        reply = self._send("HEAD", entry.key)
        if reply.status != 200:
            raise refusal(reply, f"'{entry.key}'", file=True)
        headers = reply.headers
        size, kind = whole(headers.get("content-length")), headers.get("content-type", "")
        changed = moment(headers.get("last-modified", ""))
        return Entry(entry.key, entry.path, size, headers.get("etag", "").strip('"'), changed, kind)

    def read(self, entry: Entry, target: Path, max_bytes: int) -> Content:
        url = self._url(entry.key)
        headers = signed("GET", url, self.keys, self.region, self.now())
        reply = self.http.download(url, headers=headers, target=target, max_bytes=max_bytes)
        if reply.status != 200:
            raise refusal(reply, f"'{entry.key}'", file=True)
        etag = reply.headers.get("etag", "").strip('"')
        if etag != entry.etag:
            raise SourceError("changed", f"'{entry.key}' changed while it was read", transient=True)
        metadata = {name.removeprefix(_META): value for name, value in reply.headers.items() if name.startswith(_META)}
        return Content(etag, reply.headers.get("content-type", ""), metadata)

    def tags(self, entry: Entry) -> Mapping[str, str]:
        reply = self._send("GET", entry.key, "tagging=")
        if reply.status != 200:
            raise refusal(reply, f"the tags of '{entry.key}'", file=True)
        sets = children(elements(reply.data), "TagSet")
        return {text(tag, "Key"): text(tag, "Value") for each in sets for tag in children(each, "Tag")}

    def _url(self, key: str, query: str = "") -> str:
        if any(part in (".", "..") for part in key.split("/")):
            raise SourceError("bad_key", f"'{key}' has a part '.' or '..', which no URL can carry; rename it")
        path = f"/{quote(key, safe='/-_.~')}" if key else ""
        return f"{self.base}{path or '/'}" + (f"?{query}" if query else "")

    def _send(self, method: str, key: str, query: str = "") -> Reply:
        url = self._url(key, query)
        return self.http.send(method, url, headers=signed(method, url, self.keys, self.region, self.now()))


def _key(listed: ET.Element, encoded: bool) -> str:
    key = text(listed, "Key")
    return unquote_plus(key) if encoded else key


@dataclass(frozen=True)
class S3Account(S3Folder):
    """A `Source` that names no bucket yet: it can only be tried."""

    def check(self) -> None:
        reply = self._send("GET", "")
        if reply.status != 200:
            raise refusal(reply, "the list of buckets", file=False)


BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
