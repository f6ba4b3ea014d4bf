"""Spoiled files for tests: what transfers, disks, editors and enemies make of good ones. The same for the same seed.

`spoiled` damages any file: cut off, bits turned, parts lost, headers that lie. `bombs` are small files that unfold to
something huge, or never end. Nobody's decoder is meant here: whatever reads files of strangers must live with them.
"""

from __future__ import annotations

import gzip
import io
import itertools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np

_CUTS = (0.0, 0.1, 0.5, 0.9, 0.99)
_HEADS = (4, 40)
_FLIPS = (1, 16, 256)
_BIG = 0x7FFFFFFF
_Lie = tuple[str, bytes]


def spoiled(data: bytes, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """A good file, spoiled in some twenty-five ways: (what was done, the bytes). None is the same as `data`."""
    random = np.random.default_rng(seed)
    ways = itertools.chain(_cut(data), _flipped(data, random), _mangled(data, random), _lying(data))
    seen = {data}
    for name, bad in ways:
        if bad not in seen:
            seen.add(bad)
            yield name, bad


def _cut(data: bytes) -> Iterator[_Lie]:
    """A transfer that broke off; the last byte alone is missing in one."""
    lengths = {int(len(data) * share) for share in _CUTS} | {size for size in _HEADS if size < len(data)}
    for length in sorted({*lengths, max(0, len(data) - 1)}):
        yield f"cut to {length} of {len(data)} bytes", data[:length]
    yield "without its first half", data[len(data) // 2 :]


def _flipped(data: bytes, random: np.random.Generator) -> Iterator[_Lie]:
    """Single bits: some in the first kilobyte, where headers are, some anywhere."""
    for count in _FLIPS:
        for place, end in (("head", min(len(data), 1024)), ("file", len(data))):
            bad = bytearray(data)
            for position in random.integers(0, max(1, end), count):
                bad[position] ^= 1 << int(random.integers(0, 8))
            yield f"{count} bits turned in the {place}", bytes(bad)


def _mangled(data: bytes, random: np.random.Generator) -> Iterator[_Lie]:
    """Whole parts: lost, doubled, overwritten, out of order."""
    third, junk = len(data) // 3, random.bytes(max(64, len(data) // 3))
    yield "zeros in the middle", data[:third] + bytes(third) + data[2 * third :]
    yield "ones in the middle", data[:third] + b"\xff" * third + data[2 * third :]
    yield "its middle lost", data[:third] + data[2 * third :]
    yield "its parts out of order", data[:third] + data[2 * third :] + data[third : 2 * third]
    yield "its head kept, then noise", data[: min(256, third)] + junk
    yield "noise before it", junk[:512] + data
    yield "line ends changed", data.replace(b"\n", b"\r\n") if b"\n" in data else data[::-1]
    yield "itself twice", data + data


# Headers that lie


def _lying(data: bytes) -> Iterator[_Lie]:
    for sign, lies in _LIARS:
        if sign.match(data):
            yield from lies(data)


def _png_lies(data: bytes) -> Iterator[_Lie]:
    """IHDR with sizes that are not those of the pixels; its checksum is right."""
    for width, height in ((50_000, 50_000), (_BIG, 1), (0, 0), (1, _BIG)):
        head = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        yield (
            f"says it is {width} × {height}",
            data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:],
        )


def _jpeg_lies(data: bytes) -> Iterator[_Lie]:
    frame = re.search(rb"\xff[\xc0\xc2]..\x08", data, re.DOTALL)
    if frame is None:
        return
    for width, height in ((65_500, 65_500), (0, 0), (1, 65_535)):
        sizes = struct.pack(">HH", height, width)
        yield f"says it is {width} × {height}", data[: frame.end()] + sizes + data[frame.end() + 4 :]


def _gif_lies(data: bytes) -> Iterator[_Lie]:
    for width, height in ((65_535, 65_535), (0, 0)):
        yield f"says it is {width} × {height}", data[:6] + struct.pack("<HH", width, height) + data[10:]


def _mp4_lies(data: bytes) -> Iterator[_Lie]:
    """Durations, sizes and tables in the boxes of the header."""
    for box, offset, name in ((b"mvhd", 20, "film"), (b"mdhd", 20, "track")):
        for value in (_BIG, 0):
            yield f"says its {name} lasts {value} ticks", _patched(data, box, offset, struct.pack(">I", value))
    yield "a time scale of nothing", _patched(data, b"mdhd", 16, struct.pack(">I", 0))
    yield "frames of 16,384 × 16,384", _patched(data, b"avc1", 28, struct.pack(">HH", 16_384, 16_384))
    yield "two thousand million samples", _patched(data, b"stsz", 12, struct.pack(">I", _BIG))
    yield "chunks beyond its end", _patched(data, b"stco", 12, struct.pack(">I", _BIG))
    yield "a box larger than the file", _patched(data, b"moov", -4, struct.pack(">I", _BIG))
    yield "no index at all", data.replace(b"moov", b"free")


def _patched(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """Bytes written `offset` after the start of a box's name; unchanged where there is no such box."""
    place = data.find(box)
    if place < 0 or place + offset + len(value) > len(data):
        return data
    return data[: place + offset] + value + data[place + offset + len(value) :]


def _matroska_lies(data: bytes) -> Iterator[_Lie]:
    yield "no index at all", data.replace(b"\x1c\x53\xbb\x6b", b"\xec\x53\xbb\x6b")
    place = data.find(b"\x44\x89\x88")  # Duration, a double
    if place >= 0:
        for value in (1e15, -1.0, float("nan")):
            yield f"says it lasts {value:g} ms", data[: place + 3] + struct.pack(">d", value) + data[place + 11 :]


def _wav_lies(data: bytes) -> Iterator[_Lie]:
    yield "says it holds 4 GiB", data.replace(data[36:44], b"data" + struct.pack("<I", 0xFFFFFFFF), 1)
    yield "says it holds nothing", data.replace(data[36:44], b"data" + struct.pack("<I", 0), 1)
    for what, offset, value in (("rate", 24, 0), ("rate", 24, 0xFFFFFFF0), ("channels", 22, 0xFFFF)):
        width = "<I" if what == "rate" else "<H"
        patch = struct.pack(width, value)
        yield f"a {what} of {value}", data[:offset] + patch + data[offset + len(patch) :]


def _pdf_lies(data: bytes) -> Iterator[_Lie]:
    yield "a cross-reference that leads nowhere", re.sub(rb"startxref\s+\d+", b"startxref\n999999999", data)
    yield "a cross-reference that leads to itself", re.sub(rb"/Prev \d+|/Size \d+", b"/Size 9 /Prev 9", data)
    yield "a million pages", re.sub(rb"/Count \d+", b"/Count 1000000", data)
    yield "pages that hold each other", re.sub(rb"/Kids \[ ?(\d+) 0 R", rb"/Kids [ \1 0 R \1 0 R", data)
    yield "streams of wrong length", re.sub(rb"/Length \d+", b"/Length 99999999", data)
    yield "no objects", data.replace(b"obj", b"jbo")
    yield "a page of a kilometre", re.sub(rb"/MediaBox \[[^\]]*\]", b"/MediaBox [ 0 0 9999999 9999999 ]", data)
    yield "a page of nothing", re.sub(rb"/MediaBox \[[^\]]*\]", b"/MediaBox [ 0 0 0 0 ]", data)


def _zip_lies(data: bytes) -> Iterator[_Lie]:
    yield "sizes of 2 GiB", data[:18] + struct.pack("<II", _BIG, _BIG) + data[26:]
    yield "no directory", data[: data.rfind(b"PK\x05\x06")]
    yield "65,535 entries", _patched(data, b"PK\x05\x06", 8, b"\xff\xff\xff\xff")
    yield "a directory beyond its end", _patched(data, b"PK\x05\x06", 16, struct.pack("<I", _BIG))


def _caption_lies(data: bytes) -> Iterator[_Lie]:
    text = data.decode()
    yield "it ends before it begins", re.sub(r"(\S+) --> (\S+)", r"\2 --> \1", text).encode()
    yield "hours without end", re.sub(r"--> \d+:", "--> 99999999999:", text).encode()
    yield "times that are none", re.sub(r"\d\d:\d\d", "xx:yy", text).encode()
    yield "another encoding", text.encode("utf-16")


def _html_lies(data: bytes) -> Iterator[_Lie]:
    yield "elements 20,000 deep", b"<html><body>" + b"<div>" * 20_000 + data
    yield "nothing is closed", re.sub(rb"</[^>]*>", b"", data)
    yield "another encoding than it says", data.decode().encode("utf-16")
    yield "one attribute of a megabyte", data.replace(b"<body", b'<body class="' + b"x" * (1 << 20) + b'"')


_LIARS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Iterator[_Lie]]], ...] = (
    (re.compile(rb"\x89PNG"), _png_lies),
    (re.compile(rb"\xff\xd8\xff"), _jpeg_lies),
    (re.compile(rb"GIF8"), _gif_lies),
    (re.compile(rb"....ftyp", re.DOTALL), _mp4_lies),
    (re.compile(rb"\x1aE\xdf\xa3"), _matroska_lies),
    (re.compile(rb"RIFF....WAVE", re.DOTALL), _wav_lies),
    (re.compile(rb"%PDF"), _pdf_lies),
    (re.compile(rb"PK\x03\x04"), _zip_lies),
    (re.compile(rb"\d+\s+\d\d:\d\d:\d\d,\d+ -->"), _caption_lies),
    (re.compile(rb"<!DOCTYPE html|<html", re.IGNORECASE), _html_lies),
)


# Bombs


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files (name with extension, bytes) that unfold to gigabytes, nest without end, or hold what must not be."""
    yield "flat.png", _png_of_nothing(40_000, 40_000)
    yield "wide.png", _png_of_nothing(1_000_000, 10)
    yield "many-frames.gif", _gif_of_many_frames(20_000)
    yield "chunks.png", _png_with_a_text_bomb()
    yield "tiff-loop.tiff", _tiff_that_leads_to_itself()
    yield "zeros.zip", _zipped(("zeros.txt", bytes(1 << 26)))
    yield "nested.zip", _nested_zip(12)
    yield "overlap.zip", _zip_of_one_body(5_000)
    yield "entries.zip", _zipped(*((f"{number}.txt", b"x") for number in range(20_000)))
    yield "outside.zip", _zipped(("../../outside.txt", b"x"), ("/etc/outside.txt", b"x"))
    yield "zeros.gz", gzip.compress(bytes(1 << 26), mtime=0)
    yield "office.docx", _zipped(("[Content_Types].xml", b"<Types/>"), ("word/document.xml", _billion_laughs()))
    yield "big-office.docx", _zipped(("[Content_Types].xml", b"<Types/>"), ("word/document.xml", b"<w>" * (1 << 24)))
    yield "laughs.svg", _billion_laughs()
    yield "deep.pdf", _pdf_of_deep_pages(20_000)
    yield "flate.pdf", _pdf_of_a_flate_bomb()
    yield "loop.pdf", _pdf_of_a_loop()
    yield "many-pages.pdf", _pdf_of_many_pages(10_000)
    yield "drawings.pdf", pdf_of_drawings_in_drawings()
    yield "line.txt", b"a" * (1 << 20)
    yield "lines.srt", b"".join(b"%d\n00:00:00,000 --> 00:00:01,000\nx\n\n" % number for number in range(50_000))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_of_nothing(width: int, height: int) -> bytes:
    """One colour: what is 5 GB decoded is a few megabytes here, and honest in its header."""
    packer, row = zlib.compressobj(9), bytes(1 + width * 3)
    rows = b"".join(packer.compress(row) for _ in range(min(height, 2_000))) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _png_with_a_text_bomb() -> bytes:
    """A comment that is 64 MB when it is unpacked."""
    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    text = b"Comment\0\0" + zlib.compress(bytes(1 << 26), 9)
    chunks = _chunk(b"IHDR", head) + _chunk(b"zTXt", text) + _chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + chunks + _chunk(b"IEND", b"")


def _gif_of_many_frames(count: int) -> bytes:
    """Frames of 2,000 × 2,000 that change one pixel each."""
    control = b"\x21\xf9\x04\x00\x02\x00\x00\x00"
    frame = control + b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    head = b"GIF89a" + struct.pack("<HH", 2_000, 2_000) + b"\x80\0\0" + bytes(6)
    return head + frame * count + b";"


def _tiff_that_leads_to_itself() -> bytes:
    """Its list of pages is a circle."""
    entries = struct.pack("<HHII", 256, 3, 1, 8) + struct.pack("<HHII", 257, 3, 1, 8)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 2) + entries + struct.pack("<I", 8)


def _zipped(*entries: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, body in entries:
            archive.writestr(zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED, 9)
    return out.getvalue()


def _nested_zip(depth: int) -> bytes:
    """An archive of ten archives of ten archives …"""
    data = _zipped(("zeros.txt", bytes(1 << 20)))
    for _ in range(depth):
        data = _zipped(*((f"{number}.zip", data) for number in range(10)))
    return data


def _zip_of_one_body(count: int) -> bytes:
    """A directory of thousands of entries that all point to the same megabytes."""
    data = _zipped(("a.txt", bytes(1 << 22)))
    start, end = data.find(b"PK\x01\x02"), data.rfind(b"PK\x05\x06")
    entry = data[start:end]
    tail = struct.pack("<HHII", count, count, len(entry) * count, start)
    return data[:start] + entry * count + data[end : end + 8] + tail + b"\0\0"


def _billion_laughs() -> bytes:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    return f'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY l0 "ha">{entities}]><svg>&l11;</svg>'.encode()


def _pdf(*objects: bytes) -> bytes:
    """A PDF of numbered objects; the first is its catalogue."""
    out, places = bytearray(b"%PDF-1.7\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    tail = b"trailer << /Root 1 0 R /Size %d >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(out))
    return bytes(out) + head + table + tail


_PAGE = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] >>"


def _pdf_of_deep_pages(depth: int) -> bytes:
    nodes = [b"<< /Type /Pages /Count 1 /Kids [%d 0 R] /Parent %d 0 R >>" % (n + 3, n + 1) for n in range(depth)]
    return _pdf(b"<< /Type /Catalog /Pages 2 0 R >>", *nodes, _PAGE)


def _pdf_of_many_pages(count: int) -> bytes:
    kids = b" ".join(b"%d 0 R" % (number + 3) for number in range(count))
    pages = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (count, kids)
    return _pdf(b"<< /Type /Catalog /Pages 2 0 R >>", pages, *[_PAGE] * count)


def _pdf_of_a_loop() -> bytes:
    """Its tree of pages bites its tail."""
    return _pdf(b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Count 9 /Kids [2 0 R 2 0 R] /Parent 2 0 R >>")


def pdf_of_drawings_in_drawings() -> bytes:
    """A drawing that draws itself, twice. Reading it takes all the memory there is: only in processes with limits."""
    drawn = b"/Resources << /XObject << /X 5 0 R >> >>"
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents 4 0 R %s >>" % drawn
    pages = b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>"
    content = b"<< /Length 5 >>\nstream\n/X Do\nendstream"
    form = b"<< /Type /XObject /Subtype /Form /BBox [0 0 200 200] /Length 11 %s >>" % drawn
    form += b"\nstream\n/X Do /X Do\nendstream"
    return _pdf(b"<< /Type /Catalog /Pages 2 0 R >>", pages, page, content, form)


def _pdf_of_a_flate_bomb() -> bytes:
    """A page whose content is 256 MB of nothing, packed twice."""
    packed = zlib.compress(zlib.compress(b" " * (1 << 28), 9), 9)
    content = b"<< /Length %d /Filter [/FlateDecode /FlateDecode] >>\nstream\n%s\nendstream" % (len(packed), packed)
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents 4 0 R >>"
    pages = b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>"
    return _pdf(b"<< /Type /Catalog /Pages 2 0 R >>", pages, page, content)
