"""The `moment_group` stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, Field

from mediatheca.kernel.hits import derived, number, value_key
from mediatheca.kernel.moments import Moment, Span, Strategy, in_seconds, merge
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import StageContext, stage
from mediatheca.stages._fields import FieldPath

CHUNKS = "query_chunks"
TIME_FIELDS = (
    "start_ms",
    "start_time_ms",
    "start_time",
    "start_seconds",
    "start_s",
    "start",
    "timestamp_ms",
    "timestamp",
)
"""Where `auto` looks, also under `metadata`."""


class Params(BaseModel):
    parent_field: FieldPath = Field("source_object_id", description="Documents with the same value are one medium.")
    time_field: FieldPath = Field(
        "auto",
        description="query_chunks; or the dotted path of the start, its end being beside it under end…; or auto.",
    )
    time_unit: Literal["auto", "ms", "s"] = Field("auto", description="Of the times; auto: by name and size.")
    merge_tolerance_ms: float = Field(2000, ge=0, le=60_000, description="Gaps up to this are closed.")
    max_moments_per_parent: int = Field(10, ge=1, le=100, description="The best ones are kept.")
    score_strategy: Strategy = Field("max", description="The score of a moment from those of its matches.")
    min_score: float | None = Field(None, allow_inf_nan=False, description="Moments below are left out.")
    output_mode: Literal["annotated", "moments_only"] = Field(
        "annotated", description="The best document of each medium with its moments; or one document a moment."
    )


@dataclass(slots=True)
class _Parent:
    value: Any
    hits: list[Hit] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)


@stage(
    "moment_group",
    kind="reduce",
    params=Params,
    use_cases=("Show the scenes of a video that match", "Turn matching chunks into time ranges"),
    icon="clapperboard",
    example={"parent_field": "source_object_id", "time_field": "auto"},
)
async def moment_group(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Join frames and segments that lie next to each other to moments: time ranges of a video or recording.

    Every moment tells start_ms, end_ms, duration_ms, score, match_count and document_ids, the best moment first.
    Documents without a time have no moments.
    """
    path = _time_field(hits, params)
    parents, without = _parents(hits, path, params)
    made: list[Hit] = []
    count = 0
    for parent in parents:
        moments = _moments(parent, params)
        count += len(moments)
        if params.output_mode == "annotated":
            made.append(_annotated(parent, moments))
        else:
            made.extend(_rows(parent, moments))
    made.sort(key=lambda hit: (-hit.score, hit.document_id))
    if without:
        ctx.warn(f"{without} documents have no time in '{path}' and are in no moment")
    ctx.metadata.update(parents=len(parents), moments=count, time_field=path, without_time=without)
    return made


def _time_field(hits: Sequence[Hit], params: Params) -> str:
    if params.time_field != "auto":
        return params.time_field
    candidates = [CHUNKS, *TIME_FIELDS, *(f"metadata.{name}" for name in TIME_FIELDS)]
    for path in candidates:
        if any(next(_ranges(hit, path), None) is not None for hit in hits):
            return path
    return CHUNKS


def _parents(hits: Sequence[Hit], path: str, params: Params) -> tuple[list[_Parent], int]:
    """Media in the order of their best document; a document without the parent field is one by itself."""
    found = [list(_ranges(hit, path)) for hit in hits]
    every = [(start, end) for ranges in found for start, end, _ in ranges]
    seconds = params.time_unit == "s" or (params.time_unit == "auto" and in_seconds(_unit_name(path), every))
    factor = 1000.0 if seconds else 1.0
    parents: dict[bytes, _Parent] = {}
    for hit, ranges in zip(hits, found, strict=True):
        value = read_field(hit, params.parent_field)
        key = value_key(value) if value is not None else value_key([hit.collection_id, hit.document_id])
        parent = parents.setdefault(key, _Parent(value))
        parent.hits.append(hit)
        parent.spans += [Span(start * factor, end * factor, score, hit.document_id) for start, end, score in ranges]
    return list(parents.values()), sum(1 for ranges in found if not ranges)


def _unit_name(path: str) -> str:
    return "start_ms" if path == CHUNKS or path.endswith(f".{CHUNKS}") else path


def _ranges(hit: Hit, path: str) -> Iterator[tuple[float, float, float]]:
    """Start, end and score of every match of a document."""
    if _unit_name(path) != path:
        chunks = read_field(hit, path)
        for chunk in chunks if isinstance(chunks, list) else ():
            start, end = (
                number(chunk.get(name)) if isinstance(chunk, dict) else None for name in ("start_ms", "end_ms")
            )
            if start is not None:
                score = number(chunk.get("score"))
                yield start, max(start, end if end is not None else start), hit.score if score is None else score
        return
    starts, ends = read_field(hit, path), read_field(hit, _end_path(path))
    if not isinstance(starts, list):
        starts, ends = [starts], [ends]
    for place, raw in enumerate(starts):
        start = number(raw)
        end = number(ends[place]) if isinstance(ends, list) and place < len(ends) else None
        if start is not None:
            yield start, max(start, start if end is None else end), hit.score


def _end_path(path: str) -> str:
    """The field of the end: `start` in the last part that has it becomes `end`."""
    head, found, tail = path.rpartition("start")
    return f"{head}end{tail}" if found else path


def _moments(parent: _Parent, params: Params) -> list[dict[str, Any]]:
    """The best moments, as they are shown."""
    rated = [(moment.score(params.score_strategy), moment) for moment in merge(parent.spans, params.merge_tolerance_ms)]
    kept = [entry for entry in rated if params.min_score is None or entry[0] >= params.min_score]
    kept.sort(key=lambda entry: (-entry[0], entry[1].start_ms))
    return [_shown(score, moment) for score, moment in kept[: params.max_moments_per_parent]]


def _shown(score: float, moment: Moment) -> dict[str, Any]:
    start, end = round(moment.start_ms), round(moment.end_ms)
    return {
        "start_ms": start,
        "end_ms": end,
        "duration_ms": end - start,
        "score": score,
        "match_count": len(moment.scores),
        "document_ids": moment.document_ids,
    }


def _best(hits: Sequence[Hit]) -> Hit:
    return min(hits, key=lambda hit: (-hit.score, hit.document_id))


def _annotated(parent: _Parent, moments: list[dict[str, Any]]) -> Hit:
    best = _best(parent.hits)
    row = derived(best, {**best.payload, "moments": moments, "moment_count": len(moments)})
    if moments:
        row.score = row.scores["moment_group"] = moments[0]["score"]
    return row


def _rows(parent: _Parent, moments: list[dict[str, Any]]) -> Iterator[Hit]:
    by_id: dict[str, list[Hit]] = defaultdict(list)
    for hit in parent.hits:
        by_id[hit.document_id].append(hit)
    for moment in moments:
        best = _best([hit for ident in moment["document_ids"] for hit in by_id[ident]])
        name = parent.value if isinstance(parent.value, str) and parent.value else best.document_id
        ident = f"moment_{name}_{moment['start_ms']}_{moment['end_ms']}"
        row = derived(best, {"parent": parent.value, **moment})
        row.scores["moment_group"] = moment["score"]
        yield replace(row, document_id=ident, score=moment["score"])
