"""The parent's side of a rebuild: stream pages to a child process that builds and optimises a shard aside.

A child because optimising takes minutes with the GIL held; in it, only the child stands still.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import UnavailableError
from mediatheca.stores.index.base import IndexSpec

_FRAME = 8
"""Bytes of the length before each frame; a frame of length 0 ends the stream."""


def write_frame(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(len(content).to_bytes(_FRAME, "little"))
    pipe.write(content)


def read_frame(pipe: IO[bytes]) -> bytes:
    """The next frame, empty at the proper end. Raises EOFError when the writer vanished."""
    header = pipe.read(_FRAME)
    length = int.from_bytes(header, "little")
    content = pipe.read(length) if length else b""
    if len(header) < _FRAME or len(content) < length:
        raise EOFError("the process that sends the documents ended before it had sent all of them")
    return content


def build_aside(generation: Path, spec: IndexSpec, pages: Iterator[list[Document]], watermark: int) -> None:
    """Fill the generation; on return it is flushed, optimised and has its watermark.

    Raises:
        UnavailableError: the child failed or was killed.
    """
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-m", "mediatheca.stores.index.build_child", str(generation)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)  # noqa: S603
        try:
            _send(child, spec, pages, watermark)
            code = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if code:
            errors.seek(0)
            lines = errors.read().decode("utf-8", "replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit status {code}"
            raise UnavailableError(
                f"rebuild of the index of collection '{spec.collection_id}' failed ({reason}); the old index goes on "
                "answering. Check free memory and disk space, then start it again."
            )


def _send(child: subprocess.Popen[bytes], spec: IndexSpec, pages: Iterator[list[Document]], watermark: int) -> None:
    pipe = child.stdin
    assert pipe is not None
    try:
        write_frame(pipe, pickle.dumps((spec, watermark), protocol=5))
        for page in pages:
            if page:
                write_frame(pipe, pickle.dumps(page, protocol=5))
        write_frame(pipe, b"")
        pipe.close()
    except BrokenPipeError:
        child.wait()  # it died: its exit status tells why
    finally:
        try:
            pipe.close()
        except BrokenPipeError:
            child.wait()
