"""What a search box may suggest while somebody types: values of fields, collections, and one's own queries."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from mediatheca.api.deps import Caller, Read, Reader, answer
from mediatheca.kernel.errors import MediathecaError, ValidationError
from mediatheca.kernel.filters import Leaf
from mediatheca.stores.db.tx import Record, Row

router = APIRouter(tags=["retrievers"])
MAX_FIELDS = 5
MAX_COLLECTIONS = 50
"""Collections whose values are counted; more are told in a warning."""
DEEPER = 20
"""How many more values than wanted are looked at: an array also holds values that begin otherwise."""
log = logging.getLogger(__name__)


@router.get("/retrievers/typeahead", operation_id="typeahead", response_model=None)
def typeahead(
    tx: Read, caller: Reader, q: Annotated[str, Query(min_length=1, max_length=200)],
    fields: str = "", limit: Annotated[int, Query(ge=1, le=50)] = 10,
) -> Response:  # fmt: skip
    """Values of at most 5 declared fields, names of collections, and queries of the same key that begin with `q`, each
    at most `limit`, without regard to case. A source that fails is left out, and told in `warnings`."""
    records = tx.resources("collection")
    warnings: list[str] = []
    values = _values(caller, records, _fields(fields), q, limit, warnings)
    prefix = q.casefold()
    collections = [
        {"collection_id": record.id, "collection_name": record.name}
        for record in sorted(records, key=lambda record: record.name.casefold())
        if record.name.casefold().startswith(prefix)
    ][:limit]
    searches = [text for text in _own_queries(caller) if text.casefold().startswith(prefix)][:limit]
    ranked = [*(entry["value"] for entry in values), *(c["collection_name"] for c in collections), *searches]
    found = {"values": values, "collections": collections, "recent_searches": searches, "warnings": warnings}
    return answer({"query": q, "suggestions": list(dict.fromkeys(ranked))[:limit], **found})


def _fields(given: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if len(names) > MAX_FIELDS:
        raise ValidationError.at(("query", "fields"), f"names {len(names)} fields; at most {MAX_FIELDS}", "too_long")
    return names


def _own_queries(caller: Caller) -> list[str]:
    """Texts that this key has searched for, newest first. What others asked is theirs."""
    key = caller.actor.key_id
    own = [row for row in caller.services.executions.recent(caller.scope) if key and row["body"].get("actor") == key]
    return list(dict.fromkeys(text for row in own for text in _texts(row)))


def _texts(row: Row) -> list[str]:
    cut = row["body"].get("cut_inputs", ())
    return [v for name, v in row["body"]["inputs"].items() if isinstance(v, str) and v.strip() and name not in cut]


def _values(
    caller: Caller, records: Sequence[Record], names: Sequence[str], prefix: str, limit: int, warnings: list[str]
) -> list[dict[str, Any]]:
    """Values of these fields that begin with the prefix, with the number of documents, most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    for name in names:
        declaring = [record for record in records if name in record.body["indexed_fields"]]
        if not declaring:
            warnings.append(f"'{name[:100]}' is not a declared field of any collection; it was left out")
        if len(declaring) > MAX_COLLECTIONS:
            warnings.append(f"'{name[:100]}': {len(declaring) - MAX_COLLECTIONS} more collections were left out")
        for record in declaring[:MAX_COLLECTIONS]:
            try:
                counts.update(_counted(caller, record.id, name, prefix, limit))
            except MediathecaError as error:
                warnings.append(f"'{name[:100]}' of collection '{record.name}' was left out: {error.message}")
            except Exception as error:
                log.exception("typeahead in collection '%s' failed", record.id)
                warnings.append(f"'{name[:100]}' of collection '{record.name}' was left out: {type(error).__name__}")
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:limit]
    return [{"field": name, "value": value, "count": count} for (name, value), count in ranked]


def _counted(caller: Caller, collection_id: str, name: str, prefix: str, limit: int) -> dict[tuple[str, str], int]:
    indexer = caller.services.indexer
    indexer.catch_up(caller.scope, collection_id)
    keep = Leaf(name, "starts_with", prefix, False)
    found = indexer.index.facet(collection_id, name, limit * DEEPER, keep)
    folded = prefix.casefold()
    return {(name, v): count for v, count in found if isinstance(v, str) and v.casefold().startswith(folded)}
