"""The documents of a page: read again where a ranking was remembered, and made ready to be shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mediatheca.flows.retrieve.context import visible
from mediatheca.flows.retrieve.expanding import Expander
from mediatheca.flows.retrieve.paging import Snapshot
from mediatheca.flows.retrieve.plan import Plan
from mediatheca.flows.retrieve.request import ExecuteRequest
from mediatheca.flows.retrieve.seams import ExecutionContext, Searcher, Sign
from mediatheca.kernel.hits import Identity, identities, surviving
from mediatheca.kernel.present import View, present, result
from mediatheca.kernel.search import Hit


class Shower:
    """Shows the results of one request."""

    def __init__(
        self, searcher: Searcher, sign: Sign, plan: Plan, request: ExecuteRequest, context: ExecutionContext
    ) -> None:
        self.searcher = searcher
        self.sign = sign
        self.plan = plan
        self.request = request
        self.context = context

    async def items(self, page: list[Hit], body: dict[str, Any]) -> list[dict[str, Any]]:
        """Results as they are shown; `body` gets the warnings and limits of their expansion."""
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
        if asked.expand:
            plain = View(namespace_id=view.namespace_id, sign=view.sign)
            found = Expander(self.searcher, self.plan.collections, self.context, lambda hit: present(hit, plain))
            await found.expand(asked.expand, page, items)
            body["warnings"].extend(found.warnings)
            body["limits"] = [*body["limits"], *found.limits]
        return items

    async def remembered(self, snapshot: Snapshot, position: int, limit: int) -> list[Hit]:
        """A part of a remembered ranking, as its documents are now; those that are gone are left out."""
        if snapshot.hits is not None:
            return await self.still_there(snapshot.hits[position : position + limit])
        wanted = snapshot.references[position : position + limit]
        found = await self._readable([(collection_id, ident) for collection_id, ident, _, _ in wanted])
        page = []
        for collection_id, document_id, score, scores in wanted:
            hit = found.get((collection_id, document_id))
            if hit is not None:
                hit.score, hit.scores = score, scores
                page.append(hit)
        return page

    async def still_there(self, hits: list[Hit]) -> list[Hit]:
        """Without the documents that were deleted meanwhile; rows that stand for no document stay."""
        ours = {view.collection_id for view in self.plan.collections}
        found = await self._readable({key for hit in hits for key in identities(hit) if key[0] in ours})
        return [kept for hit in hits if (kept := surviving(hit, found, ours)) is not None]

    async def _readable(self, keys: Iterable[Identity]) -> dict[Identity, Hit]:
        """The documents among these that are there and may be seen, by collection and id."""
        by_collection: dict[str, list[str]] = {}
        for collection_id, document_id in keys:
            by_collection.setdefault(collection_id, []).append(document_id)
        found: dict[Identity, Hit] = {}
        for collection_id, ids in by_collection.items():
            hits, _ = await self.searcher.get(collection_id, ids)
            found |= {(collection_id, hit.document_id): hit for hit in visible(hits, self.context.filter)}
        return found

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
