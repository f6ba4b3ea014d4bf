"""The `document_enrich` stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import MAX_ITEMS, Leaf
from mediatheca.kernel.hits import write_field
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, FilterParam, StageContext, stage
from mediatheca.stages._fields import FieldPath, OutputField, rename
from mediatheca.stages._language import MAX_TIME_MS, Missed, each, split_by, tell_missed
from mediatheca.stages._pipelines import pack, unpack
from mediatheca.stages._templates import Templates, per_document, render_tree

MAX_DOCUMENTS = 1000
KEYS_AT_ONCE = min(500, MAX_ITEMS)
MATCHES_A_KEY = 20
"""Documents read for every key on average, before a page of keys is read in halves."""
RETRIEVERS_AT_ONCE = 10
SECONDS = MAX_TIME_MS / 1000 * 0.95
_OWN = ("document_id", "collection_id", "score", "scores", "_internal")


class Params(BaseModel):
    target_collection_id: str | None = Field(
        None,
        validation_alias=AliasChoices("target_collection_id", "collection_id", "target_collection"),
        description="The collection to join, by id or name.",
    )
    source_field: FieldPath = Field("source_object_id", description="The key in the documents at hand.")
    target_field: FieldPath = Field(
        "document_id",
        validation_alias=AliasChoices("target_field", "lookup_field"),
        description="The key in the other collection.",
    )
    fields_to_merge: list[FieldPath] = Field(
        [],
        max_length=100,
        validation_alias=AliasChoices("fields_to_merge", "select_fields"),
        description="What is taken over; empty: everything but the identity.",
    )
    output_field: OutputField | None = Field(
        None,
        validation_alias=AliasChoices("output_field", "result_field"),
        description="Where it is written; not given: among the document's own fields.",
    )
    strategy: Literal["enrich", "replace", "append"] = Field(
        "enrich", description="enrich: own values stay; replace: the joined ones win; append: lists of both."
    )
    multiple: bool = Field(False, description="All matches as a list, not the first.")
    limit: int = Field(10, ge=1, le=100, description="Matches of one document.")
    allow_missing: bool = Field(True, description="False: a document without a match is dropped.")
    retriever_id: str | None = Field(None, description="Join what this retriever finds for each document.")
    retriever_config: dict[str, Any] | None = Field(None, description="Or what these stages find: {stages}.")
    retriever_inputs: dict[str, Any] = Field({}, description="Inputs of the retriever; {{DOC.…}}.")
    when: FilterParam = Field(None, description="Only these documents are joined.")
    document_templates: Templates = frozenset()


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = {name: value for name, value in raw.items() if value is not None}
    rename(params, "target_collection_id", "collection_id", "target_collection")
    given = [name for name in ("target_collection_id", "retriever_id", "retriever_config") if params.get(name)]
    if len(given) != 1:
        what = "give one of target_collection_id, retriever_id and retriever_config"
        raise ValidationError.at("target_collection_id", f"{what}, got {' and '.join(given) or 'none'}", "missing")
    if "retriever_config" in params:
        stages = params["retriever_config"].get("stages") if isinstance(params["retriever_config"], Mapping) else None
        if not isinstance(stages, list) or not stages:
            raise ValidationError.at("retriever_config.stages", "must be a list of at least one stage", "too_short")
        params["retriever_config"] = pack(stages)
    return {**params, "document_templates": per_document(params.get("retriever_inputs"), ("retriever_inputs",))}


@stage(
    "document_enrich",
    kind="enrich",
    params=Params,
    use_cases=("Join results with another collection", "Add product data to matching media"),
    icon="combine",
    aliases=("join", "document_join"),
    cost_tier="moderate",
    example={"target_collection_id": "authors", "source_field": "author_id", "fields_to_merge": ["name"]},
    hard_timeout_ms=MAX_TIME_MS,
    prepare=_prepare,
)
async def document_enrich(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Join documents of another collection by a key, or what another retriever finds for each document.

    A left join: a document without a match stays as it is, or gets null in `output_field`. Keys are looked up together.
    """
    chosen, skipped = split_by(hits, params.when)
    if params.target_collection_id is not None:
        matches = await _by_key(chosen, params, params.target_collection_id, ctx)
    else:
        matches = await _by_retriever(chosen, params, ctx)
    joined, dropped = 0, set()
    for hit in chosen:
        found = matches.get(id(hit), [])
        joined += bool(found)
        _merge(hit, found, params)
        if not found and not params.allow_missing:
            dropped.add(id(hit))
    ctx.metadata.update(joined=joined, without_match=len(chosen) - joined, skipped=skipped, dropped=len(dropped))
    return [hit for hit in hits if id(hit) not in dropped]


def _key(value: Any) -> str | None:
    """What keys are compared by: a number and its text are the same, as in filters."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _keys_at(hit: Hit, path: str) -> dict[str, Any]:
    """The keys of a document: of a list, every element is one."""
    value = read_field(hit, path)
    return {key: one for one in (value if isinstance(value, list) else [value]) if (key := _key(one)) is not None}


@dataclass(slots=True)
class _Keys:
    """The keys of documents, and which documents have which."""

    values: dict[str, Any] = field(default_factory=dict)
    of: dict[int, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, hits: Iterable[Hit], path: str) -> _Keys:
        made = cls()
        for hit in hits:
            own = _keys_at(hit, path)
            made.of[id(hit)] = list(own)
            made.values.update(own)
        return made


async def _by_key(hits: Sequence[Hit], params: Params, identifier: str, ctx: StageContext) -> dict[int, list[Hit]]:
    """Matches by the identity of the hit, in the order of its keys."""
    view = await ctx.collection(identifier)
    keys = _Keys.read(hits, params.source_field)
    wanted = list(keys.values.values())
    found: dict[str, list[Hit]] = defaultdict(list)
    for at in range(0, len(wanted), KEYS_AT_ONCE):
        for hit in await _look_up(view, params.target_field, wanted[at : at + KEYS_AT_ONCE], ctx):
            for key in _keys_at(hit, params.target_field):
                found[key].append(hit)
    ctx.metadata["keys"] = len(wanted)
    limit = params.limit if params.multiple else 1
    return {ident: [hit for key in own for hit in found.get(key, ())][:limit] for ident, own in keys.of.items()}


async def _look_up(view: CollectionView, path: str, keys: list[Any], ctx: StageContext) -> list[Hit]:
    """Every document with one of the keys. A page of them that comes back full is read again in halves."""
    if path == "document_id":
        return await ctx.documents(view.collection_id, [str(key) for key in keys])
    limit = max(1000, len(keys) * MATCHES_A_KEY)
    found = await ctx.scroll(view.collection_id, Leaf(path, "in", tuple(keys), True), limit)
    if len(found) < limit:
        return found
    if len(keys) == 1:
        ctx.warn(f"'{path}' has one key with {limit} matches or more in '{view.name}'; no more were read")
        return found
    half = len(keys) // 2
    return [*await _look_up(view, path, keys[:half], ctx), *await _look_up(view, path, keys[half:], ctx)]


async def _by_retriever(hits: Sequence[Hit], params: Params, ctx: StageContext) -> dict[int, list[Hit]]:
    """What the retriever finds for every document."""
    chosen = list(hits[:MAX_DOCUMENTS])
    if len(hits) > MAX_DOCUMENTS:
        ctx.limit("documents", len(hits), MAX_DOCUMENTS)
    config = params.retriever_config
    pipeline: Any = params.retriever_id if config is None else unpack(config)

    async def one(hit: Hit) -> list[Hit]:
        inputs = render_tree(params.retriever_inputs, params.document_templates, lambda text: ctx.render(text, hit))
        return await ctx.execute(pipeline, inputs, limit=params.limit if params.multiple else 1)

    outcomes = await each(chosen, one, at_once=RETRIEVERS_AT_ONCE, seconds=SECONDS)
    tell_missed(outcomes, "were not joined", ctx)
    return {id(hit): [] if isinstance(found, Missed) else found for hit, found in zip(chosen, outcomes, strict=True)}


def _merge(hit: Hit, found: Sequence[Hit], params: Params) -> None:
    """Write what was found into the document. Its identity and score stay its own."""
    if params.output_field is not None:
        _write_under(hit, found, params.output_field, params)
        return
    for entry in found if params.strategy == "append" else found[:1]:
        for name, value in _picked(entry, params.fields_to_merge).items():
            if name not in _OWN:
                write_field(hit, name, _combined(hit.payload.get(name), value, params.strategy))


def _write_under(hit: Hit, found: Sequence[Hit], path: str, params: Params) -> None:
    current = read_field(hit, path)
    picked = [_picked(entry, params.fields_to_merge) | _identity(entry, params) for entry in found]
    if params.strategy == "append" and current is not None:
        write_field(hit, path, _combined(current, picked, "append"))
    elif picked or current is None or params.strategy == "replace":
        write_field(hit, path, picked if params.multiple else picked[0] if picked else None)


def _picked(entry: Hit, fields: Sequence[str]) -> dict[str, Any]:
    """The fields to take over, by the last part of their paths; without a list the whole payload."""
    if not fields:
        return dict(entry.payload)
    return {path.rsplit(".", 1)[-1]: read_field(entry, path) for path in fields}


def _identity(entry: Hit, params: Params) -> dict[str, Any]:
    """Under a field of its own a joined document says which one it is, unless fields were chosen."""
    if params.fields_to_merge:
        return {}
    made = {"document_id": entry.document_id, "collection_id": entry.collection_id}
    return made if params.target_collection_id else {**made, "score": entry.score}


def _combined(own: Any, joined: Any, strategy: str) -> Any:
    if strategy == "replace" or own is None:
        return joined
    if strategy == "enrich":
        return own
    return [*(own if isinstance(own, list) else [own]), *(joined if isinstance(joined, list) else [joined])]
