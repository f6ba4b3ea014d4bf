"""Nothing acknowledged is lost, doubled or torn when the process dies, or when two processes take turns."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
from lance_crash_child import COLLECTION, INDEX, OBJECTS, commit_of

from mediatheca.stores.documents.base import Scan
from mediatheca.stores.documents.lance import LanceDocuments

CHILD = str(Path(__file__).with_name("lance_crash_child.py"))


def check_state(store: LanceDocuments, last: int) -> None:
    """The table holds exactly what commits 1 to `last` leave behind."""
    expected = {}
    for seq in range(max(1, last - OBJECTS + 1), last + 1):
        owner, rows = commit_of(seq)
        expected |= {document.document_id: (owner, seq) for document in rows}
    live = list(store.scan(COLLECTION, Scan(vectors=True)))
    assert {d.document_id: (d.object_id, d.write_seq) for d in live} == expected
    assert store.count(COLLECTION) == len(live) == len(expected)
    for document in live:
        assert document.payload["seq"] == document.write_seq
        np.testing.assert_array_equal(document.vectors[INDEX.name], np.full(8, document.write_seq))
    every = [d.document_id for page in store.changes(COLLECTION, 0) for d in page]
    assert len(every) == len(set(every))
    found = store.get(COLLECTION, list(expected))
    assert [d.document_id for d in found] == list(expected)


def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    root, rng, acknowledged = str(tmp_path / "documents"), random.Random(7), 0
    for _ in range(10):
        child = subprocess.Popen([sys.executable, CHILD, "until_killed", root], stdout=subprocess.PIPE)
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(rng.randint(4, 12))]
        time.sleep(rng.uniform(0.0, 0.1))
        child.kill()
        lines += child.stdout.read().splitlines()
        child.stdout.close()
        child.wait()
        acknowledged = max(int(line) for line in lines if line)
        store = LanceDocuments(root)
        last = store.last_seq(COLLECTION)
        assert acknowledged <= last <= acknowledged + 1
        check_state(store, last)
    assert acknowledged > 30


def test_two_processes_that_take_turns_see_each_other_and_double_nothing(tmp_path: Path) -> None:
    root, lock = str(tmp_path / "documents"), str(tmp_path / "lease")
    children = [subprocess.Popen([sys.executable, CHILD, "in_turns", root, lock, "30"]) for _ in range(2)]
    assert [child.wait(timeout=480) for child in children] == [0, 0]
    store = LanceDocuments(root, keep_versions=timedelta(0))
    assert store.last_seq(COLLECTION) == 60
    check_state(store, 60)
    store.maintain(COLLECTION)
    check_state(store, 60)
