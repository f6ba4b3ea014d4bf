"""The answer to one execute request: pages of a ranking, presented, with everything that was noted on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from time import perf_counter
from typing import Any

import orjson

from mediatheca.flows.retrieve.cache import ResultCache, size_of
from mediatheca.flows.retrieve.consistency import Freshness, wait_until_fresh
from mediatheca.flows.retrieve.context import visible
from mediatheca.flows.retrieve.diagnose import diagnose
from mediatheca.flows.retrieve.execute import Execution, Outcome, Parts, Tell
from mediatheca.flows.retrieve.expanding import Expander
from mediatheca.flows.retrieve.explain import Trace, WhyNot, explanation
from mediatheca.flows.retrieve.grouping import group_hits
from mediatheca.flows.retrieve.optimise import optimise, summary
from mediatheca.flows.retrieve.paging import (
    DEFAULT_PAGE,
    Snapshot,
    Snapshots,
    page_request,
    position_after,
)
from mediatheca.flows.retrieve.plan import Plan
from mediatheca.flows.retrieve.request import MAX_PAGE, ExecuteRequest, GroupBy
from mediatheca.flows.retrieve.seams import ExecutionContext, Sign
from mediatheca.flows.retrieve.stage_cache import StageStates
from mediatheca.kernel.errors import ForbiddenError
from mediatheca.kernel.hits import identities, surviving
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.inputs import InputReport
from mediatheca.kernel.ordering import sort_hits
from mediatheca.kernel.present import View, present, result
from mediatheca.kernel.search import Hit


class Answer:
    """Builds the answer to one request."""

    def __init__(
        self,
        parts: Parts,
        sign: Sign,
        snapshots: Snapshots,
        cache: ResultCache[Outcome],
        plan: Plan,
        request: ExecuteRequest,
        context: ExecutionContext,
        tell: Tell | None = None,
    ) -> None:
        self.parts = parts
        self.searcher = parts.searcher
        self.sign = sign
        self.snapshots = snapshots
        self.cache = cache
        self.tell = tell
        self.plan = optimise(plan.narrow(request.collection_identifiers), request.optimize)
        self.fresh = Freshness()
        self.request = request
        self.context = context
        self.page = page_request(request)
        self.sort = request.sort_keys()
        self.inputs = plan.schema.check(self._given(), plan.inputs)
        self.keep = request.filter(plan.schema, plan.inputs)
        self.started = perf_counter()
        self.cached_at: float | None = None
        self.shown: list[Hit] = []
        asked = request.explain or request.explain_document is not None
        self.trace = Trace() if asked else None
        self.warnings = [*plan.warnings, *request.warnings(), *self.page.warnings, *self.inputs.warnings]

    def _given(self) -> dict[str, Any]:
        """The inputs without the filters that some clients put among them."""
        given = self.request.inputs
        inner = isinstance(given.get("filters"), (dict, list)) and "filters" not in self.plan.inputs
        if inner and "filters" not in self.plan.schema.fields:
            return {name: value for name, value in given.items() if name != "filters"}
        return given

    async def make(self) -> dict[str, Any]:
        """The body of the answer.

        Raises:
            ForbiddenError: results are to be written, and the caller may not write.
        """
        if self.request.target_collection_id is not None and self.context.materialise is None:
            raise ForbiddenError("target_collection_id writes documents: it takes a key with the permission 'write'")
        asked = self.request
        limit_ms = self.context.max_time_ms
        if asked.consistency is not None or asked.write_token is not None:
            views = self.plan.collections
            self.fresh = await wait_until_fresh(self.searcher, views, asked.consistency, asked.write_token, limit_ms)
        body = await self._page()
        if self.request.target_collection_id is not None and self.context.materialise is not None:
            body["written_to"] = await self.context.materialise(self.request.target_collection_id, self.shown)
        return body

    async def _page(self) -> dict[str, Any]:
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
        views = [view.collection_id for view in self.plan.collections]
        content = [
            self.plan.key,
            self._caller(),
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
        """Run the stages, or find what they gave before, and show a page of it."""
        offset = position or self.page.offset
        outcome = await self._outcome(offset + (self.page.limit or DEFAULT_PAGE))
        hits = sort_hits(outcome.hits, self.sort) if self.sort else outcome.hits
        limit = self.page.limit or min(outcome.page_limit or DEFAULT_PAGE, MAX_PAGE)
        if self.page.method == "keyset" and self.page.after:
            offset = position_after(hits, self.page.after)
        body = self._frame(outcome)
        if not hits and outcome.error is None and "aggregations" not in outcome.side:
            body["diagnostics"] = await diagnose(self.plan, outcome, self.keep, self.context.filter, self.searcher)
        body = await self._show(body, hits, offset, limit)
        if self.trace is not None:
            await self._explain(body, outcome, hits, offset, limit)
        return body

    async def _outcome(self, wanted: int) -> Outcome:
        key = self._cache_key(wanted)
        kept = None if key is None or self.request.skip_cache else self.cache.find(key)
        if kept is not None:
            self.cached_at = kept.made
            return kept.value
        run = Execution(
            self.plan,
            self.context,
            self.inputs.values,
            self.keep,
            wanted,
            self.parts,
            trace=self.trace,
            tell=self.tell,
            states=None if key is None or self.request.skip_cache else self._states(wanted),
        )
        outcome = await run.run()
        policy = self.context.cache
        if key is not None and policy is not None and outcome.notes.repeatable and outcome.status == "completed":
            self.cache.keep(key, outcome, size_of(outcome.hits), policy.ttl_s)
        return outcome

    def _states(self, wanted: int) -> StageStates | None:
        policy = self.context.cache
        if policy is None or not policy.stages:
            return None
        base = [self._caller(), [view.collection_id for view in self.plan.collections], self._versions(), wanted]
        asked = [self.request.filters, self.request.inputs.get("filters")]
        return StageStates(self.parts.states, self.plan, [base, asked], self.inputs.values, policy.ttl_s)

    def _versions(self) -> list[int | None]:
        return [self.searcher.version(view.collection_id) for view in self.plan.collections]

    def _caller(self) -> tuple[str, str, str]:
        return self.context.internal_id, self.context.namespace_id, repr(self.context.filter)

    def _cache_key(self, wanted: int) -> str | None:
        """None: the result may not be kept, or not be taken from what was kept."""
        if self.context.cache is None or self.trace is not None or self.tell is not None or self.plan.clocked:
            return None
        versions = self._versions()
        if None in versions:
            return None  # the index is catching up: the answer will be degraded
        return f"{self._key()}:{wanted}:{versions}"

    async def _explain(self, body: dict[str, Any], outcome: Outcome, hits: list[Hit], offset: int, limit: int) -> None:
        trace = self.trace or Trace()
        page = hits[offset : offset + limit]
        if self.request.explain and self.request.group_by is None:
            for number, (item, hit) in enumerate(zip(body["documents"], page, strict=True)):
                item["explanation"] = explanation(trace, hit, offset + number + 1)
        if self.request.explain_document is not None:
            why = WhyNot(trace, self.plan.collections, self.context.filter, self.searcher)
            body["explained_document"] = await why.ask(self.request.explain_document, hits, page)

    async def _later(self, ident: str, snapshot: Snapshot, position: int) -> dict[str, Any]:
        """A later page of a remembered ranking: the order stands, deleted documents are gone."""
        limit = self.page.limit or snapshot.extra["limit"]
        body = self._frame(Outcome())
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
        """Without the documents that were deleted meanwhile; rows that stand for no document stay."""
        ours = {view.collection_id for view in self.plan.collections}
        found = await self._readable({key for hit in hits for key in identities(hit) if key[0] in ours})
        return [kept for hit in hits if (kept := surviving(hit, found, ours)) is not None]

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
        groups = group_hits(hits, grouped)
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
        asked = self.request
        view = View(
            namespace_id=self.context.namespace_id,
            sign=self._signed if asked.return_urls else None,
            vectors=asked.return_vectors,
            select=asked.select or (),
        )
        items = [result(hit, view) for hit in page]
        self.shown = page
        if asked.expand:
            plain = View(namespace_id=view.namespace_id, sign=view.sign)
            found = Expander(self.searcher, self.plan.collections, self.context, lambda hit: present(hit, plain))
            await found.expand(asked.expand, page, items)
            body["warnings"].extend(found.warnings)
            body["limits"] = [*body["limits"], *found.limits]
        body["documents"] = body["results"] = body["final_results"] = items
        body["pagination"] = self._pagination(len(items), offset, limit, total, ident, page)
        return body

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

    def _frame(self, run: Outcome) -> dict[str, Any]:
        """Everything but the documents."""
        notes, taken = run.notes, (perf_counter() - self.started) * 1000
        report: InputReport = self.inputs
        status = "degraded" if self.fresh.degraded and run.status == "completed" else run.status
        optimised = summary(self.plan, run.statistics) if run.statistics else None
        body: dict[str, Any] = {
            "execution_id": self.context.execution_id or new_id("exec"),
            "retriever_id": self.context.retriever_id,
            "status": status,
            "documents": [],
            "results": [],
            "final_results": [],
            "pagination": {},
            "stage_statistics": {
                "stages": run.statistics,
                "total_time_ms": run.taken_ms,
                "credits_used": run.language.credits,
            },
            "stage_results": run.stage_results,
            "execution_time": taken / 1000,
            "budget": {
                "credits_used": run.language.credits,
                "credits_remaining": _left(self.context.max_credits, run.language.credits),
                "time_used_ms": taken,
                "time_limit_ms": self.context.max_time_ms,
                "tokens_used": run.language.tokens,
            },
            "facets": run.side.get("facets"),
            "warnings": [*self.warnings, *self.fresh.warnings, *notes.warnings],
            "degraded": [*self.fresh.degraded, *notes.degraded.values()],
            "limits": notes.limits,
            "completeness": {"embeddings": "complete", "page": _page_state(status), "overall": _page_state(status)},
            "interpretation": _interpretation(report, run),
            "optimization_applied": optimised is not None and bool(optimised["rules_applied"]),
            "consistency_mode": self.fresh.mode,
            "cache_hit": self.cached_at is not None,
            "cached_at": self.cached_at,
            "seed": run.seed,
        }
        if run.error is not None:
            body["error"] = run.error
        if optimised is not None:
            body["optimization_summary"] = optimised
        for name in ("groups", "aggregations"):
            if name in run.side:
                body[name] = run.side[name]
        if self.request.explain:
            body["explain_plan"] = plan_as_run(self.plan, run)
        return body


def _interpretation(report: InputReport, run: Outcome) -> dict[str, Any]:
    spoken = [
        {"stage_name": name, **entry["metadata"]["natural_language"]}
        for name, entry in run.statistics.items()
        if "natural_language" in entry["metadata"]
    ]
    return {
        **({"natural_language": spoken} if spoken else {}),
        "provided_input_keys": report.provided,
        "inferred_inputs": report.inferred,
        "ignored_input_keys": report.ignored,
        "relaxations": [relaxation.as_dict() for relaxation in run.relaxations],
    }


def _left(limit: float | None, used: float) -> float | None:
    return None if limit is None else max(0.0, limit - used)


def _page_state(status: str) -> str:
    return "complete" if status == "completed" else status


def plan_as_run(plan: Plan, run: Outcome) -> dict[str, Any]:
    """What was run, with timings. Parameters are left out: they may hold secrets."""
    stages = [
        {"stage_index": n, "stage_name": s.name, "stage_id": s.stage.stage_id, **run.statistics.get(s.name, {})}
        for n, s in enumerate(plan.stages)
    ]
    return {
        "stages": stages,
        "collections": [view.collection_id for view in plan.collections],
        "plan": plan.key,
        "seed": run.seed,
    }
