"""Messages between the runner and its children: what a child that was taken over may not do."""

from __future__ import annotations

import os
import pickle
import socket

import pytest

from mediatheca.jobs.runner import _parsed
from mediatheca.jobs.runner_wire import FrameReader, load_answer, send_frame


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/evil",)


@pytest.mark.parametrize("value", [Evil(), OSError("x"), os.getcwd, eval])
def test_a_child_cannot_make_the_parent_call_anything(value: object) -> None:
    frame = pickle.dumps(("rows", 0, value))
    with pytest.raises(pickle.UnpicklingError, match="may not come from a child"):
        load_answer(frame)
    assert _parsed(frame) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"junk",
        pickle.dumps(5),
        pickle.dumps(("rows",)),
        pickle.dumps(("rows", 0, [({}, {"v": ((9,), b"x")}, {}, "", 0)])),
    ],
)
def test_nonsense_is_not_an_answer(frame: bytes) -> None:
    assert _parsed(frame) is None


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
