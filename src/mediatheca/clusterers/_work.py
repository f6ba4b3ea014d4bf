"""The work of one clustering: combine features, reduce, fit, measure, draw. No I/O; it runs in a child process.

Arrays are `vectors_0`, `vectors_1`, … (one a feature, the same rows); what is to be done is told by `TaskOptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from pydantic import ValidationError as PydanticError

from mediatheca.clusterers import SEED, Clusterer
from mediatheca.kernel.cluster_metrics import centroids_of, cosines_to, degenerate, quality, size_entropy
from mediatheca.kernel.clustering import NOISE, Fit, Labels, Matrix, as_labels, unit_rows
from mediatheca.kernel.clustering.reduction import Projection, pca, tsne, umap, whiten
from mediatheca.kernel.errors import FieldError, ValidationError

Arrays = Mapping[str, npt.NDArray[Any]]
Report = Callable[[float, str], None]
RADIUS = 0.95
"""Share of the members that lie within the radius of a cluster."""


class Step(BaseModel):
    """A preprocessing step."""

    model_config = ConfigDict(extra="ignore")

    method: Literal["whitening", "pca", "umap", "tsne", "none"]
    n_components: int = Field(50, ge=2, le=256)
    regularization: float = 1e-5
    n_neighbors: int = Field(30, ge=2, le=200)
    min_dist: float = Field(0.0, ge=0, le=1)
    metric: str = Field("cosine", pattern="^(cosine|euclidean)$")
    perplexity: float = Field(30.0, gt=0)
    learning_rate: float = Field(200.0, gt=0)
    random_state: int = SEED


class TaskOptions(BaseModel):
    """What the child is told."""

    clusterer: str
    params: dict[str, Any] = Field(default_factory=dict)
    normalize: bool = True
    weights: list[float] = Field(default_factory=list)
    steps: list[Step] = Field(default_factory=list)
    vis_components: int = 0
    """0: no layout."""
    vis_method: Literal["pca", "umap", "tsne"] = "pca"


def cluster_vectors(
    arrays: Arrays, options: TaskOptions, clusterer: Clusterer, report: Report
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Arrays `labels`, `probabilities`, `cosines`, `centroids`, `radii` and, with a layout, `coordinates` (and
    `layout_mean`, `layout_components` where it is linear); and what is told in words and numbers."""
    params = clusterer.params.model_validate(options.params)
    matrix = combine([arrays[f"vectors_{n}"] for n in range(count_of(arrays))], options.weights, options.normalize)
    report(0.1, "preprocessing")
    points, notes = reduce(matrix, options.steps)
    report(0.2, "clustering")
    fit = by_size(clusterer.fit(points, params, params.random_state))
    report(0.7, "measuring")
    made, info = measured(matrix, points, fit, params.random_state)
    report(0.8, "layout")
    drawn, told = layout(matrix, options, arrays, params.random_state)
    return made | drawn, info | told | {"notes": notes + fit.notes}


def lay_out(arrays: Arrays, options: TaskOptions) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Only the layout of the vectors."""
    matrix = combine([arrays[f"vectors_{n}"] for n in range(count_of(arrays))], options.weights, options.normalize)
    return layout(matrix, options, arrays, SEED)


def count_of(arrays: Arrays) -> int:
    return sum(name.startswith("vectors_") for name in arrays)


def combine(features: Sequence[npt.NDArray[Any]], weights: Sequence[float], normalize: bool) -> Matrix:
    """Features side by side, each scaled by the root of its weight: squared distances add up by weight."""
    parts = [
        unit_rows(np.asarray(part, np.float32)) if normalize else np.asarray(part, np.float32) for part in features
    ]
    if len(parts) == 1:
        return parts[0]
    shares = np.asarray(weights or [1.0] * len(parts), np.float64)
    shares = shares / shares.sum()
    return np.hstack([part * np.float32(share**0.5) for part, share in zip(parts, shares, strict=True)])


def reduce(matrix: Matrix, steps: Sequence[Step]) -> tuple[Matrix, list[str]]:
    """The vectors that are clustered, after the steps, and what was done."""
    points, notes = matrix, list[str]()
    for step in steps:
        if step.method == "none":
            continue
        points = _step(points, step, notes)
    return points, notes


def _step(points: Matrix, step: Step, notes: list[str]) -> Matrix:
    if step.method == "whitening":
        return whiten(points, step.regularization)
    if step.method == "pca":
        found = pca(points, step.n_components)
        notes.append(f"pca kept {found.points.shape[1]} dimensions with {found.explained:.0%} of the variance")
        return found.points
    if step.method == "umap":
        return umap(
            points, step.n_components, seed=step.random_state, neighbours=step.n_neighbors, min_dist=step.min_dist,
            metric=step.metric,
        )  # fmt: skip
    return tsne(
        points, step.n_components, seed=step.random_state, perplexity=step.perplexity,
        learning_rate=step.learning_rate,
    )  # fmt: skip


def by_size(fit: Fit) -> Fit:
    """Clusters numbered from the largest on."""
    numbers, sizes = np.unique(fit.labels[fit.labels != NOISE], return_counts=True)
    names = np.full(int(fit.labels.max(initial=NOISE)) + 2, NOISE, np.int32)
    names[numbers[np.argsort(-sizes, kind="stable")]] = np.arange(len(numbers), dtype=np.int32)
    return Fit(as_labels(names[fit.labels]), fit.probabilities, fit.notes)  # -1 is the last name, which is -1


def measured(matrix: Matrix, points: Matrix, fit: Fit, seed: int) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Centres and distances in the space of the vectors; figures in the space that was clustered."""
    labels = fit.labels
    count = int(labels.max(initial=NOISE)) + 1
    centroids = centroids_of(matrix, labels, count)
    cosines = cosines_to(unit_rows(matrix), labels, centroids)
    certain = fit.probabilities
    if certain is None:
        certain = np.where(labels == NOISE, 0.0, 1.0).astype(np.float32)
    sizes = np.bincount(labels[labels != NOISE], minlength=count)
    clustered = cosines[labels != NOISE]
    info: dict[str, Any] = {
        "metrics": quality(points, labels, seed)
        | {"cluster_size_entropy": size_entropy(sizes), "avg_cluster_size": float(sizes.mean()) if count else 0.0}
        | {"noise_ratio": float((labels == NOISE).mean()) if len(labels) else 0.0},
        "degenerate": degenerate(labels),
    }
    if len(clustered):
        info["metrics"]["mean_cosine_to_centroid"] = float(clustered.mean())
        info["metrics"]["min_cosine_to_centroid"] = float(clustered.min())
    arrays = {"labels": labels, "probabilities": certain, "cosines": cosines, "centroids": centroids}
    return arrays | {"radii": radii(labels, cosines, count)}, info


def radii(labels: Labels, cosines: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """Of every cluster, the cosine to its centre that `RADIUS` of its members reach."""
    found = [np.quantile(cosines[labels == number], 1 - RADIUS) for number in range(count)]
    return np.asarray(found, np.float32)


def layout(
    matrix: Matrix, options: TaskOptions, arrays: Arrays, seed: int
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Coordinates in two or three dimensions; by the projection of the previous run where one is given and fits."""
    if not options.vis_components:
        return {}, {}
    mean, components = arrays.get("layout_mean"), arrays.get("layout_components")
    if mean is not None and components is not None and components.shape == (matrix.shape[1], options.vis_components):
        earlier = Projection(matrix, np.asarray(mean), np.asarray(components), 0.0)
        held = {"layout_mean": earlier.mean, "layout_components": earlier.components}
        return {"coordinates": earlier.project(matrix), **held}, {"transformed": True}
    if len(matrix) <= options.vis_components or options.vis_method == "pca":
        return _linear(matrix, options.vis_components), {"transformed": False}
    if options.vis_method == "umap":
        return {"coordinates": umap(matrix, options.vis_components, seed=seed, min_dist=0.1)}, {"transformed": False}
    return {"coordinates": tsne(matrix, options.vis_components, seed=seed)}, {"transformed": False}


def _linear(matrix: Matrix, kept: int) -> dict[str, npt.NDArray[Any]]:
    found = pca(matrix, kept)
    points = found.points
    if points.shape[1] < kept:  # vectors of one dimension
        points = np.hstack([points, np.zeros((len(points), kept - points.shape[1]), np.float32)])
        return {"coordinates": points}
    return {"coordinates": points, "layout_mean": found.mean, "layout_components": found.components}


def checked_params(clusterer: Clusterer, raw: Mapping[str, Any], where: tuple[str | int, ...]) -> dict[str, Any]:
    """Parameters with their defaults.

    Raises:
        ValidationError: every offending one with its place.
    """
    try:
        return clusterer.params.model_validate(dict(raw)).model_dump(mode="json")
    except PydanticError as error:
        found = [
            FieldError((*where, *entry["loc"]), f"{entry['msg']}, got {entry.get('input')!r}"[:300], entry["type"])
            for entry in error.errors()
        ]
        raise ValidationError.of(found) from error
