"""What an execution may spend on language models: reserved before a call by estimate, settled afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mediatheca.kernel.errors import BudgetError
from mediatheca.kernel.outside import LanguageUsage

TOKENS_PER_CREDIT = 1000
CHARACTERS_PER_TOKEN = 4
FILE_TOKENS = 1000
"""What a picture is reckoned with before the model says what it was."""
LEAST_ANSWER = 64
"""An answer that could not be longer than this is not asked for."""


@dataclass(slots=True)
class Reservation:
    """Tokens held back for one call. `answer` is the longest answer that the budget still allows."""

    tokens: int
    answer: int
    input_tokens: int = 0
    output_tokens: int = 0

    def spent(self, input_tokens: int, output_tokens: int) -> None:
        """What the call really took."""
        self.input_tokens, self.output_tokens = input_tokens, output_tokens


class Meter:
    """The tokens of one execution. Not for several threads: calls run on one event loop."""

    def __init__(
        self, max_tokens: int | None = None, max_credits: float | None = None, max_calls: int | None = None
    ) -> None:
        by_credits = None if max_credits is None else math.floor(max_credits * TOKENS_PER_CREDIT)
        limits = [limit for limit in (max_tokens, by_credits) if limit is not None]
        self._limit = min(limits) if limits else None
        self._setting = "max_credits" if by_credits is not None and by_credits == self._limit else "max_llm_tokens"
        self._max_calls = max_calls
        self._reserved = 0
        self.calls = self.input_tokens = self.output_tokens = 0

    @property
    def usage(self) -> LanguageUsage:
        tokens = self.input_tokens + self.output_tokens
        return LanguageUsage(self.calls, self.input_tokens, self.output_tokens, tokens / TOKENS_PER_CREDIT)

    @contextmanager
    def reserve(self, prompt: int, answer: int) -> Iterator[Reservation]:
        """Hold tokens for a call with a prompt of about `prompt` tokens and an answer of at most `answer`.

        A call that fails without saying what it took costs nothing.

        Raises:
            BudgetError: what is left is less than the prompt and a short answer.
        """
        if self._max_calls is not None and self.calls >= self._max_calls:
            raise BudgetError(
                f"the {self._max_calls} model calls of this execution are spent; raise max_inference_calls"
            )
        if self._limit is not None:
            left = self._limit - self.input_tokens - self.output_tokens - self._reserved - prompt
            if left < min(answer, LEAST_ANSWER):
                raise BudgetError(
                    f"the execution's {self._limit:,} tokens do not suffice for a call of about {prompt:,} tokens; "
                    f"raise {self._setting}, or give the stage fewer documents"
                )
            answer = min(answer, left)
        held = Reservation(prompt + answer, answer)
        self._reserved += held.tokens
        self.calls += 1
        try:
            yield held
        finally:
            self._reserved -= held.tokens
            self.input_tokens += held.input_tokens
            self.output_tokens += held.output_tokens


def estimate(text: str, files: int = 0) -> int:
    """About how many tokens a text has. Bytes count: scripts without spaces have more tokens for their characters."""
    return math.ceil(len(text.encode("utf-8", "replace")) / CHARACTERS_PER_TOKEN) + files * FILE_TOKENS
