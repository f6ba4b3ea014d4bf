"""The desk: how an extractor asks for what is outside its process. The process itself has no network and no keys.

Calls block, from any thread, and raise what the other side raised, as the same class of `MediathecaError`.
"""

from __future__ import annotations

from typing import Protocol

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.outside import Generate, Generated, HttpAnswer, HttpRequest, RenderRequest


class Desk(Protocol):
    """What a process that extracts may ask of the one that started it. Everything is bound to one namespace."""

    def fetch(self, request: HttpRequest) -> HttpAnswer:
        """Through the guarded client, within the tenant's rates; the answer, whatever its status.

        Raises:
            ValidationError: the URL, where it leads, or a header is refused.
            TooManyRequestsError: the host's rate is used up for longer than the request may take.
            PayloadTooLargeError: the answer is larger than allowed.
            BadRequestError: no answer, or none that can be read.
        """

    def render(self, request: RenderRequest) -> HttpAnswer:
        """A page as it is after its scripts ran.

        Raises:
            UnavailableError: there is no browser; the message says how to get one.
        """

    def generate(self, request: Generate) -> Generated:
        """An answer of a language model. `api_key` may be `{{SECRET.name}}`: it is resolved outside.

        Raises:
            UnavailableError: none is configured, or it does not answer; the message says what to set.
        """

    def recall(self, key: str) -> bytes | None:
        """What was remembered under a key (64 hex digits); None when it is not there any more, or never was."""

    def remember(self, key: str, data: bytes) -> None:
        """Keep a result for later, for as long as there is room. See `mediatheca.kernel.steps`."""


class NoDesk:
    """For processes that have nobody to ask: those that embed the file of a query. Nothing is remembered."""

    def fetch(self, request: HttpRequest) -> HttpAnswer:
        raise _nobody("fetches no addresses")

    def render(self, request: RenderRequest) -> HttpAnswer:
        raise _nobody("renders no pages")

    def generate(self, request: Generate) -> Generated:
        raise _nobody("asks no language model")

    def recall(self, key: str) -> bytes | None:
        return None

    def remember(self, key: str, data: bytes) -> None:
        """It is computed again when it is asked for again."""


NO_DESK = NoDesk()


def _nobody(what: str) -> UnavailableError:
    return UnavailableError(f"an extractor that works on a query {what}; give the query as text, or by a document")
