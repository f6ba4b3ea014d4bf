"""What an execution came to: everything that an answer shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mediatheca.flows.retrieve.context import Notes
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.outside import LanguageUsage
from mediatheca.kernel.relaxation import Relaxation
from mediatheca.kernel.search import Hit

OF_ALL = ("exact", "embeddings")
"""Of the side channels, what holds for an execution as soon as it holds for a part of it."""


@dataclass(slots=True)
class Outcome:
    """Filled stage by stage while an execution walks. It holds no inputs and no secrets."""

    hits: list[Hit] = field(default_factory=list)
    side: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    stage_results: list[dict[str, Any]] = field(default_factory=list)
    relaxations: list[Relaxation] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    applied: list[Filter] = field(default_factory=list)
    """Filters of stages, for the diagnosis of an empty result."""
    page_limit: int | None = None
    error: str | None = None
    taken_ms: float = 0.0
    seed: int | None = None
    language: LanguageUsage = field(default_factory=LanguageUsage)
    spoken: list[dict[str, Any]] = field(default_factory=list)
    """Filters that were said in words, of a ranking whose statistics are not kept."""

    @property
    def status(self) -> str:
        return "failed" if self.error is not None else "degraded" if self.notes.degraded else "completed"

    def record(
        self,
        stage: str,
        before: int,
        taken_ms: float,
        metadata: Mapping[str, Any],
        failure: str | None,
        spent: LanguageUsage,
        wanted: int,
    ) -> None:
        """Write down what a stage did. `before`: the documents it got; `wanted`: of how many its result is told."""
        after = len(self.hits)
        self.statistics[stage] = {
            "input_count": before,
            "output_count": after,
            "duration_ms": taken_ms,
            "efficiency": after / before if before else 0,
            "stage_cache_hit": False,
            "cache_hit": False,
            "error": failure,
            "metadata": metadata,
            "llm_calls": spent.calls,
            "tokens_used": spent.tokens,
            "credits_used": spent.credits,
        }
        self.stage_results.append(
            {
                "stage_name": stage,
                "version": "v1",
                "execution_time": taken_ms / 1000,
                "results": [{"document_id": h.document_id, "score": h.score} for h in self.hits[:wanted]],
                "metadata": metadata,
            }
        )
