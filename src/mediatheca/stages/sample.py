"""The `sample` stage."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field

from mediatheca.kernel.hits import value_key
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._fields import FieldPath, rename, require


class Params(BaseModel):
    count: int = Field(
        10, ge=1, le=1000, validation_alias=AliasChoices("count", "size", "limit"), description="Documents to keep."
    )
    strategy: Literal["random", "stratified", "reservoir", "systematic"] = "random"
    stratify_by: FieldPath | None = Field(None, description="stratified: the field whose values are the strata.")
    min_per_stratum: int = Field(1, ge=0, le=1000, description="stratified: at least so many of each value.")
    allocation: Literal["proportional", "equal"] = Field(
        "proportional", description="stratified: how the rest is divided among the values."
    )
    seed: int | None = Field(None, description="The same seed and documents give the same sample.")
    preserve_top_k: int = Field(0, ge=0, le=1000, description="The best documents, which are kept in any case.")


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    """`samples_per_group` is an older spelling: so many of each value, equally divided."""
    params = dict(raw)
    rename(params, "strategy", "method")
    rename(params, "stratify_by", "group_field", "stratify_field")
    if params.get("samples_per_group") is not None:
        params.setdefault("allocation", "equal")
        params.setdefault("strategy", "stratified")
    rename(params, "min_per_stratum", "samples_per_group")
    if params.get("strategy") == "stratified":
        require(params, "stratify_by", what="the field whose values are the strata")
    return params


@stage(
    "sample",
    kind="reduce",
    params=Params,
    use_cases=("Look at a random or balanced part of the results", "Choose documents for review"),
    icon="dices",
    example={"count": 10, "strategy": "stratified", "stratify_by": "category", "seed": 42},
    prepare=_prepare,
)
async def sample(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Keep some documents at random, in their order: evenly, by field value (stratified), or every n-th (systematic).

    Without a seed, every execution draws another sample.
    """
    generator = random.Random(ctx.seed if params.seed is None else params.seed)
    best = sorted(range(len(hits)), key=lambda place: -hits[place].score)[: min(params.preserve_top_k, params.count)]
    rest = sorted(set(range(len(hits))) - set(best))
    wanted = min(params.count - len(best), len(rest))
    method, strata = params.strategy, None
    if method == "stratified":
        strata = _strata(hits, rest, params.stratify_by or "")
        if strata is None:
            ctx.warn(f"no document has '{params.stratify_by}': the sample was drawn at random")
            method = "random"
    drawn = _stratified(strata, wanted, params, generator) if strata else _draw(rest, wanted, method, generator)
    kept = sorted([*best, *drawn])
    ctx.metadata.update(method=method, total_input=len(hits), sample_size=len(kept))
    if strata:
        chosen = set(kept)
        ctx.metadata["strata"] = [
            {"value": value, "total": len(places), "sampled": len(chosen.intersection(places))}
            for value, places in strata.values()
        ]
    return [hits[place] for place in kept]


def _draw(places: Sequence[int], wanted: int, method: str, generator: random.Random) -> list[int]:
    if method == "systematic" and wanted:
        step = len(places) / wanted
        begin = generator.random() * step
        return [places[min(int(begin + number * step), len(places) - 1)] for number in range(wanted)]
    if method == "reservoir":
        return _reservoir(places, wanted, generator)
    return generator.sample(places, wanted)


def _reservoir(places: Sequence[int], wanted: int, generator: random.Random) -> list[int]:
    """Algorithm R (Vitter 1985)."""
    held = list(places[:wanted])
    for number, place in enumerate(places[wanted:], start=wanted):
        slot = generator.randrange(number + 1)
        if slot < wanted:
            held[slot] = place
    return held


def _strata(hits: Sequence[Hit], places: Sequence[int], field: str) -> dict[bytes, tuple[Any, list[int]]] | None:
    """Value and places of every stratum, in the order of first appearance; None when no document has the field."""
    found: dict[bytes, tuple[Any, list[int]]] = {}
    for place in places:
        value = read_field(hits[place], field)
        found.setdefault(value_key(value), (value, []))[1].append(place)
    return None if all(value is None for value, _ in found.values()) else found


def _stratified(
    strata: Mapping[bytes, tuple[Any, list[int]]], wanted: int, params: Params, generator: random.Random
) -> list[int]:
    sizes = {key: len(places) for key, (_, places) in strata.items()}
    shares = allocate(sizes, wanted, params.min_per_stratum, equal=params.allocation == "equal")
    return [place for key, (_, places) in strata.items() for place in generator.sample(places, shares[key])]


def allocate(sizes: Mapping[bytes, int], wanted: int, least: int, *, equal: bool) -> dict[bytes, int]:
    """How many of each stratum: in proportion to its size or equally, but `least` of each.

    Where `wanted` is not enough for `least` of each, they get one in turn.
    """
    shares = dict.fromkeys(sizes, 0)
    left = min(wanted, sum(sizes.values()))
    if not equal and left >= sum(min(least, size) for size in sizes.values()):
        return _in_proportion(shares, sizes, left, least)
    while left:
        for key, size in sizes.items():
            if left and shares[key] < size:
                shares[key] += 1
                left -= 1
    return shares


def _in_proportion(shares: dict[bytes, int], sizes: Mapping[bytes, int], left: int, least: int) -> dict[bytes, int]:
    """Small strata get their least; the others share what is left: whole parts, then the largest remainders."""
    rest = dict(sizes)
    total = sum(rest.values())
    while small := [key for key, size in rest.items() if left * size < min(least, size) * total]:
        for key in small:
            shares[key] = min(least, rest.pop(key))
            left -= shares[key]
        total = sum(rest.values())
    for key, size in rest.items():
        shares[key] = left * size // total
    missing = left - sum(shares[key] for key in rest)
    for key in sorted(rest, key=lambda key: -(left * rest[key] % total))[:missing]:
        shares[key] += 1
    return shares
