"""A POST of JSON to an address, signed. Any status 2xx is an arrival; 410 says that nothing more is wanted."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mediatheca.channels import Channel, ChannelParams, Where
from mediatheca.channels._http import MAX_ANSWER, as_json, judged
from mediatheca.kernel import notice_templates
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.http_headers import check_headers
from mediatheca.kernel.notices import ChannelContext, Notice, Sent
from mediatheca.kernel.outside import HttpRequest
from mediatheca.kernel.webhook_signing import sign


class WebhookParams(ChannelParams):
    """Where to post, and what."""

    url: str = Field(min_length=1, max_length=8192)
    headers: dict[str, str] = Field(default_factory=dict)
    payload_template: dict[str, Any] | None = None
    """Posted instead of the event: keys as they are, values are templates over the event's keys."""
    timeout: float = Field(10.0, gt=0, le=30)
    """Seconds for one attempt, from the connection to the end of the answer."""


def _check(params: WebhookParams, where: Where) -> None:
    try:
        check_headers(params.headers)
    except ValidationError as error:
        raise ValidationError.at((*where, "headers"), error.errors[0].msg, "header") from error
    for name in params.headers:
        if name.lower().startswith(("webhook-", "x-mixpeek-")):
            message = f"'{name[:60]}' is not a header that can be set: it belongs to the signature"
            raise ValidationError.at((*where, "headers"), message, "header")
    notice_templates.check(params.payload_template, (*where, "payload_template"))


async def _send(notice: Notice, params: WebhookParams, context: ChannelContext) -> Sent:
    body: Any = notice.body
    if params.payload_template is not None:
        body = await context.render(params.payload_template, notice.body)
    data, now = as_json(body), context.timestamp()
    headers = {"content-type": "application/json", "user-agent": "mediatheca-webhooks/1"}
    headers |= {name.lower(): value for name, value in params.headers.items()}
    headers |= sign(notice.secrets, notice.message_id, now, data)
    request = HttpRequest(params.url, "POST", headers, data, timeout_s=params.timeout, max_bytes=MAX_ANSWER)
    return judged(await context.http(request), now)


webhook = Channel(
    name="webhook",
    summary="A signed POST of JSON to an address.",
    params=WebhookParams,
    send=_send,
    short="url",
    secret_fields=("headers",),
    signs=True,
    check=_check,
    addresses=lambda params: (params.url,),
)
