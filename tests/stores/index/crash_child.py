"""Writes to an Edge index until it is killed: `python crash_child.py <root> <first commit> <rebuild: 0|1>`."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np

from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.stores.index.base import IndexSpec
from mediatheca.stores.index.edge import EdgeIndex

NAME = "col_crash"
SPEC = IndexSpec(NAME, (VectorIndex("v", "u", 8, metric="dot"),), {"v": "integer", "text": "text"})


def vector_of(seq: int, number: int) -> Vector:
    return np.array([seq, number, seq % 7, 1, 0, 0, 0, seq + number], np.float32)


def name_of(number: int) -> str:
    return f"doc_{number}" if number % 3 else f"00000000-0000-0000-0000-{number:012d}"


def commit(seq: int) -> tuple[list[Document], list[str]]:
    """What commit `seq` writes and then deletes: the same in every process."""
    choice = random.Random(seq)
    numbers = choice.sample(range(400), 150)
    written = [
        Document(name_of(n), NAME, {"v": seq, "n": n, "text": f"word{seq}"}, {"v": vector_of(seq, n)}, write_seq=seq)
        for n in numbers
    ]
    return written, [name_of(n) for n in choice.sample(range(400), 25)]


def state_after(seq: int) -> dict[str, Document]:
    held: dict[str, Document] = {}
    for number in range(1, seq + 1):
        written, deleted = commit(number)
        held.update({document.document_id: document for document in written})
        for name in deleted:
            held.pop(name, None)
    return held


def apply(index: EdgeIndex, seq: int) -> None:
    written, deleted = commit(seq)
    index.upsert(NAME, written)
    index.delete(NAME, deleted)


def main(root: str, first: int, rebuild: bool) -> None:
    index = EdgeIndex(Path(root))
    index.ensure(SPEC)
    seq = first
    while True:
        print(seq, flush=True)
        apply(index, seq)
        if seq % 3 == 0:
            index.flush(NAME, seq)
        if rebuild and seq % 4 == 0:
            index.rebuild(SPEC, iter([list(state_after(seq).values())]), seq)
        seq += 1


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1")
