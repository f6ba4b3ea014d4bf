"""Messages between the runner and its children: what a child that was taken over may not do."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mediatheca.extractors import Artifact, Dropped, ItemError, Row
from mediatheca.jobs.runner_wire import (
    MAX_DROPPED,
    FrameReader,
    Inbox,
    Outbox,
    decode_rows,
    encode_dropped,
    encode_rows,
    load_answer,
    parsed,
    send_frame,
)


def no_file(name: str) -> tuple[str, int]:
    raise ValueError(name)


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/evil",)


@pytest.mark.parametrize("value", [Evil(), OSError("x"), os.getcwd, eval])
def test_a_child_cannot_make_the_parent_call_anything(value: object) -> None:
    frame = pickle.dumps(("rows", 0, value))
    with pytest.raises(pickle.UnpicklingError, match="may not come from a child"):
        load_answer(frame)
    assert parsed(frame, no_file) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"junk",
        pickle.dumps(5),
        pickle.dumps(("rows",)),
        pickle.dumps(()),
        pickle.dumps(("rows", 0, [], [])),
        pickle.dumps(("rows", 0, [({}, {"v": ((9,), b"x")}, {}, "", 0)], [], {})),
        pickle.dumps(("rows", 0, [({}, {}, {"a": (b"", "a/b", ".c", "0" * 32, "thumbnail")}, "", 0)], [], {})),
        pickle.dumps(("rows", 0, [({}, {}, {"a": (b"", "a/b", "/../x", None, "thumbnail")}, "", 0)], [], {})),
        pickle.dumps(("rows", 0, [({}, {}, {"a": (b"", "a/b", ".c", None, "source")}, "", 0)], [], {})),
        pickle.dumps(("rows", 0, [], [("page",)], {})),
        pickle.dumps(("rows", 0, [], [], {"model": float("nan")})),
        pickle.dumps(("rows", 0, [], [], 5)),
    ],
)
def test_nonsense_is_not_an_answer(frame: bytes) -> None:
    assert parsed(frame, no_file) is None


def test_frames_are_put_together_from_pieces() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(ours, b"one")
        send_frame(ours, b"")
        ours.sendall((5).to_bytes(8, "little") + b"tw")
        reader = FrameReader(theirs)
        assert reader.receive() == [b"one", b""]
        ours.sendall(b"o..")
        assert reader.receive() == [b"two.."]
        ours.close()
        with pytest.raises(EOFError):
            reader.receive()


def test_a_frame_larger_than_allowed_is_refused_before_it_comes() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall((1 << 60).to_bytes(8, "little"))
        with pytest.raises(ValueError, match="bytes"):
            FrameReader(theirs, 1000).receive()


class Folders:
    """What a child and its parent share of the disk."""

    def __init__(self, folder: Path) -> None:
        self.scratch, self.out, self.taken = folder / "scratch", folder / "out", folder / "taken"
        for each in (self.scratch, self.out, self.taken):
            each.mkdir()
        self.outbox, self.inbox = Outbox(self.scratch, self.out), Inbox(self.out)

    def take(self, name: str) -> tuple[str, int]:
        return self.inbox.take(name, self.taken)


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Folders]:
    made = Folders(tmp_path)
    yield made
    made.inbox.close()


def test_a_file_goes_over_by_name_and_one_of_two_rows_goes_once(folders: Folders) -> None:
    (folders.scratch / "cut.mp4").write_bytes(b"frames")
    made = Artifact(b"", "video/mp4", ".mp4", str(folders.scratch / "cut.mp4"), "processed")
    rows = [Row({}, artifacts={"segment": made}), Row({}, artifacts={"again": made})]
    back = decode_rows(encode_rows(rows, folders.outbox), folders.take)
    paths = {artifact.path for row in back for artifact in row.artifacts.values()}
    assert len(paths) == 1
    assert Path(str(paths.pop())).read_bytes() == b"frames"
    assert list(folders.scratch.iterdir()) == list(folders.out.iterdir()) == []


def test_only_plain_files_of_the_scratch_folder_may_be_artifacts(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (folders.scratch / "link").symlink_to(tmp_path / "secret")
    (folders.scratch / "folder").mkdir()
    for path in (tmp_path / "secret", folders.scratch / "link", folders.scratch / "folder", folders.scratch / "none"):
        with pytest.raises(ItemError, match="no file in its scratch folder"):
            encode_rows([Row({}, artifacts={"a": Artifact(b"", "a/b", ".c", str(path))})], folders.outbox)


@pytest.mark.parametrize(
    "artifact",
    [Artifact(b"", "a/b", "/../../x"), Artifact(b"", "no type", ".c"), Artifact(b"", "a/b", ".c", role="source")],  # type: ignore[arg-type]
)
def test_an_artifact_of_a_strange_kind_is_refused(folders: Folders, artifact: Artifact) -> None:
    with pytest.raises(ItemError, match="not allowed"):
        encode_rows([Row({}, artifacts={"a": artifact})], folders.outbox)


def test_the_parent_takes_no_links_and_no_names_that_lead_elsewhere(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    name = "a" * 32
    (folders.out / name).symlink_to(tmp_path / "secret")
    for wrong in (name, "b" * 32, "../secret", "", "."):
        with pytest.raises((ValueError, OSError)):
            folders.take(wrong)
    assert list(folders.taken.iterdir()) == []
    assert (tmp_path / "secret").exists()


def test_a_folder_that_a_child_swaps_for_another_is_not_followed(folders: Folders, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ("c" * 32)).write_text("ours")
    folders.out.rename(tmp_path / "gone")
    folders.out.symlink_to(elsewhere)
    with pytest.raises(OSError, match="No such file"):
        folders.take("c" * 32)


def test_what_was_dropped_is_told_up_to_a_limit() -> None:
    told = encode_dropped([Dropped(f"page {n}", "x" * 5000, kind="page") for n in range(MAX_DROPPED + 5)])
    assert len(told) == MAX_DROPPED + 1
    assert told[-1][:2] == ("more", "5 more were dropped")
    assert len(told[0][1]) == 2000
