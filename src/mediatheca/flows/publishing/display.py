"""How a published retriever presents itself: the configuration of its public page, and what of a document it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mediatheca.stores.db.tx import Record

SHOWN_BY_DEFAULT = ("title", "name", "headline", "description", "summary", "text", "caption", "thumbnail_url", "url")
"""Fields that a publication without `display_config` shows where the collections have them. Everything else is kept."""
MAX_ICON = 300_000


class DisplayConfig(BaseModel):
    """Keys of the page's looks are kept as they are; `exposed_fields` decides what of a document leaves the house."""

    model_config = ConfigDict(extra="allow")

    title: str = Field(min_length=1, max_length=200)
    description: str | None = Field(None, max_length=5_000)
    icon_base64: str | None = Field(None, max_length=MAX_ICON)
    inputs: list[dict[str, Any]] = Field(max_length=100)
    exposed_fields: list[str] = Field(min_length=1, max_length=200)

    @field_validator("exposed_fields")
    @classmethod
    def _paths(cls, value: list[str]) -> list[str]:
        for path in value:
            if not path or len(path) > 200 or path.split(".")[0] in ("_internal", "vectors"):
                raise ValueError(f"'{path[:60]}' cannot be exposed: the dotted path of a document's own field")
        return list(dict.fromkeys(value))


class RateLimitConfig(BaseModel):
    """Requests of all visitors together; of one address where `enable_ip_limits` is set."""

    model_config = ConfigDict(extra="ignore")

    enabled: bool = True
    tier: Literal["standard", "elevated", "enterprise", "unlimited"] = "standard"
    requests_per_minute: int | None = Field(None, ge=1, le=10**9)
    requests_per_hour: int | None = Field(None, ge=1, le=10**9)
    requests_per_day: int | None = Field(None, ge=1, le=10**9)
    max_results_per_query: int = Field(100, ge=1, le=1000)
    enable_ip_limits: bool = False
    max_requests_per_ip_hour: int | None = Field(None, ge=1, le=10**9)


TIERS: Mapping[str, tuple[int | None, int | None, int | None]] = {
    "standard": (60, 1_000, 10_000),
    "elevated": (300, 10_000, 100_000),
    "enterprise": (1_000, 50_000, 500_000),
    "unlimited": (None, None, None),
}
"""Requests a minute, an hour, a day."""
PER_IP_HOUR = 500


def limits_of(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(seconds, requests) windows of a stored configuration."""
    if not config["enabled"]:
        return []
    minute, hour, day = TIERS[config["tier"]]
    windows = (
        (60, config["requests_per_minute"] or minute),
        (3_600, config["requests_per_hour"] or hour),
        (86_400, config["requests_per_day"] or day),
    )
    return [(seconds, count) for seconds, count in windows if count is not None]


def default_display(
    retriever: Record, title: str, description: str | None, fields: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """The page of a publication that was given none, and warnings. `fields`: what the collections declare."""
    shown = [name for name in SHOWN_BY_DEFAULT if name in fields]
    warnings = []
    if not shown:
        shown = ["document_id"]
        warnings.append("no field is shown but document_id: name those to show in display_config.exposed_fields")
    page = {
        "title": title,
        "description": description,
        "inputs": [_input(name, field, n) for n, (name, field) in enumerate(retriever.body["input_schema"].items())],
        "exposed_fields": shown,
    }
    return page, warnings


def _input(name: str, field: Mapping[str, Any], order: int) -> dict[str, Any]:
    return {
        "field_name": name,
        "field_schema": dict(field),
        "input_type": "select" if field.get("enum") else "text",
        "label": str(field.get("description") or name.replace("_", " ").capitalize())[:200],
        "required": bool(field.get("required", False)),
        "order": order,
    }
