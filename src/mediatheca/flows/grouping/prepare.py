"""Vectors of a run on their way into the computing process: counted, sampled where there are too many, on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mediatheca.clusterers import Clusterer
from mediatheca.flows.grouping.space import Rows, SpaceReader
from mediatheca.kernel.clustering import Matrix
from mediatheca.kernel.errors import BadRequestError

_SCALE = 1 << 32


class RefusedError(BadRequestError):
    """The run cannot succeed as it is asked for; trying again changes nothing."""


@dataclass(slots=True)
class Prepared:
    """The rows to cluster: parallel lists, and one matrix a feature in a file."""

    document_ids: list[str]
    collection_ids: list[str]
    write_seqs: npt.NDArray[np.int64]
    arrays: dict[str, Matrix]
    source_documents: int
    retrieved: int
    """Documents with all vectors, sampled or not."""
    share: float
    """Of the documents, those that are clustered; the rest joins the nearest cluster."""
    reasons: list[str]

    @property
    def sampled(self) -> bool:
        return self.retrieved > len(self.document_ids)


def limit_of(clusterer: Clusterer, dimensions: int, asked: int | None, memory_mb: int, documents: int) -> int:
    """The most vectors that are clustered.

    Raises:
        RefusedError: a sample size was asked for whose clustering does not fit into memory.
    """
    fitting = clusterer.rows_within(memory_mb, dimensions)
    wanted = asked or min(clusterer.cap, fitting)
    if fitting < 2 or min(wanted, documents) > fitting:
        needed = clusterer.memory_mb(min(wanted, documents), dimensions)
        raise RefusedError(
            f"{clusterer.name} of {min(wanted, documents):,} vectors with {dimensions} dimensions needs about "
            f"{needed:,.0f} MB, {memory_mb:,} are allowed; set sample_size to at most {fitting:,}, or raise "
            "MEDIATHECA_WORKER_MEMORY_MB"
        )
    return wanted


def chosen(seed: int, document_id: str, share: float) -> bool:
    """Whether a document is in a sample of this share: the same ones in every run."""
    if share >= 1:
        return True
    digest = hashlib.blake2b(document_id.encode(), digest_size=4, salt=seed.to_bytes(8, "little", signed=True)).digest()
    return int.from_bytes(digest) < share * _SCALE


def prepare(reader: SpaceReader, folder: Path, limit: int, seed: int, check: Callable[[], None]) -> Prepared:
    """Read the vectors into files below `folder`.

    Raises:
        RefusedError: there are fewer than two.
    """
    total = reader.count()
    share = 1.0 if total <= limit else limit / total
    capacity = min(total, limit) + (0 if share >= 1 else 1)
    space = reader.space
    arrays = {
        f"vectors_{number}": np.lib.format.open_memmap(
            folder / f"feature_{number}.npy", mode="w+", dtype=np.float32, shape=(max(capacity, 1), index.dimensions)
        )
        for number, index in enumerate(space.indexes[0])
    }
    made = Prepared([], [], np.zeros(0, np.int64), {}, total, 0, share, [])
    seqs: list[npt.NDArray[np.int64]] = []
    without = 0
    for page in reader.pages(check):
        without += page.without
        made.retrieved += len(page.document_ids)
        rows = _sampled(page, seed, share, capacity - len(made.document_ids))
        start = len(made.document_ids)
        for number, part in enumerate(rows.features):
            arrays[f"vectors_{number}"][start : start + len(part)] = part
        made.document_ids += rows.document_ids
        made.collection_ids += [rows.collection_id] * len(rows.document_ids)
        seqs.append(rows.write_seqs)
    count = len(made.document_ids)
    made.write_seqs = np.concatenate(seqs) if seqs else made.write_seqs
    made.arrays = {name: array[:count] for name, array in arrays.items()}
    made.reasons = _reasons(made, without)
    if count < 2:
        raise RefusedError(
            f"{count} of {total} documents have a vector for {', '.join(space.uris)}; clustering needs at least 2: "
            "wait for the batch, widen the filters, or name another feature"
        )
    return made


def _sampled(page: Rows, seed: int, share: float, room: int) -> Rows:
    kept = np.array([chosen(seed, ident, share) for ident in page.document_ids], np.bool_)
    if kept.sum() > room:  # documents that were written meanwhile, or a share that came out large
        kept[np.flatnonzero(kept)[max(room, 0) :]] = False
    return page if kept.all() else page.only(kept)


def _reasons(made: Prepared, without: int) -> list[str]:
    reasons = []
    if without:
        reasons.append(f"{without} documents have no vector for every feature")
    if made.sampled:
        reasons.append(
            f"{len(made.document_ids):,} of {made.retrieved:,} vectors were clustered as a sample; the others joined "
            "the nearest cluster"
        )
    return reasons
