"""What is published under which name: rows of their own table, whose public names are unique in the installation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mediatheca.flows.publishing.display import MAX_ICON, DisplayConfig, RateLimitConfig, default_display
from mediatheca.flows.publishing.passwords import hash_password
from mediatheca.flows.retrievers import views
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, NotFoundError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

MAX_PUBLISHED = 10
"""In an organization."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*[a-z0-9]")


class PublicationSpec(BaseModel):
    """`password` and `filters` are ours: `filters` hold for every search of a visitor and cannot be lifted by one."""

    model_config = ConfigDict(extra="allow")

    display_name: str | None = Field(None, min_length=1, max_length=100)
    public_name: str | None = None
    description: str | None = Field(None, max_length=5_000)
    icon_base64: str | None = Field(None, max_length=MAX_ICON)
    display_config: DisplayConfig | None = None
    rate_limit_config: RateLimitConfig | None = None
    password_secret_name: str | None = None
    password: str | None = Field(None, min_length=8, max_length=200)
    filters: dict[str, Any] | None = None
    require_key: bool = False
    include_metadata: bool = True
    tags: list[str] = Field(default_factory=list, max_length=50)
    category: str | None = Field(None, max_length=100)


class PublicationPatch(BaseModel):
    """What is left out stays; an empty `password` (or `password_secret_name`) takes the password away."""

    model_config = ConfigDict(extra="allow")

    description: str | None = Field(None, max_length=5_000)
    icon_base64: str | None = Field(None, max_length=MAX_ICON)
    display_config: DisplayConfig | None = None
    rate_limit_config: RateLimitConfig | None = None
    password_secret_name: str | None = None
    password: str | None = Field(None, max_length=200)
    filters: dict[str, Any] | None = None
    require_key: bool | None = None
    is_active: bool | None = None
    include_metadata: bool | None = None
    tags: list[str] | None = Field(None, max_length=50)
    category: str | None = Field(None, max_length=100)


def is_published(tx: ReadTx, retriever_id: str) -> bool:
    return tx.row("publications", {"retriever_id": retriever_id}) is not None


def get_publication(tx: ReadTx, retriever_id: str) -> Row:
    """Raises NotFoundError when the retriever is not published."""
    row = tx.row("publications", {"retriever_id": retriever_id})
    if row is None:
        raise NotFoundError("publication of retriever", retriever_id)
    return row


def slug(name: str) -> str:
    """A public name from a display name: lower case, hyphens between words."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-")


def check_public_name(name: str, place: tuple[str, ...] = ("body", "public_name")) -> str:
    """Raises ValidationError for what is no public name."""
    if not 3 <= len(name) <= 50 or not _NAME.fullmatch(name):
        message = "must have 3 to 50 lower-case letters, digits and hyphens, not at its ends"
        raise ValidationError.at(place, f"'{name[:60]}' {message}", "name")
    return name


def publish(tx: Tx, retriever: Record, spec: PublicationSpec) -> tuple[Row, list[str]]:
    """Publish a retriever; gives the row and warnings.

    Raises:
        ConflictError: it is published already, the name is taken, or the organization has its fill.
        ValidationError: no usable name.
    """
    held = tx.row("publications", {"retriever_id": retriever.id})
    if held is not None:
        message = f"retriever '{retriever.name}' is published as '{held['public_name']}'; PATCH that publication"
        raise ConflictError(message, details={"existing_id": held["public_id"]})
    _check_room(tx)
    title = spec.display_name or retriever.name
    name = check_public_name(spec.public_name or slug(title))
    page, warnings = _page(tx, retriever, spec, title)
    moment = clock.now()
    row: Row = {
        "public_name": name,
        "public_id": new_id("pub"),
        "retriever_id": retriever.id,
        "is_active": True,
        "password_hash": _password(spec.password, spec.password_secret_name) or "",
        "body": _body(retriever, spec, page),
        "created_at": moment,
        "updated_at": moment,
    }
    try:
        tx.insert("publications", [row])
    except ConflictError as error:
        raise ConflictError(f"public_name '{name}' is taken; choose another one") from error
    tx.emit("retriever.published", retriever.id, {"public_name": name})
    return row, warnings


def _check_room(tx: Tx) -> None:
    """Raises ConflictError when the organization has its fill. Two at once wait for each other at its row."""
    tx.within("").rows("resources", {"kind": "organization"}, columns=("id",), hold="update")
    if tx.count_in_organization("publications", {}) >= MAX_PUBLISHED:
        message = f"this organization has {MAX_PUBLISHED} published retrievers, the most there can be"
        raise ConflictError(f"{message}; unpublish one (DELETE /v1/retrievers/{{id}}/publish)")


def _body(retriever: Record, spec: PublicationSpec, page: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": page["title"],
        "description": spec.description or retriever.body.get("description"),
        "icon_base64": spec.icon_base64,
        "display_config": page,
        "rate_limit_config": (spec.rate_limit_config or RateLimitConfig()).model_dump(mode="json"),
        "filters": _constraint(spec.filters),
        "require_key": spec.require_key,
        "include_metadata": spec.include_metadata,
        "tags": spec.tags,
        "category": spec.category,
    }


def _page(tx: Tx, retriever: Record, spec: PublicationSpec, title: str) -> tuple[dict[str, Any], list[str]]:
    if spec.display_config is not None:
        return spec.display_config.model_dump(mode="json"), []
    identifiers = retriever.body["collection_ids"]
    fields = {name for view in views(tx, identifiers) for name in view.fields} if identifiers else set()
    return default_display(retriever, title, spec.description, sorted(fields))


def _constraint(filters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Filters as they are stored; fixed ones only: nothing a visitor sends may get into them."""
    if not filters:
        return None
    if "{{" in str(filters) or "dynamic" in str(filters):
        message = "must be fixed: templates and dynamic values would let a visitor change them"
        raise ValidationError.at(("body", "filters"), message, "template")
    parse_filter(filters, path="filters")
    return filters


def _password(password: str | None, secret_name: str | None) -> str | None:
    """The hash to store; "" takes it away, None leaves it."""
    if password == "" or (password is None and secret_name == ""):
        return ""
    if password is None:
        return None
    if len(password) < 8:
        raise ValidationError.at(("body", "password"), "must have at least 8 characters", "string_too_short")
    return hash_password(password)


def change_publication(tx: Tx, row: Row, patch: PublicationPatch) -> Row:
    """Change a publication; gives the new row."""
    sent = patch.model_dump(mode="json", exclude_unset=True, include=set(PublicationPatch.model_fields))
    values: dict[str, Any] = {"updated_at": clock.now()}
    hashed = _password(sent.pop("password", None), sent.pop("password_secret_name", None))
    if hashed is not None:
        values["password_hash"] = hashed
    active = sent.pop("is_active", None)
    if active is not None:
        values["is_active"] = active
    if "filters" in sent:
        sent["filters"] = _constraint(sent["filters"])
    kept = {name: value for name, value in sent.items() if value is not None or name in ("filters", "description")}
    body = {**row["body"], **kept}
    if kept.get("display_config"):
        body["title"] = kept["display_config"]["title"]
    values["body"] = body
    tx.update("publications", {"public_name": row["public_name"]}, values)
    tx.emit("retriever.publication_updated", row["retriever_id"], {"fields": sorted(sent)})
    return {**row, **values}


def unpublish(tx: Tx, row: Row) -> None:
    tx.delete("publications", {"public_name": row["public_name"]})
    tx.emit("retriever.unpublished", row["retriever_id"], {"public_name": row["public_name"]})


# ---- how it looks


def publication_view(row: Row, url: str) -> dict[str, Any]:
    """For its owner."""
    body = row["body"]
    return {
        "retriever_id": row["retriever_id"],
        "public_id": row["public_id"],
        "public_name": row["public_name"],
        "public_url": url,
        "short_url": url,
        "public_api_key": None,
        **{name: body[name] for name in ("description", "icon_base64", "display_config", "rate_limit_config")},
        **{name: body[name] for name in ("filters", "require_key", "include_metadata", "tags", "category")},
        "password_protected": bool(row["password_hash"]),
        "is_active": row["is_active"],
        "retriever_metadata": None,
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


def public_view(row: Mapping[str, Any], url: str) -> dict[str, Any]:
    """For the directory of published retrievers."""
    body, page = row["body"], row["body"]["display_config"]
    return {
        "public_name": row["public_name"],
        "public_url": url,
        "title": page["title"],
        "description": page.get("description") or body["description"],
        "logo_url": page.get("logo_url"),
        "icon_base64": page.get("icon_base64") or body["icon_base64"],
        "og_image_url": (page.get("seo") or {}).get("og_image_url") if isinstance(page.get("seo"), dict) else None,
        "password_protected": bool(row["password_hash"]),
        "is_active": row["is_active"],
        "external_links": page.get("external_links"),
        "tags": body["tags"],
        "category": body["category"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }
