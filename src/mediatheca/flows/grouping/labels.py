"""Names of clusters: the words that tell them apart, or what a language model says of their nearest documents.

A label depends on the documents it is made from: while these and the prompt stay the same, the label of the run before
is taken over. Documents reach the model as data, never as instructions.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
import pyarrow as pa

from mediatheca.flows.grouping.config import Labeling
from mediatheca.flows.grouping.fitting import Work, representatives
from mediatheca.flows.services import Services
from mediatheca.flows.tables import tombstones
from mediatheca.jobs.compute import compute
from mediatheca.kernel import clock
from mediatheca.kernel.cluster_labels import words
from mediatheca.kernel.errors import MediathecaError, UnavailableError
from mediatheca.kernel.outside import Generate, LanguageModels
from mediatheca.kernel.present import as_hit
from mediatheca.stages._fields import text_of
from mediatheca.stages._language import DATA

TEXTS_PER_CLUSTER = 200
TEXTS = 20_000
MAX_TEXT = 2_000
KEYWORDS = 10
LABEL_WORDS = 3
MAX_LABEL = 200
AT_ONCE = 4
MAX_NAMED = 500
"""Clusters, the largest first, that a language model is asked about."""
ANSWER_S = 60.0
WORDS_S = 120.0

Texts = dict[str, list[str]]
"""Cluster → texts, of the document nearest to the centre first."""

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "minLength": 1, "maxLength": 80},
        "summary": {"type": "string", "maxLength": 600},
        "keywords": {"type": "array", "items": {"type": "string", "maxLength": 60}, "maxItems": 10},
    },
    "required": ["label"],
    "additionalProperties": False,
}


def label(services: Services, work: Work, members: pa.Table, clusters: list[dict[str, Any]]) -> dict[str, Any]:
    """Give every cluster `label`, `keywords`, `summary`; gives the run's clusters and what went wrong."""
    if work.config["cluster_type"] == "attribute":
        return {"clusters": clusters, "llm_labeling_errors": []}
    config = Labeling.model_validate(work.config["llm_labeling"] or {})
    texts = read_texts(services, work, members, config)
    found = _by_words(services, work, texts, [entry["cluster_id"] for entry in clusters])
    made = [_worded(entry, found.get(entry["cluster_id"], [])) for entry in clusters]
    errors: list[str] = []
    if config.enabled:
        errors = asyncio.run(_Model(services, work, config, texts).name(made))
    unique(made)
    return {"clusters": made, "llm_labeling_errors": errors}


def read_texts(services: Services, work: Work, members: pa.Table, config: Labeling) -> Texts:
    """Texts of the members nearest to each centre."""
    clusters = max(1, int(work.row["body"].get("num_clusters") or 1))
    each = max(config.max_samples_per_cluster, min(TEXTS_PER_CLUSTER, TEXTS // clusters))
    wanted = representatives(members, each)
    paths = [mapping.path for mapping in (config.labeling_inputs.input_mappings if config.labeling_inputs else [])]
    by_collection: dict[str, list[str]] = {}
    for entries in wanted.values():
        for entry in entries:
            by_collection.setdefault(entry["collection_id"], []).append(entry["document_id"])
    held: dict[tuple[str, str], str] = {}
    for collection_id, ids in by_collection.items():
        with services.db.read(work.scope) as tx:
            dead = tombstones(tx, collection_id)
        for start in range(0, len(ids), 1_000):
            work.check()
            for document in services.documents.get(collection_id, ids[start : start + 1_000], tombstones=dead):
                hit = as_hit(document)
                text = "\n".join(filter(None, (text_of(hit, path) for path in paths))) if paths else text_of(hit, None)
                held[collection_id, document.document_id] = text[:MAX_TEXT]
    found: Texts = {}
    for ident, entries in wanted.items():
        own = (held.get((entry["collection_id"], entry["document_id"]), "") for entry in entries)
        found[ident] = [text for text in own if text.strip()]
    return found


def _by_words(services: Services, work: Work, texts: Texts, ids: Sequence[str]) -> dict[str, list[str]]:
    """The words that tell the clusters apart; computed aside, for they are many."""
    if not any(texts.values()):
        return {}
    options = {"groups": [texts.get(ident, []) for ident in ids], "top": KEYWORDS}
    result = compute(
        "keywords", {}, options, memory_mb=services.settings.worker_memory_mb, threads=1, stop=work.check,
        deadline_s=WORDS_S,
    )  # fmt: skip
    return dict(zip(ids, result.values["keywords"], strict=True))


def _worded(entry: Mapping[str, Any], found: Sequence[str]) -> dict[str, Any]:
    named = ", ".join(found[:LABEL_WORDS])
    number = str(entry["cluster_id"]).rpartition("_")[2]
    source = "words" if named else "number"
    made = {"label": named or f"Cluster {number}", "keywords": list(found), "summary": None, "label_source": source}
    return {**entry, **made}


def unique(clusters: list[dict[str, Any]]) -> None:
    """Two clusters never have the same label."""
    seen: set[str] = set()
    for entry in clusters:
        label, number = entry["label"], 2
        while label.casefold() in seen:
            label = f"{entry['label']} ({number})"
            number += 1
        entry["label"] = label
        seen.add(label.casefold())


@dataclass(slots=True)
class _Model:
    """Labels by a language model; what it cannot name keeps the label of words."""

    services: Services
    work: Work
    config: Labeling
    texts: Texts

    async def name(self, clusters: list[dict[str, Any]]) -> list[str]:
        """Names the clusters in place; gives what went wrong, one text a trouble."""
        before = {} if self.work.earlier is None else _keyed(self.work.earlier.body.get("clusters") or [])
        providers = self.services.around.reach.language
        language = providers.bound(namespace_id=self.work.scope.namespace_id)
        errors: list[str] = []
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(entry: dict[str, Any], clash: str = "") -> None:
            async with gate:
                await self._one(language, entry, before, errors, clash)

        try:
            asked = [entry for entry in clusters if self.texts.get(entry["cluster_id"])]
            if len(asked) > MAX_NAMED:
                errors.append(f"only the {MAX_NAMED} largest of {len(asked)} clusters were named by the model")
                asked = sorted(asked, key=lambda entry: -int(entry["num_members"]))[:MAX_NAMED]
            await asyncio.gather(*(one(entry) for entry in asked))
            again = [] if self.config.candidate_labels else _clashing(clusters)
            await asyncio.gather(*(one(entry, entry["label"]) for entry in again))
        finally:
            await providers.aclose()
        return errors

    async def _one(
        self,
        language: LanguageModels,
        entry: dict[str, Any],
        before: Mapping[str, Mapping[str, Any]],
        errors: list[str],
        clash: str,
    ) -> None:
        if any(
            error.startswith("unavailable") for error in errors
        ):  # there is no model: it is not asked for every cluster
            return
        self.work.check()
        request = self._request(entry, clash)
        key = hashlib.blake2b(f"{request.model}\x1f{request.prompt}".encode(), digest_size=16).hexdigest()
        known = before.get(key)
        if known is not None and self._fresh(known):
            entry |= {name: known.get(name) for name in ("label", "summary", "keywords", "labelled_at")}
            entry |= {"label_key": key, "label_source": "model"}
            return
        try:
            answer = await language.generate(request)
            if answer.problem:
                errors.append(f"{entry['cluster_id']}: {answer.problem}"[:500])
                return
            self._take(entry, answer.value, key, errors)
        except UnavailableError as error:
            errors.append(f"unavailable: {error.message}"[:500])
        except MediathecaError as error:
            errors.append(f"{entry['cluster_id']}: {error.message}"[:500])

    def _take(self, entry: dict[str, Any], value: Mapping[str, Any], key: str, errors: list[str]) -> None:
        label = str(value["label"]).strip()[:MAX_LABEL]
        if self.config.candidate_labels:
            fitting = [name for name in self.config.candidate_labels if name.casefold() == label.casefold()]
            if not fitting:
                errors.append(f"{entry['cluster_id']}: the model answered '{label[:80]}', which is no candidate label")
                return
            label = fitting[0]
        entry |= {"label": label, "label_source": "model", "label_key": key}
        entry["labelled_at"] = clock.wire_time(clock.now())
        if self.config.include_summary and value.get("summary"):
            entry["summary"] = str(value["summary"])[:1_000]
        if self.config.include_keywords and value.get("keywords"):
            entry["keywords"] = [str(word)[:100] for word in value["keywords"]][:KEYWORDS]

    def _fresh(self, known: Mapping[str, Any]) -> bool:
        since = clock.wire_time(clock.now() - timedelta(seconds=self.config.cache_ttl_seconds))
        return str(known.get("labelled_at") or "") > since

    def _request(self, entry: Mapping[str, Any], clash: str) -> Generate:
        config = self.config
        lines = [config.custom_prompt or "Name this group of documents: what do they have in common?"]
        lines.append("The label has one to five words in the language of the documents and tells it from other groups.")
        if config.labeling_context:
            lines.append(f"Context: {config.labeling_context}")
        if config.candidate_labels:
            lines.append(f"Choose the label that fits best, exactly as it is written: {_candidates(config)}")
        if clash:
            lines.append(f"Another group is called {clash!r} already: say what is different about this one.")
        if not config.include_summary:
            lines.append("Leave the summary out.")
        lines.append(f"Words that are frequent here: {', '.join(entry['keywords'])}")
        lines.append(f"Documents: {orjson.dumps(self._samples(entry['cluster_id'])).decode()}")
        provider, model = config.provider or "", config.model_name or ""
        name = (
            f"{provider}:{model}" if provider and model and not model.startswith(f"{provider}:") else model or provider
        )
        return Generate(
            "\n".join(lines), system=f"You name groups of documents. {DATA}", schema=SCHEMA, model=name, max_tokens=500,
            temperature=0.0, timeout_s=ANSWER_S,
        )  # fmt: skip

    def _samples(self, cluster_id: str) -> list[str]:
        """Texts that the model is shown; near copies only once."""
        own, chosen = self.texts.get(cluster_id, []), list[str]()
        if self.config.sample_selection_strategy == "representative":  # spread over the cluster, not only its middle
            step = max(1, len(own) // self.config.max_samples_per_cluster)
            own = own[::step]
        for text in own:
            if not (self.config.use_embedding_dedup and self._copied(text, chosen)):
                chosen.append(text[: self.config.sample_text_max_length])
            if len(chosen) == self.config.max_samples_per_cluster:
                break
        return chosen

    def _copied(self, text: str, chosen: Sequence[str]) -> bool:
        own = set(words(text[: self.config.sample_text_max_length]))
        likeness = (_jaccard(own, set(words(other))) for other in chosen)
        return any(value >= self.config.embedding_similarity_threshold for value in likeness)


def _candidates(config: Labeling) -> str:
    given = config.candidate_labels or []
    if isinstance(given, dict):
        return "; ".join(f"{name} ({told})" for name, told in given.items())
    return "; ".join(given)


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other) if one or other else 1.0


def _keyed(clusters: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {str(entry["label_key"]): entry for entry in clusters if entry.get("label_key")}


def _clashing(clusters: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All but the first of those that the model gave the same name."""
    seen: set[str] = set()
    found = []
    for entry in clusters:
        if entry["label_source"] != "model":
            continue
        if entry["label"].casefold() in seen:
            found.append(entry)
        seen.add(entry["label"].casefold())
    return found
