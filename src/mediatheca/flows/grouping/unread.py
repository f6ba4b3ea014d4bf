"""Keys of a cluster's configuration that nothing reads: a misspelt one groups differently without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from mediatheca.clusterers import Clusterer
from mediatheca.flows.bodies import key_notes
from mediatheca.flows.grouping.config import (
    NOT_HERE,
    AttributeConfig,
    Enrichment,
    Labeling,
    VectorConfig,
    given_params,
    without_nulls,
)
from mediatheca.flows.retrieve.keys import UnknownKey, unknown_keys

PARTS: Mapping[str, type[BaseModel]] = {
    "attribute_config": AttributeConfig,
    "llm_labeling": Labeling,
    "source_enrichment_config": Enrichment,
}
_SPELLINGS = frozenset(
    {"feature_uri", "feature_extractor_name", "version", "output_name", "enrich_source", "max_hierarchy_depth"}
) | frozenset(NOT_HERE)  # fmt: skip
"""Keys of `vector_config` besides its fields."""
_BY_THEMSELVES: Mapping[str, tuple[Any, ...]] = {
    "algorithm": ("auto", "lloyd"), "alpha": (1,), "assign_labels": ("kmeans",), "coef0": (1,),
    "compute_distances": (False,), "compute_full_tree": ("auto",), "copy_x": (True,), "degree": (3,),
    "eigen_tol": (0,), "init_params": ("kmeans",), "leaf_size": (30,), "match_reference_implementation": (False,),
    "metric": ("euclidean", "minkowski"), "min_bin_freq": (1,), "n_jobs": (1,), "p": (2,), "prediction_data": (False,),
    "predecessor_correction": (True,), "verbose": (0,), "verbose_interval": (10,), "warm_start": (False,),
    "bin_seeding": (False,),
}  # fmt: skip
"""Parameters without an effect that generated clients send with their defaults: these values ask for nothing."""


def cluster_notes(sent: Mapping[str, Any], clusterers: Mapping[str, Clusterer], *, strict: bool) -> list[str]:
    """Warnings for the parts of a cluster as they were sent; good ones.

    Raises:
        ValidationError: `strict`, and there are some.
    """
    return key_notes(_unread(sent, clusterers), strict=strict)


def unread_params(clusterer: Clusterer, raw: Any, *place: str) -> Iterator[UnknownKey]:
    """Parameters that an algorithm does not have."""
    for entry in unknown_keys(clusterer.params, without_nulls(raw), place):
        if raw[entry.key] not in _BY_THEMSELVES.get(entry.key, ()):
            yield entry


def _unread(sent: Mapping[str, Any], clusterers: Mapping[str, Clusterer]) -> Iterator[UnknownKey]:
    for name, model in PARTS.items():
        yield from unknown_keys(model, without_nulls(sent.get(name)), (name,))
    vector = without_nulls(sent.get("vector_config"))
    if not isinstance(vector, Mapping):
        return
    method, key, params = given_params(vector)
    place = ("vector_config",)
    for entry in unknown_keys(VectorConfig, vector, place):
        if entry.place != place or entry.key not in {*_SPELLINGS, key}:
            yield entry
    if method in clusterers:
        yield from unread_params(clusterers[method], params, *place, key)
