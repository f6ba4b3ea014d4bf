"""Pictures of a clustering that stay still from run to run. Pure.

A layout is registered onto the one before by the similarity transform (rotation, reflection, one scale, shift) with the
least squared distance over the documents in both. Source: Schönemann, Carroll (Psychometrika 1970).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float32]
MIN_SHARED = 20
"""Documents in both layouts, below which they are not registered."""


def align(points: Points, mine: npt.NDArray[np.intp], theirs: Points) -> Points:
    """`points` moved so that rows `mine` come to lie near `theirs`, which has one row for each of them."""
    source, target = points[mine].astype(np.float64), theirs.astype(np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source, target = source - source_mean, target - target_mean
    spread = float((source**2).sum())
    if spread <= 0:
        return points
    left, values, right = np.linalg.svd(source.T @ target)
    rotation = left @ right
    scale = float(values.sum()) / spread
    if scale <= 0:  # the earlier layout was one point: nothing to register onto
        return points
    return np.asarray((points - source_mean) @ rotation * scale + target_mean, np.float32)


def why_not(shared: int, mine: int, theirs: int) -> str:
    """Why two layouts cannot be registered; empty when they can."""
    if mine != theirs:
        return f"the previous layout has {theirs} dimensions, this one {mine}"
    if shared < MIN_SHARED:
        return f"only {shared} documents are shared with the previous run (at least {MIN_SHARED} are needed)"
    return ""
