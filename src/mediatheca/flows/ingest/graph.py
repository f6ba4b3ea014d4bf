"""Which collections are made from which: the tiers of a batch, and what lies below a collection. Reads records only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from mediatheca.kernel.errors import ConflictError, NotFoundError
from mediatheca.stores.db.tx import ReadTx, Record

MAX_SOURCES = 100
"""Collections, or buckets, that one collection may read from."""


def upstream(record: Record) -> list[str]:
    """Ids of the collections that it reads from; none where it reads from buckets."""
    source = record.body.get("source") or {}
    single = source.get("collection_id")
    return list(dict.fromkeys([*(source.get("collection_ids") or []), *([single] if single else [])]))


def reads_collections(record: Record) -> bool:
    """Whether its source is other collections."""
    return bool(record.body.get("source", {}).get("type") == "collection")


def reads_bucket(record: Record, bucket_id: str) -> bool:
    return bucket_id in (record.body.get("source", {}).get("bucket_ids") or [])


def enabled(record: Record) -> bool:
    return bool(record.body.get("enabled", True))


def tiers_from(tx: ReadTx, bucket_id: str, chosen: Sequence[str] | None = None) -> list[list[Record]]:
    """The enabled collections that the objects of a bucket reach, those that read from it first; each collection is
    behind all it reads from. What is disabled, and what is reached over it alone, is left out.

    `chosen` (ids or names): these and no others; what they read from and is not chosen is taken as it is.

    Raises:
        NotFoundError: one that was chosen is not reached.
    """
    everything = tx.resources("collection")
    first = [record for record in everything if enabled(record) and reads_bucket(record, bucket_id)]
    reached = [*first, *below(everything, [record.id for record in first])]
    if chosen:
        reached = _chosen(reached, chosen)
    return layered(reached)


def tiers_of(tx: ReadTx, record: Record) -> list[list[Record]]:
    """A collection and the enabled ones below it, whose documents are made from its own."""
    return layered([record, *below(tx.resources("collection"), [record.id])])


def below(everything: Iterable[Record], starts: Collection[str], *, disabled: bool = False) -> list[Record]:
    """The collections made from these, directly or over others; disabled ones hide what is made from them, unless
    they are asked for."""
    candidates = [record for record in everything if disabled or enabled(record)]
    found: dict[str, Record] = {}
    frontier = set(starts)
    while frontier:
        near = [record for record in candidates if frontier & set(upstream(record))]
        frontier = {record.id for record in near if record.id not in found and record.id not in starts}
        found |= {record.id: record for record in near if record.id in frontier}
    return list(found.values())


def _chosen(reached: Sequence[Record], chosen: Sequence[str]) -> list[Record]:
    by_name = {name: record for record in reached for name in (record.id, record.name)}
    if unknown := [ident for ident in chosen if ident not in by_name]:
        raise NotFoundError("collection (enabled, fed by this bucket)", ", ".join(unknown[:10]))
    return list({by_name[ident].id: by_name[ident] for ident in chosen}.values())


def layered(records: Sequence[Record]) -> list[list[Record]]:
    """Records in layers: each behind all of these that it reads from.

    Raises:
        ConflictError: they read from each other in a circle.
    """
    left, done = {record.id: record for record in records}, set[str]()
    layers: list[list[Record]] = []
    while left:
        layer = [record for record in left.values() if not (set(upstream(record)) & left.keys())]
        if not layer:
            names = ", ".join(f"'{record.name}'" for record in left.values())
            raise ConflictError(f"these collections read from each other in a circle: {names}")
        layers.append(layer)
        done |= {record.id for record in layer}
        left = {ident: record for ident, record in left.items() if ident not in done}
    return layers


def edges(layers: Sequence[Sequence[Record]]) -> dict[str, list[str]]:
    """Collection → those of the same layers that it waits for."""
    there = {record.id for layer in layers for record in layer}
    return {record.id: [ident for ident in upstream(record) if ident in there] for layer in layers for record in layer}


def families(waits_for: Mapping[str, Sequence[str]]) -> list[set[str]]:
    """Of `edges`: the collections that are joined by them, directly or over others."""
    found: list[set[str]] = []
    for ident, awaited in waits_for.items():
        own = {ident, *awaited}
        joined = [family for family in found if family & own]
        found = [family for family in found if not family & own]
        found.append(own.union(*joined))
    return found


def followers(waits_for: Mapping[str, Sequence[str]], starts: Collection[str]) -> list[str]:
    """Of `edges`: those that wait for one of these, directly or over others, in the order of the edges."""
    found: set[str] = set()
    frontier = set(starts)
    while frontier:
        frontier = {ident for ident, awaited in waits_for.items() if frontier & set(awaited)} - found
        found |= frontier
    return [ident for ident in waits_for if ident in found]


def check_acyclic(tx: ReadTx, own_id: str | None, sources: Sequence[str]) -> None:
    """Refuse sources that are made from the collection itself.

    Raises:
        ConflictError: naming one of them.
    """
    if own_id is None:
        return
    dependent = {own_id, *(record.id for record in below(tx.resources("collection"), [own_id], disabled=True))}
    circle = [ident for ident in sources if ident in dependent]
    if circle:
        raise ConflictError(
            f"collection '{own_id}' cannot read from '{circle[0]}', which is made from it: that would be a circle"
        )
