"""The vectors a cluster is made of: which index of which collection, and their values in one matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.clusterers._work import combine
from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.services import Services
from mediatheca.flows.tables import tombstones
from mediatheca.kernel.clustering import Matrix, unit_rows
from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import Filter, document_view
from mediatheca.kernel.present import system_fields
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record
from mediatheca.stores.documents.base import Tombstones, VectorPage

GET = 1_000
"""Documents read at a time where a page needs vectors of further indexes."""


@dataclass(frozen=True, slots=True)
class Space:
    """The features of a cluster in its collections, made by the same weights in all of them."""

    collections: tuple[Record, ...]
    indexes: tuple[tuple[VectorIndex, ...], ...]
    """For every collection, its index of every feature."""
    uris: tuple[str, ...]
    weights: tuple[float, ...]
    method: str
    """How a multi-vector becomes one: mean, median, medoid."""
    normalize: bool

    @property
    def dimensions(self) -> int:
        return sum(index.dimensions for index in self.indexes[0])


def find_space(collections: Sequence[Record], config: Mapping[str, Any]) -> Space:
    """Every feature in every collection.

    Raises:
        ValidationError: a collection lacks one, or two collections have it from different models.
    """
    where = ("body", "vector_config", "feature_uris")
    wanted = config["feature_uris"] or [_first(collections[0])]
    found = []
    for collection in collections:
        found.append(tuple(_index(collection, uri, (*where, n)) for n, uri in enumerate(wanted)))
    for number in range(len(wanted)):
        made = {(row[number].dimensions, row[number].weights, row[number].model) for row in found}
        if len(made) > 1:
            message = "the collections have vectors of different models for it; make one cluster for each collection"
            raise ValidationError.at((*where, number), message, "mismatch")
    uris = tuple(index.feature_uri for index in found[0])
    return Space(
        tuple(collections), tuple(found), uris, _weights(config, wanted, uris), config["effective_feature_method"],
        config["normalize_features"],
    )  # fmt: skip


def _first(collection: Record) -> str:
    dense = [index for index in stored_vectors(collection.body) if not index.sparse]
    if not dense:
        message = f"collection '{collection.name}' has no dense vectors; group it by attributes, or name another one"
        raise ValidationError.at(("body", "collection_ids"), message, "no_vectors")
    return dense[0].feature_uri


def _index(collection: Record, uri: str, where: tuple[str | int, ...]) -> VectorIndex:
    wanted = uri.replace("mediatheca://", "mixpeek://", 1)
    indexes = stored_vectors(collection.body)
    for index in indexes:
        if wanted in (index.feature_uri, index.name, index.feature_uri.rpartition("/")[2]):
            if index.sparse:
                message = f"'{uri}' has sparse vectors, which cannot be clustered; name a feature with dense ones"
                raise ValidationError.at(where, message, "sparse")
            return index
    known = ", ".join(index.feature_uri for index in indexes if not index.sparse) or "none"
    message = f"collection '{collection.name}' has no '{uri[:200]}'; its features: {known}"
    raise ValidationError.at(where, message, "unknown")


def _weights(config: Mapping[str, Any], wanted: Sequence[str], uris: Sequence[str]) -> tuple[float, ...]:
    given = config["feature_weights"]
    unknown = sorted(set(given) - {*wanted, *uris})
    if unknown:
        where = ("body", "vector_config", "feature_weights", unknown[0][:200])
        raise ValidationError.at(where, f"names no feature of this cluster; they are: {', '.join(uris)}", "unknown")
    return tuple(float(given.get(name, given.get(uri, 1.0))) for name, uri in zip(wanted, uris, strict=True))


@dataclass(frozen=True, slots=True)
class Rows:
    """Documents of one collection with their vectors of every feature."""

    collection_id: str
    document_ids: list[str]
    features: list[Matrix]
    write_seqs: npt.NDArray[np.int64]
    without: int = 0
    """Documents that lack a vector of one of the features."""

    def matrix(self, space: Space) -> Matrix:
        return combine(self.features, space.weights, space.normalize)

    def only(self, kept: npt.NDArray[np.bool_]) -> Rows:
        ids = [ident for ident, keep in zip(self.document_ids, kept.tolist(), strict=True) if keep]
        return Rows(self.collection_id, ids, [part[kept] for part in self.features], self.write_seqs[kept])


class SpaceReader:
    """Reads the vectors of a space in one scope. Holds no transaction between pages."""

    def __init__(self, services: Services, scope: Scope, space: Space, filter: Filter | None) -> None:
        self._services = services
        self._scope = scope
        self.space = space
        self._filter = filter

    def count(self) -> int:
        """Live documents that match the filter."""
        return sum(
            self._services.documents.count(collection.id, self._filter, tombstones=dead)
            for collection, dead, _ in self._tables()
        )

    def pages(self, check: Callable[[], None] = lambda: None) -> Iterator[Rows]:
        """Every document with all its vectors, a page at a time. `check` is called between pages."""
        for collection, dead, indexes in self._tables():
            found = self._services.documents.vectors(collection.id, indexes[0], filter=self._filter, tombstones=dead)
            for page in found:
                check()
                yield self._rows(collection.id, page, indexes, dead)

    def of(self, collection_id: str, document_ids: Sequence[str]) -> Rows:
        """These documents; those that are gone, lack a vector or do not match the filter are left out."""
        for collection, dead, indexes in self._tables():
            if collection.id == collection_id:
                names = [index.name for index in indexes]
                documents = self._services.documents.get(collection_id, document_ids, tombstones=dead, vectors=names)
                return self._of_documents(collection_id, [d for d in documents if self._keeps(d)], indexes)
        return Rows(collection_id, [], [np.zeros((0, i.dimensions), np.float32) for i in self.space.indexes[0]],
                    np.zeros(0, np.int64))  # fmt: skip

    def _keeps(self, document: Document) -> bool:
        if self._filter is None:
            return True
        view = document_view(document.payload, document.document_id, document.collection_id, system_fields(document))
        return bool(self._filter.matches(view))

    def _tables(self) -> list[tuple[Record, Tombstones, tuple[VectorIndex, ...]]]:
        """Collections that were ever written to, with their deletes and their indexes."""
        found = []
        with self._services.db.read(self._scope) as tx:
            for collection, indexes in zip(self.space.collections, self.space.indexes, strict=True):
                row = tx.row("document_tables", {"collection_id": collection.id})
                if row is not None and row["committed_seq"]:
                    found.append((collection, tombstones(tx, collection.id), indexes))
        return found

    def _rows(self, collection_id: str, page: VectorPage, indexes: Sequence[VectorIndex], dead: Tombstones) -> Rows:
        first = _single(page.vectors, page.offsets, self.space.method) if indexes[0].multi else page.vectors
        if len(indexes) == 1:
            return Rows(collection_id, page.document_ids, [first], page.write_seqs, page.without)
        names = [index.name for index in indexes]
        documents = []
        for start in range(0, len(page.document_ids), GET):
            ids = page.document_ids[start : start + GET]
            documents += self._services.documents.get(collection_id, ids, tombstones=dead, vectors=names)
        found = self._of_documents(collection_id, documents, indexes)
        missing = len(page.document_ids) - len(found.document_ids)
        return Rows(collection_id, found.document_ids, found.features, found.write_seqs, page.without + missing)

    def _of_documents(self, collection_id: str, documents: Sequence[Document], indexes: Sequence[VectorIndex]) -> Rows:
        whole = [d for d in documents if all(index.name in d.vectors for index in indexes)]
        features = []
        for index in indexes:
            rows = [_one(document.vectors[index.name], self.space.method) for document in whole]
            features.append(np.stack(rows) if rows else np.zeros((0, index.dimensions), np.float32))
        seqs = np.array([document.write_seq for document in whole], np.int64)
        ids = [document.document_id for document in whole]
        return Rows(collection_id, ids, features, seqs, len(documents) - len(whole))


def _single(tokens: Matrix, offsets: npt.NDArray[np.int64], method: str) -> Matrix:
    """One vector a document, of its tokens."""
    found = [_one(tokens[start:end], method) for start, end in pairwise(offsets)]
    return np.stack(found) if found else np.zeros((0, tokens.shape[1]), np.float32)


def _one(vector: Vector, method: str) -> Vector:
    if vector.ndim == 1:
        return vector
    if not len(vector):
        return np.zeros(vector.shape[1], np.float32)
    if method == "median":
        return np.asarray(np.median(vector, axis=0), np.float32)
    if method == "medoid":
        tokens = unit_rows(vector)
        return np.asarray(vector[int((tokens @ tokens.T).sum(axis=1).argmax())], np.float32)
    return np.asarray(vector.mean(axis=0), np.float32)
