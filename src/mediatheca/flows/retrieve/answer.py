"""The answer to one execute request: pages of a ranking, presented, with everything that was noted on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

from mediatheca.flows.retrieve.advice import advise_filters
from mediatheca.flows.retrieve.cache import ResultCache
from mediatheca.flows.retrieve.consistency import Freshness, wait_until_fresh
from mediatheca.flows.retrieve.diagnose import diagnose
from mediatheca.flows.retrieve.execute import Parts, Tell
from mediatheca.flows.retrieve.explain import Trace, explanation, standing
from mediatheca.flows.retrieve.finding import Finder
from mediatheca.flows.retrieve.framing import Frame, again, remembered
from mediatheca.flows.retrieve.grouping import group_hits
from mediatheca.flows.retrieve.optimise import optimise
from mediatheca.flows.retrieve.outcome import Outcome
from mediatheca.flows.retrieve.paging import (
    DEFAULT_PAGE,
    PageRequest,
    Snapshot,
    Snapshots,
    mark_of,
    page_request,
    place_of,
    position_after,
)
from mediatheca.flows.retrieve.plan import Plan
from mediatheca.flows.retrieve.request import MAX_PAGE, ExecuteRequest, GroupBy
from mediatheca.flows.retrieve.seams import ExecutionContext, Sign
from mediatheca.flows.retrieve.showing import Shower
from mediatheca.flows.retrieve.whynot import WhyNot
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ForbiddenError, ValidationError
from mediatheca.kernel.filters import all_of
from mediatheca.kernel.ordering import sort_hits
from mediatheca.kernel.search import Hit

EXPIRED = "the remembered ranking has expired; the query was run again and may rank differently"
RECORDED = ("collections", "weights")
"""What the record of a later page takes over from the execution that made its ranking."""


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
        self.searcher = parts.searcher
        self.snapshots = snapshots
        self.plan = optimise(plan.narrow(request.collection_identifiers), request.optimize)
        self.fresh = Freshness()
        self.request = request
        if context.cache is not None:
            context = replace(context, cache=context.cache.within(self.plan.stages))
        self.context = context if request.max_chunks is None else replace(context, max_chunks=request.max_chunks)
        self.shower = Shower(parts.searcher, sign, self.plan, request, context)
        self.page = page_request(request)
        if context.repeat is not None:
            self.page = PageRequest("offset", context.repeat.limit, context.repeat.position)
        self.moment = (context.repeat and context.repeat.at) or clock.now()
        self.sort = request.sort_keys()
        self.inputs = plan.schema.check(self._given(), plan.inputs)
        self.keep = all_of(request.filter(plan.schema, plan.inputs), context.seen)
        self.trace = Trace() if request.explain or request.explain_document is not None else None
        self.finder = Finder(
            parts, cache, self.plan, request, self.context, self.inputs.values, self.keep, self.trace, tell
        )
        self.started = perf_counter()
        self.shown: list[Hit] = []
        self.warnings = [*plan.warnings, *request.warnings(), *self.page.warnings, *self.inputs.warnings]
        self.warnings += advise_filters(request.filters, self.plan.collections)

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
        asked = self.request
        if asked.target_collection_id is not None and self.context.materialise is None:
            raise ForbiddenError("target_collection_id writes documents: it takes a key with the permission 'write'")
        limit_ms = self.context.max_time_ms
        if asked.consistency is not None or asked.write_token is not None:
            views = self.plan.collections
            self.fresh = await wait_until_fresh(self.searcher, views, asked.consistency, asked.write_token, limit_ms)
        body = await self._page()
        if asked.target_collection_id is not None and self.context.materialise is not None:
            body["written_to"] = await self.context.materialise(asked.target_collection_id, self.shown)
        if not asked.include_legacy_results:
            for name in ("results",) if asked.group_by is not None else ("results", "final_results"):
                del body[name]
        return body

    # ---- which page of which ranking

    async def _page(self) -> dict[str, Any]:
        page = self.page
        if self.context.repeat is not None:
            return await self._first(page.offset)
        if page.cursor is not None:
            place = "pagination.scroll_id" if page.method == "scroll" else "pagination.cursor"
            return await self._continued(*self.snapshots.read(page.cursor, self.finder.key, place))
        if page.method == "keyset" and page.after:
            return await self._behind(page.after)
        held = self._latest() if page.offset else None
        return await (self._first(page.offset) if held is None else self._later(*held, page.offset))

    def _latest(self) -> tuple[str, Snapshot] | None:
        return self.snapshots.latest(self.finder.key, self._asker())

    async def _continued(self, ident: str, position: int) -> dict[str, Any]:
        snapshot = self.snapshots.find(ident)
        if snapshot is None:
            self.warnings.append(EXPIRED)
            return await self._first(0 if self.request.unseen else position)
        return await self._later(ident, snapshot, position)

    async def _behind(self, after: dict[str, Any]) -> dict[str, Any]:
        """The keyset page behind a mark: in the ranking that it names, else in the last one, else in one made anew."""
        held = self._latest()
        if "ranking" in after:
            if not isinstance(after["ranking"], str):
                raise ValidationError.at("pagination.after.ranking", "must be a text", "string_type")
            ident, position = self.snapshots.read(after["ranking"], self.finder.key, "pagination.after.ranking")
            snapshot = self.snapshots.find(ident)
            if snapshot is not None:
                return await self._later(ident, snapshot, position)
            self.warnings.append(EXPIRED)
        place = place_of(held[1].identities(), after) if held is not None and self.request.group_by is None else None
        if held is not None and place is not None:
            return await self._later(*held, place)
        return await self._first(0, after)

    def _asker(self) -> str:
        """Whose walk through the pages this is, as far as a request tells."""
        who = [self.context.principal, self.request.session_id, self.request.user_id]
        return f"{self.context.namespace_id} {who!r}"

    # ---- a ranking that is made now

    async def _first(self, offset: int, after: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the stages, or find what they gave before, and show a page of it."""
        known = after.get("position") if after else None
        reach = offset + (known if isinstance(known, int) and 0 < known <= MAX_PAGE * 20 else 0)
        repeat = self.context.repeat
        wanted = repeat.depth if repeat is not None else reach + (self.page.limit or DEFAULT_PAGE)
        outcome = await self.finder.find(wanted, self.moment)
        hits = sort_hits(outcome.hits, self.sort) if self.sort else outcome.hits
        limit = self.page.limit or min(outcome.page_limit or DEFAULT_PAGE, MAX_PAGE)
        if after:
            grouped = self.request.group_by is not None
            offset = reach if grouped and reach else position_after(hits, after, self.sort)
        body = self._frame(outcome)
        if not hits and outcome.error is None and "aggregations" not in outcome.side:
            body["diagnostics"] = await diagnose(self.plan, outcome, self.keep, self.context.filter, self.searcher)
        body = await self._show(body, outcome, hits, offset, limit, wanted)
        await self._explain(body, hits)
        self._note(body, offset, limit, wanted)
        return body

    async def _show(
        self, body: dict[str, Any], outcome: Outcome, hits: list[Hit], offset: int, limit: int, depth: int
    ) -> dict[str, Any]:
        """The first page of a ranking, which is remembered."""
        grouped = self.request.group_by
        ident = None
        if self.context.repeat is None and outcome.error is None:
            told = remembered(outcome, self.fresh)
            extra = {"limit": limit, "told": told, "depth": depth, "at": self.moment, "record": self.context.record}
            whole = grouped is not None or not self.plan.keeps_documents
            ident = self.snapshots.keep(self.finder.key, hits, extra, whole=whole, asker=self._asker())
        if grouped is not None:
            return await self._grouped(body, hits, grouped, offset, limit, ident, fresh=True)
        return await self._present(body, hits[offset : offset + limit], offset, limit, len(hits), ident)

    # ---- a ranking that was made before

    async def _later(self, ident: str, snapshot: Snapshot, position: int) -> dict[str, Any]:
        """A later page of a remembered ranking: the order stands, deleted documents are gone."""
        extra, grouped = snapshot.extra, self.request.group_by
        self.moment = extra["at"]
        limit = self.page.limit or extra["limit"]
        rerun = None
        if self._falls_short(snapshot, position + limit):
            rerun = await self._deepen(ident, snapshot, position + limit)
        elif self.trace is not None:
            rerun = await self.finder.find(max(extra["depth"], position + limit), self.moment)
            self.warnings.append("a later page is explained by running the query again; the ranking stands")
        body = self._frame(again(extra["told"], rerun))
        self.context.record.update({name: extra["record"][name] for name in RECORDED if name in extra["record"]})
        if grouped is not None and snapshot.hits is not None:
            body = await self._grouped(body, snapshot.hits, grouped, position, limit, ident, fresh=False)
        else:
            page = await self.shower.remembered(snapshot, position, limit)
            gone = max(0, min(limit, snapshot.total - position)) - len(page)
            if gone > 0:
                body["warnings"].append(f"{gone} documents of this page were deleted since the first page was shown")
            body = await self._present(body, page, position, limit, snapshot.total, ident)
        ranked = snapshot.identities()
        await self._explain(body, [] if rerun is None else rerun.hits, ranked)
        self._note(body, position, limit, extra["depth"])
        return body

    def _falls_short(self, snapshot: Snapshot, reach: int) -> bool:
        """Whether a page by offset asks for more than the ranking was made for, where more may be found."""
        short = reach > max(snapshot.total, snapshot.extra["depth"]) and self.page.method == "offset"
        return short and self.plan.page_stage is None and self.request.group_by is None

    async def _deepen(self, ident: str, snapshot: Snapshot, reach: int) -> Outcome:
        """Look deeper, and put what is new behind what was ranked before."""
        outcome = await self.finder.find(reach, self.moment)
        hits = sort_hits(outcome.hits, self.sort) if self.sort else outcome.hits
        known = set(snapshot.identities())
        self.snapshots.extend(ident, [hit for hit in hits if (hit.collection_id, hit.document_id) not in known])
        snapshot.extra["depth"] = reach
        return outcome

    # ---- what is shown

    async def _grouped(
        self, body: dict[str, Any], hits: list[Hit], grouped: GroupBy, offset: int, limit: int, ident: str | None,
        *, fresh: bool,
    ) -> dict[str, Any]:  # fmt: skip
        """A page of groups; `documents` holds their members one after the other."""
        groups = group_hits(hits, grouped)
        page = groups[offset : offset + limit]
        if not fresh:
            page = [(key, await self.shower.still_there(members)) for key, members in page]
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
        items = await self.shower.items(page, body)
        if self.context.calibration is not None and body["status"] == "completed":
            body["confidence"] = self.context.calibration.tell(items, page)
        self.shown = page
        body["documents"] = body["results"] = body["final_results"] = items
        body["ranked_at"] = clock.wire_time(self.moment)
        body["pagination"] = self._pagination(len(items), offset, limit, total, ident, page)
        return body

    def _pagination(
        self, returned: int, offset: int, limit: int, total: int, ident: str | None, page: list[Hit]
    ) -> dict[str, Any]:
        more = offset + limit < total
        shown: dict[str, Any] = {"method": self.page.method, "limit": limit, "returned": returned, "total": total}
        shown["has_next"] = more
        if self.page.method == "offset":
            shown.update(offset=offset, page_size=limit, page_number=offset // limit + 1)
            return shown
        cursor = self.snapshots.cursor(ident, offset + limit, self.finder.key) if more and ident else None
        if self.page.method == "keyset":
            last = page[-1] if page else Hit("", "", 0.0, {}, {})
            shown["after"] = mark_of(last, offset + limit, self.sort, cursor) if cursor else None
        else:
            shown["scroll_id" if self.page.method == "scroll" else "cursor"] = shown["next_cursor"] = cursor
        return shown

    def _frame(self, run: Outcome) -> dict[str, Any]:
        frame = Frame(
            self.plan,
            self.context,
            self.inputs,
            self.fresh,
            self.warnings,
            self.finder.cached_at,
            self.request.explain,
        )
        return frame.body(run, (perf_counter() - self.started) * 1000)

    async def _explain(
        self, body: dict[str, Any], hits: list[Hit], ranked: list[tuple[str, str]] | None = None
    ) -> None:
        """Why the documents of the page are there. `ranked`: the order that counts, where it is not that of `hits`."""
        trace = self.trace
        if trace is None:
            return
        places = {key: rank for key, (rank, _) in standing(hits).items()}
        if ranked:
            places = {key: place for place, key in reversed(list(enumerate(ranked, start=1)))}
        if self.request.explain:
            sort = "sort" if self.sort else None
            for item, hit in zip(body["documents"], self.shown, strict=True):
                rank = places[hit.collection_id, hit.document_id]
                item["explanation"] = explanation(trace, hit, rank, self.plan.collections, sort)
        if self.request.explain_document is not None:
            why = WhyNot(trace, self.plan.collections, self.context.filter, self.searcher)
            body["explained_document"] = await why.ask(self.request.explain_document, places, standing(self.shown))

    def _note(self, body: Mapping[str, Any], position: int, limit: int, depth: int) -> None:
        """What the record of the execution needs, so that it can be repeated."""
        self.context.record.update(position=position, limit=limit, depth=depth, ranked_at=body["ranked_at"])
