"""Webhooks: who asked to be told of which events, the messages they get, and how their receivers fare."""

from __future__ import annotations

from mediatheca.flows.webhooks.expansion import EXPAND, expansion_died, webhook_jobs
from mediatheca.flows.webhooks.fanout import WebhookFanout
from mediatheca.flows.webhooks.health import DISABLE_AFTER_S, note_results

__all__ = ["DISABLE_AFTER_S", "EXPAND", "WebhookFanout", "expansion_died", "note_results", "webhook_jobs"]
