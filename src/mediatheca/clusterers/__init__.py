"""Clusterers: one file each, one `Clusterer` value each. This docstring is the contract.

A clusterer is a function from vectors to groups, with a model of its parameters. It registers nothing: this package is
scanned, then the entry-point group `mediatheca.clusterers`, then the packages of `MEDIATHECA_PLUGINS`. It runs in a
child process that may be killed, never in the server.

* `fit(vectors, params, seed)` gets rows of unit length (unless the cluster says `normalize_features: false`), shape
  (items, dimensions), and gives a `Fit`: a number from 0 for every row, -1 for noise. The same arguments give the same
  labels. It never fails for few or equal rows.
* What it decides on the caller's behalf (another number of clusters, an approximation) it says in `Fit.notes`.
* `cap` is the most rows it is given; of more, a sample is clustered and the rest joins the nearest cluster.
  `hard_cap` is the most that a caller may ask for by `sample_size`.
* `pair_bytes` and `row_copies` tell what memory it needs, so that a run that cannot fit is refused before it starts.
* Heavy packages are imported inside the function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mediatheca.kernel.clustering import Fit, Matrix

ENTRY_POINTS = "mediatheca.clusterers"
SEED = 42
MILLION = 1_000_000


class ClusterParams(BaseModel):
    """Base of parameters: keys that clients send and no implementation here needs are ignored."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    random_state: int = SEED


@dataclass(frozen=True)
class Clusterer:
    """A clustering algorithm."""

    name: str
    params: type[ClusterParams]
    kind: Literal["counted", "density"]
    """counted: told how many clusters to make; density: finds it out."""
    cost: Literal["linear", "quadratic"]
    cap: int
    hard_cap: int
    assigns_all: bool
    """Every row gets a cluster: rows without one are a fault, not noise."""
    fit: Callable[[Matrix, Any, int], Fit]
    summary: str
    pair_bytes: float = 0.0
    """Memory for every pair of rows."""
    row_copies: float = 3.0
    """Copies of the vectors that exist at the same time."""

    def memory_mb(self, rows: int, dimensions: int) -> float:
        """What clustering so many vectors needs, in MB."""
        return (rows * dimensions * 4 * self.row_copies + rows * rows * self.pair_bytes) / 1e6 + 200

    def rows_within(self, memory_mb: float, dimensions: int) -> int:
        """The most rows that fit into so much memory."""
        low, high = 0, self.hard_cap
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.memory_mb(middle, dimensions) <= memory_mb else (low, middle - 1)
        return low
