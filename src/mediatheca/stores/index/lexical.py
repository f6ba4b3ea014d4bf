"""Text queries over any `Engine`: BM25 summed over fields, words that must be there, and other spellings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.lexical import boosted, phrase_pool, stack, tell
from mediatheca.kernel.passages import words as words_of
from mediatheca.kernel.search import Hit, TextQuery
from mediatheca.kernel.spelling import Bucket, Spelling, Vocabulary, spellings
from mediatheca.stores.index.engine import Engine
from mediatheca.stores.index.points import BARE, Raw, index_path, point_id
from mediatheca.stores.index.word_list import texts_at
from mediatheca.stores.index.words import analysis_of

_DEEPEST = 500
_TIES = 200
"""How much deeper than twice the limit equal scores are followed."""
_SPARE = 4
"""Hits fetched beyond the limit, to see whether scores are equal where it cuts."""
Weights: TypeAlias = Mapping[str, float]
"""Engine path of a text index → what its score is multiplied with."""
Fetch: TypeAlias = Callable[[int], list[Raw]]


def text_fields(fields: Mapping[str, str], asked: Collection[str]) -> list[str]:
    """The fields a text query looks into: those asked for, else all that have a text index.

    Raises:
        ValidationError: a field that was asked for has none.
    """
    known = sorted(path for path, kind in fields.items() if kind == "text")
    unknown = sorted(set(asked) - set(known))
    if unknown:
        raise ValidationError.at(
            "fields", f"{unknown} have no text index in this collection; fields that have: {known}", "text_index"
        )
    return sorted(asked) or known


def text_hits(engine: Engine, query: TextQuery, native: Any, check: Callable[[Fetch, int], list[Hit]]) -> list[Hit]:
    """The best hits, bucket after bucket of spellings.

    Args:
        native: the query's filter as far as the engine can say it.
        check: fetches until enough hits pass the rest of the filter.
    """
    boosts = dict(query.boosts)
    fields = text_fields(engine.fields, query.fields)
    weights = {path: boosts.get(name, 1.0) for name in fields if (path := index_path(name))}
    if not weights or not query.text.strip():
        return []
    if query.fuzziness == 0 and query.minimum <= 1:
        found = check(lambda limit: _ranked(engine, weights, query.text, limit, native, query.bare), _deep(query))
        return _by_neighbours(engine, query, list(dict.fromkeys(words_of(query.text))), fields, found)[: query.limit]
    found, spelling = _stacked(engine, query, weights, native, check, strict=False)
    if len(found) < query.limit and query.fuzziness != 0:
        # The list of words may hold some that no document has any more.
        again, strict = _stacked(engine, query, weights, native, check, strict=True)
        if strict.corrections != spelling.corrections:
            return again
    return found


def _stacked(
    engine: Engine,
    query: TextQuery,
    weights: Weights,
    native: Any,
    check: Callable[[Fetch, int], list[Hit]],
    *,
    strict: bool,
) -> tuple[list[Hit], Spelling]:
    names = text_fields(engine.fields, query.fields)
    analysis = analysis_of(engine.languages, engine.tokenizer)
    spelling = _spelling(engine, query, list(weights), lambda word: analysis.silent(word, names), strict=strict)
    hits: dict[str, Hit] = {}

    def ranked(bucket: Bucket) -> list[tuple[str, float]]:
        plain = not bucket.level and all(len(group) == 1 for group in bucket.groups)
        text = query.text if plain else bucket.text
        heard = [group for group in bucket.groups if not all(analysis.silent(word, names) for word in group)]
        held = _holding(engine, heard, list(weights), query.minimum, native)
        first = bucket is spelling.buckets[0]
        depth = _deep(query) if first else query.limit + len(hits)
        page = check(lambda limit: _ranked(engine, weights, text, limit, held, query.bare), depth)
        if first:
            page = _by_neighbours(engine, query, [group[0] for group in bucket.groups], names, page)
        for hit in page:
            hits.setdefault(hit.document_id, hit)
        return [(hit.document_id, hit.score) for hit in page]

    found = stack(((bucket.level, ranked(bucket)) for bucket in spelling.buckets), query.limit)
    return [tell(hits[entry.key], entry, spelling) for entry in found], spelling


def _deep(query: TextQuery) -> int:
    """How many documents are fetched, those included that may rise because of their neighbouring words."""
    return query.limit if query.phrase == 1.0 else phrase_pool(query.limit)


def _by_neighbours(
    engine: Engine, query: TextQuery, asked: Sequence[str], fields: Sequence[str], hits: list[Hit]
) -> list[Hit]:
    """The hits again, those higher that hold words of the query next to each other."""
    if query.phrase == 1.0 or len(asked) < 2:
        return hits
    analysis = analysis_of(engine.languages, engine.tokenizer)
    for hit in hits[: phrase_pool(query.limit)]:
        texts = {name: list(texts_at(hit.payload, name.split("."))) for name in fields}
        hit.score *= boosted(query, asked, fields, texts, analysis)
    return sorted(hits, key=lambda hit: (-hit.score, hit.document_id))


def _spelling(
    engine: Engine, query: TextQuery, paths: Sequence[str], silent: Callable[[str], bool], *, strict: bool
) -> Spelling:
    vocabulary = Vocabulary() if query.fuzziness == 0 else engine.vocabulary()

    def known(word: str) -> bool:
        return (not strict and word in vocabulary) or silent(word) or _stands(engine, word, paths)

    def frequency(word: str) -> int:
        return engine.count(_any(engine, [word], paths)) if _stands(engine, word, paths) else 0

    return spellings(query.text, query.fuzziness, vocabulary, known, frequency)


def _stands(engine: Engine, word: str, paths: Sequence[str]) -> bool:
    return any(engine.lexical(path, word, 1, None, keys=BARE) for path in paths)


def _any(engine: Engine, words: Iterable[str], paths: Sequence[str]) -> Any:
    """A filter for the points that hold one of the words in one of the fields."""
    models = engine.models
    return models.Filter(
        should=[models.FieldCondition(key=path, match=models.MatchText(text=word)) for word in words for path in paths]
    )


def _holding(engine: Engine, groups: Sequence[Sequence[str]], paths: Sequence[str], minimum: int, native: Any) -> Any:
    """The filter, and that enough words of the query are there."""
    needed = min(minimum, len(groups))
    if needed <= 1:
        return native
    models = engine.models
    each = [_any(engine, group, paths) for group in groups]
    own = [] if native is None else [native]
    if needed == len(each):
        return models.Filter(must=[*own, *each])
    return models.Filter(must=own or None, min_should=models.MinShould(conditions=each, min_count=needed))


def _ranked(engine: Engine, weights: Weights, text: str, limit: int, native: Any, bare: bool) -> list[Raw]:
    """The best documents. `bare`: of their payload only what names them is read."""
    if len(weights) > 1:
        return _summed(engine, weights, text, limit, native, bare)
    ((path, weight),) = weights.items()
    raws = _decided(engine, path, text, limit, native, bare)
    if weight != 1.0:
        for raw in raws:
            raw.score *= weight
    return raws


def _decided(engine: Engine, path: str, text: str, limit: int, native: Any, bare: bool) -> list[Raw]:
    """The best of one field. Which of equal scores are cut off is decided by document id, not by the engine."""
    asked = limit + _SPARE
    raws = engine.lexical(path, text, asked, native, keys=BARE if bare else None)
    held = {raw.payload["document_id"]: raw for raw in raws}
    while len(raws) == asked and raws[limit - 1].score == raws[-1].score and asked < 2 * limit + _TIES:
        asked *= 2
        raws = engine.lexical(path, text, asked, native, keys=BARE)
    raws.sort(key=lambda raw: (-raw.score, raw.payload["document_id"]))
    best = raws[:limit]
    if bare:
        return best
    missing = [point_id(raw.payload["document_id"]) for raw in best if raw.payload["document_id"] not in held]
    held |= {raw.payload["document_id"]: raw for raw in engine.retrieve(missing, None, ())} if missing else {}
    for raw in best:
        held[raw.payload["document_id"]].score = raw.score
    return [held[raw.payload["document_id"]] for raw in best]


def _summed(engine: Engine, weights: Weights, text: str, limit: int, native: Any, bare: bool) -> list[Raw]:
    """The top `limit` by the weighted sum of the fields' BM25 (Fagin's threshold algorithm).

    A point in no list scores at most the sum of the lists' last scores: once `limit` points are above it, stop. Exact,
    but for words so common that thousands of points tie: the search for a better one ends at `_DEEPEST` a field.
    """
    depth = max(2 * limit, 50)
    while True:
        lists = [(engine.lexical(path, text, depth, native, keys=BARE), w) for path, w in weights.items()]
        bound = sum(found[-1].score * weight for found, weight in lists if len(found) == depth)
        ids = {point_id(raw.payload["document_id"]) for found, _ in lists for raw in found}
        totals = _totals(engine, weights, text, ids)
        ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:limit]
        if not bound or depth >= max(_DEEPEST, limit) or (len(ranked) == limit and ranked[-1][1] >= bound):
            break
        depth *= 4
    if bare:
        return [Raw({"document_id": document_id}, score) for document_id, score in ranked]
    raws = {raw.payload["document_id"]: raw for raw in engine.retrieve([point_id(i) for i, _ in ranked], None, ())}
    for document_id, score in ranked:
        raws[document_id].score = score
    return [raws[document_id] for document_id, _ in ranked]


def _totals(engine: Engine, weights: Weights, text: str, ids: Collection[str]) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    if not ids:
        return totals
    among = engine.models.Filter(must=[engine.has_ids(ids)])
    for path, weight in weights.items():
        for raw in engine.lexical(path, text, len(ids), among, keys=BARE):
            totals[raw.payload["document_id"]] += raw.score * weight
    return totals
