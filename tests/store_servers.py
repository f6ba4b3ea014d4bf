"""Small servers with the protocols of Google Cloud Storage and of Azure Blob Storage, which check what is signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from mediatheca.kernel import clock

ACCOUNT, ACCOUNT_KEY = "acct42", base64.b64encode(b"a key of the test, 32 bytes long").decode()
_versions = itertools.count(1)


@dataclass
class Blob:
    data: bytes
    kind: str = "application/octet-stream"
    metadata: dict[str, str] = field(default_factory=dict)
    version: int = field(default_factory=lambda: next(_versions))
    archived: bool = False

    @property
    def etag(self) -> str:
        return f"0x{self.version:08X}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    blobs: ClassVar[dict[str, Blob]]

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", kind: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind or "text/plain", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("Content_Length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def asked(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))


# ---- Google


class GcsServer:
    """One bucket, `tests`. `key`: a key file whose tokens it takes."""

    def __init__(self) -> None:
        private = rsa.generate_private_key(65537, 2048)
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.public = private.public_key()
        self.key = {"type": "service_account", "client_email": "sync@example.org", "private_key": pem.decode()}
        self.key |= {"private_key_id": "k1", "token_uri": "http://169.254.169.254/token"}
        self.blobs: dict[str, Blob] = {}
        self.url = ""

    def valid(self, header: str) -> bool:
        try:
            told, _, proof = header.removeprefix("Bearer ").rpartition(".")
            self.public.verify(_decoded(proof), told.encode(), padding.PKCS1v15(), hashes.SHA256())
            claims = json.loads(_decoded(told.partition(".")[2]))
        except (InvalidSignature, ValueError):
            return False
        return claims["sub"] == "sync@example.org" and claims["iat"] <= time.time() <= claims["exp"]


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _gcs_handler(server: GcsServer) -> type[_Handler]:
    class Handler(_Handler):
        blobs = server.blobs

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if not server.valid(self.headers.get("Authorization", "")):
                return self.answer(401, b'{"error": {"code": 401}}')
            if not path.startswith("/storage/v1/b/tests/o"):
                return self.answer(404, b'{"error": {"code": 404}}')
            name = unquote(path.removeprefix("/storage/v1/b/tests/o").lstrip("/"))
            return self._one(name) if name else self._list()

        def _list(self) -> None:
            asked = self.asked
            names = sorted(n for n in self.blobs if n.startswith(asked.get("prefix", "")))
            names = [n for n in names if n >= asked.get("startOffset", "")]
            limit = int(asked["maxResults"])
            body: dict[str, Any] = {"items": [self._told(name) for name in names[:limit]]}
            if len(names) > limit:
                body["nextPageToken"] = "more"
            self.answer(200, json.dumps(body if names else {}).encode(), "application/json")

        def _told(self, name: str) -> dict[str, str]:
            blob = self.blobs[name]
            told = {"name": name, "size": str(len(blob.data)), "generation": str(blob.version)}
            return {**told, "updated": "2026-01-01T00:00:00.000Z", "contentType": blob.kind}

        def _one(self, name: str) -> None:
            blob, asked = self.blobs.get(name), self.asked
            if blob is None or asked.get("generation", str(blob.version)) != str(blob.version):
                return self.answer(404, b'{"error": {"code": 404}}')
            if asked.get("alt") != "media":
                return self.answer(200, json.dumps(self._told(name)).encode(), "application/json")
            more = {f"x-goog-meta-{key}": value for key, value in blob.metadata.items()}
            return self.answer(200, blob.data, blob.kind, **more)

    return Handler


@contextmanager
def a_gcs_server() -> Iterator[GcsServer]:
    made = GcsServer()
    with _served(_gcs_handler(made)) as made.url:
        yield made


# ---- Azure


class AzureServer:
    """One container, `tests`, of the account `acct42`."""

    def __init__(self) -> None:
        self.blobs: dict[str, Blob] = {}
        self.url = ""


def _azure_handler(server: AzureServer) -> type[_Handler]:
    class Handler(_Handler):
        blobs = server.blobs

        def _allowed(self) -> bool:
            """By the words of "Authorize with Shared Key"."""
            names = (
                "Content-Encoding", "Content-Language", "Content-Length", "Content-MD5", "Content-Type", "Date",
                "If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range",
            )  # fmt: skip
            values = [
                "" if n == "Content-Length" and self.headers.get(n) == "0" else self.headers.get(n, "") for n in names
            ]
            own = sorted((n.lower(), v) for n, v in self.headers.items() if n.lower().startswith("x-ms-"))
            parts = urlsplit(self.path)
            resource = f"/{ACCOUNT}{parts.path}"
            resource += "".join(f"\n{name.lower()}:{value}" for name, value in sorted(self.asked.items()))
            told = "\n".join([self.command, *values, *(f"{n}:{v}" for n, v in own), resource])
            proof = hmac.digest(base64.b64decode(ACCOUNT_KEY), told.encode(), hashlib.sha256)
            return self.headers.get("Authorization") == f"SharedKey {ACCOUNT}:{base64.b64encode(proof).decode()}"

        def _refused(self) -> bool:
            path = urlsplit(self.path).path
            if not self._allowed():
                self.answer(403, x_ms_error_code="AuthenticationFailed")
            elif not f"{path}/".startswith("/tests/"):
                self.answer(404, x_ms_error_code="ContainerNotFound")
            else:
                return False
            return True

        @property
        def _name(self) -> str:
            return unquote(urlsplit(self.path).path.removeprefix("/tests").lstrip("/"))

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self._refused():
                return
            prefix = "x-ms-meta-"
            metadata = {
                n.lower().removeprefix(prefix): v for n, v in self.headers.items() if n.lower().startswith(prefix)
            }
            kind = self.headers.get("x-ms-blob-content-type") or self.headers.get("Content-Type") or ""
            self.blobs[self._name] = blob = Blob(data, kind or "application/octet-stream", metadata)
            self.answer(201, ETag=f'"{blob.etag}"', Last_Modified=format_datetime(clock.now(), usegmt=True))

        def do_GET(self) -> None:
            if self._refused():
                return None
            if not self._name:
                return self._list()
            blob = self.blobs.get(self._name)
            if blob is None:
                return self.answer(404, x_ms_error_code="BlobNotFound")
            if self.asked.get("comp") == "tags":
                tags = b"<Tags><TagSet><Tag><Key>topic</Key><Value>sea</Value></Tag></TagSet></Tags>"
                return self.answer(200, b"\xef\xbb\xbf" + tags, "application/xml")
            if self.headers.get("If-Match", f'"{blob.etag}"') != f'"{blob.etag}"':
                return self.answer(412, x_ms_error_code="ConditionNotMet")
            more = {f"x-ms-meta-{key}": value for key, value in blob.metadata.items()}
            more |= {"ETag": f'"{blob.etag}"', "Last_Modified": format_datetime(clock.now(), usegmt=True)}
            return self.answer(200, blob.data, blob.kind, **more, Content_Length=str(len(blob.data)))

        do_HEAD = do_GET

        def _list(self) -> None:
            asked = self.asked
            names = sorted(n for n in self.blobs if n.startswith(asked.get("prefix", "")))
            start, limit = int(asked.get("marker", "0")), int(asked["maxresults"])
            blobs = "".join(self._told(name) for name in names[start : start + limit])
            following = str(start + limit) if len(names) > start + limit else ""
            body = (
                f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{following}</NextMarker></EnumerationResults>"
            )
            self.answer(200, b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?>' + body.encode(), "application/xml")

        def _told(self, name: str) -> str:
            blob = self.blobs[name]
            tier = "<AccessTier>Archive</AccessTier>" if blob.archived else "<AccessTier>Hot</AccessTier>"
            return (
                f"<Blob><Name>{escape(name)}</Name><Properties>"
                f"<Last-Modified>{format_datetime(clock.now(), usegmt=True)}</Last-Modified><Etag>{blob.etag}</Etag>"
                f"<Content-Length>{len(blob.data)}</Content-Length><Content-Type>{escape(blob.kind)}</Content-Type>"
                f"{tier}</Properties></Blob>"
            )

    return Handler


@contextmanager
def an_azure_server() -> Iterator[AzureServer]:
    made = AzureServer()
    with _served(_azure_handler(made)) as made.url:
        yield made


@contextmanager
def _served(handler: type[_Handler]) -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        http.server_close()
