"""What a process has to reach the world outside with, and the share of it that one tenant's executions get."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mediatheca.flows.outside.browser import Browser, PageRenderer
from mediatheca.flows.outside.code import CodeSandbox
from mediatheca.flows.outside.http import GuardedHttp
from mediatheca.flows.outside.language import LanguageProviders
from mediatheca.flows.outside.pages import PageReader
from mediatheca.flows.outside.rates import Rates
from mediatheca.flows.outside.sql import SqlConnections
from mediatheca.flows.outside.sql_sqlite import FOLDER
from mediatheca.flows.outside.web import SearchCache, SearchSetting, WebSearchService
from mediatheca.flows.vault import Vault
from mediatheca.kernel.outside import LanguageModels, Outside
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from mediatheca.stores.db.engine import Database
from mediatheca.stores.fetch import Fetcher

THREADS = 32


@dataclass(frozen=True, slots=True)
class Budget:
    """What one execution may spend on language models; None: no limit."""

    max_tokens: int | None = None
    max_credits: float | None = None
    max_calls: int | None = None


NO_LIMITS = Budget()


class Reach:
    """One per process.

    Raises:
        UnavailableError: `MEDIATHECA_WEB_SEARCH` cannot be read.
    """

    def __init__(self, settings: Settings, database: Database, vault: Vault, fetcher: Fetcher) -> None:
        self.language = LanguageProviders(settings)
        self._threads = ThreadPoolExecutor(THREADS, "outside")
        self._fetcher = fetcher
        self._rates = Rates()
        self._search = SearchSetting.parse(settings.web_search.get_secret_value())
        # The operator named the service, so it may be where others may not go.
        allow = settings.fetch_allow if self._search is None else f"{settings.fetch_allow},{self._search.host}"
        self._searching = fetcher if self._search is None else Fetcher(allow=allow)
        self._cache = SearchCache()
        self._pages = PageReader(self._threads)
        self.browser = Browser(fetcher)
        self.sql = SqlConnections(database, vault, fetcher, settings.data_dir / FOLDER, self._threads)
        self.code = CodeSandbox(settings.allow_code, self._threads)

    def bound(self, scope: Scope, budget: Budget) -> Outside:
        """For one execution."""
        language = self.language.bound(
            namespace_id=scope.namespace_id,
            max_tokens=budget.max_tokens,
            max_credits=budget.max_credits,
            max_calls=budget.max_calls,
        )
        return self.outside(scope, language)

    def outside(self, scope: Scope, language: LanguageModels) -> Outside:
        """For the executions of one organization."""
        tenant = scope.organization_id
        searching = GuardedHttp(self._searching, self._rates, self._threads, tenant)
        return Outside(
            language=language,
            http=GuardedHttp(self._fetcher, self._rates, self._threads, tenant),
            sql=self.sql.for_scope(scope),
            code=self.code,
            web=WebSearchService(self._search, searching, self._cache, tenant),
            pages=self._pages,
            browser=PageRenderer(self.browser, self._threads),
        )

    def close(self) -> None:
        self.code.close()
        self.browser.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
