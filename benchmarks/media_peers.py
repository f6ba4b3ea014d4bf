"""The same photographs, clips and PDFs, the same embedding functions, in our server and in pixeltable; three passes.

First everything is new, then nothing is, then a tenth more has come. Pixeltable is a library that works in the asking
process and refers to files where they lie; ours is a server that files are sent to over HTTP, and that keeps them.
Both end where everything can be searched. A clip is looked at once a second: pixeltable makes a document of every such
frame, ours one of every three seconds, from three frames; hence files a second, beside documents a second. Thumbnails,
speech and segment files are off: pixeltable makes none of them unless it is told to.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._data import jpegs, texts
from benchmarks._peers import PeerProcess, environment
from benchmarks._report import OUT, Report
from benchmarks._server import Api, Server
from benchmarks.plugins.pictures import NAME as PICTURES
from benchmarks.plugins.trivial import NAME as WORDS
from mediatheca.testing import media

ROUNDS = 3
PHOTOS, CLIPS, PAPERS = 400, 12, 30
MORE = 0.1
"""Share of files that the third pass adds."""
SECONDS = 30
PAGES = 10
PER_REQUEST = 8 << 20
"""Bytes of files in a request."""


@dataclass(frozen=True)
class Kind:
    """Files of one kind, and what our server does with them."""

    name: str
    type: str
    mime_type: str
    extractor: str
    source: str
    parameters: dict[str, Any]


QUIET = {"run_transcription": False, "run_transcription_embedding": False, "enable_thumbnails": False}
KINDS = (
    Kind("photos", "image", "image/jpeg", "image_extractor", "image",
         {"embedding_model": PICTURES, "enable_thumbnails": False, "use_captions": False}),
    Kind("clips", "video", "video/mp4", "multimodal_extractor", "video",
         {"embedding_model": PICTURES, "text_embedding_model": WORDS, "time_split_interval": 3, **QUIET}),
    Kind("papers", "pdf", "application/pdf", "text_extractor", "text",
         {"embedding_model": WORDS, "split_by": "pages", "chunk_size": 1}),
)  # fmt: skip


def run() -> Report:
    """Three rounds, each with a fresh server, a fresh pixeltable and the same files."""
    report = Report("media_peers")
    python = environment("peers-media")
    made = Path(tempfile.mkdtemp(prefix="media-", dir=OUT))
    try:
        _make(made)
        for number in range(ROUNDS):
            _ours(report, _files(made, f"ours-{number}"))
            _theirs(report, _files(made, f"theirs-{number}"), python)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return report


# The files


def _make(folder: Path) -> None:
    """All files, in `folder/all`, the last tenth of each kind for the third pass."""
    for kind in KINDS:
        (folder / "all" / kind.name).mkdir(parents=True)
    for number, data in enumerate(jpegs(_with_more(PHOTOS), seed=90)):
        (folder / "all" / "photos" / f"{number:04}.jpg").write_bytes(data)
    for number in range(_with_more(CLIPS)):
        (folder / "all" / "clips" / f"{number:04}.mp4").write_bytes(_clip(number))
    words = texts(_with_more(PAPERS) * PAGES, words=300, seed=91)
    for number in range(_with_more(PAPERS)):
        pages = [_lines(text) for text in words[number * PAGES : (number + 1) * PAGES]]
        (folder / "all" / "papers" / f"{number:04}.pdf").write_bytes(media.pdf(pages))


def _with_more(count: int) -> int:
    return count + max(1, round(count * MORE))


def _clip(number: int) -> bytes:
    order = np.random.default_rng(number).permutation(len(media.PHOTOS))
    scenes = [media.Scene(media.PHOTOS[place], SECONDS / 5) for place in order[:5]]
    return media.clip(scenes, 25, (640, 360))


def _lines(text: str) -> str:
    words = text.split()
    return "\n".join(" ".join(words[start : start + 10]) for start in range(0, len(words), 10))


def _files(made: Path, name: str) -> Path:
    """A folder with the files of the first pass; `_more` adds those of the third."""
    folder = made / name
    for kind in KINDS:
        (folder / kind.name).mkdir(parents=True)
        for path in _of(made, kind)[: _first(made, kind)]:
            shutil.copy(path, folder / kind.name)
    return folder


def _more(folder: Path) -> None:
    for kind in KINDS:
        for path in _of(folder.parent, kind)[_first(folder.parent, kind) :]:
            shutil.copy(path, folder / kind.name)


def _of(made: Path, kind: Kind) -> list[Path]:
    return sorted((made / "all" / kind.name).iterdir())


def _first(made: Path, kind: Kind) -> int:
    return {"photos": PHOTOS, "clips": CLIPS, "papers": PAPERS}[kind.name]


# The passes


def _measure(report: Report, who: str, folder: Path, work: Callable[[], dict[str, int]]) -> None:
    """`work` does a pass over what lies in the folder and returns documents by kind."""
    counts = []
    for name in ("everything is new", "nothing is", "a tenth more"):
        if name == "a tenth more":
            _more(folder)
        began = time.perf_counter()
        counts.append(work())
        seconds = time.perf_counter() - began
        report.add(f"{who}, pass: {name}", seconds, "s")
        if name == "everything is new":
            files = PHOTOS + CLIPS + PAPERS
            report.add(f"{who}, files a second", files / seconds, "/s")
            report.add(f"{who}, documents a second", sum(counts[0].values()) / seconds, "/s")
            report.add(f"{who}, documents", sum(counts[0].values()), "")
    if counts[0] != counts[1] or sum(counts[2].values()) <= sum(counts[1].values()):
        raise RuntimeError(f"{who} made {counts}")


def _ours(report: Report, folder: Path) -> None:
    with Server() as server:
        job = _Job(server, folder)
        with _peak([server.pid]) as peak:
            _measure(report, "mediatheca", folder, job.run)
        report.add("mediatheca, memory (peak, all processes)", peak.megabytes, "MB")
        report.add("mediatheca, disk without the files themselves", server.disk_mb() - _size_mb(folder), "MB")


class _Job:
    """A bucket and a collection for each kind."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._api, self._folder = Api(server), folder
        self._api.namespace()
        self._sent: set[Path] = set()
        self._buckets = {kind.name: self._api.bucket(kind.name, {"file": kind.type}) for kind in KINDS}
        self._collections = {
            kind.name: self._api.collection(
                kind.name,
                self._buckets[kind.name],
                kind.extractor,
                input_mappings={kind.source: "file"},
                parameters=kind.parameters,
            )["collection_id"]
            for kind in KINDS
        }

    def run(self) -> dict[str, int]:
        """Send what is new, trigger every collection over everything, wait until it can be searched."""
        for kind in KINDS:
            for objects in self._requests(kind):
                self._api.post(f"/v1/buckets/{self._buckets[kind.name]}/objects/batch", {"objects": objects})
        started = {
            name: self._api.post(f"/v1/collections/{ident}/trigger", {})["batch_id"]
            for name, ident in self._collections.items()
        }
        for name, batch in started.items():
            self._api.wait(self._buckets[name], batch)
        counts = {name: f"/v1/collections/{ident}/documents/count" for name, ident in self._collections.items()}
        return {name: int(self._api.get(path)["count"]) for name, path in counts.items()}

    def _requests(self, kind: Kind) -> Iterator[list[dict[str, Any]]]:
        new = [path for path in sorted((self._folder / kind.name).iterdir()) if path not in self._sent]
        objects: list[dict[str, Any]] = []
        size = 0
        for path in new:
            data = f"data:{kind.mime_type};base64,{base64.b64encode(path.read_bytes()).decode()}"
            objects.append({"blobs": [{"property": "file", "type": kind.type, "data": data}]})
            size += len(data)
            if size > PER_REQUEST or len(objects) == 1_000:
                yield objects
                objects, size = [], 0
        if objects:
            yield objects
        self._sent.update(new)


def _theirs(report: Report, folder: Path, python: Path) -> None:
    peer = PeerProcess(python, "_media_peer.py", "pixeltable", folder)
    try:
        with _peak([], str(folder)) as peak:
            _measure(report, "pixeltable", folder, lambda: dict(peer.ask("pass")["documents"]))
        report.add("pixeltable, memory (peak, all processes)", peak.megabytes, "MB")
        report.add("pixeltable, disk without the files themselves", _size_mb(folder / "pixeltable"), "MB")
    finally:
        peer.close()
        for pid in _family([], str(folder)):  # its database goes on without it
            os.kill(pid, signal.SIGINT)


def _size_mb(folder: Path) -> float:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 2**20


@dataclass
class _Peak:
    megabytes: float = 0.0


@contextmanager
def _peak(roots: list[int], mark: str = "") -> Iterator[_Peak]:
    """The most memory (PSS: what is shared counts once) that processes and all below them had, by tenths of a second.

    `mark`: also those whose command line holds it: a database that its starter has let go.
    """
    peak, over = _Peak(), threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            peak.megabytes = max(peak.megabytes, sum(map(_pss_mb, _family(roots, mark))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def _family(roots: list[int], mark: str) -> set[int]:
    parents: dict[int, int] = {}
    found = set(roots)
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if mark and mark in (folder / "cmdline").read_text():
                found.add(int(folder.name))
        except OSError:  # it has ended
            continue
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)
