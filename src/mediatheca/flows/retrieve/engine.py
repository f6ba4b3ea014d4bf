"""The retrieval engine: compiles retrievers, executes them, and knows the stages there are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from mediatheca.flows.retrieve import present
from mediatheca.flows.retrieve.context import visible
from mediatheca.flows.retrieve.diagnose import diagnose
from mediatheca.flows.retrieve.embedding import QueryEmbedder
from mediatheca.flows.retrieve.execute import Execution
from mediatheca.flows.retrieve.normalise import Registry, normalise_stages, wire_kind
from mediatheca.flows.retrieve.paging import (
    DEFAULT_PAGE,
    Snapshot,
    Snapshots,
    page_request,
    position_after,
)
from mediatheca.flows.retrieve.plan import Compiler, Plan
from mediatheca.flows.retrieve.request import MAX_PAGE, ExecuteRequest, GroupBy
from mediatheca.flows.retrieve.seams import ContentEmbedder, ExecutionContext, Fetch, Searcher, Sign
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.inputs import InputReport, InputSchema, parse_input_schema
from mediatheca.kernel.models import Models
from mediatheca.kernel.ordering import sort_hits
from mediatheca.kernel.search import Hit
from mediatheca.stages import ENTRY_POINTS, CollectionView, Stage


class RetrieveEngine:
    """One per process. `compile` is cheap enough for ad-hoc retrievers; keep the plan of a stored one."""

    def __init__(
        self,
        *,
        searcher: Searcher,
        models: Models,
        fetch: Fetch,
        decode: ContentEmbedder,
        sign: Sign,
        cursor_key: bytes,
        stages: Iterable[Stage] | None = None,
        strict: bool = False,
    ) -> None:
        found = discover("mediatheca.stages", Stage, ENTRY_POINTS) if stages is None else stages
        self.stages = Registry(found)
        self._searcher = searcher
        self._embedder = QueryEmbedder(models, fetch, decode)
        self._sign = sign
        self._snapshots = Snapshots(cursor_key)
        self._strict = strict

    def registry(self, category: str | None = None) -> list[dict[str, Any]]:
        """What `GET /retrievers/stages` shows. Clients know five categories: a group stage is a reduce stage."""
        return [
            {
                "stage_id": stage.stage_id,
                "description": stage.description,
                "category": wire_kind(stage),
                "icon": stage.icon,
                "parameter_schema": stage.params.model_json_schema(),
                "example_config": {"stage_id": stage.stage_id, "parameters": stage.example},
                "cost_tier": stage.cost_tier,
                "requires_collections": stage.starts,
            }
            for stage in sorted(self.stages.stages.values(), key=lambda stage: stage.stage_id)
            if category in (None, stage.kind, wire_kind(stage))
        ]

    def normalise(self, stages: Any) -> list[dict[str, Any]]:
        """Stages as they are stored and shown.

        Raises:
            ValidationError: every stage that is not one.
        """
        return [stage.as_dict() for stage in normalise_stages(stages, self.stages)]

    def compile(self, stages: Any, collections: Sequence[CollectionView], input_schema: Any = None) -> Plan:
        """Check a retriever and make it ready to run.

        Raises:
            ValidationError: every offence, with the path of the offending stage.
        """
        schema = input_schema if isinstance(input_schema, InputSchema) else parse_input_schema(input_schema)
        return Compiler(collections, schema, strict=self._strict).compile(normalise_stages(stages, self.stages))

    async def execute(
        self, plan: Plan, request: ExecuteRequest | Mapping[str, Any], context: ExecutionContext
    ) -> dict[str, Any]:
        """Run a plan and answer with the response body.

        Raises:
            ValidationError: the request, or an input, is not accepted.
            MediathecaError: a backend or model is missing.
        """
        asked = request if isinstance(request, ExecuteRequest) else ExecuteRequest.parse(request)
        return await _Answer(self._searcher, self._embedder, self._sign, self._snapshots, plan, asked, context).make()


class _Answer:
    """Builds the answer to one request."""

    def __init__(
        self,
        searcher: Searcher,
        embedder: QueryEmbedder,
        sign: Sign,
        snapshots: Snapshots,
        plan: Plan,
        request: ExecuteRequest,
        context: ExecutionContext,
    ) -> None:
        self.searcher = searcher
        self.embedder = embedder
        self.sign = sign
        self.snapshots = snapshots
        self.plan = plan.narrow(request.collection_identifiers)
        self.request = request
        self.context = context
        self.page = page_request(request)
        self.sort = request.sort_keys()
        self.inputs = plan.schema.check(self._given(), plan.inputs)
        self.keep = request.filter(plan.schema, plan.inputs)
        self.warnings = [*plan.warnings, *request.warnings(), *self.page.warnings, *self.inputs.warnings]

    def _given(self) -> dict[str, Any]:
        """The inputs without the filters that some clients put among them."""
        given = self.request.inputs
        inner = isinstance(given.get("filters"), (dict, list)) and "filters" not in self.plan.inputs
        if inner and "filters" not in self.plan.schema.fields:
            return {name: value for name, value in given.items() if name != "filters"}
        return given

    async def make(self) -> dict[str, Any]:
        cursor = self.page.cursor
        if cursor is None:
            return await self._first(0)
        place = "pagination.scroll_id" if self.page.method == "scroll" else "pagination.cursor"
        ident, position = self.snapshots.read(cursor, self._key(), place)
        snapshot = self.snapshots.find(ident)
        if snapshot is None:
            self.warnings.append("the remembered ranking has expired; the query was run again and may rank differently")
            return await self._first(position)
        return await self._later(ident, snapshot, position)

    def _key(self) -> str:
        """Digest of everything that decides the ranking."""
        asked = self.request
        filters, grouped = asked.filters, asked.group_by and asked.group_by.model_dump()
        caller = (self.context.internal_id, self.context.namespace_id, repr(self.context.filter))
        views = [view.collection_id for view in self.plan.collections]
        content = [
            self.plan.key,
            caller,
            views,
            self.inputs.values,
            filters,
            asked.inputs.get("filters"),
            asked.sort,
            grouped,
        ]
        data = orjson.dumps(content, default=repr, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
        return hashlib.blake2b(data, digest_size=12).hexdigest()

    async def _first(self, position: int) -> dict[str, Any]:
        """Run the stages and show a page of what they found."""
        offset = position or self.page.offset
        run = Execution(
            plan=self.plan,
            caller=self.context,
            inputs=self.inputs.values,
            keep=self.keep,
            wanted=offset + (self.page.limit or DEFAULT_PAGE),
            searcher=self.searcher,
            embedder=self.embedder,
        )
        await run.run()
        hits = sort_hits(run.hits, self.sort) if self.sort else run.hits
        limit = self.page.limit or min(run.page_limit or DEFAULT_PAGE, MAX_PAGE)
        if self.page.method == "keyset" and self.page.after:
            offset = position_after(hits, self.page.after)
        body = self._frame(run)
        if not hits and run.error is None:
            body["diagnostics"] = await diagnose(self.plan, run, self.keep, self.searcher)
        return await self._show(body, hits, offset, limit)

    async def _later(self, ident: str, snapshot: Snapshot, position: int) -> dict[str, Any]:
        """A later page of a remembered ranking: the order stands, deleted documents are gone."""
        limit = self.page.limit or snapshot.extra["limit"]
        run = Execution(self.plan, self.context, self.inputs.values, self.keep, limit, self.searcher, self.embedder)
        body = self._frame(run)
        body["facets"] = snapshot.extra["facets"]
        if snapshot.hits is not None and self.request.group_by is not None:
            return await self._grouped(body, snapshot.hits, self.request.group_by, position, limit, ident)
        if snapshot.hits is not None:
            page = await self._still_there(snapshot.hits[position : position + limit])
        else:
            page = await self._read_again(snapshot, position, limit)
        gone = min(limit, snapshot.total - position) - len(page)
        if gone > 0:
            body["warnings"].append(f"{gone} documents of this page were deleted since the first page was shown")
        return await self._present(body, page, position, limit, snapshot.total, ident)

    async def _read_again(self, snapshot: Snapshot, position: int, limit: int) -> list[Hit]:
        wanted = snapshot.references[position : position + limit]
        found = await self._readable([(collection_id, ident) for collection_id, ident, _, _ in wanted])
        page = []
        for collection_id, document_id, score, scores in wanted:
            hit = found.get((collection_id, document_id))
            if hit is not None:
                hit.score, hit.scores = score, scores
                page.append(hit)
        return page

    async def _readable(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Hit]:
        """The documents among these that are there and may be seen, by collection and id."""
        by_collection: dict[str, list[str]] = {}
        for collection_id, document_id in keys:
            by_collection.setdefault(collection_id, []).append(document_id)
        found: dict[tuple[str, str], Hit] = {}
        for collection_id, ids in by_collection.items():
            hits, _ = await self.searcher.get(collection_id, ids)
            found |= {(collection_id, hit.document_id): hit for hit in visible(hits, self.context.filter)}
        return found

    async def _still_there(self, hits: list[Hit]) -> list[Hit]:
        """Without the documents that were deleted meanwhile; rows that stages made have no collection and stay."""
        ours = {view.collection_id for view in self.plan.collections}
        found = await self._readable((h.collection_id, h.document_id) for h in hits if h.collection_id in ours)
        return [h for h in hits if h.collection_id not in ours or (h.collection_id, h.document_id) in found]

    async def _show(self, body: dict[str, Any], hits: list[Hit], offset: int, limit: int) -> dict[str, Any]:
        """The first page of a ranking, which is remembered where there are more."""
        grouped = self.request.group_by
        if grouped is not None:
            return await self._grouped(body, hits, grouped, offset, limit, None)
        more = offset + limit < len(hits)
        ident = self._remember(body, hits, limit, whole=not self.plan.keeps_documents) if more else None
        return await self._present(body, hits[offset : offset + limit], offset, limit, len(hits), ident)

    def _remember(self, body: dict[str, Any], hits: list[Hit], limit: int, *, whole: bool) -> str | None:
        if self.page.method not in ("cursor", "scroll"):
            return None
        extra = {"limit": limit, "facets": body["facets"]}
        return self.snapshots.keep(self._key(), hits, extra, whole=whole)

    async def _grouped(
        self, body: dict[str, Any], hits: list[Hit], grouped: GroupBy, offset: int, limit: int, ident: str | None
    ) -> dict[str, Any]:
        """A page of groups; `documents` holds their members one after the other."""
        groups = present.group_hits(hits, grouped)
        page = groups[offset : offset + limit]
        if ident is not None:
            page = [(key, await self._still_there(members)) for key, members in page]
        elif offset + limit < len(groups):
            ident = self._remember(body, hits, limit, whole=True)
        flat = [hit for _, members in page for hit in members]
        body = await self._present(body, flat, offset, limit, len(groups), ident)
        items = iter(body["documents"])
        body["final_results"] = [
            {"field": grouped.field, "key": key, "group": [next(items) for _ in members]} for key, members in page
        ]
        body["pagination"].update(returned=len(page), total_documents=len(hits))
        return body

    async def _present(
        self, body: dict[str, Any], page: list[Hit], offset: int, limit: int, total: int, ident: str | None
    ) -> dict[str, Any]:
        if self.request.return_vectors:
            await self._add_vectors(page)
        items = [self._item(hit) for hit in page]
        body["documents"] = body["results"] = body["final_results"] = items
        body["pagination"] = self._pagination(len(items), offset, limit, total, ident, page)
        return body

    def _item(self, hit: Hit) -> dict[str, Any]:
        made = present.item(hit)
        if self.request.return_urls:
            made = present.sign_urls(made, self._signed)
        if self.request.select:
            made = present.select_fields(made, self.request.select)
        return present.with_vectors(made, hit) if self.request.return_vectors else made

    def _signed(self, key: str) -> str:
        url = self.sign(key)
        return self.context.base_url + url if url.startswith("/") else url

    async def _add_vectors(self, page: list[Hit]) -> None:
        names = {view.collection_id: [index.name for index in view.vectors] for view in self.plan.collections}
        for collection_id, vectors in names.items():
            own = {hit.document_id: hit for hit in page if hit.collection_id == collection_id}
            found, _ = await self.searcher.get(collection_id, list(own), vectors)
            for hit in found:
                own[hit.document_id].vectors = hit.vectors

    def _pagination(
        self, returned: int, offset: int, limit: int, total: int, ident: str | None, page: list[Hit]
    ) -> dict[str, Any]:
        more = offset + limit < total
        shown: dict[str, Any] = {"method": self.page.method, "limit": limit, "returned": returned, "total": total}
        shown["has_next"] = more
        if self.page.method == "offset":
            shown.update(offset=offset, page_size=limit, page_number=offset // limit + 1)
        elif self.page.method == "keyset":
            last = page[-1] if page else None
            shown["after"] = {"score": last.score, "id": last.document_id} if last and more else None
        else:
            cursor = self.snapshots.cursor(ident, offset + limit, self._key()) if more and ident else None
            shown["scroll_id" if self.page.method == "scroll" else "cursor"] = shown["next_cursor"] = cursor
        return shown

    def _frame(self, run: Execution) -> dict[str, Any]:
        """Everything but the documents."""
        notes, taken = run.notes, run.elapsed_ms
        report: InputReport = self.inputs
        status = run.status
        body: dict[str, Any] = {
            "execution_id": self.context.execution_id or new_id("exec"),
            "retriever_id": self.context.retriever_id,
            "status": status,
            "documents": [],
            "results": [],
            "final_results": [],
            "pagination": {},
            "stage_statistics": {"stages": run.statistics, "total_time_ms": taken, "credits_used": 0.0},
            "stage_results": run.stage_results,
            "execution_time": taken / 1000,
            "budget": {
                "credits_used": 0.0,
                "credits_remaining": self.context.max_credits,
                "time_used_ms": taken,
                "time_limit_ms": self.context.max_time_ms,
                "tokens_used": 0,
            },
            "facets": run.side.get("facets"),
            "warnings": [*self.warnings, *notes.warnings],
            "degraded": list(notes.degraded.values()),
            "limits": notes.limits,
            "completeness": {"embeddings": "complete", "page": _page_state(status), "overall": _page_state(status)},
            "interpretation": present.interpretation(report.provided, report.inferred, report.ignored, run.relaxations),
            "optimization_applied": any("pushed_into" in s["metadata"] for s in run.statistics.values()),
            "cache_hit": False,
        }
        if run.error is not None:
            body["error"] = run.error
        for name in ("groups", "aggregations"):
            if name in run.side:
                body[name] = run.side[name]
        if self.request.explain:
            body["explain_plan"] = explain(self.plan, run)
        return body


def _page_state(status: str) -> str:
    return "complete" if status == "completed" else status


def explain(plan: Plan, run: Execution) -> dict[str, Any]:
    """What was run, with timings. Parameters are left out: they may hold secrets."""
    stages = [
        {"stage_index": n, "stage_name": s.name, "stage_id": s.stage.stage_id, **run.statistics.get(s.name, {})}
        for n, s in enumerate(plan.stages)
    ]
    return {"stages": stages, "collections": [view.collection_id for view in plan.collections], "plan": plan.key}
