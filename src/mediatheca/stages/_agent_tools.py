"""The tools of `agent_search`: stages that a model may run, with simple arguments.

Every tool runs stages through the engine, which adds the request's filters and the mandatory constraints to each of
them. What the model writes goes in as inputs of those stages: it is never a template and never a filter tree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.fusion import fuse
from mediatheca.kernel.hits import identity
from mediatheca.kernel.outside import Finished, Tool
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext
from mediatheca.stages._language import shown
from mediatheca.stages._pipelines import sealed

SHOWN_DOCUMENTS = 10
SHOWN_CHARACTERS = 300
MAX_TOP_K = 100
MAX_VALUES = 30
OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "contains", "starts_with", "exists")
FINISH = "finish_search"
_TEXT = {"type": "string", "maxLength": 2000}


def _object(**properties: Any) -> dict[str, Any]:
    optional = {name for name, schema in properties.items() if schema.pop("optional", False)}
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _texts(**more: Any) -> dict[str, Any]:
    return {**_TEXT, **more}


SCHEMAS: Mapping[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "feature_search": (
        "Search the collections by meaning and by words. Its documents replace the ones at hand.",
        lambda: _object(
            query=_texts(minLength=1), top_k={"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "optional": True}
        ),
    ),
    "attribute_filter": (
        "Keep the documents at hand whose field matches; without documents at hand, list those that match.",
        lambda: _object(
            field=_texts(minLength=1), operator={"type": "string", "enum": list(OPERATORS)}, value={"optional": True}
        ),
    ),
    "llm_filter": (
        "Keep the documents at hand that meet a criterion, judged by a language model.",
        lambda: _object(criteria=_texts(minLength=1)),
    ),
    "rerank": (
        "Sort the documents at hand by how well they answer a query.",
        lambda: _object(query=_texts(minLength=1)),
    ),
    "llm_enrich": (
        "Have a language model write a note on every document at hand.",
        lambda: _object(prompt=_texts(minLength=1)),
    ),
    "taxonomy_enrich": ("Label the documents at hand.", lambda: _object()),
    "list_values": (
        "The values of a field over all documents that may be seen, with how many documents have each.",
        lambda: _object(field=_texts(minLength=1)),
    ),
}
"""Name → what it does, and its arguments."""

STRATEGIES: Mapping[str, tuple[str, ...]] = {
    "iterative_refinement": ("feature_search", "attribute_filter"),
    "multi_hop": ("feature_search", "attribute_filter", "llm_filter"),
    "tree_navigation": ("list_values", "attribute_filter", "feature_search"),
    "custom": (),
}


@dataclass(slots=True)
class Workbench:
    """The documents at hand, and the tools that change them."""

    ctx: StageContext
    language: dict[str, Any]
    """Model and key, for tools that call a model themselves."""
    search: dict[str, Any]
    """Parameters of feature_search."""
    fixed: Mapping[str, dict[str, Any]]
    """What the retriever's author set for a tool."""
    hits: list[Hit]
    min_confidence: float = 0.0
    rankings: list[list[Hit]] = field(default_factory=list)
    """What every search found, in order."""
    invoked: list[str] = field(default_factory=list)

    def tools(self, names: Sequence[str]) -> list[Tool]:
        made = [Tool(name, SCHEMAS[name][0], SCHEMAS[name][1](), self._runner(name)) for name in names]
        confidence = {"type": "number", "minimum": 0, "maximum": 1}
        schema = _object(confidence=confidence, summary=_texts())
        description = "End the search: how sure you are, from 0 to 1, that the documents at hand answer it, and why."
        return [*made, Tool(FINISH, description, schema, self._finish)]

    async def _finish(self, arguments: dict[str, Any]) -> Any:
        if arguments["confidence"] < self.min_confidence:
            return {"error": f"a confidence of at least {self.min_confidence:g} is asked for; search on"}
        return Finished(arguments)

    def _runner(self, name: str) -> Callable[[dict[str, Any]], Any]:
        async def run(arguments: dict[str, Any]) -> Any:
            self.invoked.append(name)
            return await (self._values(arguments) if name == "list_values" else self._stage(name, arguments))

        return run

    async def _stage(self, name: str, arguments: dict[str, Any]) -> Any:
        inputs: dict[str, Any] = {}
        parameters = {**sealed(self.fixed.get(name, {}), inputs), **self._parameters(name, arguments, inputs)}
        limit = arguments.get("top_k") or max(25, self.ctx.wanted)
        entry: dict[str, Any] = {"stage_id": name, "parameters": parameters}
        if self.ctx.filter is not None:
            entry["pre_filters"] = self.ctx.filter
        starts = name == "feature_search"
        found = await self.ctx.execute(
            [entry], inputs, hits=[] if starts else self.hits, limit=limit, filter=self.ctx.filter
        )
        if not found:
            return {"count": 0, "note": f"nothing matched; the {len(self.hits)} documents at hand stay"}
        self.hits = found
        if starts:
            self.rankings.append(found)
        return self._shown(found)

    def _parameters(self, name: str, arguments: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        """The stage's parameters. The model's words are put among the inputs, and read from there.

        Raises:
            ValidationError: a condition without a value.
        """
        for key, value in arguments.items():
            inputs[f"tool_{key}"] = value
        if name == "feature_search":
            # The author's filters stay; only the text is the model's.
            search = sealed(self.search, inputs)
            return _with_query({**search, "final_top_k": arguments.get("top_k") or 25})
        if name == "attribute_filter":
            if "value" not in arguments:
                if arguments["operator"] != "exists":
                    raise ValidationError.at("value", "is required: what to compare the field with", "missing")
                inputs["tool_value"] = True
            return {"field": "{{INPUT.tool_field}}", "operator": arguments["operator"], "value": "{{INPUT.tool_value}}"}
        if name == "llm_filter":
            return {**sealed(self.language, inputs), "criteria": "{{INPUT.tool_criteria}}"}
        if name == "llm_enrich":
            return {**sealed(self.language, inputs), "prompt": "{{INPUT.tool_prompt}}", "output_field": "agent_note"}
        return {"query": "{{INPUT.tool_query}}"} if name == "rerank" else {}

    async def _values(self, arguments: dict[str, Any]) -> Any:
        counts: dict[str, int] = {}
        for view in self.ctx.collections:
            for value, count in await self.ctx.facet(
                view.collection_id, arguments["field"], MAX_VALUES, self.ctx.filter
            ):
                counts[str(value)] = counts.get(str(value), 0) + count
        ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:MAX_VALUES]
        return [{"value": value[:200], "documents": count} for value, count in ranked]

    def _shown(self, hits: Sequence[Hit]) -> dict[str, Any]:
        documents = [
            {
                "document_id": hit.document_id,
                "score": round(hit.score, 4),
                "content": shown(hit, None, SHOWN_CHARACTERS),
            }
            for hit in hits[:SHOWN_DOCUMENTS]
        ]
        return {"count": len(hits), "documents": documents}

    def union(self) -> list[Hit]:
        """What all searches found, fused by rank."""
        by_key = {identity(hit): hit for ranking in reversed(self.rankings) for hit in ranking}
        rankings = [[(identity(hit), hit.score) for hit in ranking] for ranking in self.rankings]
        made = []
        for entry in fuse("rrf", rankings):
            hit = by_key[entry.key]
            hit.scores.setdefault("original_score", hit.score)
            hit.score = hit.scores["rrf"] = entry.score
            made.append(hit)
        return made


def default_search(collections: Sequence[CollectionView]) -> dict[str, Any]:
    """A search by meaning in every text index, and by words.

    Raises:
        ValidationError: there is nothing to search.
    """
    if not collections:
        raise ValidationError.at(
            "collection_identifiers", "an agent needs at least one collection to search", "missing"
        )
    uris = {
        i.feature_uri: None for view in collections for i in view.vectors if i.is_answered and "text" in i.modalities
    }
    query = {"input_mode": "text", "value": ""}
    searches: list[dict[str, Any]] = [{"feature_uri": uri, "query": dict(query), "optional": True} for uri in uris]
    return {"searches": [*searches[:9], {"lexical": True, "query": dict(query), "optional": True}]}


def _with_query(search: dict[str, Any]) -> dict[str, Any]:
    """The search with the model's text in the place of its own."""
    made = []
    for entry in search["searches"]:
        is_text = entry.get("query", {}).get("input_mode", "text") == "text"
        made.append({**entry, "query": {**entry["query"], "value": "{{INPUT.tool_query}}"}} if is_text else entry)
    return {**search, "searches": made}
