"""What an alert says: the body for programs, a title and a text for people, by its template if it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from mediatheca.flows.alerts.matches import AlertMatches, match_view
from mediatheca.kernel import notice_templates
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ValidationError
from mediatheca.stores.db.tx import ReadTx, Record

TEMPLATE = "notification_template"
EVENT = "alert.triggered"
TOLD = 20
"""Matches of one notice."""
LISTED = 10
"""Matches that the text for people names."""
MAX_FIELDS = 8 * 1024
"""Characters of the fields of one match."""


def template_of(tx: ReadTx, config: Mapping[str, Any]) -> dict[str, str] | None:
    """Subject and text as templates: those of the stored template, else those of the alert itself."""
    ident = config.get("template_id")
    record = tx.find(TEMPLATE, str(ident)) if ident else None
    if record is None and ident and tx.scope.namespace_id:
        record = tx.within("").find(TEMPLATE, str(ident))
    given = record.body if record is not None else config.get("template") or {}
    kept = {name: str(given[name]) for name in ("subject", "text") if given.get(name)}
    return kept or None


def notice(
    alert: Record,
    found: AlertMatches,
    execution_id: str,
    reason: str,
    *,
    organization_id: str,
    moment: Any,
    bounded: bool,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of a notification."""
    matches = [match_view(match, bounded=bounded) for match in found.matches[:TOLD]]
    return {
        "event_type": EVENT,
        "alert_id": alert.id,
        "alert_name": alert.name,
        "organization_id": organization_id,
        "namespace_id": alert.namespace_id or None,
        "collection_id": found.collection_id or None,
        "execution_id": execution_id,
        "occurred_at": wire_time(moment),
        "trigger_reason": reason,
        "match_count": len(found.matches),
        "matches": shown(alert, matches),
        "source_documents": found.sources[:TOLD],
        **(more or {}),
    }


def shown(alert: Record, matches: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Matches as the alert tells them: `include_matches`, `include_scores`."""
    config = alert.body.get("notification_config") or {}
    if config.get("include_matches", True) is False:
        return []
    hidden = () if config.get("include_scores", True) is not False else ("score", "raw_score", "matched_features")
    return [_short({key: entry[key] for key in entry if key not in hidden}) for entry in matches[:TOLD]]


def _short(entry: dict[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(entry["metadata"], option=orjson.OPT_NON_STR_KEYS, default=repr)) > MAX_FIELDS:
        return {**entry, "metadata": {}, "truncated": True}
    return entry


def worded(body: dict[str, Any], template: Mapping[str, str] | None) -> dict[str, Any]:
    """The body with `title` and `text` for people. A template that fails on these values is told in
    `template_error`, and the usual words are sent: an alert is not lost to a template."""
    title, text = _title(body), _text(body)
    if template is None:
        return {**body, "title": title, "text": text}
    try:
        made = notice_templates.render(dict(template), body)
    except ValidationError as error:
        return {**body, "title": title, "text": text, "template_error": error.message[:500]}
    subject = " ".join(str(made.get("subject") or title).split())[:200]
    return {**body, "title": subject, "text": str(made.get("text") or text)}


def _title(body: Mapping[str, Any]) -> str:
    count = body["match_count"]
    told = f"{count} document{'' if count == 1 else 's'} matched" if count else str(body["trigger_reason"])
    return " ".join(f"Alert {body['alert_name']}: {told}".split())[:200]


def _text(body: Mapping[str, Any]) -> str:
    lines = [str(body["trigger_reason"])]
    matches: Sequence[Mapping[str, Any]] = body["matches"]
    for match in matches[:LISTED]:
        score = match.get("raw_score")
        lines.append(f"- {match['document_id']}" + (f" ({score:.3f})" if isinstance(score, int | float) else ""))
    left = body["match_count"] - min(len(matches), LISTED)
    if matches and left > 0:
        lines.append(f"and {left} more")
    if "summary" in body and body["summary"]["runs"]:
        lines.append(f"hits during the cool-down: {body['summary']['runs']}")
    return "\n".join(lines)
