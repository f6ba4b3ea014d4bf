"""Archives that want to leave their folder or fill the disk: refused, and nothing of them stays."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mediatheca.flows.plugins.archive import Limits, unpack
from mediatheca.flows.plugins.models import refuse_pickles
from mediatheca.flows.plugins.scan import scan_archive
from mediatheca.kernel.errors import ValidationError


def zip_of(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def tar_of(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for entry, data in entries:
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def link_in_zip(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


BAD_NAMES = [
    "../out.py", "a/../../out.py", "/etc/out.py", "a\\..\\..\\out.py", "C:/out.py", "a/./../../out", "x" * 600,
    "a" + "/a" * 40, "bad\nname.py", " space.py", "a/b /c.py",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_leaves_its_folder_is_refused_in_both_formats(tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    for made in (
        zip_of(tmp_path / "a.zip", ("ok.py", b"1"), (name, b"1")),
        tar_of(tmp_path / "a.tar", (tarfile.TarInfo("ok.py"), b"1"), (tarfile.TarInfo(name), b"1")),
    ):
        with pytest.raises(ValidationError):
            unpack(made, target)
        assert not target.exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar", "a.zip"]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: zip_of(path, (link_in_zip("link"), b"/etc/passwd")),
        lambda path: tar_of(path, (special("link", tarfile.SYMTYPE, "/etc/passwd"), b"")),
        lambda path: tar_of(path, (special("link", tarfile.LNKTYPE, "/etc/passwd"), b"")),
        lambda path: tar_of(path, (special("null", tarfile.CHRTYPE), b"")),
        lambda path: tar_of(path, (special("pipe", tarfile.FIFOTYPE), b"")),
        lambda path: tar_of(path, (special("dir", tarfile.SYMTYPE, ".."), b""), (tarfile.TarInfo("dir/out"), b"1")),
    ],
    ids=["zip link", "tar link", "hard link", "device", "pipe", "file through a link"],
)
def test_links_and_devices_are_refused(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(ValidationError, match="no plain file"):
        unpack(make(tmp_path / "archive"), tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_bomb_is_refused_while_it_unpacks(tmp_path: Path) -> None:
    bomb = zip_of(tmp_path / "bomb.zip", ("big.bin", b"\0" * (64 << 20)))
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(ValidationError, match="bomb"):
        unpack(bomb, tmp_path / "target")
    with pytest.raises(ValidationError, match="unpacks to more than"):
        unpack(bomb, tmp_path / "target", Limits(unpacked=1 << 20))
    assert not (tmp_path / "target").exists()


def test_a_size_that_lies_does_not_get_past_the_limit(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "lying.zip", ("big.bin", os.urandom(3 << 20)))
    data = path.read_bytes()
    for field in (b"\x50\x4b\x01\x02",):  # the size in the directory says 10 bytes
        at = data.rindex(field)
        data = data[: at + 24] + (10).to_bytes(4, "little") + data[at + 28 :]
    path.write_bytes(data)
    with pytest.raises(ValidationError):
        unpack(path, tmp_path / "target", Limits(unpacked=1 << 20))
    assert not (tmp_path / "target").exists()


def test_too_many_files_the_same_file_twice_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    many = zip_of(tmp_path / "many.zip", *((f"f{number}.py", b"") for number in range(30)))
    with pytest.raises(ValidationError, match="more than 10 files"):
        unpack(many, tmp_path / "target", Limits(files=10))
    twice = tar_of(tmp_path / "twice.tar", (tarfile.TarInfo("a.py"), b"1"), (tarfile.TarInfo("A.py"), b"2"))
    with pytest.raises(ValidationError, match="twice"):
        unpack(twice, tmp_path / "target")
    with pytest.raises(ValidationError, match="no files"):
        unpack(zip_of(tmp_path / "empty.zip"), tmp_path / "target")
    for junk in (b"", b"PK\x03\x04", b"\x1f\x8b\x08junk", b"not an archive"):
        (tmp_path / "junk").write_bytes(junk)
        with pytest.raises(ValidationError):
            unpack(tmp_path / "junk", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_every_truncation_of_an_archive_is_an_error_of_its_own_kind(tmp_path: Path) -> None:
    whole = zip_of(tmp_path / "whole.zip", ("manifest.py", b"x = 1\n" * 100), ("pipeline.py", os.urandom(500)))
    data = whole.read_bytes()
    for cut in range(0, len(data), 37):
        (tmp_path / "cut.zip").write_bytes(data[:cut])
        with pytest.raises(ValidationError):
            unpack(tmp_path / "cut.zip", tmp_path / "target")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import subprocess", "subprocess"),
        ("from socket import socket", "socket"),
        ("import os\nos.system('id')", "os.system"),
        ("from os import execv", "execv"),
        ("eval('1')", "eval"),
        ("__import__('os')", "__import__"),
        ("().__class__.__subclasses__()", "__subclasses__"),
        ("import multiprocessing.pool", "multiprocessing"),
        ("import ctypes as c", "ctypes"),
        ("def broken(:", "not Python"),
    ],
)
def test_the_look_at_the_code_names_file_and_line(tmp_path: Path, code: str, told: str) -> None:
    (tmp_path / "pipeline.py").write_text(code)
    (error, *_) = scan_archive(tmp_path).errors
    assert error.startswith("pipeline.py")
    assert told in error


def test_compiled_code_is_refused_and_plain_open_only_noted(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text("data = open('labels.txt').read()\nimport os.path\n")
    found = scan_archive(tmp_path)
    assert (found.errors, len(found.warnings)) == ([], 1)
    (tmp_path / "fast.so").write_bytes(b"\x7fELF")
    assert "compiled" in scan_archive(tmp_path).errors[0]


def test_pickles_are_found_by_what_is_in_them_not_by_their_names(tmp_path: Path) -> None:
    import pickle

    good = tmp_path / "model.onnx"
    good.write_bytes(b"\x08\x07\x12\x07pytorch")
    refuse_pickles(tmp_path)
    for name, data in {
        "weights.safetensors": pickle.dumps({"a": [1, 2]}, protocol=4),
        "model.bin": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "innocent.json": pickle.dumps(object, protocol=2),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValidationError, match="pickle"):
            refuse_pickles(tmp_path)
        (tmp_path / name).unlink()
    zip_of(tmp_path / "weights.onnx", ("archive/data.pkl", b"\x80\x02."), ("archive/data/0", b"\0" * 16))
    with pytest.raises(ValidationError, match=r"weights\.onnx"):
        refuse_pickles(tmp_path)
