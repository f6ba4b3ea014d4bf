"""A message in Slack: by an incoming webhook, or by an app's token and the name of a channel.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks and …/reference/methods/chat.postMessage.
"""

from __future__ import annotations

import re
from typing import Any

import orjson
from pydantic import AliasChoices, Field

from mediatheca.channels import Channel, ChannelParams, Where
from mediatheca.channels._http import MAX_ANSWER, as_json, judged, patience, text_of
from mediatheca.kernel import notice_templates
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.notice_templates import escaped_text
from mediatheca.kernel.notices import ChannelContext, ChannelSettings, Notice, Sent
from mediatheca.kernel.outside import HttpRequest

MAX_TEXT = 12_000
MAX_BLOCKS = 50
_TIMEOUT_S = 10.0
_HOPELESS = frozenset({
    "account_inactive", "cannot_reply_to_message", "channel_is_archived", "channel_not_found", "invalid_auth",
    "invalid_blocks", "is_archived", "missing_scope", "msg_too_long", "no_permission", "no_text", "not_authed",
    "not_in_channel", "restricted_action", "token_expired", "token_revoked",
})  # fmt: skip
"""Errors of the API that another attempt meets again."""
_HOPELESS_HOOK = re.compile(
    r"no_service|no_team|invalid_token|invalid_payload|channel_(is_archived|not_found)|action_prohi"
)


class SlackParams(ChannelParams):
    """Where to write. Without `webhook_url` the app's token and `channel` are used."""

    webhook_url: str | None = Field(None, min_length=1, max_length=2048)
    token: str | None = Field(None, min_length=1, max_length=500, validation_alias=AliasChoices("token", "bot_token"))
    channel: str | None = Field(None, min_length=1, max_length=200)
    username: str | None = Field(None, max_length=80)
    icon_emoji: str | None = Field(None, max_length=100)
    icon_url: str | None = Field(None, max_length=2048)
    blocks_template: str | None = Field(None, max_length=64 * 1024)
    """JSON of the blocks; its texts are templates over the event's keys."""


def _check(params: SlackParams, where: Where) -> None:
    if params.webhook_url is None and params.channel is None:
        message = "needs 'webhook_url' of an incoming webhook, or 'channel' for the installation's Slack app"
        raise ValidationError.at(where, message, "missing")
    if params.blocks_template is not None:
        notice_templates.check(_blocks(params.blocks_template, where), (*where, "blocks_template"))


def _blocks(template: str, where: Where) -> list[Any]:
    try:
        blocks = orjson.loads(template)
    except orjson.JSONDecodeError as error:
        message = f"is not JSON ({error}); write the list of blocks as JSON, with templates inside its texts"
        raise ValidationError.at((*where, "blocks_template"), message, "json") from error
    blocks = blocks.get("blocks") if isinstance(blocks, dict) else blocks
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= MAX_BLOCKS:
        message = f"must be a list of 1 to {MAX_BLOCKS} blocks, or an object with 'blocks'"
        raise ValidationError.at((*where, "blocks_template"), message, "blocks")
    return blocks


def _missing(params: SlackParams, settings: ChannelSettings) -> str:
    if params.webhook_url or params.token or settings.slack_token:
        return ""
    return (
        "no Slack app is set up: give a 'webhook_url', store a channel with a 'token', or let the operator set "
        "slack=TOKEN in MEDIATHECA_NOTIFY"
    )


async def _send(notice: Notice, params: SlackParams, context: ChannelContext) -> Sent:
    message: dict[str, Any] = {"text": escaped_text(notice.text, "slack")[:MAX_TEXT]}
    if params.blocks_template is not None:
        blocks = _blocks(params.blocks_template, ("config",))
        message["blocks"] = await context.render(blocks, notice.body, "slack")
    chosen = params.model_dump(include={"channel", "username", "icon_emoji", "icon_url"}, exclude_none=True)
    data = as_json(message | chosen)
    return await (
        _by_webhook(params.webhook_url, data, context) if params.webhook_url else _by_api(params, data, context)
    )


async def _by_webhook(url: str, data: bytes, context: ChannelContext) -> Sent:
    request = HttpRequest(url, "POST", _JSON, data, timeout_s=_TIMEOUT_S, max_bytes=MAX_ANSWER)
    answer = await context.http(request)
    told = judged(answer, context.timestamp())
    if told.error and _HOPELESS_HOOK.search(told.response):
        return Sent(told.status, told.response, f"{told.error}: {told.response[:100]}", permanent=True)
    return told


async def _by_api(params: SlackParams, data: bytes, context: ChannelContext) -> Sent:
    headers = {**_JSON, "authorization": f"Bearer {params.token or context.settings.slack_token}"}
    url = f"{context.settings.slack_url}/chat.postMessage"
    answer = await context.http(HttpRequest(url, "POST", headers, data, timeout_s=_TIMEOUT_S, max_bytes=MAX_ANSWER))
    if not 200 <= answer.status < 300:
        return judged(answer, context.timestamp())
    try:
        told = orjson.loads(answer.data)
        fault = "" if told["ok"] is True else str(told.get("error", "unknown"))[:100]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return Sent(answer.status, text_of(answer), "Slack's answer cannot be read; try again later")
    if not fault:
        return Sent(answer.status, text_of(answer))
    wait = patience(answer.headers, context.timestamp())
    error = f"Slack refused the message: {fault}"
    return Sent(answer.status, text_of(answer), error, wait, permanent=fault in _HOPELESS)


_JSON = {"content-type": "application/json; charset=utf-8"}

slack = Channel(
    name="slack",
    summary="A message in Slack, by an incoming webhook or by an app's token.",
    params=SlackParams,
    send=_send,
    short="channel",
    secret_fields=("webhook_url", "token"),
    check=_check,
    addresses=lambda params: (params.webhook_url,) if params.webhook_url else (),
    missing=_missing,
)
