"""Stored connections to storage: checked, sealed, and opened as the source of a sync."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
import pydantic
from pydantic import BaseModel

from mediatheca.connectors import Connector, Source, SourceError
from mediatheca.flows.outside.connections import MASK, Connection, stored_body
from mediatheca.flows.services import Services
from mediatheca.flows.vault import Vault
from mediatheca.kernel.errors import FieldError, MediathecaError, NotEnabledError, ValidationError, plain_message
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.templates import compile_string, is_template
from mediatheca.stores.fetch import check_encrypted, check_url
from mediatheca.stores.fetch.storage import StorageHttp

WHERE = ("body", "provider_config")
_SHOWN = re.compile(r"[\w .-]{1,40}")


def connector_of(services: Services, provider_type: str) -> Connector | None:
    """The connector that a provider is read with; None: it is no storage."""
    known = services.connectors.get(provider_type)
    return known or next((each for each in services.connectors.values() if provider_type in each.also), None)


def need_connector(services: Services, provider_type: str, where: tuple[str, ...] = ("body", "provider")) -> Connector:
    """Raises NotEnabledError for what is not read here, naming what is."""
    found = connector_of(services, provider_type)
    if found is None:
        shown = provider_type if _SHOWN.fullmatch(provider_type) else "this provider"
        names = ", ".join(sorted(name for each in services.connectors.values() for name in (each.name, *each.also)))
        raise NotEnabledError(f"{where[-1]}: '{shown}' is not available here; {names} are")
    return found


def checked_storage(
    connector: Connector, raw: Any, where: tuple[str, ...] = WHERE
) -> tuple[dict[str, Any], dict[str, str] | None]:
    """What a caller configured, as (what is shown, credentials). Credentials are None where none were sent.

    Raises:
        ValidationError: naming each offending field, repeating no value.
    """
    given = dict(raw) if isinstance(raw, Mapping) else raw
    credentials: Any = None
    if isinstance(given, dict):
        credentials = given.pop("credentials", None)
        given.pop("provider_type", None)
    config = _model(connector.config, given, where)
    held = None
    if credentials:
        held = _model(connector.credentials, credentials, (*where, "credentials")).model_dump(exclude_none=True)
    return config.model_dump(mode="json"), None if held is None else {name: _text(v) for name, v in held.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _model(model: type[BaseModel], raw: Any, where: tuple[str, ...]) -> BaseModel:
    try:
        return model.model_validate(raw)
    except pydantic.ValidationError as error:
        found = [FieldError((*where, *each["loc"]), plain_message(each), each["type"]) for each in error.errors()]
        raise ValidationError.of(found) from None  # the cause holds what was sent


def check_addresses(services: Services, connector: Connector, config: Mapping[str, Any]) -> None:
    """Refuse now an address that would be refused when it is read from.

    Raises:
        ValidationError: at `endpoint_url`.
    """
    for address in connector.addresses(connector.config.model_validate(config)):
        try:
            services.fetcher.check(address)
            check_encrypted(services.fetcher, check_url(address))
        except ValidationError as error:
            message = error.errors[0].msg if error.errors else error.message
            raise ValidationError.at((*WHERE, "endpoint_url"), message, "url_refused") from error


def check_storage(services: Services, connection: Connection) -> None:
    """Ask the store for a listing.

    Raises:
        MediathecaError: it does not work; the message says why, and repeats no credentials.
    """
    with opened_source(services, connection, "") as source:
        source.check()


@contextmanager
def opened_source(
    services: Services, connection: Connection, path: str, stop: threading.Event | None = None
) -> Iterator[Source]:
    """The folder `path` of a connection, while it is read. `stop` ends what is being read.

    Raises:
        NotEnabledError: it is no storage.
        ValidationError: the path names nothing; or an address is refused.
        BadRequestError: a secret that the credentials name is gone.
    """
    connector = need_connector(services, connection.provider_type, ("connection_id",))
    config = connector.config.model_validate(dict(connection.config))
    with StorageHttp(services.fetcher, stop=stop) as http:
        yield connector.open(config, _credentials(services, connector, connection), http, path)


def check_path(services: Services, connection: Connection, path: str) -> None:
    """Raises ValidationError at `source_path`, for one that names nothing. Asks nobody; not in a transaction."""
    connector = need_connector(services, connection.provider_type, ("connection_id",))
    config = connector.config.model_validate(dict(connection.config))
    if not path.strip("/") and not (config.model_dump().get("bucket") or config.model_dump().get("container")):
        message = "is required: the connection names no bucket, so it begins with one: bucket/folder"
        raise ValidationError.at(("body", "source_path"), message, "missing")
    with StorageHttp(services.fetcher) as http:
        connector.open(config, _credentials(services, connector, connection), http, path)


def _credentials(services: Services, connector: Connector, connection: Connection) -> BaseModel | None:
    if not connection.credentials:
        return None
    scope = Scope(connection.organization_id)
    secrets = services.vault.read(scope, connection.secrets)
    filled = {name: connection.credential(name, secrets) for name in connection.credentials}
    try:
        return connector.credentials.model_validate(filled)
    except pydantic.ValidationError:
        message = "the secrets that its credentials name do not hold what belongs there"
        raise SourceError("access_denied", message, fatal=True) from None


def check_templates(credentials: Mapping[str, str], where: tuple[str, ...] = WHERE) -> None:
    """Raises ValidationError for a template that is none of a secret."""
    for name, value in credentials.items():
        if not is_template(value) or value.startswith('{"'):
            continue
        try:
            fine = compile_string(value).names == {"SECRET"}
        except MediathecaError:
            fine = False
        if not fine:
            message = "may refer to secrets only: {{secrets.name}}"
            raise ValidationError.at((*where, "credentials", name), message, "template")


def sealed_storage(
    vault: Vault, scope: Scope, ident: str, config: Mapping[str, Any], credentials: Mapping[str, str]
) -> dict[str, Any]:
    """The part of a record that holds a configuration: the credentials encrypted, and masked for show."""
    shown = {name: value if name == "type" else MASK for name, value in credentials.items()}
    return {**stored_body(vault, scope, ident, config, credentials), "credentials": shown}
