"""Objects extracted once more, with other parameters, for the vectors alone: what they give lands on the same ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mediatheca.flows.ingest.extraction import Extraction
from mediatheca.flows.ingest.items import Failure, ItemBuilder, SourceObject
from mediatheca.flows.ingest.making import DocumentMaker
from mediatheca.flows.ingest.sources import fetch
from mediatheca.flows.migration.state import Pair
from mediatheca.flows.removal import cuts
from mediatheca.flows.services import JobServices
from mediatheca.jobs.runner import ItemFailure, ItemRows
from mediatheca.kernel.documents import Document, Vector
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record


@dataclass(frozen=True, slots=True)
class Asked:
    """Which collection is extracted, and how its outputs are to be."""

    scope: Scope
    collection: Record
    parameters: Mapping[str, Any]
    pairs: Sequence[Pair]

    def shadow(self) -> Record:
        """The collection as if it had the new parameters and indexes already."""
        body = self.collection.body
        news = {pair.old.name: asdict(pair.new) for pair in self.pairs}
        indexes = [news.get(entry["name"], entry) for entry in body["vector_indexes"]]
        config = {**body["feature_extractor"], "parameters": dict(self.parameters)}
        return replace(self.collection, body={**body, "feature_extractor": config, "vector_indexes": indexes})


@dataclass(slots=True)
class Remade:
    """Vectors by document and index name; objects that gave none, with the reason, by `Document.object_id`."""

    documents: dict[str, dict[str, Vector]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def remake(services: JobServices, asked: Asked, documents: Sequence[Document], check: Callable[[], None]) -> Remade:
    """Extract the objects of these documents, as they are now.

    Raises:
        NotFoundError: the extractor is not installed.
        UnavailableError: it cannot be opened.
    """
    shadow, made = asked.shadow(), Remade()
    config = shadow.body["feature_extractor"]
    extractor = services.extractors.get(config["feature_extractor_id"])
    if extractor is None:
        raise NotFoundError("feature extractor", config["feature_extractor_id"])
    builder = ItemBuilder(services, extractor, config)
    maker = DocumentMaker(shadow, "", extractor, builder)
    sources = _sources(services, asked, documents, made)
    built = [builder.build(source) for source in sources.values()]
    made.failed |= {sources[f.item_id].object_id: f.reason for f in built if isinstance(f, Failure)}
    items = [item for item in built if not isinstance(item, Failure)]
    extraction = Extraction(services, asked.scope, extractor, config["parameters"])
    for outcome in extraction.results(items):
        check()
        source = sources[outcome.item_id]
        if isinstance(outcome, ItemFailure):
            made.failed[source.object_id] = outcome.reason
        elif isinstance(outcome, ItemRows):
            _take(maker, source, outcome, made)
    return made


def _take(maker: DocumentMaker, source: SourceObject, outcome: ItemRows, made: Remade) -> None:
    try:
        found = maker.make(source, outcome.rows).documents
    except ValidationError as error:
        made.failed[source.object_id] = error.message
        return
    made.documents |= {ident: document.vectors for ident, document in found.items()}


def _sources(
    services: JobServices, asked: Asked, documents: Sequence[Document], made: Remade
) -> dict[str, SourceObject]:
    """The items these documents were made from, as they are now."""
    wanted = list(dict.fromkeys(ident for document in documents if (ident := document.object_id)))
    found: dict[str, SourceObject] = {}
    for cut in cuts(wanted):
        fetched = fetch(
            services, asked.scope, {"object_ids": list(cut), "document_ids": None}, asked.collection, skips=False
        )
        found |= {source.item_id: source for source in fetched.sources}
        made.failed |= {left.object_id: left.reason for left in fetched.left_out}
    return found
