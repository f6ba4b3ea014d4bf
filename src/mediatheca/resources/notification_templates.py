"""Notification templates: the words of notices, which alerts name by `template_id`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from mediatheca.flows.alerts.notify import TEMPLATE
from mediatheca.kernel import notice_templates
from mediatheca.kernel.errors import ConflictError
from mediatheca.resources.base import Context, Resource, Spec, is_true, merge
from mediatheca.stores.db.tx import ReadTx, Record, Tx


class NotificationTemplateSpec(Spec):
    """Templates over the body of a notice: `{{ alert_name }}`, `{{ match_count }}`, `{% for match in matches %}`."""

    notification_template_name: str
    subject: str | None = Field(None, max_length=1_000)
    text: str = Field(min_length=1, max_length=20_000)
    description: str | None = Field(None, max_length=1_000)


class NotificationTemplatePatch(Spec):
    notification_template_name: str | None = None
    subject: str | None = Field(None, max_length=1_000)
    text: str | None = Field(None, min_length=1, max_length=20_000)
    description: str | None = Field(None, max_length=1_000)


def _checked(name: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    for field in ("subject", "text"):
        notice_templates.check(body.get(field), ("body", field))
    return name, body


def create(tx: Tx, spec: NotificationTemplateSpec, context: Context) -> tuple[str, dict[str, Any]]:
    kept = {"subject": spec.subject, "text": spec.text, "description": spec.description}
    return _checked(spec.notification_template_name, kept)


def change(tx: Tx, record: Record, patch: NotificationTemplatePatch, context: Context) -> tuple[str, dict[str, Any]]:
    return _checked(*merge(record, patch, "notification_template_name"))


def remove(tx: Tx, record: Record, context: Context, query: Mapping[str, str]) -> dict[str, Any]:
    named = {record.id, record.name}
    using = [a for a in tx.resources("alert") if (a.body.get("notification_config") or {}).get("template_id") in named]
    if using and not is_true(query.get("force")):
        names = ", ".join(alert.name for alert in using[:5])
        raise ConflictError(f"{len(using)} alerts use the template ({names}); change them first, or add ?force=true")
    return {}


def present(tx: ReadTx, records: Sequence[Record], context: Context) -> list[dict[str, Any]]:
    return [
        {
            "notification_template_id": record.id,
            "template_id": record.id,
            "notification_template_name": record.name,
            **{name: record.body.get(name) for name in ("subject", "text", "description")},
            "version": record.version,
            "created_at": record.created_at,
            "updated_at": record.updated_at,
        }
        for record in records
    ]


notification_template = Resource(
    name=TEMPLATE,
    path="/notification-templates",
    prefix="tmpl",
    spec=NotificationTemplateSpec,
    patch=NotificationTemplatePatch,
    present=present,
    create=create,
    change=change,
    remove=remove,
)
