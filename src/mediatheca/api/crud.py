"""CRUD routes derived from a resource declaration. Names no resource."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic import BaseModel

from mediatheca.api import deps
from mediatheca.api.deps import Caller, answer, deleted
from mediatheca.api.lists import Listed, listed
from mediatheca.kernel.ids import check_name
from mediatheca.resources.base import Context, Resource, Spec, unknown_keys
from mediatheca.stores.db.tx import ReadTx, Record, Tx, record

_LEVELS: dict[str, tuple[Any, Any, Any, Any, Any, Any]] = {
    "namespace": (deps.Read, deps.Write, deps.Delete, deps.Reader, deps.Writer, deps.Deleter),
    "organization": (
        deps.OrgRead, deps.OrgWrite, deps.OrgDelete, deps.OrgReader, deps.OrgWriter, deps.OrgDeleter,
    ),
}  # fmt: skip

_UPDATES = {"PATCH": "patch", "PUT": "update"}


class ListRequest(BaseModel):
    """Paging, filter, search and sort of a list; every key may stand in the query string instead."""

    limit: int | None = None
    page_size: int | None = None
    offset: int | None = None
    page: int | None = None
    cursor: str | None = None
    filters: dict[str, Any] | None = None
    sort: dict[str, Any] | str | None = None
    sorts: list[dict[str, Any]] | None = None
    search: str | None = None
    case_sensitive: bool = False
    include_total: bool = True


def context(caller: Caller, query: Mapping[str, str] | None = None) -> Context:
    return Context(caller.services, caller.absolute, query or {})


def crud_router(resource: Resource) -> APIRouter:
    """The derived routes of a resource: reading, and every change it has a hook for."""
    router = APIRouter(tags=[f"{resource.name}s"])
    if resource.create is not None:
        _create(router, resource, resource.create)
    _list(router, resource)
    _get(router, resource)
    if resource.change is not None:
        _update(router, resource, resource.change)
    if resource.remove is not None:
        _delete(router, resource, resource.remove)
    return router


def present_one(
    resource: Resource, tx: ReadTx, record: Record, caller: Caller, query: Mapping[str, str] | None = None
) -> dict[str, Any]:
    return resource.present(tx, [record], context(caller, query))[0]


def _with_warnings(body: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    return {**body, "warnings": [*body.get("warnings", []), *notes]} if notes else body


def _create(router: APIRouter, resource: Resource, check: Callable[..., tuple[str, dict[str, Any]]]) -> None:
    _, write, _, _, writer, _ = _LEVELS[resource.level]
    spec_type: Any = resource.spec
    if resource.prepare is not None:
        spec_type = Annotated[resource.spec, Depends(prepared(resource.spec, resource.prepare, writer))]

    def create(spec: spec_type, tx: write, caller: writer) -> Response:  # type: ignore[valid-type]
        notes = unknown_keys(spec, strict=caller.services.settings.strict)  # type: ignore[attr-defined]
        name, body = check(tx, spec, context(caller))
        made = tx.put(resource.name, resource.prefix, check_name(resource.name_field, name, resource.prefix), body)  # type: ignore[attr-defined]
        resource.created(tx, made)
        tx.emit(f"{resource.name}.created", made.id, {"name": name})  # type: ignore[attr-defined]
        return answer(_with_warnings(present_one(resource, tx, made, caller), notes))

    _route(router, resource, create, "POST", "", f"create_{resource.name}")


def prepared(
    spec: type[Spec], prepare: Callable[[Any, Caller], Awaitable[Any]], writer: Any
) -> Callable[..., Awaitable[Any]]:
    """A dependency that prepares the body. Declared before a route's transaction, it is done before that begins."""

    async def work(spec: spec, caller: writer) -> Any:  # type: ignore[valid-type]
        return await prepare(spec, caller)

    return work


def _get(router: APIRouter, resource: Resource) -> None:
    read, _, _, reader, _, _ = _LEVELS[resource.level]

    def get(identifier: str, request: Request, tx: read, caller: reader) -> Response:  # type: ignore[valid-type]
        found = tx.get(resource.name, identifier)  # type: ignore[attr-defined]
        return answer(present_one(resource, tx, found, caller, request.query_params))

    _route(router, resource, get, "GET", "/{identifier}", f"get_{resource.name}")


def _list(router: APIRouter, resource: Resource) -> None:
    read, _, _, reader, _, _ = _LEVELS[resource.level]
    aliases = {resource.id_field: "id", resource.name_field: "name"}

    def page(tx: ReadTx, caller: Caller, query: Listed) -> Response:
        found = tx.page("resources", {"kind": resource.name}, query, aliases)
        records = [record(row) for row in found.rows]
        return answer(listed(found, resource.present(tx, records, context(caller))))

    def list_(query: Listed, tx: read, caller: reader) -> Response:  # type: ignore[valid-type]
        return page(tx, caller, query)

    def list_post(
        query: Listed,
        tx: read,  # type: ignore[valid-type]
        caller: reader,  # type: ignore[valid-type]
        body: Annotated[ListRequest | None, Body()] = None,
    ) -> Response:
        return page(tx, caller, query)

    _route(router, resource, list_post, "POST", "/list", f"list_{resource.name}s")
    _route(router, resource, list_, "GET", "", f"list_{resource.name}s_get")


def _update(router: APIRouter, resource: Resource, check: Callable[..., tuple[str, dict[str, Any]]]) -> None:
    _, write, _, _, writer, _ = _LEVELS[resource.level]

    def change(identifier: str, patch: Spec, request: Request, tx: Tx, caller: Caller) -> Response:
        notes = unknown_keys(patch, strict=caller.services.settings.strict)
        current = tx.get(resource.name, identifier)
        name, body = check(tx, current, patch, context(caller, request.query_params))
        if name != current.name:
            check_name(resource.name_field, name, resource.prefix)
        made = tx.change(current, body, name)
        tx.emit(f"{resource.name}.updated", made.id, {"version": made.version})
        return answer(_with_warnings(present_one(resource, tx, made, caller), notes))

    for method in _UPDATES:

        def update(
            identifier: str,
            patch: resource.patch,  # type: ignore[name-defined]
            request: Request,
            tx: write,  # type: ignore[valid-type]
            caller: writer,  # type: ignore[valid-type]
        ) -> Response:
            return change(identifier, patch, request, tx, caller)

        _route(router, resource, update, method, "/{identifier}", f"{_UPDATES[method]}_{resource.name}")


def _delete(router: APIRouter, resource: Resource, check: Callable[..., dict[str, Any]]) -> None:
    _, _, delete, _, _, deleter = _LEVELS[resource.level]

    def remove(identifier: str, request: Request, tx: delete, caller: deleter) -> Response:  # type: ignore[valid-type]
        current = tx.get(resource.name, identifier)  # type: ignore[attr-defined]
        extra = check(tx, current, context(caller), request.query_params)
        tx.remove(current)  # type: ignore[attr-defined]
        tx.emit(f"{resource.name}.deleted", current.id, {"name": current.name})  # type: ignore[attr-defined]
        return deleted(resource.name, current.id, **extra)

    _route(router, resource, remove, "DELETE", "/{identifier}", f"delete_{resource.name}")


def _route(router: APIRouter, resource: Resource, handler: Any, method: str, suffix: str, operation: str) -> None:
    router.add_api_route(
        resource.path + suffix, handler, methods=[method], operation_id=operation, response_model=None, name=operation
    )
