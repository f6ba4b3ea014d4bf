"""References in results, resolved one step deep: objects, collections and documents under `_expanded`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mediatheca.flows.retrieve.context import visible
from mediatheca.flows.retrieve.seams import ExecutionContext, Searcher
from mediatheca.kernel.errors import NotFoundError
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView

MAX_REFERENCES = 50
"""Unique references that one answer resolves."""
MAX_COLLECTIONS = 50
"""Collections that are looked through for a document of which only the id is known."""
MAX_ID = 512
_SHOWN = 3
_RECORDS = ("obj_", "col_")

Reference: TypeAlias = tuple[str | None, str]
"""Collection (None: not said) and id."""


@dataclass(slots=True)
class Expander:
    """Resolves the references of one page, within the tenant's namespace and the caller's constraints."""

    searcher: Searcher
    views: Sequence[CollectionView]
    context: ExecutionContext
    show: Callable[[Hit], dict[str, Any]]
    warnings: list[str] = field(default_factory=list)
    limits: list[dict[str, Any]] = field(default_factory=list)
    _found: dict[Reference, dict[str, Any]] = field(default_factory=dict)

    async def expand(self, paths: Sequence[str], page: Sequence[Hit], items: Sequence[dict[str, Any]]) -> None:
        """Put `_expanded` into every item: path → what it refers to, null where that cannot be resolved."""
        values = {path: [read_field(hit, path) for hit in page] for path in dict.fromkeys(paths)}
        await self._resolve(self._wanted(values))
        for number, item in enumerate(items):
            item["_expanded"] = {path: self._put(of_path[number]) for path, of_path in values.items()}
        for path, of_path in values.items():
            self._report(path, of_path)

    def _wanted(self, values: Mapping[str, Sequence[Any]]) -> list[Reference]:
        """The unique references, the first of each up to the limit."""
        every = (reference for of_path in values.values() for value in of_path for reference in _references(value))
        wanted = list(dict.fromkeys(every))
        if len(wanted) > MAX_REFERENCES:
            entry = {"name": "expand", "requested": len(wanted), "applied": MAX_REFERENCES}
            self.limits.append({**entry, "ceiling": MAX_REFERENCES, "stage": None})
            self.warnings.append(f"expand: {len(wanted)} references, the first {MAX_REFERENCES} were resolved")
        return wanted[:MAX_REFERENCES]

    async def _resolve(self, wanted: Sequence[Reference]) -> None:
        records = [reference for reference in wanted if reference[0] is None and reference[1].startswith(_RECORDS)]
        if records and self.context.filter is None:
            known = await self.context.neighbours.records([ident for _, ident in records])
            self._found |= {(None, ident): record for ident, record in known.items()}
        elif records:
            self.warnings.append("expand: objects and collections are not open under this caller's constraints")
        by_collection: dict[str, list[str]] = {}
        for collection, ident in wanted:
            if collection is not None:
                by_collection.setdefault(collection, []).append(ident)
        for collection, idents in by_collection.items():
            view = await self._view(collection)
            if view is not None:
                await self._documents(view, idents, collection)
        await self._anywhere([ident for collection, ident in wanted if collection is None])

    async def _view(self, collection: str) -> CollectionView | None:
        """A collection of the execution; of the namespace only for a caller without constraints."""
        for view in self.views:
            if collection in (view.collection_id, view.name):
                return view
        if self.context.filter is not None:
            return None
        try:
            return await self.context.neighbours.collection(collection)
        except NotFoundError:
            return None

    async def _anywhere(self, idents: Sequence[str]) -> None:
        """Documents by id alone: the execution's collections first, then those of the namespace."""
        await self._search(self.views, idents)
        if self.context.filter is None and self._missing(idents):
            seen = {view.collection_id for view in self.views}
            others = [v for v in await self.context.neighbours.collections() if v.collection_id not in seen]
            if len(others) > MAX_COLLECTIONS:
                message = f"expand: {len(others)} collections, the first {MAX_COLLECTIONS} were looked through"
                self.warnings.append(f"{message}; refer by {{collection_id, document_id}}")
            await self._search(others[:MAX_COLLECTIONS], idents)

    async def _search(self, views: Iterable[CollectionView], idents: Sequence[str]) -> None:
        for view in views:
            missing = self._missing(idents)
            if not missing:
                return
            await self._documents(view, missing, None)

    def _missing(self, idents: Sequence[str]) -> list[str]:
        return [ident for ident in idents if (None, ident) not in self._found]

    async def _documents(self, view: CollectionView, idents: Sequence[str], said: str | None) -> None:
        hits, _ = await self.searcher.get(view.collection_id, idents)
        self._found |= {(said, hit.document_id): self.show(hit) for hit in visible(hits, self.context.filter)}

    def _put(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._put(item) for item in value]
        reference = _reference(value)
        return None if reference is None else self._found.get(reference)

    def _report(self, path: str, values: Sequence[Any]) -> None:
        lost = [ref for value in values for ref in _references(value) if ref not in self._found]
        odd = sum(1 for value in values if value is not None and not _references(value) and value != [])
        if lost:
            named = ", ".join(repr(ident[:100]) for _, ident in list(dict.fromkeys(lost))[:_SHOWN])
            self.warnings.append(f"expand: {len(set(lost))} references of '{path}' were not resolved: {named}")
        if odd:
            self.warnings.append(f"expand: '{path}' holds no id in {odd} of the results")


def _references(value: Any) -> list[Reference]:
    values = value if isinstance(value, list) else [value]
    return [reference for item in values if (reference := _reference(item)) is not None]


def _reference(value: Any) -> Reference | None:
    """An id, or `{collection_id, document_id}`."""
    if isinstance(value, str) and 0 < len(value) <= MAX_ID:
        return None, value
    if not isinstance(value, Mapping):
        return None
    collection, ident = value.get("collection_id"), value.get("document_id")
    if not isinstance(ident, str) or not 0 < len(ident) <= MAX_ID:
        return None
    return (collection if isinstance(collection, str) and collection else None), ident
