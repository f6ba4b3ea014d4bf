"""What a retriever stage may use of the world outside the index, as protocols. An execution gets one `Outside`.

Whatever is not configured or not allowed raises `UnavailableError` or `ForbiddenError` with the setting that changes
it; nothing here ever answers with something made up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mediatheca.kernel.errors import MediathecaError, UnavailableError


@dataclass(frozen=True, slots=True)
class Generate:
    """One request to a language model."""

    prompt: str
    system: str = ""
    schema: Mapping[str, Any] | None = None
    """JSON Schema of the answer: `Generated.value` is then checked against it; one repair is tried."""
    model: str = ""
    """`provider:model`, a bare model name, or empty for the installation's default."""
    api_key: str = field(default="", repr=False)
    """The caller's own key for that provider; empty: the installation's."""
    temperature: float | None = None
    top_p: float | None = None
    """Not sent to a provider that takes the temperature alone."""
    max_tokens: int | None = None
    """Of the answer. The execution's budget may make it less."""
    files: Sequence[tuple[str, bytes]] = ()
    """(media type, bytes) of pictures and other media for models that take them."""
    timeout_s: float = 30.0
    """Of one attempt. A timeout is tried once more."""
    cache: bool = False
    """The same request may be answered from memory (temperature 0 only)."""
    hear: Callable[[str], None] | None = field(default=None, repr=False, compare=False)
    """Gets the pieces of the answer as they come; without a schema only. An answer from memory is one piece."""


@dataclass(frozen=True, slots=True)
class LanguageUsage:
    """What an execution spent on language models so far."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    credits: float = 0.0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Generated:
    """What a language model answered, and what it cost. A repair is a second call; an answer from memory is none."""

    text: str
    value: Any = None
    """The parsed answer, where a schema was given and the answer fits it."""
    problem: str = ""
    """Why the answer does not fit the schema, after one repair; or why a conversation ended early."""
    model: str = ""
    """The model that answered, as `provider:model`."""
    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 1
    truncated: bool = False
    """The answer was cut at `max_tokens`, or at what the budget left of it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call in a conversation. What `run` returns, or the message of its error, goes back.

    The arguments have been checked against `schema`. They are the model's words: never a template, never trusted.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    run: Callable[[dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Finished:
    """Returned by a tool's `run`: the conversation ends here, and `value` is its result."""

    value: Any = None


@dataclass(frozen=True, slots=True)
class Conversation(Generated):
    """The end of a conversation with tools."""

    steps: Sequence[Mapping[str, Any]] = ()
    """Every tool call in order: `tool`, `arguments`, `result` (cut), `error`."""
    turns: int = 0
    finished: bool = True
    """False: the turns, the time or the budget ran out; `problem` says which."""


class LanguageModels(Protocol):
    """Language models of this installation, within the execution's budget of tokens.

    Raises:
        UnavailableError: none is configured, or it does not answer; the message says what to set.
        TooManyRequestsError: the provider's rate limit outlasted the retries.
        BadRequestError: the provider refuses this request.
        BudgetError: the execution's tokens are spent.
    """

    @property
    def usage(self) -> LanguageUsage: ...

    async def generate(self, request: Generate) -> Generated: ...

    def stream(self, request: Generate) -> AsyncIterator[str]:
        """The pieces of an answer as they come. A schema is not looked at."""

    async def converse(
        self, request: Generate, tools: Sequence[Tool], *, max_turns: int, timeout_s: float
    ) -> Conversation:
        """Let the model call tools until it answers. Time or budget that runs out after the first step ends the
        conversation, and is no error."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request to an address that somebody else named."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    timeout_s: float = 10.0
    max_bytes: int = 10 << 20
    allowed_domains: Sequence[str] = ()
    """Hosts (`*.example.com` for subdomains) that this request and its redirects may go to; empty: every public one."""
    per_minute: int = 0
    """How many requests a minute this tenant sends to the host at most; 0: as many as there are. Same for the hour."""
    per_hour: int = 0


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The answer, whatever its status."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    content_type: str
    final_url: str


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """A page to be read after its scripts ran, at an address that somebody else named."""

    url: str
    timeout_s: float = 30.0
    max_bytes: int = 10 << 20
    headers: Mapping[str, str] = field(default_factory=dict)


class Http(Protocol):
    """The guarded client: private addresses refused, address pinned, redirects checked again, size and time bounded.

    `http:` becomes `https:`, but for hosts that the operator named.
    """

    async def send(self, request: HttpRequest) -> HttpAnswer:
        """The answer, whatever its status.

        Raises:
            ValidationError: the URL, where it leads, or a header is refused.
            TooManyRequestsError: the host's rate is used up for longer than the request may take.
            PayloadTooLargeError: the answer is larger than `max_bytes`.
            BadRequestError: no answer, or none that can be read.
        """


class Sql(Protocol):
    """Stored connections to other databases, read-only."""

    async def select(
        self,
        connection: str,
        query: str,
        parameters: Sequence[Mapping[str, Any]],
        *,
        timeout_s: float,
        max_rows: int,
    ) -> list[list[dict[str, Any]] | MediathecaError]:
        """The rows of one SELECT for every set of parameters, in order: equal sets are asked once. `connection`: id
        or name. A set that the database refuses has its error in the place of rows; more than `max_rows` rows are cut
        to `max_rows + 1`.

        Raises:
            NotFoundError: no such connection.
            ValidationError: the query is not one SELECT, calls what is not allowed, or names other parameters.
            UnavailableError: the database cannot be reached.
        """


class Code(Protocol):
    """A sandbox for code that a retriever carries. Off unless the operator allows it."""

    async def run(
        self,
        source: str,
        *,
        language: str,
        inputs: Mapping[str, Any],
        result: str,
        timeout_ms: int,
        max_output_bytes: int,
        memory_mb: int,
    ) -> Any:
        """Run `source` with `inputs` as variables; the JSON value of the variable `result`.

        Raises:
            ForbiddenError: code is not allowed here; the message says how to allow it.
            ValidationError: the code does not compile, fails, runs too long, or gives no JSON.
        """


@dataclass(frozen=True, slots=True)
class WebResult:
    """A page that a web search found."""

    url: str
    title: str
    text: str = ""
    published_date: str | None = None
    author: str | None = None
    score: float | None = None
    thumbnail: str | None = None
    source: str = ""


class WebSearch(Protocol):
    """A configured search service.

    Raises:
        UnavailableError: none is configured; the message says how.
        BadRequestError: the service failed, or did not answer.
    """

    async def search(self, query: str, *, limit: int, options: Mapping[str, Any]) -> list[WebResult]:
        """Pages, best first. `options`: `include_domains`, `exclude_domains`, `start_published_date`, `category`,
        `autoprompt`, `text`; what the service does not know is left out, or done here where it can be."""

    async def similar_images(self, image_url: str, *, limit: int, engine: str) -> list[WebResult]:
        """Pages that show the picture at a public URL, best first."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a web page says. Links are absolute, in their order, each once."""

    text: str
    title: str = ""
    links: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    """`description`, `author`, `language`, `og:…` and the like."""


class Pages(Protocol):
    """Reads HTML that nobody vouches for, in a process that can be killed."""

    async def read(self, data: bytes, charset: str, url: str) -> Page:
        """The main text of a page, and what else it tells.

        Raises:
            ValidationError: the page cannot be read within time and memory.
        """


class Renderer(Protocol):
    """A browser of this machine, behind the same guard as `Http`."""

    async def render(self, request: RenderRequest) -> HttpAnswer:
        """The page as its scripts left it: UTF-8 HTML of at most `max_bytes`.

        Raises:
            UnavailableError: no browser is installed, or it does not start.
            ValidationError: the URL, where it leads, or a header is refused.
            BadRequestError: no page in time, or what is there is none.
        """


class NoRenderer:
    """For executions without a browser."""

    async def render(self, request: RenderRequest) -> HttpAnswer:
        raise UnavailableError("pages are not rendered in this execution")


class NoPages:
    """For executions that read no web pages."""

    async def read(self, data: bytes, charset: str, url: str) -> Page:
        raise UnavailableError("web pages are not read in this execution")


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything of the world outside that one execution may use; bound to its tenant and its budgets."""

    language: LanguageModels
    http: Http
    sql: Sql
    code: Code
    web: WebSearch
    pages: Pages = field(default_factory=NoPages)
    browser: Renderer = field(default_factory=NoRenderer)
