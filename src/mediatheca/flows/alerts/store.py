"""Alerts as they are stored: what a caller writes, checked; what a caller reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from mediatheca.flows.alerts.entries import KIND, SYSTEM, attachments
from mediatheca.flows.alerts.notify import TEMPLATE
from mediatheca.flows.alerts.state import OK
from mediatheca.flows.alerts.system_conditions import check_condition
from mediatheca.flows.delivery.refs import FIELD, refs_of, resolve_channels
from mediatheca.flows.services import Services
from mediatheca.kernel import notice_templates
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

MAX_ALERTS = 50_000
"""Of a namespace."""
MAX_SYSTEM = 200
"""Of them on conditions of the system: each is measured every minute, all tenants' one after the other."""
MAX_JSON = 64 * 1024
PREFIX = "alt"


def checked(tx: ReadTx, body: Row, services: Services, current: Record | None = None) -> Row:
    """The body of an alert, its references resolved and its channels sealed. It may ask for names of hosts, so no
    transaction that writes should be open.

    Raises:
        ValidationError: what does not fit, with its place.
        NotFoundError: the retriever, a template or a stored channel is unknown.
    """
    for name in ("inputs", "metadata", "threshold", "system_condition", "namespace_selector"):
        if len(orjson.dumps(body.get(name) or {}, option=orjson.OPT_NON_STR_KEYS, default=str)) > MAX_JSON:
            raise ValidationError.at(("body", name), f"has more than {MAX_JSON:,} bytes", "too_large")
    made = {**body, **_watched(tx, body)}
    config = dict(made.get("notification_config") or {})
    where = ("body", "notification_config")
    if config.get("template_id"):
        _template(tx, str(config["template_id"]))
    notice_templates.check(config.get("template"), (*where, "template"))
    before = refs_of(current) if current is not None else []
    refs = resolve_channels(tx, config.pop("channels", None) or [], (*where, "channels"), services, current=before)
    return {**made, "notification_config": config, FIELD: [ref.stored() for ref in refs]}


def _watched(tx: ReadTx, body: Row) -> Row:
    """What the alert looks at: a retriever and its collections, or a condition of the system."""
    if body["source"] == "system":
        if body.get("retriever_id") or body.get("threshold"):
            message = "is for alerts on a retriever; a system_condition has its own params"
            raise ValidationError.at(("body", "retriever_id"), message, "conflict")
        return {"system_condition": check_condition(tx, body.get("system_condition"))}
    if not tx.scope.namespace_id:
        message = (
            "an alert of the organization watches a system_condition; a retriever belongs to a namespace: create the "
            "alert at /v1/alerts"
        )
        raise ValidationError.at(("body", "source"), message, "level")
    if body.get("system_condition"):
        message = "is for source 'system'; leave it out, or leave out retriever_id"
        raise ValidationError.at(("body", "system_condition"), message, "conflict")
    if not body.get("retriever_id"):
        raise ValidationError.at(
            ("body", "retriever_id"), "is required: the retriever that is to be watched", "missing"
        )
    retriever = tx.get("retriever", str(body["retriever_id"]))
    return {"retriever_id": retriever.id, "watched": list(retriever.body.get("collection_ids") or ())}


def _template(tx: ReadTx, ident: str) -> None:
    if tx.find(TEMPLATE, ident) is None:
        tx.within("").get(TEMPLATE, ident)


def parent_of(body: Mapping[str, Any]) -> str:
    return SYSTEM if body["source"] == "system" else ""


def put(tx: Tx, name: str, body: Row) -> Record:
    """Store a new alert.

    Raises:
        ConflictError: the name is taken, or there are too many.
    """
    if tx.count("resources", {"kind": KIND}) >= MAX_ALERTS:
        raise ConflictError(f"a namespace has at most {MAX_ALERTS:,} alerts; delete some, or use another namespace")
    if parent_of(body) == SYSTEM and tx.count("resources", {"kind": KIND, "parent": SYSTEM}) >= MAX_SYSTEM:
        raise ConflictError(f"there are {MAX_SYSTEM} alerts on conditions of the system already; delete some")
    _free(tx, name)
    made = tx.put(KIND, PREFIX, name, body, parent=parent_of(body))
    tx.emit("alert.created", made.id, {"name": name})
    return made


def _free(tx: ReadTx, name: str) -> None:
    taken = tx.row("resources", {"kind": KIND, "name": name})
    if taken is not None:
        raise ConflictError(f"alert '{name}' exists already", details={"existing_id": taken["id"]})


def change(tx: Tx, ident: str, name: str, body: Row, version: int) -> Record:
    """Replace an alert that was read at `version`.

    Raises:
        ConflictError: it has changed meanwhile, or the name is taken.
    """
    current = tx.get(KIND, ident)
    if current.version != version:
        raise ConflictError(f"alert '{ident}' was changed by another request; read it again")
    if name != current.name:
        _free(tx, name)
    made = tx.change(current, body, name)
    tx.emit("alert.updated", made.id, {"version": made.version})
    return made


def remove(tx: Tx, record: Record) -> None:
    """Take away an alert with what it left. A collection that applies it says so in its next follow-up."""
    for table in ("alert_states", "alert_matches", "alert_runs"):
        tx.delete(table, {"alert_id": record.id})
    tx.remove(record)
    tx.emit("alert.deleted", record.id, {"name": record.name})


def views(tx: ReadTx, records: Sequence[Record], services: Services) -> list[Row]:
    """Alerts as callers read them."""
    ids = [record.id for record in records]
    states: dict[str, list[Row]] = {}
    for row in tx.rows("alert_states", {"alert_id": ids}):
        states.setdefault(row["alert_id"], []).append(row)
    attached = attachments(tx, records) if tx.scope.namespace_id else {}
    return [
        {
            **_view(record, states.get(record.id, [])),
            "works_as": services.percolator.describe(tx.scope, record, attached),
        }
        for record in records
    ]


def _view(record: Record, states: Sequence[Row]) -> Row:
    body = record.body
    fired = [row["fired_at"] for row in states if row["fired_at"] is not None]
    kept = ("description", "source", "retriever_id", "trigger_on", "min_count", "threshold", "inputs")
    paced = ("cooldown_seconds", "renotify_interval_seconds", "system_condition", "namespace_selector", "metadata")
    firing = [row for row in states if row["state"] != OK]
    cooling = [row["cooldown_until"] for row in states if row["cooldown_until"] is not None]
    return {
        "alert_id": record.id,
        "namespace_id": record.namespace_id or None,
        "name": record.name,
        **{name: body.get(name) for name in (*kept, *paced)},
        "inputs": body.get("inputs") or {},
        "notification_config": _notification(record),
        "enabled": body.get("enabled", True),
        "last_fired_at": max(fired, default=None),
        "state": "firing" if firing else OK,
        "firing_in": [row["collection_id"] for row in firing if row["collection_id"]],
        "cooldown_until": max(cooling, default=None),
        "version": record.version,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


NONE = [{"channel_type": "none"}]
"""The typed clients need at least one channel."""


def _notification(record: Record) -> Row:
    return {**(record.body.get("notification_config") or {}), "channels": views_of_channels(record) or NONE}


def views_of_channels(record: Record) -> list[Row]:
    """Channels as they were given, secrets masked."""
    return [
        {"channel_type": ref.channel, "channel_id": ref.channel_id or None, "config": ref.config}
        for ref in refs_of(record)
    ]


def alerts_on(tx: ReadTx, retriever_id: str) -> list[Record]:
    """The alerts that watch a retriever."""
    return [record for record in tx.resources(KIND) if record.body.get("retriever_id") == retriever_id]
