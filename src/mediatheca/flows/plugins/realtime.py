"""Queries of uploaded extractors: realtime.py of an archive makes the vectors of texts that no model here makes.

Questions go to confined processes of their own, so that a query does not wait behind a batch. Each holds a thread until
it is answered: there are few, for all tenants together and for each archive, and who asks while they are taken is told.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mediatheca.extractors import Item, Source
from mediatheca.flows.plugins.host import KIND, BoundRunner, PluginHost
from mediatheca.jobs.plugin_child import REALTIME
from mediatheca.jobs.runner import ItemFailure, ItemRows
from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.errors import BadRequestError, TooManyRequestsError, UnavailableError
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.uris import output_name
from mediatheca.stores.db.tx import ReadTx, Row

MAX_WAITING = 16
"""Questions of all tenants that wait for an answer."""
MAX_OF_ONE = 4
"""Of one archive of a namespace."""
_RETRY_S = 1.0
_TEXTS = frozenset({"text", "string"})


def who_answers(tx: ReadTx, body: Row) -> str:
    """The uploaded extractor that embeds the texts of queries of a collection, for `VectorIndex.asks`; "" where there
    is none, or it answers no queries."""
    if all(entry["model"] or entry["modalities"] for entry in body.get("vector_indexes", [])):
        return ""
    extractor_id = str((body.get("feature_extractor") or {}).get("feature_extractor_id") or "")
    plugin = tx.find(KIND, extractor_id) if extractor_id else None
    if plugin is None or not plugin.body["active"] or not plugin.body["realtime"] or plugin.body.get("batch_only"):
        return ""
    field = _text_input(plugin.body["manifest"]["inputs"])
    scope = tx.scope
    asked = (scope.organization_id, scope.namespace_id, extractor_id, plugin.body["sha256"], field)
    return "/".join(map(str, asked)) if field else ""


def _text_input(inputs: Mapping[str, Any]) -> str:
    """The first input that takes a text."""
    return next((name for name, kinds in inputs.items() if _TEXTS & set(kinds)), "")


def ask(runner: BoundRunner, parameters: Mapping[str, Any], question: Mapping[str, Any]) -> Any:
    """What `run_inference` of a plug-in answers, as plain values.

    Args:
        parameters: it is opened with these.
        question: `inputs` and `parameters`; those override its own.

    Raises:
        BadRequestError: its code failed.
    """
    item = Item("question", {REALTIME: [Source(value=dict(question), key=REALTIME)]})
    for outcome in runner.map(runner.extractor.extractor_id, parameters, [item]):
        if isinstance(outcome, ItemFailure):
            raise BadRequestError(f"the plug-in failed: {outcome.reason}")
        if isinstance(outcome, ItemRows):
            return outcome.rows[0].fields[REALTIME] if outcome.rows else None
    raise BadRequestError("the plug-in gave no answer")


class RealtimeTexts:
    """See `mediatheca.flows.retrieve.seams.TextAsker`. One per process; any event loop may call it."""

    def __init__(self, host: PluginHost) -> None:
        self._host = host
        self._threads = ThreadPoolExecutor(MAX_WAITING, "realtime")
        self._lock = threading.Lock()
        self._waiting: Counter[str] = Counter()

    async def __call__(self, index: VectorIndex, text: str) -> Vector:
        """The vector of a text; `index.asks` says who makes it.

        Raises:
            UnavailableError: the plug-in is not deployed any more, or cannot run here.
            TooManyRequestsError: too many questions wait.
            BadRequestError: its code failed, or what it answers is no vector of this index.
        """
        self._enter(index.asks)
        work = self._threads.submit(self._asked, index, text)
        work.add_done_callback(lambda _: self._leave(index.asks))  # also where nobody waits any more
        return await asyncio.wrap_future(work)

    def _enter(self, who: str) -> None:
        with self._lock:
            if self._waiting.total() >= MAX_WAITING or self._waiting[who] >= MAX_OF_ONE:
                message = "too many queries wait for uploaded plug-ins; try again, with fewer at a time"
                raise TooManyRequestsError(message, retry_after_s=_RETRY_S)
            self._waiting[who] += 1

    def _leave(self, who: str) -> None:
        with self._lock:
            self._waiting[who] -= 1
            self._waiting += Counter()  # without those at nought

    def _asked(self, index: VectorIndex, text: str) -> Vector:
        organization, namespace, extractor_id, archive, field = index.asks.split("/", 4)
        scope = Scope(organization, namespace)
        extractor = self._host.find(scope, extractor_id)
        if extractor is None or extractor.archive != archive:
            raise UnavailableError(
                f"the plug-in '{extractor_id}', which makes the vectors of '{index.feature_uri}', is not deployed here "
                "any more; deploy it, or use input_mode vector"
            )
        runner = self._host.runner(scope, extractor, queries=True)
        return vector_of(ask(runner, json.loads(index.parameters or "{}"), {"inputs": {field: text}}), index)


def vector_of(answered: Any, index: VectorIndex) -> Vector:
    """The vector in an answer: `{"embedding": […]}`, the same under the name of the feature, or the numbers alone.

    Raises:
        BadRequestError: it is none of this index.
    """
    if isinstance(answered, Mapping):
        answered = answered.get(output_name(index.feature_uri), answered.get("embedding"))
    try:
        vector = np.asarray(answered, np.float32)
    except (TypeError, ValueError, OverflowError):
        vector = np.empty(0, np.float32)
    if vector.shape == (1, index.dimensions):
        vector = vector[0]
    if vector.shape != (index.dimensions,) or not np.isfinite(vector).all():
        raise BadRequestError(
            f"realtime.py must answer {{'embedding': [{index.dimensions} finite numbers]}} for '{index.feature_uri}', "
            f"got {str(answered)[:100]}"
        )
    return vector
