"""Stored connections to other systems. What is configured is shown; credentials are encrypted, and never shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import pydantic
from pydantic import BaseModel, ConfigDict, Field

from mediatheca.flows.vault import CONNECTION, Vault, sealed_name
from mediatheca.kernel.errors import FieldError, NotEnabledError, ValidationError, plain_message
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.templates import compile_string, is_template
from mediatheca.stores.db.tx import ReadTx, Record

SQL_PROVIDERS = ("postgresql", "sqlite")
MASK = "********"
_SHOWN_CREDENTIALS = ("type", "username")
SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


class _Config(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True)

    credentials: dict[str, str] = Field(default_factory=dict)


class PostgresConfig(_Config):
    """A PostgreSQL database. The user should be one that may only read what retrievers need."""

    provider_type: Literal["postgresql"] = "postgresql"
    host: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._:-]+$")
    port: int = Field(5432, ge=1, le=65535)
    database: str = Field(min_length=1, max_length=200)
    schema_name: str = Field("public", alias="schema", min_length=1, max_length=63, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    ssl_mode: SslMode = "prefer"


class SqliteConfig(_Config):
    """A SQLite file in the folder `sql` of the data directory."""

    provider_type: Literal["sqlite"] = "sqlite"
    database: str = Field(min_length=1, max_length=500)


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection with its credentials in clear, for the moment it is used. Its `repr` shows none."""

    organization_id: str
    connection_id: str
    name: str
    provider_type: str
    config: Mapping[str, Any]
    credentials: Mapping[str, str] = field(repr=False)

    @property
    def secrets(self) -> frozenset[str]:
        """The secrets that the credentials refer to: `{{secrets.name}}`."""
        templates = [value for value in self.credentials.values() if is_template(value)]
        return frozenset(name for text in templates for name in compile_string(text).secrets)

    def credential(self, name: str, secrets: Mapping[str, str]) -> str:
        """A credential, with secrets filled in."""
        value = self.credentials.get(name, "")
        return str(compile_string(value).render({"SECRET": secrets})) if is_template(value) else value


def checked_config(provider_type: str, raw: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """What a caller configured, as (what is shown, credentials).

    Raises:
        ValidationError: naming each offending field, repeating no value.
        NotEnabledError: there is nothing here that reads such a system.
    """
    model: type[PostgresConfig] | type[SqliteConfig]
    if provider_type == "postgresql":
        model = PostgresConfig
    elif provider_type == "sqlite":
        model = SqliteConfig
    else:
        raise NotEnabledError(
            f"provider_type: '{provider_type[:40]}' is not available here; {', '.join(SQL_PROVIDERS)} are"
        )
    try:
        made = model.model_validate(raw)
    except pydantic.ValidationError as error:
        found = [
            FieldError(("body", "provider_config", *e["loc"]), plain_message(e), e["type"]) for e in error.errors()
        ]
        raise ValidationError.of(found, skip=1) from None
    credentials = dict(made.credentials)
    if provider_type == "postgresql":
        _check_credentials(credentials)
    return made.model_dump(mode="json", by_alias=True, exclude={"credentials"}), credentials


def _check_credentials(credentials: dict[str, str]) -> None:
    if credentials.setdefault("type", "username_password") != "username_password":
        message = "must be 'username_password' for postgresql"
        raise ValidationError.at(("body", "provider_config", "credentials", "type"), message, "enum")
    for name in ("username", "password"):
        place = ("body", "provider_config", "credentials", name)
        if not credentials.get(name):
            raise ValidationError.at(place, "is required; a secret is written {{secrets.name}}", "missing")
        if is_template(credentials[name]) and compile_string(credentials[name]).names != {"SECRET"}:
            raise ValidationError.at(place, "may refer to secrets only: {{secrets.name}}", "template")


def stored_body(
    vault: Vault, scope: Scope, ident: str, config: Mapping[str, Any], credentials: Mapping[str, str]
) -> dict[str, Any]:
    """The part of a record that holds a configuration, with its credentials encrypted."""
    text = orjson.dumps(dict(credentials)).decode()
    shown = {name: value if name in _SHOWN_CREDENTIALS else MASK for name, value in credentials.items()}
    sealed = vault.seal(scope, sealed_name(CONNECTION, ident, ""), text)
    return {"config": dict(config), "credentials": shown, "sealed": sealed}


def new_connection_id() -> str:
    return new_id("conn")


def load_connection(tx: ReadTx, vault: Vault, identifier: str) -> Connection:
    """A connection by id or name.

    Raises:
        NotFoundError: there is none in this organization.
        ValidationError: it is switched off.
        UnavailableError: its credentials cannot be decrypted here.
    """
    record = tx.get(CONNECTION, identifier)
    if not record.body.get("is_active", True):
        raise ValidationError.at(
            "connection_id", f"the connection '{record.name}' is switched off (is_active)", "inactive"
        )
    return opened(vault, tx.scope, record)


def opened(vault: Vault, scope: Scope, record: Record) -> Connection:
    """A record with its credentials decrypted. Raises UnavailableError."""
    text = vault.open(scope, sealed_name(CONNECTION, record.id, record.name), record.body["sealed"])
    return Connection(
        organization_id=scope.organization_id,
        connection_id=record.id,
        name=record.name,
        provider_type=record.body["provider_type"],
        config=record.body["config"],
        credentials=orjson.loads(text),
    )
