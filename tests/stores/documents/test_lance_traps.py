"""What experiments showed Lance to do when it is used wrongly, and that this adapter does not use it so."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from lance.indices import IndexConfig

from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.errors import ConflictError, UnavailableError
from mediatheca.stores.documents.base import Scan
from mediatheca.stores.documents.lance import LanceDocuments
from mediatheca.stores.documents.lance_schema import column_name
from mediatheca.stores.documents.lance_table import INDEX_EVERY, INDEX_PARTS

COLLECTION = "col_traps"
INDEX = VectorIndex("text_v1_vector", "mixpeek://text@v1/vector", 64)


def rows(ids: Sequence[str], value: int = 0) -> list[Document]:
    vector = np.full(INDEX.dimensions, value, np.float32)
    return [Document(i, COLLECTION, {"v": value}, {INDEX.name: vector}, object_id=f"o-{i}") for i in ids]


def numbers(low: int, high: int) -> list[str]:
    return [f"{i:06d}" for i in range(low, high)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "documents"


@pytest.fixture
def table(root: Path) -> Path:
    return root / f"{COLLECTION}.lance"


@pytest.fixture
def store(root: Path) -> LanceDocuments:
    store = LanceDocuments(str(root), keep_versions=timedelta(0))
    store.ensure(COLLECTION, [INDEX])
    return store


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


# -- format


def test_tables_have_the_format_that_json_indexes_need(store: LanceDocuments, table: Path) -> None:
    store.upsert(COLLECTION, rows(numbers(0, 50)), 1)
    store.upsert(COLLECTION, rows(numbers(40, 60)), 2)
    dataset = lance.dataset(str(table))
    assert dataset.data_storage_version == "2.2"
    assert not dataset.has_stable_row_ids
    files = [file for fragment in dataset.get_fragments() for file in fragment.metadata.files]
    assert {(file.file_major_version, file.file_minor_version) for file in files} == {(2, 2)}
    path = IndexConfig(index_type="json", parameters={"target_index_type": "btree", "path": "v"})
    dataset.create_scalar_index("payload", path, name="ix_v", replace=False)
    store.upsert(COLLECTION, rows(numbers(0, 5), 7), 3)
    store.maintain(COLLECTION)
    assert lance.dataset(str(table)).count_rows("json_get_int(payload, 'v') = 7") == 5


def test_index_names_become_safe_and_different_columns() -> None:
    names = ["a_v1_x", "A_v1_x", "a.v1.x", "a_v1.x", "ä", "x/y", 'q"; drop', "select"]
    columns = [column_name(name) for name in names]
    assert len(set(columns)) == len(names)
    assert all(column.isascii() and column.replace("_", "a").isalnum() and column.islower() for column in columns)


# -- writers


def test_two_writers_that_break_the_lease_still_leave_each_document_once(root: Path, store: LanceDocuments) -> None:
    """Two stores, as two processes have them, commit the same new ids at once with nothing to hold them apart."""
    counter, seqs = itertools.count(1), threading.Lock()
    stores = [store, *(LanceDocuments(str(root)) for _ in range(3))]
    barrier, faults, done = threading.Barrier(len(stores)), [], []

    def write(mine: LanceDocuments) -> None:
        try:
            for turn in range(6):
                barrier.wait()
                with seqs:
                    seq = next(counter)
                try:
                    mine.upsert(COLLECTION, rows(numbers(turn * 100, turn * 100 + 150), seq), seq)
                    done.append(seq)
                except ConflictError:
                    pass  # a higher number was there first
                except UnavailableError as error:
                    assert "another writer" in error.message  # noqa: PT017
        except BaseException as fault:
            faults.append(fault)
            barrier.abort()

    threads = [threading.Thread(target=write, args=(mine,)) for mine in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(done) >= 6
    found = [d.document_id for d in store.scan(COLLECTION, Scan())]
    assert found == sorted(set(found))
    assert store.count(COLLECTION) == len(found)


def test_one_small_change_does_not_rewrite_the_table(store: LanceDocuments, table: Path) -> None:
    store.upsert(COLLECTION, rows(numbers(0, 4000)), 1)
    store.maintain(COLLECTION)
    before = size_of(table / "data")
    for seq in range(2, 32):
        store.upsert(COLLECTION, rows([f"{seq * 100:06d}"], seq), seq)
    assert size_of(table / "data") - before < before / 10


def test_look_ups_stay_indexed_between_two_maintenances(store: LanceDocuments, table: Path) -> None:
    for seq in range(1, 60):
        store.upsert(COLLECTION, rows([f"{seq}"], seq), seq)
    dataset = lance.dataset(str(table))
    for index in dataset.describe_indices():
        assert index.num_rows_indexed >= dataset.count_rows() - INDEX_EVERY
        assert len(index.segments) <= INDEX_PARTS + 1
    store.maintain(COLLECTION)
    dataset = lance.dataset(str(table))
    assert {(index.name, len(index.segments), index.num_rows_indexed) for index in dataset.describe_indices()} == {
        (f"{name}_idx", 1, 59) for name in ("document_id", "object_id", "root_object_id", "write_seq")
    }
    assert len(dataset.get_fragments()) == 1


# -- versions


def test_maintenance_frees_old_versions_but_not_a_tagged_one(store: LanceDocuments, table: Path) -> None:
    store.upsert(COLLECTION, rows(numbers(0, 500), 1), 1)
    store.tag(COLLECTION, "snapshot")
    for seq in range(2, 12):
        store.upsert(COLLECTION, rows(numbers(0, 500), seq), seq)
    grown = size_of(table)
    store.maintain(COLLECTION)
    assert size_of(table) < grown / 2
    assert len(lance.dataset(str(table)).versions()) <= 3
    old = lance.dataset(str(table), version="snapshot")
    assert old.count_rows("write_seq = 1") == 500 == old.to_table(columns=["payload"]).num_rows
    assert store.count(COLLECTION) == 500


def test_a_long_read_survives_a_cleanup_in_its_middle(store: LanceDocuments) -> None:
    for seq in range(1, 7):
        store.upsert(COLLECTION, rows(numbers(seq * 500, seq * 500 + 500), seq), seq)
    scan, changes = store.scan(COLLECTION, Scan(vectors=True)), store.changes(COLLECTION, 0)
    seen = [next(scan).document_id]
    changed = [d.document_id for d in next(changes)]
    for seq in range(7, 9):
        store.upsert(COLLECTION, rows(numbers(3000, 3400), seq), seq)
        store.maintain(COLLECTION)
    seen += [d.document_id for d in scan]
    assert seen == numbers(500, 3500)
    changed += [d.document_id for page in changes for d in page]
    # The rows written again come under their new number, which this read did not ask for.
    assert changed == numbers(500, 3000) + numbers(3400, 3500)
    assert [d.document_id for page in store.changes(COLLECTION, 6) for d in page] == numbers(3000, 3400)


# -- power loss


def test_files_are_forced_to_disk_before_the_manifest_that_names_them(
    store: LanceDocuments, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert(COLLECTION, rows(numbers(0, 10)), 1)
    forced: list[tuple[Path, int]] = []
    fsync = os.fsync

    def recording(handle: int) -> None:
        forced.append(
            (Path(os.readlink(f"/proc/self/fd/{handle}")), len(list((table / "_versions").glob("*.manifest"))))
        )
        fsync(handle)

    for write in (
        lambda: store.upsert(COLLECTION, rows(["new"]), 2),
        lambda: store.upsert(COLLECTION, rows(["new"]), 3),
    ):
        forced.clear()
        before, manifests = set(table.rglob("*")), len(list((table / "_versions").glob("*.manifest")))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", recording)
            write()
        made = {p for p in set(table.rglob("*")) - before if p.parent.name in ("data", "_deletions", "_versions")}
        order = dict(forced)
        assert {p for p in made if p.suffix != ".json"} <= order.keys()
        for path in made:
            if path.parent.name in ("data", "_deletions"):
                assert order[path] == manifests
        assert {table / "data", table / "_versions"} <= order.keys()


@pytest.mark.parametrize("content", [b"", b"\0" * 500])
def test_a_manifest_torn_by_power_loss_is_set_aside(
    root: Path, store: LanceDocuments, table: Path, content: bytes
) -> None:
    store.upsert(COLLECTION, rows(["a"]), 1)
    version = lance.dataset(str(table)).version + 1
    (table / "_versions" / f"{(1 << 64) - 1 - version:020d}.manifest").write_bytes(content)
    again = LanceDocuments(str(root))
    assert [d.document_id for d in again.get(COLLECTION, ["a"])] == ["a"]
    again.upsert(COLLECTION, rows(["b"]), 2)
    assert again.count(COLLECTION) == 2


def test_a_table_torn_at_its_creation_can_be_created_again_or_dropped(root: Path, table: Path) -> None:
    for finish in ("ensure", "drop"):
        (table / "_versions").mkdir(parents=True)
        (table / "_versions" / f"{(1 << 64) - 2:020d}.manifest").write_bytes(b"")
        store = LanceDocuments(str(root))
        if finish == "ensure":
            store.ensure(COLLECTION, [INDEX])
            store.upsert(COLLECTION, rows(["a"]), 1)
            assert store.count(COLLECTION) == 1
        store.drop(COLLECTION)
        assert not table.exists()


@pytest.mark.parametrize("hint", ["", '{"version":2}', "nonsense", None])
def test_a_version_hint_left_behind_by_a_crash_misleads_nobody(
    root: Path, store: LanceDocuments, table: Path, hint: str | None
) -> None:
    for seq in range(1, 8):
        store.upsert(COLLECTION, rows([f"{seq}"]), seq)
    path = table / "_versions" / "latest_version_hint.json"
    if hint is None:
        path.unlink()
    else:
        path.write_text(hint)
    assert store.last_seq(COLLECTION) == LanceDocuments(str(root)).last_seq(COLLECTION) == 7


def test_an_index_torn_by_power_loss_is_built_again(root: Path, store: LanceDocuments, table: Path) -> None:
    for seq in range(1, 10):
        store.upsert(COLLECTION, rows(numbers(seq * 10, seq * 10 + 10), seq), seq)
    store.maintain(COLLECTION)
    for index in lance.dataset(str(table)).describe_indices():
        for path in (table / "_indices" / index.segments[0].uuid).iterdir():
            path.write_bytes(b"")
    again = LanceDocuments(str(root))
    again.ensure(COLLECTION, [INDEX])
    assert len(again.get(COLLECTION, numbers(10, 100))) == 90
    again.upsert(COLLECTION, rows(numbers(10, 20), 10), 10)
    assert again.count(COLLECTION) == 90


# -- storage that refuses


def run(code: str, *arguments: object) -> str:
    """Run a script in a process of its own; what it prints."""
    script = textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


OPEN = """
import os, resource, sys
import numpy as np
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.errors import UnavailableError
from mediatheca.stores.documents.lance import LanceDocuments
store = LanceDocuments(sys.argv[1])
def write(seq, count):
    store.upsert("col_traps", [Document(f"{seq}-{i}", "col_traps", {"x": "y" * 2000}) for i in range(count)], seq)
"""


def test_a_disk_that_fills_up_fails_that_write_only(root: Path, store: LanceDocuments) -> None:
    printed = run(
        OPEN
        + textwrap.dedent("""
        write(1, 5)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        rng = np.random.default_rng(1)
        try:
            rows = [Document(f"r{i}", "col_traps", {"x": rng.bytes(500).hex()}) for i in range(500)]
            store.upsert("col_traps", rows, 2)
        except UnavailableError as error:
            print(error.message)
        assert store.count("col_traps") == 5
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        write(2, 5)
        assert store.count("col_traps") == 10
        """),
        root,
    )
    assert "file-size limit" in printed
    assert store.count(COLLECTION) == 10


def test_a_directory_that_may_not_be_written_says_so(root: Path, store: LanceDocuments, tmp_path: Path) -> None:
    store.upsert(COLLECTION, rows(["a"]), 1)
    root.chmod(0o500)
    for path in root.rglob("*"):
        if path.is_dir():
            path.chmod(0o500)
    try:
        printed = run(
            OPEN
            + textwrap.dedent("""
            if os.geteuid() == 0:
                os.setuid(65534)
            for act in (lambda: write(2, 1), lambda: store.ensure("col_new", []), store.check):
                try:
                    act()
                except UnavailableError as error:
                    print(error.message)
            """),
            root,
        )
    finally:
        for path in (root, *root.rglob("*")):
            path.chmod(0o700)
    assert len(printed.splitlines()) == 3
    assert all("give the server access" in line for line in printed.splitlines())


def test_a_file_in_the_way_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    store = LanceDocuments(str(tmp_path / "file" / "documents"))
    for act in (lambda: store.ensure(COLLECTION, []), store.check):
        with pytest.raises(UnavailableError, match="a file is in the way"):
            act()


def test_missing_data_files_are_an_error_and_not_an_empty_answer(
    root: Path, store: LanceDocuments, table: Path
) -> None:
    store.upsert(COLLECTION, rows(["a"]), 1)
    for path in (table / "data").iterdir():
        path.unlink()
    fresh = LanceDocuments(str(root))
    reads: list[Any] = [
        lambda: fresh.get(COLLECTION, ["a"]),
        lambda: list(fresh.scan(COLLECTION, Scan())),
        lambda: list(fresh.changes(COLLECTION, 0)),
        lambda: fresh.nearest(COLLECTION, INDEX, np.ones(INDEX.dimensions, np.float32), 1),
    ]
    for read in reads:
        with pytest.raises(UnavailableError, match="files are missing"):
            read()


def test_a_check_leaves_nothing_behind(root: Path, store: LanceDocuments) -> None:
    before = set(root.iterdir())
    store.check()
    assert set(root.iterdir()) == before


def test_many_tables_need_no_open_files(root: Path) -> None:
    store, before = LanceDocuments(str(root)), len(os.listdir("/proc/self/fd"))
    for number in range(40):
        store.ensure(f"col_{number}", [INDEX])
        store.upsert(f"col_{number}", rows(["a"]), 1)
        assert store.count(f"col_{number}") == 1
    # Servers of other tests in this process have files, too: counted is what these tables added.
    assert len(os.listdir("/proc/self/fd")) < before + 40
