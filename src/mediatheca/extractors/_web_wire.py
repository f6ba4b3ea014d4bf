"""Parameters of `web_scraper` that clients send and nothing here does: proxies, captchas, cookies, YouTube."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mediatheca.extractors._llm import ShapeParams
from mediatheca.kernel.no_effect import NoEffect

_PROXIES = NoEffect("pages are fetched by this server itself")
_PERSON = NoEffect("nothing here pretends to be a person; a page behind a captcha is told as one that failed")
_YOUTUBE = NoEffect("pages of YouTube are pages like others here; extract a video's file, or its captions file")
_REFUSED = {
    "proxies": "pages are fetched by this server itself",
    "captcha_service_provider": "nothing here pretends to be a person",
    "captcha_service_api_key": "nothing here pretends to be a person",
    "youtube_cookies_path": "this installation has no YouTube source",
}
"""What somebody who sets it relies on: refused, not told."""


class WireParams(ShapeParams):
    """Accepted, with the defaults of the wire; another value gives a warning."""

    proxies: list[str] = Field([], max_length=100, description="Not available: must be empty.")
    captcha_service_provider: str | None = Field(None, max_length=200, description="Not available: must be empty.")
    captcha_service_api_key: str | None = Field(None, max_length=200, description="Not available: must be empty.")
    youtube_cookies_path: str | None = Field(None, max_length=1000, description="Not available: must be empty.")
    rotate_proxy_on_error: Annotated[bool, _PROXIES] = True
    rotate_proxy_every_n_requests: Annotated[int, _PROXIES] = Field(0, ge=0)
    detect_captcha: Annotated[bool, _PERSON] = True
    persist_cookies: Annotated[bool, NoEffect("no cookies are kept", harmless=(False,))] = True
    youtube_mode: Annotated[Literal["auto", "off"], NoEffect(_YOUTUBE.reason, harmless=("off",))] = "auto"
    youtube_max_videos: Annotated[int, _YOUTUBE] = 50
    youtube_backfill_months: Annotated[int, _YOUTUBE] = 6
    youtube_show_filter: Annotated[str | None, _YOUTUBE] = Field(None, max_length=1000)
    youtube_download_videos: Annotated[bool, NoEffect(_YOUTUBE.reason, harmless=(False,))] = True
    youtube_format_ladder: Annotated[str, _YOUTUBE] = Field("b[height<=720]/bv*[height<=720]+ba/best", max_length=1000)
    youtube_request_sleep: Annotated[float, _YOUTUBE] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _nothing_silently(cls, value: Any) -> Any:
        for name, reason in _REFUSED.items():
            if isinstance(value, dict) and value.get(name):
                raise ValueError(f"{name}: not available, {reason}; leave it out")
        return value
