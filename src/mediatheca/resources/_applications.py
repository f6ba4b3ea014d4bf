"""What a collection applies to its documents after they were written: the four lists of its body, and their checks.

Each list has its phase of what follows a write, and they come in this order; another `execution_phase` is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from mediatheca.flows.taxonomies.applications import Application
from mediatheca.flows.taxonomies.apply import attached_options, start_apply
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.mapping import clean_path
from mediatheca.resources.base import Spec
from mediatheca.stores.db.tx import ReadTx, Record, Tx

MAX_APPLICATIONS = 50
"""Entries of one list."""
MAX_MAPPINGS = 50
Priority = Annotated[int, Field(ge=0, le=1000)]


class _Entry(Spec):
    """Generated clients send null for what they were not given."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class TaxonomyApplication(_Entry):
    """New documents are labelled. `on_demand`: nothing by itself; `retroactive`: once, those that are there when a
    patch adds it."""

    taxonomy_id: str = Field(min_length=1, max_length=200)
    version: int | None = Field(None, ge=1, description="None: the latest.")
    execution_mode: Literal["materialize", "on_demand", "retroactive"] = "materialize"
    target_collection_id: str | None = Field(None, max_length=200, description="Labelled copies go there instead.")
    scroll_filters: dict[str, Any] | None = None
    execution_phase: Literal[1] = 1
    priority: Priority = 0
    hierarchical_enrichment_style: Literal["full_chain", "best_match", "combined"] | None = None


class ClusterApplication(_Entry):
    """New documents are given to the clusters of the last run, or start a new run."""

    cluster_id: str = Field(min_length=1, max_length=200)
    auto_execute_on_batch: bool = True
    min_document_threshold: int | None = Field(None, ge=1)
    cooldown_seconds: int = Field(3600, ge=0, le=30 * 86_400)
    execution_phase: Literal[2] = 2
    priority: Priority = 0


class _Part(_Entry):
    """Of an entry; what nothing reads of it is not stored."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class InputSource(_Part):
    """Where an input of a retriever comes from."""

    source_type: Literal["document_field", "constant", "source_blob"] = "document_field"
    path: str | None = Field(None, max_length=512)
    value: Any = None

    @model_validator(mode="after")
    def _complete(self) -> InputSource:
        if self.source_type == "document_field" and not self.path:
            raise ValueError("source_type document_field needs 'path': the field of the document that is read")
        if self.source_type == "constant" and self.value is None:
            raise ValueError("source_type constant needs 'value'")
        self.path = clean_path(self.path) if self.path else self.path
        return self


class Mapped(_Part):
    """One input of the retriever; `path` or `value` may stand beside the key instead of in `source`."""

    input_key: str = Field(min_length=1, max_length=200)
    source: InputSource

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("source") is not None:
            return data
        if data.get("path") is not None:
            return {**data, "source": {"source_type": "document_field", "path": data["path"]}}
        return {**data, "source": {"source_type": "constant", "value": data["value"]}} if "value" in data else data


class _Mapping(_Entry):
    input_mappings: list[Mapped] = Field(default_factory=list, max_length=MAX_MAPPINGS)

    @field_validator("input_mappings", mode="before")
    @classmethod
    def _listed(cls, raw: Any) -> Any:
        return [{"input_key": key, "path": path} for key, path in raw.items()] if isinstance(raw, dict) else raw

    @field_validator("input_mappings")
    @classmethod
    def _once(cls, value: list[Mapped]) -> list[Mapped]:
        keys = [entry.input_key for entry in value]
        doubled = next((key for key in keys if keys.count(key) > 1), None)
        if doubled is not None:
            raise ValueError(f"'{doubled}' is mapped twice")
        return value


class AlertApplication(_Mapping):
    """New documents are matched against the alert; `scheduled` and `on_demand`: when a trigger or a caller asks."""

    alert_id: str = Field(min_length=1, max_length=200)
    input_mappings: list[Mapped] = Field(
        max_length=MAX_MAPPINGS,
        min_length=1,
        description="A constant where no field of the document is read: clients refuse an empty list.",
    )
    execution_mode: Literal["on_ingest", "scheduled", "on_demand"] = "on_ingest"
    execution_phase: Literal[3] = 3
    priority: Priority = 0
    scroll_filters: dict[str, Any] | None = None
    enabled: bool = True


class WriteBack(_Part):
    """A field of what the retriever found that is written into the document."""

    source_field: str = Field(min_length=1, max_length=512)
    target_field: str = Field(min_length=1, max_length=512)
    mode: Literal["first", "all_as_array", "concat"] = "first"

    @field_validator("target_field")
    @classmethod
    def _writable(cls, value: str) -> str:
        path = clean_path(value)
        head = path.partition(".")[0]
        reserved = head.startswith(("_internal", "__")) or head in ("document_id", "collection_id", "namespace_id")
        if reserved or not all(path.split(".")):
            raise ValueError(f"'{value[:80]}' cannot be written; name a field of the document")
        return path


class RetrieverEnrichment(_Mapping):
    """A retriever runs with inputs from each new document; fields of its results are written into the document."""

    retriever_id: str = Field(min_length=1, max_length=200)
    input_mappings: list[Mapped] = Field(min_length=1, max_length=MAX_MAPPINGS)
    write_back_fields: list[WriteBack] = Field(min_length=1, max_length=MAX_MAPPINGS)
    execution_phase: Literal[4] = 4
    priority: Priority = 0
    scroll_filters: dict[str, Any] | None = None
    enabled: bool = True


class Applications(Spec):
    """The lists, as create takes them; the patch takes them, too, and replaces those that are sent as a whole."""

    taxonomy_applications: list[TaxonomyApplication] | None = Field(None, max_length=MAX_APPLICATIONS)
    cluster_applications: list[ClusterApplication] | None = Field(None, max_length=MAX_APPLICATIONS)
    alert_applications: list[AlertApplication] | None = Field(None, max_length=MAX_APPLICATIONS)
    retriever_enrichments: list[RetrieverEnrichment] | None = Field(None, max_length=MAX_APPLICATIONS)


LISTS: Mapping[str, tuple[str, str]] = {
    "taxonomy_applications": ("taxonomy", "taxonomy_id"),
    "cluster_applications": ("cluster", "cluster_id"),
    "alert_applications": ("alert", "alert_id"),
    "retriever_enrichments": ("retriever", "retriever_id"),
}
"""List → the kind of resource its entries name, and in which field."""


def checked_applications(tx: ReadTx, spec: Applications, *, own: str = "") -> dict[str, list[dict[str, Any]]]:
    """The lists that were sent, as they are stored: references by id, fields that were not given left out.

    `own`: the collection they are for, where there is one already.

    Raises:
        NotFoundError: something named is not in this namespace.
        ValidationError: entries that cannot work, or that say the same twice.
    """
    sent = {name: getattr(spec, name) for name in LISTS if getattr(spec, name) is not None}
    return {name: _checked(tx, name, entries, own) for name, entries in sent.items()}


def _checked(tx: ReadTx, name: str, entries: Sequence[Spec], own: str) -> list[dict[str, Any]]:
    kind, field = LISTS[name]
    made: list[dict[str, Any]] = []
    for number, entry in enumerate(entries):
        where = (name, number)
        record = tx.get(kind, getattr(entry, field))
        fields = entry.model_dump(mode="json", exclude_none=True, include=set(type(entry).model_fields))
        fields[field] = record.id
        parse_filter(fields.get("scroll_filters"), path=f"{name}.{number}.scroll_filters")
        _fits(tx, where, fields, record.body, own)
        if kind != "retriever" and any(other[field] == record.id for other in made):
            raise ValidationError.at((*where, field), f"{kind} '{record.id}' is in the list already")
        if fields in made:
            raise ValidationError.at(where, "the same entry is in the list already")
        made.append(fields)
    return made


def _fits(tx: ReadTx, where: tuple[str | int, ...], fields: dict[str, Any], named: Mapping[str, Any], own: str) -> None:
    """What is known of the named resource fits what is asked of it."""
    if where[0] == "taxonomy_applications":
        _taxonomy_fits(tx, where, fields, own)
    if where[0] == "alert_applications" and named.get("source") == "system":
        message = "watches a condition of the system, not documents; it needs no collection"
        raise ValidationError.at((*where, "alert_id"), f"'{fields['alert_id']}' {message}")
    inputs = named.get("input_schema")
    if where[0] == "retriever_enrichments" and inputs:
        for number, mapping in enumerate(fields["input_mappings"]):
            if mapping["input_key"] not in inputs:
                message = f"'{mapping['input_key']}' is no input of the retriever; it has: {', '.join(sorted(inputs))}"
                raise ValidationError.at((*where, "input_mappings", number, "input_key"), message)


def _taxonomy_fits(tx: ReadTx, where: tuple[str | int, ...], fields: dict[str, Any], own: str) -> None:
    ident, version = fields["taxonomy_id"], fields.get("version")
    if version is not None and not tx.count("taxonomy_versions", {"taxonomy_id": ident, "version": version}):
        raise ValidationError.at((*where, "version"), f"taxonomy '{ident}' has no version {version}")
    target = fields.get("target_collection_id")
    if target is None:
        return
    fields["target_collection_id"] = tx.get("collection", target).id
    if fields["target_collection_id"] == own:
        del fields["target_collection_id"]  # in place


def label_what_is_there(tx: Tx, collection: Record, entries: Sequence[Mapping[str, Any]]) -> None:
    """Apply each taxonomy that these entries newly add as `retroactive` to the collection, in a task of its own.

    Raises:
        ConflictError: the taxonomy is not ready.
    """
    held = collection.body.get("taxonomy_applications") or ()
    known = {entry["taxonomy_id"] for entry in held if entry.get("execution_mode") == "retroactive"}
    for entry in entries:
        if entry["execution_mode"] == "retroactive" and entry["taxonomy_id"] not in known:
            options = attached_options(Application.of(entry))
            start_apply(tx, collection, tx.get("taxonomy", entry["taxonomy_id"]), options)


def applications_view(body: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The four lists as callers read them."""
    shown = {name: list(body.get(name) or ()) for name in LISTS}
    shown["taxonomy_applications"] = [_taxonomy_view(entry) for entry in shown["taxonomy_applications"]]
    return shown


def _taxonomy_view(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Generated clients know one mode; others are told under another name."""
    mode = entry.get("execution_mode", "materialize")
    if mode == "materialize":
        return dict(entry)
    return {**{key: value for key, value in entry.items() if key != "execution_mode"}, "requested_mode": mode}
