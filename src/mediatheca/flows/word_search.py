"""Word searches without an index: exact, and slower by the number of documents. While an index catches up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from mediatheca.kernel.analysis import Analysis
from mediatheca.kernel.lexical import Texts, rank_texts, tell
from mediatheca.kernel.present import as_hit
from mediatheca.kernel.search import Hit, TextQuery
from mediatheca.stores.documents.base import DocumentStore, Scan, Tombstones
from mediatheca.stores.index.base import IndexSpec, SearchIndex
from mediatheca.stores.index.lexical import text_fields
from mediatheca.stores.index.search import matches
from mediatheca.stores.index.word_list import texts_at


def word_search(
    documents: DocumentStore, index: SearchIndex, spec: IndexSpec, query: TextQuery, dead: Tombstones
) -> list[Hit]:
    """What the index would answer: the sum of the fields' BM25, by score descending, then document id.

    The filter decides what is shown, not how rare a word is: every document counts for that, as in the index.

    Raises:
        ValidationError: a field without a text index.
    """
    fields = text_fields(spec.fields, query.fields)
    own = {name: partial(index.words, language=language) for name, language in spec.languages.items()}
    analysis = Analysis(index.words, own)
    if not any(analysis.of(name)(query.text) for name in fields) or query.limit <= 0:
        return []

    def read() -> Iterator[tuple[str, Texts, Callable[[], bool]]]:
        for document in documents.scan(spec.collection_id, Scan(), tombstones=dead):
            texts = {field: list(texts_at(document.payload, field.split("."))) for field in fields}
            yield document.document_id, texts, partial(matches, query.filter, as_hit(document))

    found, spelling = rank_texts(query, fields, read, analysis)
    by_id = {entry.key: entry for entry in found}
    shown = documents.get(spec.collection_id, list(by_id), tombstones=dead)
    return [tell(as_hit(document), by_id[document.document_id], spelling) for document in shown]
