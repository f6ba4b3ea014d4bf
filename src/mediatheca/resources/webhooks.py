"""Webhooks of an organization, at both paths that clients know. A secret is shown once, when it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from mediatheca.api.deps import Caller, OrgDelete, OrgRead, OrgWriter, answer, in_slow_thread
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.delivery import ChannelRef
from mediatheca.flows.delivery.unread import channel_notes
from mediatheca.flows.webhooks import changes
from mediatheca.flows.webhooks.config import channels_given, view
from mediatheca.flows.webhooks.health import health_of
from mediatheca.flows.webhooks.subscriptions import KIND
from mediatheca.kernel.event_names import ALL
from mediatheca.kernel.filters import all_of, parse_filter
from mediatheca.resources.base import Spec, notes_on
from mediatheca.stores.db.tx import Record, record

router = APIRouter(tags=["webhooks"])

PATHS = {"/organizations/webhooks": "", "/webhooks": "_alias"}
"""The second one is of clients that send `X-Namespace` with everything: there it narrows a new webhook."""


class WebhookSpec(Spec):
    """Every shape of a webhook. Channels have no type here: a refusal by type would repeat what it got, and they hold
    credentials. What a webhook shows may be sent back."""

    webhook_name: str | None = Field(None, max_length=200)
    url: str | None = Field(None, max_length=8192)
    headers: Any = None
    timeout: Any = None
    payload_template: Any = None
    signing_secret: Any = None
    events: list[str] | str | None = None
    event_types: list[str] | str | None = None
    resource_types: list[str] | None = None
    channels: Any = Field(None, json_schema_extra={"type": "array", "items": {"type": "object"}})
    namespace_id: str | None = Field(None, max_length=200)
    is_active: bool | None = None
    enabled: bool | None = None
    description: str | None = Field(None, max_length=1000)
    metadata: dict[str, Any] | None = None
    webhook_id: Any = None
    internal_id: Any = None
    delivery_health: Any = None
    created_at: Any = None
    updated_at: Any = None


def _sent(spec: WebhookSpec) -> dict[str, Any]:
    return spec.model_dump(exclude_unset=True, include=set(WebhookSpec.model_fields))


def _notes(caller: Caller, spec: WebhookSpec) -> list[str]:
    unread = channel_notes(caller.services, channels_given(_sent(spec)) or [], ("channels",))
    return notes_on(caller, spec, *unread).get("warnings", [])


async def create(spec: WebhookSpec, request: Request, caller: OrgWriter) -> Response:
    """Make a webhook. The answer has the signing secret of its channels; it is not shown again."""
    notes = _notes(caller, spec)
    aliased = request.url.path.startswith("/v1/webhooks")
    header = request.headers.get("x-namespace") if aliased else None

    def work() -> dict[str, Any]:
        made, refs, more = changes.create(
            caller.services, caller.organization, caller.actor.key_id, _sent(spec), header
        )
        return _shown(caller, made, refs, [*notes, *more])

    return answer(await in_slow_thread(work))


def _shown(caller: Caller, found: Record, fresh: list[ChannelRef], notes: list[str]) -> dict[str, Any]:
    with caller.services.db.read(caller.organization) as tx:
        health = health_of(tx, [found.id])[found.id]
    return view(found, health, fresh) | ({"warnings": notes} if notes else {})


def _changing(*, whole: bool) -> Callable[..., Any]:
    async def change(identifier: str, spec: WebhookSpec, caller: OrgWriter) -> Response:
        """Change a webhook. A secret that comes back masked, or not at all, stays as it was."""
        notes = _notes(caller, spec)

        def work() -> dict[str, Any]:
            changed, refs, more = changes.change(
                caller.services, caller.organization, caller.actor.key_id, identifier, _sent(spec), whole=whole
            )
            return _shown(caller, changed, [ref for ref in refs if ref.secret] and refs, [*notes, *more])

        return answer(await in_slow_thread(work))

    return change


def get(identifier: str, tx: OrgRead) -> Response:
    found = tx.get(KIND, identifier)
    return answer(view(found, health_of(tx, [found.id])[found.id]))


def list_post(query: Listed, tx: OrgRead, body: dict[str, Any] | None = None) -> Response:
    """Webhooks, newest first; `event_type` and `is_active` narrow the list."""
    return _listed(query, tx, body or {})


def list_get(query: Listed, tx: OrgRead, event_type: str | None = None, is_active: bool | None = None) -> Response:
    """The same by GET."""
    return _listed(query, tx, {"event_type": event_type, "is_active": is_active})


def _listed(query: Listed, tx: OrgRead, asked: Mapping[str, Any]) -> Response:
    if isinstance(asked.get("is_active"), bool):
        active = parse_filter({"field": "is_active", "operator": "eq", "value": asked["is_active"]})
        query = replace(query, filter=all_of(query.filter, active))
    if asked.get("event_type"):
        names = [str(asked["event_type"]), ALL]
        told = parse_filter({"OR": [{"field": "events", "operator": "eq", "value": name} for name in names]})
        query = replace(query, filter=all_of(query.filter, told))
    page = tx.page("resources", {"kind": KIND}, query, {"webhook_id": "id", "webhook_name": "name"})
    records = [record(row) for row in page.rows]
    health = health_of(tx, [each.id for each in records])
    return answer(listed(page, [view(each, health[each.id]) for each in records]))


def delete(identifier: str, tx: OrgDelete) -> Response:
    """Remove a webhook at once, with the log of its deliveries."""
    changes.delete(tx, identifier)
    return Response(status_code=204)


for path, suffix in PATHS.items():
    for handler, method, below, operation in (
        (create, "POST", "", "create_webhook"),
        (list_post, "POST", "/list", "list_webhooks"),
        (list_get, "GET", "", "list_webhooks_get"),
        (get, "GET", "/{identifier}", "get_webhook"),
        (_changing(whole=True), "PUT", "/{identifier}", "update_webhook"),
        (_changing(whole=False), "PATCH", "/{identifier}", "patch_webhook"),
        (delete, "DELETE", "/{identifier}", "delete_webhook"),
    ):
        router.add_api_route(
            path + below, handler, methods=[method], operation_id=f"{operation}_organizations{suffix}",
            name=f"{operation}_organizations{suffix}", response_model=None,
            status_code=204 if method == "DELETE" else 200,
        )  # fmt: skip
