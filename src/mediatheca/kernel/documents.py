"""The unit of the data plane: a document with payload, vectors and lineage."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float32]
"""Dense: shape (dimensions,). Multi-vector: shape (tokens, dimensions). Always float32.

A sparse vector is an array of `mediatheca.kernel.sparse.SPARSE` pairs, shape (terms,)."""

Metric: TypeAlias = Literal["cosine", "dot", "euclid"]

RESERVED_PREFIX = "_internal"
"""Payload keys of this name, or beginning with `__`, belong to the system."""


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """One vector column of a collection. `name` is `{extractor}_{version}_{output}`, unique in the collection."""

    name: str
    feature_uri: str
    dimensions: int
    metric: Metric = "cosine"
    multi: bool = False
    model: str = ""
    """Logical model name, e.g. `multilingual_e5_large_instruct_v1`."""
    weights: str = ""
    """Hash of the weights that make the vectors; a query embedded by other weights is refused."""
    modalities: tuple[str, ...] = ("text",)
    """What a query against this index may be: text, image, …"""
    sparse: bool = False
    """Vectors of (index, weight) pairs, compared by dot product; `dimensions` is 0, and `metric` is dot."""
    parameters: str = field(default="", compare=False)
    """Of the extractor that fills it in a collection that is searched, as JSON: the file of a query goes the same way.
    Not recorded with the index."""
    asks: str = field(default="", compare=False)
    """The uploaded extractor whose code embeds the texts of queries where no model does, in a collection that is
    searched. Not recorded with the index."""

    @property
    def is_answered(self) -> bool:
        """Whether something makes vectors of queries for it."""
        return bool(self.model or self.asks)

    @property
    def why_unanswered(self) -> str:
        """What to say where nothing does."""
        written = f"the vectors of '{self.name}' were written directly, no model makes them"
        if not self.modalities:
            written += (
                ", or an uploaded extractor made them that answers no texts (realtime.py, docs/uploaded-plugins.md)"
            )
        return f"{written}; use input_mode vector"


@dataclass(slots=True)
class Document:
    """A row of a collection. `write_seq` is set by the store: the sequence number of the commit that wrote it."""

    document_id: str
    collection_id: str
    payload: dict[str, Any]
    vectors: dict[str, Vector] = field(default_factory=dict)
    object_id: str = ""
    """The object it was derived from, empty for directly written documents."""
    root_object_id: str = ""
    system: dict[str, Any] = field(default_factory=dict)
    """Lineage, source blobs, artifacts: shown under `_internal`, never filterable by accident."""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    write_seq: int = 0
    deleted: bool = False
    """A dead row: the document was replaced away; the index removes it when it tails past."""
