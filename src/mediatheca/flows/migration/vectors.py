"""Vectors of documents that exist, by another model: from the text they store, else from their object once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mediatheca.extractors import Item, Source
from mediatheca.flows.documents import Change
from mediatheca.flows.migration.objects import Asked, Remade, remake
from mediatheca.flows.migration.state import Pair
from mediatheca.flows.services import JobServices
from mediatheca.jobs.runner import ItemFailure, ItemRows
from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import BadRequestError, NotFoundError
from mediatheca.kernel.mapping import read_path
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record

TEXT_EXTRACTOR = "text_extractor_v1"
TEXTS_AT_ONCE = 16
"""Texts of one item: a model takes several faster than one by one."""


class OvertakenError(BadRequestError):
    """The document is not what its vector was made of any more; it comes again as the one it is."""


@dataclass(slots=True)
class Built:
    """New vectors by document and index name; documents that have none, with the reason."""

    vectors: dict[str, dict[str, Vector]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, document_id: str, name: str, vector: Vector) -> None:
        self.vectors.setdefault(document_id, {})[name] = vector


@dataclass(frozen=True, slots=True)
class VectorMaker:
    """Makes vectors of `parameters` for documents of a collection. `check` is called between steps and may raise."""

    services: JobServices
    scope: Scope
    collection: Record
    parameters: Mapping[str, Any]
    check: Callable[[], None]

    def build(self, documents: Sequence[Document], pairs: Sequence[Pair]) -> Built:
        """The vectors that documents lack: for each pair of which they have the old one and not the new.

        Raises:
            UnavailableError: the model cannot be opened.
        """
        built = Built()
        for pair in pairs:
            lacking = [document for document in documents if lacks(document, pair)]
            if pair.text is not None:
                self.texts(lacking, pair.new, pair.text, built)
        others = [pair for pair in pairs if pair.text is None]
        again = [document for document in documents if any(lacks(document, pair) for pair in others)]
        if again:
            self._objects(again, others, built)
        return built

    def texts(self, documents: Sequence[Document], index: VectorIndex, field_name: str, built: Built) -> None:
        """Vectors of what documents hold in a text field."""
        named: list[tuple[str, str]] = []
        for document in documents:
            text = text_at(document, field_name)
            if text:
                named.append((document.document_id, text))
            else:
                built.failed[document.document_id] = f"its field '{field_name}' holds no text any more"
        cuts = [named[start : start + TEXTS_AT_ONCE] for start in range(0, len(named), TEXTS_AT_ONCE)]
        failed = self._embed(cuts, index, built)
        for document_id, reason in self._alone(failed, index, built):
            built.failed[document_id] = reason

    def _alone(
        self, cuts: Sequence[tuple[Sequence[tuple[str, str]], str]], index: VectorIndex, built: Built
    ) -> Iterator[tuple[str, str]]:
        """Texts of an item that failed, each by itself: one that cannot be embedded costs only itself."""
        singles = [[named] for cut, _ in cuts for named in cut]
        for cut, reason in self._embed(singles, index, built):
            yield cut[0][0], reason

    def _embed(
        self, cuts: Sequence[Sequence[tuple[str, str]]], index: VectorIndex, built: Built
    ) -> list[tuple[Sequence[tuple[str, str]], str]]:
        """Embed cuts of (document, text); gives back those that failed, with the reason."""
        task = self.parameters.get("embedding_task") or "document"
        parameters = {"embedding_model": index.model, "split_by": "none", "embedding_task": task}
        items = [
            Item(str(n), {"text": [Source(value=text, key=str(n)) for _, text in cut]}) for n, cut in enumerate(cuts)
        ]
        failed: list[tuple[Sequence[tuple[str, str]], str]] = []
        for outcome in self.services.runner.map(TEXT_EXTRACTOR, parameters, items) if items else ():
            self.check()
            cut = cuts[int(outcome.item_id)]
            if isinstance(outcome, ItemRows) and len(outcome.rows) == len(cut):
                for (document_id, _), row in zip(cut, outcome.rows, strict=True):
                    built.add(document_id, index.name, row.vectors[index.model])
            elif isinstance(outcome, ItemFailure):
                failed.append((cut, outcome.reason))
        return failed

    def _objects(self, documents: Sequence[Document], pairs: Sequence[Pair], built: Built) -> None:
        """Extraction once more; documents that it does not give again are failures."""
        asked = Asked(self.scope, self.collection, self.parameters, pairs)
        made = remake(self.services, asked, documents, self.check)
        for document in documents:
            for pair in pairs:
                if lacks(document, pair):
                    self._take(document, pair, made, built)

    @staticmethod
    def _take(document: Document, pair: Pair, made: Remade, built: Built) -> None:
        again = made.documents.get(document.document_id)
        vector = None if again is None else again.get(pair.new.name)
        if vector is not None:
            built.add(document.document_id, pair.new.name, vector)
            return
        reason = (
            made.failed.get(document.object_id)
            or "its source gives no such vector any more; trigger the collection again"
        )
        built.failed[document.document_id] = reason


def lacks(document: Document, pair: Pair) -> bool:
    """Whether a document has the vector that is there, and not yet the one beside it."""
    return pair.old.name in document.vectors and pair.new.name not in document.vectors


def text_at(document: Document, field_name: str) -> str:
    found = read_path(document.payload, field_name)
    return found if isinstance(found, str) and found.strip() else ""


def changes_of(documents: Iterable[Document], built: Built, fields: Sequence[str]) -> list[Change]:
    """Writes of new vectors, each only onto the document that its vectors were made of.

    Args:
        fields: the text fields that were embedded.
    """
    return [
        _change(document, built.vectors[document.document_id], fields)
        for document in documents
        if document.document_id in built.vectors
    ]


def _change(seen: Document, vectors: Mapping[str, Vector], fields: Sequence[str]) -> Change:
    texts = [text_at(seen, name) for name in fields]
    version = seen.system.get("object_version")

    def apply(held: Document | None) -> Document:
        if held is None:
            raise NotFoundError("document", seen.document_id)
        if held.system.get("object_version") != version or [text_at(held, name) for name in fields] != texts:
            raise OvertakenError(f"document '{seen.document_id}' was written again meanwhile")
        return replace(held, vectors={**held.vectors, **vectors})

    return Change(seen.document_id, apply)
