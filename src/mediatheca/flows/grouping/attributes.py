"""Groups of documents with the same values of chosen fields, nested where that is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from mediatheca.flows.grouping import artifacts
from mediatheca.flows.grouping.fitting import REPRESENTATIVES, Work
from mediatheca.flows.grouping.prepare import RefusedError
from mediatheca.flows.services import Services
from mediatheca.flows.tables import tombstones
from mediatheca.kernel.cluster_identity import NOISE_ID, cluster_id
from mediatheca.kernel.cluster_metrics import adjusted_rand, size_entropy
from mediatheca.kernel.documents import Document
from mediatheca.kernel.mapping import MISSING, read_path
from mediatheca.stores.documents.base import Scan

MAX_GROUPS = 10_000
MAX_VALUE = 200
"""Characters of a value that tell groups apart and are shown."""
BETWEEN = " > "
CHECK_EVERY = 1_000

Key = tuple[str, ...]


@dataclass(slots=True)
class _Groups:
    """Documents by the values of their attributes; `()` holds those that lack one."""

    keys: list[Key] = field(default_factory=list)
    """Of every document."""
    pairs: list[tuple[str, str]] = field(default_factory=list)
    sizes: Counter[Key] = field(default_factory=Counter)

    def add(self, collection_id: str, document_id: str, key: Key) -> None:
        self.keys.append(key)
        self.pairs.append((collection_id, document_id))
        self.sizes[key] += 1


def group(services: Services, work: Work) -> dict[str, Any]:
    """Group the documents; gives what the run's row keeps.

    Raises:
        RefusedError: no document has the attributes, or they have too many values.
    """
    config = work.config["attribute_config"]
    groups = _Groups()
    for collection_id, document in _documents(services, work):
        groups.add(collection_id, document.document_id, key_of(document.payload, config))
        if len(groups.sizes) > MAX_GROUPS:
            raise RefusedError(
                f"'{' + '.join(config['attributes'])}' has more than {MAX_GROUPS:,} different values; group by an "
                "attribute with fewer"
            )
    missing = groups.sizes.pop((), 0)
    if not groups.sizes:
        fields = ", ".join(config["attributes"])
        raise RefusedError(f"none of {len(groups.keys)} documents has a value for {fields}; name another attribute")
    tree = _with_parents(groups.sizes) if config["hierarchical_grouping"] else dict(groups.sizes)
    ids, next_number = _identify(tree, work)
    members = _members(groups, ids)
    blobs, scope, run_id = services.blobs, work.scope, work.run_id
    artifacts.write(blobs, scope, run_id, "members", members)
    ordered = sorted(tree, key=lambda key: (-tree[key], key))
    table = {"cluster_id": [ids[key] for key in ordered], "size": [tree[key] for key in ordered]}
    artifacts.write(blobs, scope, run_id, "centroids", pa.table(table))
    clusters = [_cluster(key, tree, ids, work, config["attributes"]) for key in ordered]
    nearest = _examples(groups, ids)
    for entry in clusters:
        entry["representative_ids"] = nearest.get(entry["cluster_id"], [])
    return _summary(groups, missing, clusters, members, work, next_number)


def _documents(services: Services, work: Work) -> Iterator[tuple[str, Document]]:
    count = 0
    for collection in work.collections:
        with services.db.read(work.scope) as tx:
            row = tx.row("document_tables", {"collection_id": collection.id})
            dead = tombstones(tx, collection.id)
        if row is None or not row["committed_seq"]:
            continue
        for document in services.documents.scan(collection.id, Scan(filter=work.filter), tombstones=dead):
            count += 1
            if count % CHECK_EVERY == 0:
                work.check()
            yield collection.id, document


def key_of(payload: Mapping[str, Any], config: Mapping[str, Any]) -> Key:
    """The values of the attributes as text; `()` where one is missing."""
    found = []
    for path in config["attributes"]:
        value = _value(read_path(payload, path), config["aggregation_method"])
        if value is None:
            return ()
        found.append(value)
    return tuple(found)


def _value(value: Any, method: str) -> str | None:
    """One value as text; of a list the first, the last, or the most frequent (the first of those)."""
    if isinstance(value, list):
        texts = [text for entry in value if (text := _value(entry, method)) is not None]
        if not texts:
            return None
        return {"first": texts[0], "last": texts[-1]}.get(method) or Counter(texts).most_common(1)[0][0]
    if value is MISSING or value is None or isinstance(value, dict) or value == "":
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)[:MAX_VALUE]


def _with_parents(sizes: Mapping[Key, int]) -> dict[Key, int]:
    found: Counter[Key] = Counter()
    for key, count in sizes.items():
        for depth in range(1, len(key) + 1):
            found[key[:depth]] += count
    return dict(found)


def _identify(tree: Mapping[Key, int], work: Work) -> tuple[dict[Key, str], int]:
    """A group with the same values keeps its id."""
    before = {} if work.earlier is None else work.earlier.body.get("keys") or {}
    known = {tuple(values): ident for ident, values in before.items()}
    number, ids = work.next_number, {}
    for key in sorted(tree, key=lambda key: (-tree[key], key)):
        if key in known:
            ids[key] = known[key]
        else:
            ids[key], number = cluster_id(number), number + 1
    return ids, number


def _members(groups: _Groups, ids: Mapping[Key, str]) -> pa.Table:
    names = [ids.get(key, NOISE_ID) for key in groups.keys]
    ones = np.array([name != NOISE_ID for name in names], np.float32)
    documents = [document for _, document in groups.pairs]
    return artifacts.member_table(documents, [c for c, _ in groups.pairs], names, ones, ones, True)


def _examples(groups: _Groups, ids: Mapping[Key, str]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for key, (collection_id, document_id) in zip(groups.keys, groups.pairs, strict=True):
        own = found.setdefault(ids.get(key, NOISE_ID), [])
        if len(own) < REPRESENTATIVES:
            own.append({"document_id": document_id, "collection_id": collection_id})
    return found


def _cluster(
    key: Key, tree: Mapping[Key, int], ids: Mapping[Key, str], work: Work, attributes: list[str]
) -> dict[str, Any]:
    kept = work.earlier is not None and ids[key] in (work.earlier.body.get("keys") or {})
    return {
        "cluster_id": ids[key],
        "kept": kept,
        "num_members": tree[key],
        "label": BETWEEN.join(key),
        "label_source": "values",
        "keywords": list(key),
        "summary": ", ".join(f"{name} = {value}" for name, value in zip(attributes, key, strict=False)),
        "level": len(key),
        "parent_id": ids.get(key[:-1]),
        "values": list(key),
        "mean_cosine_similarity": None,
        "min_cosine_similarity": None,
    }


def _summary(
    groups: _Groups, missing: int, clusters: list[dict[str, Any]], members: pa.Table, work: Work, next_number: int
) -> dict[str, Any]:
    total = len(groups.keys)
    sizes = np.array(list(groups.sizes.values()))
    metrics = {
        "cluster_size_entropy": size_entropy(sizes),
        "avg_cluster_size": float(sizes.mean()),
        "noise_ratio": missing / total,
    }
    if work.earlier is not None:
        metrics["stability"] = _stability(groups, members, work)
    reasons = [f"{missing} documents lack one of the attributes"] if missing else []
    return {
        "num_clusters": len(clusters),
        "num_points": total,
        "noise": missing,
        "metrics": metrics,
        "degenerate": "single_cluster" if len(groups.sizes) == 1 else None,
        "notes": [],
        "next_number": next_number,
        "identity": "values",
        "keys": {entry["cluster_id"]: entry["values"] for entry in clusters},
        "clusters": clusters,
        "layout_stability_applied": "none",
        "layout_stability_reason": "groups of attributes have no layout",
        "reconciliation": {
            "source_documents": total,
            "vectors_retrieved": total,
            "vectors_clustered": total - missing,
            "index_gap": 0,
            "pipeline_drop": missing,
            "input_reconciliation_ok": True,
            "input_reconciliation_reasons": reasons,
            "pipeline_drop_expected_as_noise": missing > 0,
        },
        "step": "fitted",
    }


def _stability(groups: _Groups, members: pa.Table, work: Work) -> float:
    assert work.earlier is not None
    names = {ident: number for number, ident in enumerate(dict.fromkeys(members["cluster_id"].to_pylist()))}
    new, old = [], []
    for pair, ident in zip(groups.pairs, members["cluster_id"].to_pylist(), strict=True):
        before = work.earlier.members.get(pair)
        if before is not None:
            new.append(names[ident])
            old.append(before)
    return adjusted_rand(np.array(new), np.array(old))
