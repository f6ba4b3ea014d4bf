"""What of the world outside this installation can reach, as far as that shows without asking anybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mediatheca.flows.outside import browser, code, web
from mediatheca.flows.outside.language_models import HOW, LanguageConfig
from mediatheca.flows.outside.web import SearchSetting
from mediatheca.kernel.extras import missing
from mediatheca.settings import Settings


class Readiness:
    """Answers to the `needs` of stages. One per process; what is installed is looked up once."""

    def __init__(self, settings: Settings) -> None:
        self._language = LanguageConfig.of(settings)
        self._search = SearchSetting.parse(settings.web_search.get_secret_value())
        self._code = settings.allow_code
        self._checks: Mapping[str, Callable[[], str]] = {
            "language": self._lacks_language,
            "web_search": self._lacks_search,
            "image_search": self._lacks_images,
            "code": self._lacks_code,
            "pages": lambda: missing("web"),
            "browser": browser.lacking,
            "clustering": lambda: missing("stages", "sklearn"),
            "tokenizer": lambda: missing("stages", "toktok"),
        }
        self._known: dict[str, str] = {}

    def lacking(self, need: str) -> str:
        """Why a need is not met, and what to do; empty when it is. One that nobody here knows is met."""
        if need not in self._known:
            check = self._checks.get(need)
            self._known[need] = "" if check is None else check()
        return self._known[need]

    def _lacks_language(self) -> str:
        return missing("language") or ("" if self._language.providers() else f"no language model is configured: {HOW}")

    def _lacks_search(self) -> str:
        return "" if self._search is not None else f"no web search is configured: {web.HOW}"

    def _lacks_images(self) -> str:
        if self._search is not None and self._search.service.images is not None:
            return ""
        return f"no search by picture is configured: set {web.SETTING} to 'serpapi KEY'"

    def _lacks_code(self) -> str:
        return missing("code") if self._code else f"code is not run on this server: set {code.SETTING}=true to allow it"
