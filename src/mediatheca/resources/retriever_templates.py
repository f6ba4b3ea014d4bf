"""Templates of retrievers: the stages and inputs of one, without its collections, to make others from.

A template belongs to the organization, so that a retriever of one namespace can be made again in another; with the
scope `user` only its maker finds it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from mediatheca.api.deps import Caller, OrgDelete, OrgDeleter, OrgRead, OrgReader, Write, Writer, answer, deleted
from mediatheca.api.lists import Listed, listed
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.filters import all_of, parse_filter
from mediatheca.kernel.ids import check_name
from mediatheca.resources.base import Context, Spec, unknown_keys
from mediatheca.resources.retrievers import checked
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import ReadTx, Record, record

routes = APIRouter(tags=["retriever templates"])
KIND, PREFIX = "retriever_template", "tmpl"
_PATH = "/templates/retrievers"
_CONFIGURATION = (
    *("stages", "input_schema", "budget_limits", "cache_config", "display_config", "metadata", "visibility"),
    "optimize",
)
"""What of a retriever goes into a template."""

Tags = Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=100)]


class TemplateSpec(Spec):
    """How the template of a retriever is called, and who finds it."""

    template_name: str = Field(min_length=1, max_length=100)
    description: str | None = Field(None, max_length=1000)
    scope: Literal["organization", "user"] | None = None
    category: str | None = Field(None, max_length=50)
    tags: Tags | None = None
    is_public: bool | None = None


class Instance(Spec):
    """The retriever to make, and the collections it searches."""

    retriever_name: str = Field(min_length=1, max_length=100)
    collection_identifiers: list[str] = Field(min_length=1)
    description: str | None = Field(None, max_length=1000)
    tags: Tags | None = None


class TemplateList(Spec):
    """What of the templates to show; `filters`, `sort`, `search` and paging as in every list."""

    scope: Literal["system", "organization", "user", "public"] | None = None
    category: str | None = Field(None, max_length=50)
    is_active: bool | None = True
    tags: Tags | None = None


@routes.post(f"{_PATH}/from-retriever/{{retriever_id}}", operation_id="create_retriever_template", response_model=None)
def create(retriever_id: str, spec: TemplateSpec, tx: Write, caller: Writer) -> Response:
    """Make a template of a retriever. Later changes of the retriever do not change it."""
    notes = unknown_keys(spec, strict=caller.services.settings.strict)
    if spec.is_public:
        message = "a template is found by its organization only; publish the retriever to share it"
        raise ValidationError.at(("body", "is_public"), message, "not_enabled")
    source = tx.get("retriever", retriever_id)
    scope = spec.scope or "organization"
    description = spec.description or source.body.get("description") or f"Made of the retriever '{source.name}'"
    body = {
        "scope": scope,
        "category": spec.category,
        "description": description,
        "tags": list(spec.tags or source.body.get("tags") or []),
        "configuration": {name: source.body[name] for name in _CONFIGURATION if source.body.get(name) is not None},
        "is_active": True,
        "created_by": caller.actor.user_id,
        "source_resource_id": source.id,
        "source_namespace_id": caller.scope.namespace_id,
    }
    name = check_name("template_name", spec.template_name, PREFIX)
    home = tx.within("")
    made = home.put(KIND, PREFIX, name, body, parent=caller.actor.user_id if scope == "user" else "")
    home.emit(f"{KIND}.created", made.id, {"source_retriever_id": source.id})
    shown = {**_view(made, caller), "template_name": made.name}
    return answer(shown | ({"warnings": notes} if notes else {}))


@routes.post(_PATH, operation_id="list_retriever_templates", response_model=None)
def list_(query: Listed, tx: OrgRead, caller: OrgReader, spec: TemplateList | None = None) -> Response:
    """The templates the caller may use, newest first. `tags`: those that have all of them."""
    asked = spec or TemplateList()
    conditions: list[dict[str, Any]] = [{"field": "tags", "operator": "eq", "value": tag} for tag in asked.tags or ()]
    for field in ("scope", "category", "is_active"):
        value = getattr(asked, field)
        if value is not None:
            conditions.append({"field": field, "operator": "eq", "value": value})
    own = {"field": "created_by", "operator": "eq", "value": caller.actor.user_id}
    open_ = {"OR": [{"field": "scope", "operator": "eq", "value": "organization"}, own]}
    tree = all_of(query.filter, parse_filter({"AND": [open_, *conditions]}, case_sensitive=True))
    wanted = ListQuery(query.limit, query.offset, query.cursor, query.search, tree, query.sort)
    found = tx.page("resources", {"kind": KIND}, wanted, {"template_id": "id", "template_name": "name"})
    shown = [_view(record(row), caller) for row in found.rows]
    return answer({**listed(found, shown), "results": shown, "total_count": found.total or 0})


@routes.get(f"{_PATH}/{{template_id}}", operation_id="get_retriever_template", response_model=None)
def get(template_id: str, tx: OrgRead, caller: OrgReader) -> Response:
    return answer(_view(_find(tx, template_id, caller), caller))


@routes.delete(f"{_PATH}/{{template_id}}", operation_id="delete_retriever_template", response_model=None)
def delete(template_id: str, tx: OrgDelete, caller: OrgDeleter) -> Response:
    """Delete a template; the retrievers that were made from it stay."""
    found = _find(tx, template_id, caller)
    tx.remove(found)
    tx.emit(f"{KIND}.deleted", found.id)
    return deleted("template", found.id, template_id=found.id)


@routes.post(f"{_PATH}/{{template_id}}/instantiate", operation_id="instantiate_retriever_template", response_model=None)
def instantiate(template_id: str, spec: Instance, tx: Write, caller: Writer) -> Response:
    """Make a retriever of a template, on collections of this namespace. It is checked as every new retriever is."""
    notes = unknown_keys(spec, strict=caller.services.settings.strict)
    template = _find(tx.within(""), template_id, caller)
    body = {
        **template.body["configuration"],
        "collection_identifiers": spec.collection_identifiers,
        "description": spec.description or template.body["description"],
        "tags": list(template.body["tags"] if spec.tags is None else spec.tags),
    }
    name = check_name("retriever_name", spec.retriever_name, "ret")
    made = tx.put("retriever", "ret", name, checked(tx, body, Context(caller.services, caller.absolute)))
    tx.emit("retriever.created", made.id, {"name": name, "template_id": template.id})
    shown = {"retriever_id": made.id, "retriever_name": made.name, "template_id": template.id, "status": "created"}
    warnings = [*made.body["warnings"], *notes]
    return answer({**shown, "created_at": made.created_at} | ({"warnings": warnings} if warnings else {}))


def _find(tx: ReadTx, ident: str, caller: Caller) -> Record:
    """A template by id or name: the caller's own, else the organization's.

    Raises:
        NotFoundError: there is none that this caller may see.
    """
    user = caller.actor.user_id
    found = tx.find(KIND, ident, user) or tx.find(KIND, ident, "")
    if found is None or (found.body["scope"] == "user" and found.body["created_by"] != user):
        raise NotFoundError("template", ident)
    return found


def _view(found: Record, caller: Caller) -> dict[str, Any]:
    kept = ("scope", "description", "category", "configuration", "tags", "is_active", "created_by")
    return {
        "template_id": found.id,
        "template_type": "retriever",
        "mode": "config",
        "internal_id": caller.scope.organization_id,
        "name": found.name,
        **{name: found.body[name] for name in kept},
        "is_public": False,
        "source_resource_id": found.body["source_resource_id"],
        "source_namespace_id": found.body["source_namespace_id"],
        "created_at": found.created_at,
        "updated_at": found.updated_at,
    }
