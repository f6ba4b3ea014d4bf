"""Uploads in parts to S3 that were never completed: found and aborted, so that their parts are not kept for ever.

A large file is written in parts, and a process that is killed leaves them behind, unseen and paid for. obstore can
neither list nor abort them, so these two calls of the S3 API (ListMultipartUploads, AbortMultipartUpload) are made
here, signed with AWS Signature Version 4.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

from mediatheca.kernel.errors import UnavailableError

if TYPE_CHECKING:
    import httpx

_PAGES = 100
_TIMEOUT_S = 30.0
_NOTHING = hashlib.sha256(b"").hexdigest()
_UNKNOWN = frozenset({405, 501})
"""Answers of services that know no uploads in parts."""
_NAMES: Mapping[str, tuple[str, ...]] = {
    "access_key_id": ("AWS_ACCESS_KEY_ID",),
    "secret_access_key": ("AWS_SECRET_ACCESS_KEY",),
    "token": ("AWS_SESSION_TOKEN",),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "virtual_hosted_style_request": ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST",),
}
"""Options as obstore names them, and where it looks for those that are not given."""


@dataclass(frozen=True, slots=True)
class S3Parts:
    """The unfinished uploads of one bucket. `base` is its address, without a slash at its end."""

    base: str
    region: str
    key: str
    secret: str
    token: str = ""

    @staticmethod
    def of(bucket: str, options: Mapping[str, Any]) -> S3Parts | None:
        """With keys from the options or the environment; None where credentials come another way (a role of the
        machine): then the bucket's own rules must see to it."""
        given = {name: str(options.get(name) or _told(variables)) for name, variables in _NAMES.items()}
        if not given["access_key_id"] or not given["secret_access_key"]:
            return None
        region, virtual = given["region"] or "us-east-1", given["virtual_hosted_style_request"].lower() in ("1", "true")
        endpoint = given["endpoint"].rstrip("/")
        if not endpoint:
            endpoint = f"https://{bucket + '.' if virtual else ''}s3.{region}.amazonaws.com"
        base = endpoint if virtual else f"{endpoint}/{bucket}"
        return S3Parts(base, region, given["access_key_id"], given["secret_access_key"], given["token"])

    def abort(self, prefix: str, before: datetime) -> int:
        """Abort what was begun before a time, of keys that begin so. Returns how many.

        Raises:
            UnavailableError: the service refuses.
        """
        import httpx

        with httpx.Client(timeout=_TIMEOUT_S) as client:
            doomed = [(key, ident) for key, ident, begun in self._unfinished(client, prefix) if begun < before]
            for key, ident in doomed:
                self._send(client, "DELETE", f"/{key}", {"uploadId": ident})
        return len(doomed)

    def _unfinished(self, client: httpx.Client, prefix: str) -> Iterator[tuple[str, str, datetime]]:
        """Key, id and beginning."""
        marks: dict[str, str] = {}
        for _ in range(_PAGES):
            answer = self._send(client, "GET", "", {"uploads": "", "prefix": prefix, **marks})
            if answer.status_code in _UNKNOWN:
                return
            page = _named(ElementTree.fromstring(answer.content))  # noqa: S314 (the operator's own store)
            for each in page.get("Upload", ()):
                found = _named(each)
                yield _text(found, "Key"), _text(found, "UploadId"), datetime.fromisoformat(_text(found, "Initiated"))
            marks = {"key-marker": _text(page, "NextKeyMarker"), "upload-id-marker": _text(page, "NextUploadIdMarker")}
            if _text(page, "IsTruncated") != "true":
                return

    def _send(self, client: httpx.Client, method: str, path: str, query: Mapping[str, str]) -> httpx.Response:
        import httpx

        url = urlsplit(self.base)
        place = quote(url.path + path, safe="/-_.~")
        asked = "&".join(f"{quote(name, safe='-_.~')}={quote(query[name], safe='-_.~')}" for name in sorted(query))
        headers = self._signed(method, url.netloc, place or "/", asked)
        try:
            answer = client.request(method, f"{url.scheme}://{url.netloc}{place or '/'}?{asked}", headers=headers)
        except httpx.HTTPError as error:
            raise UnavailableError(f"the blob store at {url.netloc} does not answer: {type(error).__name__}") from error
        if answer.status_code >= 400 and answer.status_code not in (404, *_UNKNOWN):
            raise UnavailableError(
                f"the blob store at {url.netloc} answers {method} of unfinished uploads with {answer.status_code};"
                " allow s3:ListBucketMultipartUploads and s3:AbortMultipartUpload, or have a rule of the bucket do it"
            )
        return answer

    def _signed(self, method: str, host: str, path: str, query: str) -> dict[str, str]:
        """Headers with the signature."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        headers = {"host": host, "x-amz-content-sha256": _NOTHING, "x-amz-date": moment}
        if self.token:
            headers["x-amz-security-token"] = self.token
        names = ";".join(sorted(headers))
        told = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        request = "\n".join((method, path, query, told, names, _NOTHING))
        scope = f"{moment[:8]}/{self.region}/s3/aws4_request"
        text = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()))
        key = f"AWS4{self.secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        said = f"AWS4-HMAC-SHA256 Credential={self.key}/{scope}, SignedHeaders={names}, Signature={signature}"
        return {**headers, "authorization": said}


def _told(variables: tuple[str, ...]) -> str:
    return next((os.environ[name] for name in variables if os.environ.get(name)), "")


def _named(element: ElementTree.Element) -> dict[str, list[ElementTree.Element]]:
    """Children by name, without their XML namespace."""
    found: dict[str, list[ElementTree.Element]] = {}
    for child in element:
        found.setdefault(child.tag.rpartition("}")[2], []).append(child)
    return found


def _text(found: Mapping[str, list[ElementTree.Element]], name: str) -> str:
    return (found[name][0].text or "") if name in found else ""
