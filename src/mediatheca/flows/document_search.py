"""The short form of a search: one text over collections, each on its first vector index that takes text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.services import Services
from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.errors import ConflictError
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.stores.db.tx import Record

_RRF = 60
"""The usual constant of reciprocal rank fusion."""


def search_documents(
    services: Services, scope: Scope, collections: Sequence[Record], text: str, limit: int, filter: Filter | None
) -> list[Hit]:
    """The best hits of all collections. Scores of one model compare as they are; different ones are merged by rank.

    Collections without such an index are searched by their words (BM25).

    Raises:
        UnavailableError: the model of an index is not there.
        ConflictError: an index was made by other weights than those that would embed the query.
    """
    vectors: dict[str, Vector] = {}
    found: dict[str, list[Hit]] = defaultdict(list)
    for collection in collections:
        services.indexer.catch_up(scope, collection.id)
        made = (index for index in stored_vectors(collection.body) if index.model)
        dense = (index for index in made if not (index.sparse or index.multi))
        index = next((index for index in dense if "text" in index.modalities), None)
        if index is None:
            lexical = services.indexer.index.query(collection.id, TextQuery(text, limit, filter=filter))
            found[f"text:{collection.id}"] += lexical
            continue
        if index.weights not in vectors:
            vectors[index.weights] = _embed(services, index, text)
        query = VectorQuery(index.name, vectors[index.weights], limit, filter)
        found[f"{index.metric}:{index.weights}"] += services.indexer.index.query(collection.id, query)
    ranked = [sorted(hits, key=lambda hit: (-hit.score, hit.document_id)) for hits in found.values()]
    return (ranked[0] if len(ranked) == 1 else _by_rank(ranked))[:limit]


def _embed(services: Services, index: VectorIndex, text: str) -> Vector:
    model = services.models.text(index.model)
    if index.weights and model.info.weights != index.weights:
        raise ConflictError(
            f"index '{index.name}' was made by other weights of '{index.model}' than those installed now; "
            "bring the old weights back, or process the collection again"
        )
    vector: Vector = model.embed_texts([text], query=True)[0]
    return vector


def _by_rank(lists: Sequence[list[Hit]]) -> list[Hit]:
    for hits in lists:
        for rank, hit in enumerate(hits, 1):
            hit.score = 1 / (_RRF + rank)
    return sorted((hit for hits in lists for hit in hits), key=lambda hit: (-hit.score, hit.document_id))
