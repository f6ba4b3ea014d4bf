"""Stored vectors of documents, for stages that compare documents with each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.hits import identity
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext
from mediatheca.stages._search_spellings import find_index

READ_AT_ONCE = 500
Matrix = npt.NDArray[np.float32]


@dataclass(slots=True)
class Space:
    """Vectors that may be compared: made by the same weights."""

    index: VectorIndex
    rows: list[int] = field(default_factory=list)
    """Positions among the hits, ascending."""
    vectors: list[Vector] = field(default_factory=list)

    @property
    def matrix(self) -> Matrix:
        """Shape (rows, dimensions)."""
        return np.stack(self.vectors).astype(np.float32, copy=False)


async def vector_spaces(
    hits: Sequence[Hit], feature_uri: str, views: Iterable[CollectionView], ctx: StageContext
) -> list[Space]:
    """The vectors of `hits` for a feature, one space for each model that made some; the largest first.

    A document without a vector is in none. Of a multi-vector the mean is taken.

    Raises:
        ValidationError: the vectors are sparse.
    """
    indexes = {view.collection_id: index for view in views if (index := find_index(view, feature_uri)) is not None}
    if any(index.sparse for index in indexes.values()):
        message = f"the vectors of '{feature_uri}' are sparse; documents are compared by dense ones"
        raise ValidationError.at("feature_uri", message, "modality")
    by_collection: dict[str, dict[int, str]] = defaultdict(dict)
    for row, hit in enumerate(hits):
        collection_id, document_id = identity(hit)
        if collection_id in indexes:
            by_collection[collection_id][row] = document_id
    spaces: dict[tuple[str, str, int], Space] = {}
    for collection_id, rows in by_collection.items():
        index = indexes[collection_id]
        space = spaces.setdefault((index.model, index.weights, index.dimensions), Space(index))
        held = {ident: hits[row].vectors[index.name] for row, ident in rows.items() if index.name in hits[row].vectors}
        found = held | await _read(collection_id, [i for i in rows.values() if i not in held], index.name, ctx)
        for row, ident in rows.items():
            vector = found.get(ident)
            if vector is not None:
                space.rows.append(row)
                space.vectors.append(vector if vector.ndim == 1 else vector.mean(axis=0))
    for space in spaces.values():
        order = sorted(range(len(space.rows)), key=space.rows.__getitem__)
        space.rows, space.vectors = [space.rows[n] for n in order], [space.vectors[n] for n in order]
    return sorted((s for s in spaces.values() if s.rows), key=lambda space: -len(space.rows))


async def _read(collection_id: str, idents: Sequence[str], name: str, ctx: StageContext) -> dict[str, Vector]:
    """By document id. Several rows may stand for one document."""
    missing, found = list(dict.fromkeys(idents)), {}
    for start in range(0, len(missing), READ_AT_ONCE):
        for hit in await ctx.documents(collection_id, missing[start : start + READ_AT_ONCE], [name], bare=True):
            if name in hit.vectors:
                found[hit.document_id] = hit.vectors[name]
    return found


def known_feature(feature_uri: str | None, collections: Iterable[CollectionView], name: str) -> None:
    """Refuse, when a retriever is made, a feature that none of its collections has.

    Raises:
        ValidationError: at `name`, listing what there is.
    """
    views = list(collections)
    if not feature_uri or "{{" in feature_uri or any(find_index(view, feature_uri) for view in views):
        return
    known = sorted({index.feature_uri for view in views for index in view.vectors})
    message = f"no collection has '{feature_uri}'; features: {', '.join(known) or 'none'}"
    raise ValidationError.at(name, message, "unknown")


def searched_feature(ctx: StageContext) -> str | None:
    """The feature of the last search with dense vectors; else the only one there is."""
    tracked = [uri for uri in ctx.side.get("tracked_feature_uris") or () if uri]  # a lexical search has none
    for uri in tracked:
        if not any(index.sparse for view in ctx.collections if (index := find_index(view, uri)) is not None):
            return str(uri)
    known = {index.feature_uri for view in ctx.collections for index in view.vectors if not index.sparse}
    return known.pop() if len(known) == 1 else None
