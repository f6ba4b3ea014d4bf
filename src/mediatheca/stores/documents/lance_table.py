"""One Lance table: a private writer handle behind a lock, and a reader that is swapped, never refreshed in place.

A `LanceDataset` shared by threads panics as soon as one of them changes it, so no method here changes a handle that
another thread can see: writes are prepared uncommitted on the writer's handle, made durable, then committed.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import lance
import pyarrow as pa
import pyarrow.compute as pc
from lance.dataset import ColumnOrdering
from lance.fragment import write_fragments
from lance.optimize import Compaction

from mediatheca.kernel.errors import ConflictError, UnavailableError
from mediatheca.stores.documents.lance_durability import TableFiles
from mediatheca.stores.documents.lance_errors import is_missing, lance_errors
from mediatheca.stores.documents.lance_schema import INDEXED, quote

STORAGE_VERSION: Final = "2.2"
"""The file format with JSON columns that can be indexed by path."""
INDEX_EVERY = 6
"""Commits between index updates: a look-up scans at most this many unindexed fragments (0.15 ms each)."""
INDEX_PARTS = 4
"""Parts of an index from which the small ones are merged; the big first part waits for `maintain`."""
ROWS_PER_FRAGMENT = 131_072
"""Compaction leaves fragments of this size alone, so it never rewrites a whole large table."""
_MERGE_ALL = 10_000


@dataclass(slots=True)
class LanceTable:
    """The handles of one table in this process. Every write happens inside `writing()`."""

    uri: str
    storage_options: dict[str, str] | None
    session: Any
    keep_versions: timedelta
    files: TableFiles = field(init=False)
    checked: bool = False
    """Whether this process has seen to the scalar indexes."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _reader: Any = None
    _writer: Any = None
    _unindexed: int = INDEX_EVERY
    _last: tuple[int, int] = (-1, 0)
    """(version, highest write_seq in it): spares a look-up before every commit."""

    def __post_init__(self) -> None:
        self.files = TableFiles(self.uri)

    # -- reading

    def reader(self) -> Any:
        """An immutable handle that sees every commit acknowledged before this call."""
        with lance_errors("open the table", self.uri):
            handle = self._reader
            if handle is None or handle.latest_version != handle.version:
                handle = self._open() if handle is None else self._refreshed(handle)
                self._reader = handle
            return handle

    def schema(self) -> Any:
        """The columns, None when there is no table."""
        try:
            return self.reader().schema
        except UnavailableError as error:
            if error.__cause__ is None or not is_missing(error.__cause__):
                raise
            return None

    def _open(self) -> Any:
        # Not after a failure: Lance opens a manifest of zeros as a table without columns.
        self.files.set_aside_torn_manifests()
        return lance.dataset(self.uri, storage_options=self.storage_options, session=self.session)

    def _refreshed(self, handle: Any) -> Any:
        """A new handle at the latest version; one that went backwards belongs to a dropped table of the same name."""
        if handle.latest_version < handle.version:
            return self._open()
        return handle.checkout_version((None, None))

    def last_seq(self, handle: Any) -> int:
        """The highest `write_seq` that `handle` sees."""
        version, seq = self._last
        if version != handle.version:
            order = [ColumnOrdering("write_seq", ascending=False)]
            rows = handle.scanner(columns=["write_seq"], order_by=order, limit=1).to_table()
            seq = rows["write_seq"][0].as_py() if rows.num_rows else 0
            self._last = (handle.version, seq)
        return seq

    # -- writing

    @contextmanager
    def writing(self) -> Iterator[Any]:
        """The lock, and a writer handle at the latest version that no other thread sees."""
        with self._lock, lance_errors("write", self.uri):
            handle = self._open() if self._writer is None else self._refreshed(self._writer)
            if self._unindexed >= INDEX_EVERY:
                parts = max((len(index.segments) for index in handle.describe_indices()), default=0)
                self._index(handle, parts - 1 if parts >= INDEX_PARTS else 0)
            yield handle

    def create(self, schema: pa.Schema) -> None:
        """An empty table. The scalar indexes are made on it, so they never need a first big build."""
        with self._lock, lance_errors("create the table", self.uri):
            lance.write_dataset(
                schema.empty_table(),
                self.uri,
                storage_options=self.storage_options,
                data_storage_version=STORAGE_VERSION,
                # Stable row ids forbid indexes on JSON paths.
                enable_stable_row_ids=False,
                session=self.session,
            )
            self.files.sync_all()
            self._reader, self._writer, self._last, self.checked = None, None, (-1, 0), False

    def repair_indexes(self) -> None:
        """Make the scalar indexes that are missing, and those that power loss tore."""
        with self._lock, lance_errors("index the table", self.uri):
            handle = self._open()
            before = self.files.index_parts()
            present = {index.name: index for index in handle.describe_indices()}
            for column in INDEXED:
                index = present.get(f"{column}_idx")
                if index is None or any(self.files.torn(segment.uuid) for segment in index.segments):
                    handle.create_scalar_index(column, "BTREE", replace=True)
            self.files.sync_indexes(before, handle.version)
            self.checked = True

    def add_columns(self, handle: Any, fields: list[pa.Field]) -> None:
        if not fields:
            return
        handle.add_columns(fields)
        self.files.sync_manifest(handle.version)

    def drop_columns(self, handle: Any, names: list[str]) -> None:
        if not names:
            return
        handle.drop_columns(names)
        self.files.sync_manifest(handle.version)

    def append(self, handle: Any, rows: pa.Table, write_seq: int) -> None:
        """Commit rows whose ids the caller knows to be absent."""
        added = self._written(handle, rows)
        self.files.sync_fragments(added)
        self._commit(handle, lance.LanceOperation.Append(added), rows, write_seq)

    def replace(self, handle: Any, rows: pa.Table, places: Sequence[int], write_seq: int) -> None:
        """Commit full rows in place of those at `places`, row ids of `handle`. Never partial columns: that rewrites the
        column of every fragment touched.

        The commit is the one that Lance's merge makes of the same rows, without its second search for the old ones.
        """
        added = self._written(handle, rows)
        emptied, changed = self._without(handle, places)
        self.files.sync_fragments(added, changed)
        operation = lance.LanceOperation.Update(
            removed_fragment_ids=emptied,
            updated_fragments=changed,
            new_fragments=added,
            fields_for_preserving_frag_bitmap=sorted({field for file in added[0].files for field in file.fields}),
            update_mode="rewrite_rows",
        )
        self._commit(handle, operation, rows, write_seq)

    @staticmethod
    def _written(handle: Any, rows: pa.Table) -> list[Any]:
        return list(write_fragments(rows, handle, mode="append", data_storage_version=STORAGE_VERSION))

    @staticmethod
    def _without(handle: Any, places: Sequence[int]) -> tuple[list[int], list[Any]]:
        """The fragments that lose all their rows, by id, and the others with the deletion files that say so."""
        by_fragment: dict[int, list[int]] = defaultdict(list)
        for place in places:
            by_fragment[place >> 32].append(place)
        emptied, changed = [], []
        for fragment, gone in by_fragment.items():
            left = handle.get_fragment(fragment).delete(f"_rowid IN ({','.join(map(str, gone))})")
            if left is None:
                emptied.append(fragment)
            else:
                changed.append(left)
        return emptied, changed

    def remove(self, handle: Any, document_ids: list[str]) -> int:
        """Commit the removal of rows by id."""
        keys = pa.table({"document_id": pa.array(document_ids, pa.utf8())})
        transaction, stats = handle.merge_insert("document_id").when_matched_delete().execute_uncommitted(keys)
        self._sync(transaction)
        self._committed(lance.LanceDataset.commit(handle, transaction))
        return int(stats["num_deleted_rows"])

    def _sync(self, transaction: Any) -> None:
        operation = transaction.operation
        self.files.sync_fragments(operation.new_fragments, operation.updated_fragments)

    def _commit(self, handle: Any, operation: Any, rows: pa.Table, write_seq: int) -> None:
        committed = lance.LanceDataset.commit(handle, operation, read_version=handle.version)
        self._committed(committed)
        if committed.version != handle.version + 1:
            self._heal_doubled(committed, rows["document_id"].to_pylist())
        self._last = (committed.version, write_seq)

    def _committed(self, handle: Any) -> None:
        self.files.sync_manifest(handle.version)
        self._writer = handle
        self._unindexed += 1

    def _heal_doubled(self, handle: Any, document_ids: list[str]) -> None:
        """Another writer committed between our refresh and our commit, so a lease was broken: keep the newest rows.

        Lance rebases such commits without comparing keys, which would leave some documents twice.
        """
        self.files.sync_all()
        rows = handle.scanner(
            columns=["document_id", "write_seq"], filter=f"document_id IN ({quote(document_ids)})"
        ).to_table()
        newest = rows.group_by("document_id").aggregate([("write_seq", "max"), ("write_seq", "count")])
        doubled = newest.filter(pc.greater(newest["write_seq_count"], 1))
        for seq in pc.unique(doubled["write_seq_max"]).to_pylist():
            ids = doubled.filter(pc.equal(doubled["write_seq_max"], seq))["document_id"].to_pylist()
            handle.delete(f"document_id IN ({quote(ids)}) AND write_seq < {seq}")
        self.files.sync_all()

    # -- care

    def maintain(self) -> None:
        """Compact, bring the scalar indexes up to date in one piece each, remove old versions that no tag holds."""
        with self.writing() as handle:
            # Indexes first: compaction does not join fragments that different parts of an index cover.
            self._index(handle, _MERGE_ALL)
            before = self.files.index_parts()
            plan = Compaction.plan(handle, {"target_rows_per_fragment": ROWS_PER_FRAGMENT})
            rewritten = [task.execute(handle) for task in plan.tasks]
            if rewritten:
                self.files.sync_fragments(fragment for result in rewritten for fragment in result.new_fragments)
                Compaction.commit(handle, rewritten)
                self.files.sync_indexes(before, handle.version)
            handle.cleanup_old_versions(older_than=self.keep_versions, error_if_tagged_old_versions=False)

    def _index(self, handle: Any, merge: int) -> None:
        """Index the newest fragments, merging them with the last `merge` parts of each index; 0 makes a delta."""
        before = self.files.index_parts()
        handle.optimize.optimize_indices(num_indices_to_merge=merge)
        self.files.sync_indexes(before, handle.version)
        self._unindexed = 0

    def tag(self, name: str) -> None:
        """Name the latest version.

        Raises:
            ConflictError: the name is taken.
        """
        with self._lock, lance_errors("tag", self.uri):
            handle = self._open()
            if name in handle.tags.list():
                raise ConflictError(f"tag '{name}' exists already: choose another name")
            handle.tags.create(name, handle.version)
            self.files.sync_all()

    def drop(self) -> None:
        with self._lock, lance_errors("drop the table", self.uri):
            if not self.files.remove():
                lance.LanceDataset.drop(self.uri, storage_options=self.storage_options, ignore_not_found=True)
            self._reader, self._writer, self._last, self.checked = None, None, (-1, 0), False

    def restart(self, failed: Any) -> bool:
        """Whether a read that failed on `failed` can succeed on a newer version: a cleanup took files from under it."""
        try:
            return bool(self.reader().version != failed.version)
        except UnavailableError:
            return False


def row_filter(*conditions: str | None) -> str | None:
    """All conditions at once; None when there are none."""
    given: Iterable[str] = [f"({condition})" for condition in conditions if condition]
    return " AND ".join(given) or None
