"""A process that commits until it is killed, or takes turns with another. Run by `test_lance_crash.py`."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

import numpy as np

from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.stores.documents.lance import LanceDocuments

COLLECTION = "col_crash"
INDEX = VectorIndex("text_v1_vector", "mixpeek://text@v1/vector", 8)
OBJECTS = 5


def commit_of(seq: int) -> tuple[str, list[Document]]:
    """What commit `seq` writes: all documents of one object, as many as the number says."""
    owner = f"obj_{seq % OBJECTS}"
    rows = [
        Document(
            f"{owner}-{i}",
            COLLECTION,
            {"seq": seq, "i": i},
            {INDEX.name: np.full(8, seq, np.float32)},
            object_id=owner,
        )
        for i in range(seq % 7 + 1)
    ]
    return owner, rows


def commit(store: LanceDocuments, seq: int) -> None:
    owner, rows = commit_of(seq)
    store.upsert(COLLECTION, rows, seq, replace_objects=[owner])


def until_killed(root: str, acknowledged: int) -> None:
    store = LanceDocuments(root)
    store.ensure(COLLECTION, [INDEX])
    seq = store.last_seq(COLLECTION)
    while True:
        seq += 1
        commit(store, seq)
        os.write(acknowledged, f"{seq}\n".encode())
        if seq % 9 == 0:
            store.maintain(COLLECTION)


def in_turns(root: str, lock: Path, commits: int) -> None:
    """The lease is a file lock, the number is the store's: each turn must see what the other process did."""
    store = LanceDocuments(root)
    with lock.open("w") as file:
        for turn in range(commits):
            fcntl.flock(file, fcntl.LOCK_EX)
            store.ensure(COLLECTION, [INDEX])
            commit(store, store.last_seq(COLLECTION) + 1)
            if turn % 12 == 11:
                store.maintain(COLLECTION)
            fcntl.flock(file, fcntl.LOCK_UN)


if __name__ == "__main__":
    if sys.argv[1] == "until_killed":
        until_killed(sys.argv[2], sys.stdout.fileno())
    else:
        in_turns(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
