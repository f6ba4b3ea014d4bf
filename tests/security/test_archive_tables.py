"""Archives whose bomb is the description of their contents: it is read into memory before a single file is."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from mediatheca.flows.plugins.archive import unpack
from mediatheca.flows.plugins.models import refuse_pickles
from mediatheca.flows.plugins.scan import MAX_SOURCE, scan_archive
from mediatheca.kernel.errors import ValidationError

ENTRIES = 250_000


def many_entries(path: Path) -> Path:
    """A zip whose table of contents names one empty file very often."""
    entry = zipfile.ZipInfo("a")
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(entry, b"")
    whole = sink.getvalue()
    start = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    table = whole[start:end] * ENTRIES
    record = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(table), start, 0)
    path.write_bytes(whole[:start] + table + record)
    return path


def long_header(path: Path, kind: bytes) -> Path:
    """A packed tar in which a file's name, or what else is told of it, is 64 MB of zeros."""
    entry = tarfile.TarInfo("long")
    entry.type, entry.size = kind, 64 << 20
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(entry.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(64):
            file.write(bytes(1 << 20))
        file.write(bytes(1024))
    return path


def sparse_chain(path: Path) -> Path:
    """A packed tar with a file of holes whose description goes on and on."""
    entry = tarfile.TarInfo("holes")
    entry.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    block = (b"00000000001\0" * 42).ljust(504, b"\0") + b"\1" + bytes(7)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header)
        for _ in range(64):
            file.write(block * 2048)
    return path


@pytest.mark.parametrize(
    "make",
    [
        many_entries,
        lambda path: long_header(path, tarfile.XHDTYPE),
        lambda path: long_header(path, tarfile.XGLTYPE),
        lambda path: long_header(path, tarfile.GNUTYPE_LONGNAME),
        sparse_chain,
    ],
    ids=["zip table", "pax header", "global pax header", "long name", "sparse file"],
)
def test_a_description_that_is_a_bomb_is_not_read(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    made = make(tmp_path / "bomb")
    tracemalloc.start()
    try:
        with pytest.raises(ValidationError, match="a bomb"):
            unpack(made, tmp_path / "target")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 48 << 20
    assert not (tmp_path / "target").exists()


def test_a_zip_inside_a_model_is_looked_at_within_the_same_limit(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    many_entries(tmp_path / "model" / "weights.bin")
    with pytest.raises(ValidationError, match="a bomb"):
        refuse_pickles(tmp_path / "model")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2"])
def test_honest_tars_with_long_names_are_unpacked(tmp_path: Path, mode: Literal["w", "w:gz", "w:bz2"]) -> None:
    names = [f"{'folder/' * 8}{'n' * 90}{number}.txt" for number in range(30)]
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a", mode, format=kind) as archive:
            for name in names:
                entry = tarfile.TarInfo(f"top/{name}")
                entry.size = 3
                archive.addfile(entry, io.BytesIO(b"abc"))
        found = unpack(tmp_path / "a", tmp_path / f"target{kind}")
        assert set(found.files) == set(names)
        assert found.size == 90


def test_what_is_broken_inside_is_told_without_a_path_of_this_machine(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("name", b"a file")
        archive.writestr("name/inside", b"and a folder of the same name")
    with pytest.raises(ValidationError) as told:
        unpack(tmp_path / "a.zip", tmp_path / "target")
    assert str(tmp_path) not in told.value.message
    good = io.BytesIO()
    with zipfile.ZipFile(good, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"abc" * 1000)
    data = bytearray(good.getvalue())
    data[35:40] = b"\xff" * 5
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(ValidationError, match="cannot be unpacked"):
        unpack(tmp_path / "b.zip", tmp_path / "other")


def test_sources_are_of_a_size_that_can_be_looked_at(tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text("x = 1\n" * (MAX_SOURCE // 6 + 1))
    assert "KB of source" in scan_archive(tmp_path).errors[0]
    for number in range(20):
        (tmp_path / f"m{number}.py").write_text("x = 1\n" * (MAX_SOURCE // 6 - 1))
    assert "MB of source" in scan_archive(tmp_path).errors[0]
