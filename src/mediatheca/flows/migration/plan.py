"""What a change of model means for a collection: which outputs get which new index, and whether it can be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mediatheca.extractors import Description, Extractor
from mediatheca.flows.collections import check_parameters, find_extractor
from mediatheca.flows.evaluation.evaluations import KIND as EVALUATION
from mediatheca.flows.indexing import all_vectors, stored_vectors
from mediatheca.flows.migration.state import KIND, PREFIX, ask, open_migration
from mediatheca.flows.plugins.scoped import scoped
from mediatheca.flows.services import Services
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import BadRequestError, ConflictError, ValidationError
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.no_effect import CODE, marker
from mediatheca.kernel.uris import marked, output_name
from mediatheca.stores.db.tx import ReadTx, Record, Tx

_TASK = "embedding_task"
"""It changes vectors of texts by the same weights."""
CHANGEABLE = ("embedding_model", _TASK)
"""Parameters that decide the vectors of documents and nothing else of them."""


class Compare(BaseModel):
    """How old and new vectors are compared before a switch: on a golden data set, or by neighbours of a sample."""

    model_config = ConfigDict(extra="ignore")

    evaluation_id: str | None = Field(None, max_length=100, description="Its retriever and data set are measured.")
    sample: int = Field(200, ge=1, le=2_000, description="Documents whose neighbours are compared.")
    k: int = Field(10, ge=1, le=100)
    metric: Literal["ndcg", "recall", "map", "mrr"] = "ndcg"


class MigrateSpec(BaseModel):
    """The body of migrate: `embedding_model` is short for that parameter."""

    model_config = ConfigDict(extra="allow")

    embedding_model: str | None = Field(None, max_length=200)
    parameters: dict[str, Any] = Field(default_factory=dict, description=f"Of: {', '.join(CHANGEABLE)}.")
    compare: Compare = Field(default_factory=Compare)
    auto_switch: bool = Field(False, description="Switch when the comparison does not fall below `threshold`.")
    threshold: float = Field(
        0.0, ge=0, le=1, description="Least overlap at k of a sample; of a golden set the largest loss of the metric."
    )

    @model_validator(mode="after")
    def _gather(self) -> MigrateSpec:
        if self.embedding_model is not None:
            self.parameters = {**self.parameters, "embedding_model": self.embedding_model}
        return self


def start(tx: Tx, services: Services, collection: Record, spec: MigrateSpec) -> Record:
    """Store a migration, make room for the new vectors, and enqueue the build.

    Raises:
        ConflictError: another one is open.
        ValidationError: it cannot be done in place, or the comparison names nothing.
        BadRequestError: nothing would change.
        UnavailableError: no weights answer to the new model.
    """
    held = open_migration(tx, collection)
    if held is not None:
        message = f"migration '{held.id}' of this collection is {held.body['status']}; finish or cancel it first"
        raise ConflictError(message, details={"existing_id": held.id})
    check_compare(tx, spec.compare)
    parameters, pairs = plan(scoped(services, tx.scope), collection, spec.parameters)
    ident = new_id(PREFIX)
    body = {
        "status": "pending",
        "task_id": None,
        "parameters": parameters,
        "old_parameters": collection.body["feature_extractor"]["parameters"],
        "pairs": pairs,
        "compare": spec.compare.model_dump(mode="json"),
        "auto_switch": spec.auto_switch,
        "threshold": spec.threshold,
        "filled": {"forwards": 0, "backwards": 0},
        "failed": {},
        "progress": {"built": 0, "failed": 0},
        "report": None,
    }
    made = tx.put(KIND, PREFIX, ident, body, parent=collection.id, ident=ident)
    side = [*collection.body.get("side_indexes", []), *(entry["new"] for entry in pairs)]
    tx.change(collection, {**collection.body, "side_indexes": side, "migration_id": ident})
    return ask(tx, made, "build")


def plan(
    services: Services, collection: Record, wanted: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The new parameters, and the outputs that change: `{"old", "new", "text"}`.

    Raises:
        ValidationError, BadRequestError, UnavailableError: see `start`.
    """
    config = collection.body["feature_extractor"]
    extractor = find_extractor(services, config["feature_extractor_name"], config["version"])
    _need_changeable(extractor, wanted)
    parameters = check_parameters(extractor, {**config["parameters"], **wanted})
    described = extractor.describe(extractor.params.model_validate(parameters), services.models)
    pairs = _pairs(collection, described, parameters)
    if not pairs:
        raise BadRequestError(
            f"nothing changes: the vectors of collection '{collection.id}' were made by these weights already"
        )
    return parameters, pairs


def _need_changeable(extractor: Extractor, wanted: Mapping[str, Any]) -> None:
    fields = extractor.params.model_fields
    for name in wanted:
        place = ("body", "parameters", name)
        mark = marker(fields[name]) if name in fields else None
        if mark is not None:
            raise ValidationError.at(place, f"has no effect: {mark.reason}", CODE)
        if name not in CHANGEABLE:
            message = (
                f"changes more than vectors, so documents cannot stay; clone the collection with it. In place: "
                f"{', '.join(CHANGEABLE)}"
            )
            raise ValidationError.at(place, message, "not_in_place")
        if name not in fields:
            known = ", ".join(field for field in CHANGEABLE if field in fields) or "none"
            message = f"'{extractor.name}' has no such parameter; it has: {known}"
            raise ValidationError.at(place, message, "unknown")


def _pairs(collection: Record, described: Description, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    old = stored_vectors(collection.body)
    if len(old) != len(described.vectors):
        message = f"the extractor would make {len(described.vectors)} vectors a document instead of {len(old)}"
        raise ValidationError.at(("body", "parameters"), f"{message}; clone the collection instead", "not_in_place")
    taken = {index.name for index in all_vectors(collection.body)}
    held = collection.body["feature_extractor"]["parameters"]
    retasked = parameters.get(_TASK, "document") != (held.get(_TASK) or "document")
    found = []
    for before, after in zip(old, described.vectors, strict=True):
        if _makes_the_same(before, after) and not (retasked and output_name(after.feature_uri) in described.texts):
            continue
        plain = not (after.sparse or after.multi)  # other kinds are made by their own extractor only
        text = described.texts.get(output_name(after.feature_uri)) if plain else None
        new = after if after.name not in taken else _marked(after, parameters)
        if new.name in taken:
            raise ConflictError(f"vector index '{new.name}' is still there; finish the earlier migration first")
        found.append({"old": asdict(before), "new": asdict(new), "text": text})
    return found


def _makes_the_same(one: VectorIndex, other: VectorIndex) -> bool:
    return (one.model, one.weights, one.dimensions) == (other.model, other.weights, other.dimensions)


def _marked(index: VectorIndex, parameters: Mapping[str, Any]) -> VectorIndex:
    """The same model name with other weights stands beside itself under a name of its own."""
    what = f"{index.weights} {parameters.get(_TASK)}"
    return replace(index, name=marked(index.name, what), feature_uri=marked(index.feature_uri, what))


def check_compare(tx: ReadTx, compare: Compare) -> None:
    if compare.evaluation_id is not None and tx.find(EVALUATION, compare.evaluation_id) is None:
        place = ("body", "compare", "evaluation_id")
        raise ValidationError.at(place, f"'{compare.evaluation_id}' is no evaluation of this namespace", "unknown")


def redirected(index_map: Mapping[str, str], pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """`index_map` after every old URI of `pairs` was replaced by its new one; chains become one step."""
    found = dict(index_map)
    for old, new in pairs:
        found = {source: new if target == old else target for source, target in found.items()}
        found[old] = new
        found.pop(new, None)
    return {source: target for source, target in found.items() if source != target}
