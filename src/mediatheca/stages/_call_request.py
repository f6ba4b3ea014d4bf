"""What `api_call` sends: the URL with its fixed host, credentials, headers and body."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import orjson
from pydantic import BaseModel, Field

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.templates import is_template

_AUTHORITY = re.compile(r"https?://([^/?#\s\\]*)", re.I)
_DOMAIN = re.compile(r"(?:\*\.)?[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.I)
_V6 = re.compile(r"\[?[0-9a-f:.]+\]?", re.I)
MAX_DOMAINS = 50


class Auth(BaseModel):
    """Credentials of the call. They come from the vault: `secret_ref` names the secret."""

    type: Literal["none", "api_key", "bearer", "basic", "custom_header"] = "none"
    secret_ref: str | None = Field(None, description="Name of a secret of the organization.")
    key: str | None = Field(None, description="Name of the header or query parameter; for basic, the user.")
    location: Literal["header", "query"] = "header"
    value: str | None = Field(None, description="Filled in from the secret.", repr=False)


def check_fixed_host(url: Any) -> str:
    """The host of an authored URL.

    Raises:
        ValidationError: the URL does not begin with a scheme and a host that stand there as they are.
    """
    match = _AUTHORITY.match(url) if isinstance(url, str) else None
    authority = match[1] if match else ""
    if not authority or "{" in authority or "@" in authority:
        message = (
            "must begin with https://host/ written out: no template may decide where a call goes, and no user name"
        )
        raise ValidationError.at("url", f"{message}; templates may follow in path and query", "templated_host")
    try:
        host = urlsplit(str(match[0] if match else "")).hostname or ""
    except ValueError as error:
        raise ValidationError.at("url", f"has no host that can be read: {error}", "url") from error
    return host.rstrip(".")


def check_domains(domains: Any, host: str) -> None:
    """Refuse a list of domains that allows everything, or not even the call itself.

    Raises:
        ValidationError: naming the entry.
    """
    if not isinstance(domains, list) or not domains or len(domains) > MAX_DOMAINS:
        message = f"must list 1 to {MAX_DOMAINS} hosts, such as api.example.com or *.example.com"
        raise ValidationError.at("allowed_domains", message, "allowed_domains")
    for number, entry in enumerate(domains):
        known = isinstance(entry, str) and (_DOMAIN.fullmatch(entry) or _V6.fullmatch(entry))
        if not known or (entry.startswith("*.") and "." not in entry[2:]):
            message = f"'{str(entry)[:80]}' is not a host; write api.example.com or *.example.com, never *"
            raise ValidationError.at(("allowed_domains", number), message, "allowed_domains")
    lower = [entry.lower() for entry in domains]
    if not any(host.endswith(entry[1:]) if entry.startswith("*.") else host == entry.strip("[]") for entry in lower):
        message = f"does not allow the host of the url, '{host}'; add it"
        raise ValidationError.at("allowed_domains", message, "allowed_domains")


def with_secret(auth: Any) -> Any:
    """Authored credentials with the template that reads the secret.

    Raises:
        ValidationError: there is none, or a credential is written out.
    """
    if not isinstance(auth, Mapping) or auth.get("type", "none") == "none":
        return auth
    reference = auth.get("secret_ref") or auth.get("value")
    if not isinstance(reference, str) or not reference:
        raise ValidationError.at("auth.secret_ref", "is required: the name of a secret of the organization", "missing")
    if auth.get("value") is not None and not is_template(auth["value"]):
        message = "a credential is never written out; store it as a secret and name it in secret_ref"
        raise ValidationError.at("auth.value", message, "plain_credential")
    if is_template(reference):
        return {**auth, "value": reference, "secret_ref": None}
    if '"' in reference or "\\" in reference:
        raise ValidationError.at("auth.secret_ref", "is not the name of a secret", "secret_name")
    return {**auth, "value": f'{{{{SECRET["{reference}"]}}}}'}


def authorized(auth: Auth | None, url: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The URL and headers with the credentials added.

    Raises:
        ValidationError: the secret came out empty.
    """
    if auth is None or auth.type == "none":
        return url, headers
    if not auth.value:
        raise ValidationError.at("auth.secret_ref", "the secret is empty", "missing")
    if auth.type == "bearer":
        return url, {**headers, "authorization": f"Bearer {auth.value}"}
    if auth.type == "basic":
        pair = auth.value if auth.key is None else f"{auth.key}:{auth.value}"
        return url, {**headers, "authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    name = auth.key or "X-API-Key"
    if auth.type == "api_key" and auth.location == "query":
        parts = urlsplit(url)
        query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), (name, auth.value)])
        return urlunsplit(parts._replace(query=query)), headers
    return url, {**headers, name.lower(): auth.value}


def check_path(url: str) -> str:
    """Raises ValidationError when a value of a template leads upwards in the path."""
    segments = unquote(unquote(urlsplit(url).path)).replace("\\", "/").split("/")
    if ".." in segments or "." in segments:
        raise ValidationError.at("url", "its path leads upwards ('..'); encode the value with | urlencode", "path")
    return url


def header_texts(headers: Mapping[str, Any], render: Callable[[Any], Any]) -> dict[str, str]:
    """Headers as texts, names in lower case; a header whose value is absent is left out."""
    made = {str(name).lower(): render(value) for name, value in headers.items()}
    return {
        name: value if isinstance(value, str) else _json_text(value)
        for name, value in made.items()
        if value is not None
    }


def body_bytes(body: Any, headers: dict[str, str]) -> bytes:
    """The body; JSON unless it is a text. Sets the media type where none was given."""
    if body is None:
        return b""
    if isinstance(body, str):
        kind = "application/json" if body.lstrip()[:1] in ("{", "[") else "text/plain; charset=utf-8"
        headers.setdefault("content-type", kind)
        return body.encode("utf-8", "replace")
    headers.setdefault("content-type", "application/json")
    return orjson.dumps(body, default=str, option=orjson.OPT_NON_STR_KEYS)


def _json_text(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
