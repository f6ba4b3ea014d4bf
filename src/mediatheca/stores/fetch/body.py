"""Reading an answer within limits: decompressed size, media type, and a name for the file."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from email.message import Message
from pathlib import Path
from urllib.parse import unquote

from mediatheca.kernel.errors import BadRequestError, PayloadTooLargeError

_UNTOLD = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/x-download"})
_STEP = 1 << 18
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]+')
_MAX_NAME = 150
_HEAD = 8192


def decoded(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Undo the content encoding in steps of bounded size: a bomb is met step by step, never inflated at once.

    Raises:
        BadRequestError: an encoding we did not ask for, or a broken stream.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        yield from chunks
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise BadRequestError(f"url: the answer is encoded as '{encoding[:40]}'; only gzip and deflate are understood")
    try:
        yield from _inflated(chunks, encoding == "deflate")
    except zlib.error as error:
        raise BadRequestError(f"url: the answer says it is {encoding}, but cannot be decompressed: {error}") from error


def _inflated(chunks: Iterable[bytes], deflate: bool) -> Iterator[bytes]:
    inflater = zlib.decompressobj(zlib.MAX_WBITS if deflate else zlib.MAX_WBITS | 16)
    started = False
    for chunk in chunks:
        if deflate and not started and chunk and chunk[0] & 0x0F != zlib.DEFLATED:
            # Some servers send the raw stream without the zlib header that the standard wants.
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        started = started or bool(chunk)
        while chunk and not inflater.eof:
            yield inflater.decompress(chunk, _STEP)
            chunk = inflater.unconsumed_tail
    while not inflater.eof:
        rest = inflater.decompress(inflater.unconsumed_tail, _STEP)
        if not rest:
            break
        yield rest
    if started and not inflater.eof:
        raise zlib.error("it ends too early")


def bounded(chunks: Iterable[bytes], max_bytes: int) -> bytes:
    """All of it.

    Raises:
        PayloadTooLargeError: more than `max_bytes`; no more than that is ever kept.
    """
    data = bytearray()
    for chunk in chunks:
        if len(data) + len(chunk) > max_bytes:
            raise too_large(max_bytes)
        data += chunk
    return bytes(data)


def written(chunks: Iterable[bytes], path: Path, max_bytes: int) -> bytes:
    """Write all of it to a file; the first bytes, which say what it is.

    Raises:
        PayloadTooLargeError: more than `max_bytes`; no more than that is ever written.
        OSError: the file cannot be written.
    """
    head, size = b"", 0
    with open(path, "wb") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise too_large(max_bytes)
            head += chunk[: _HEAD - len(head)]
            file.write(chunk)
    return head


def too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"url: the file is larger than the {max_bytes} bytes accepted here; give a smaller one, or use an upload"
    )


def told_size(header: str) -> int:
    """The bytes that a `Content-Length` promises; 0 when it says nothing useful."""
    return int(header) if header.isascii() and header.isdigit() and len(header) < 19 else 0


def told_type(header: str) -> str | None:
    """The media type a server named, lower case without parameters; None when it says nothing useful."""
    kind = header.split(";")[0].strip().lower()
    return None if kind in _UNTOLD else kind


def check_type(kind: str, accept: Collection[str]) -> None:
    """Accept a media type. `accept` holds whole types, prefixes ending in `/` or `/*`; empty takes all.

    Raises:
        BadRequestError: another type.
    """
    prefixes = tuple(each.rstrip("*") for each in accept if each.endswith(("/", "/*")))
    if accept and kind not in accept and not kind.startswith(prefixes):
        wanted = ", ".join(sorted(accept))
        raise BadRequestError(f"url: the file is '{kind[:80]}'; accepted here: {wanted}. Check where the URL leads")


def sniffed(data: bytes, text_type: str = "text/plain") -> str:
    """The media type by its first bytes; UTF-8 without control characters is text."""
    import filetype

    kind = filetype.guess_mime(data[:_HEAD])
    if kind is not None:
        return str(kind)
    try:
        head = data[:_HEAD].decode()
    except UnicodeDecodeError as error:
        # A character cut at the end of the sample is not an error.
        if error.start < min(len(data), _HEAD) - 4:
            return "application/octet-stream"
        head = data[: error.start].decode()
    printable = all(char.isprintable() or char in "\t\n\r\f\ufeff" for char in head)
    return text_type if head and printable else "application/octet-stream"


def filename(disposition: str, path: str) -> str:
    """A safe file name: from `Content-Disposition`, else the last part of the URL's path; may be empty."""
    message = Message()
    message["content-disposition"] = disposition.replace("\r", " ").replace("\n", " ")
    name = message.get_filename() or unquote(path.rsplit("/", 1)[-1])
    name = _UNSAFE.sub("_", name.replace("\\", "/").rsplit("/", 1)[-1]).strip(" .")
    stem, dot, suffix = name.rpartition(".")
    while len(name.encode(errors="replace")) > _MAX_NAME and stem:
        stem = stem[:-1]
        name = f"{stem}{dot}{suffix}"
    return name if len(name) <= _MAX_NAME else name[:_MAX_NAME]
