"""Which alerts watch which collection, and what they ask: read once, kept until something of it changes."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mediatheca.flows.alerts.inputs import split_mappings
from mediatheca.flows.alerts.running import Runs, Trouble
from mediatheca.flows.alerts.standing import Way, way_of
from mediatheca.flows.alerts.standing_set import Entry
from mediatheca.flows.applications import works_on_new
from mediatheca.flows.retrievers import TTL_S, Compiled, RetrieverPlans
from mediatheca.kernel.errors import MediathecaError, NotFoundError
from mediatheca.kernel.filters import Filter, parse_filter
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import ReadTx, Record

KIND = "alert"
SYSTEM = "system"
"""Parent of the records of alerts on system conditions, which no document concerns."""
WATCHING = {"kind": KIND, "parent": ""}
_TOPICS = {"resource:alert", "resource:retriever", "resource:collection", "resource:namespace"}
_AT_ONCE = 500
GONE = "its retriever was deleted"
AGAIN = "set retriever_id to another retriever, or delete the alert"

Attached: TypeAlias = dict[str, list[tuple[str, Mapping[str, Any]]]]


@dataclass(slots=True)
class _Known:
    """A namespace's alerts as they were last read."""

    alerts: dict[str, Record] = field(default_factory=dict)
    retrievers: dict[str, int] = field(default_factory=dict)
    """Id → version."""
    collections: Hashable = ()
    """What plans depend on of all of them."""
    attached: Attached = field(default_factory=dict)
    """Alert → the collections that name it, and how."""
    generation: int = -1
    expires: float = 0.0
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    """Collection → its entries."""
    kept: dict[tuple[Hashable, ...], Entry] = field(default_factory=dict)
    searched: dict[Hashable, frozenset[str] | None] = field(default_factory=dict)
    """Retriever, its version and `collections` → what it searches; None: it does not fit them."""


class Entries:
    """Thread-safe. `of` may take long the first time: the queries of new alerts are embedded."""

    def __init__(self, database: Database, plans: RetrieverPlans, runs: Runs) -> None:
        self._db = database
        self._plans = plans
        self._runs = runs
        self._known: dict[Scope, _Known] = {}
        self._locks: defaultdict[Scope, threading.Lock] = defaultdict(threading.Lock)
        # A number is never given twice, whoever commits at the same moment: what was read under it would count as new.
        self._numbers = itertools.count(1)
        self._generation = 0
        database.listen(self._moved)

    def _moved(self, topics: set[str]) -> None:
        if topics & _TOPICS:
            self._generation = next(self._numbers)

    def of(self, scope: Scope, collection_id: str) -> list[Entry]:
        """The entries of a collection, the most urgent first."""
        with self._locks[scope]:
            known = self._fresh(scope)
            if collection_id not in known.entries:
                known.entries[collection_id] = self._made(scope, known, collection_id)
            return known.entries[collection_id]

    def whole(self, scope: Scope, alert_id: str, inputs: Mapping[str, Any]) -> Entry:
        """An alert as it runs by itself.

        Raises:
            NotFoundError: there is none in this namespace.
        """
        with self._db.read(scope) as tx:
            alert = tx.get(KIND, alert_id)
        found, told = self._retriever(scope, alert)
        given = {**(alert.body.get("inputs") or {}), **inputs}
        return Entry(alert, found, Way("direct", "a run as a whole"), given, error=told)

    def describe(self, scope: Scope, alert: Record, attached: Attached) -> dict[str, Any]:
        """How an alert works, for its view. `attached`: see `attachments`."""
        if alert.body.get("source") == "system":
            kind = (alert.body.get("system_condition") or {}).get("type")
            return {
                "mode": "system",
                "reason": f"'{kind}' is looked at every minute",
                "collections": [],
                "warnings": [],
            }
        found, told = self._retriever(scope, alert)
        if found is None:
            return _told(Way("direct", told, (f"{told}; {AGAIN}",)), alert.body.get("watched") or [])
        named = attached.get(alert.id)
        applied = [(ident, how) for ident, how in named or () if works_on_new(how)]
        mapped = any(split_mappings(how.get("input_mappings") or [])[1] for _, how in applied)
        way = way_of(found.plan, no_results=_waits(alert), mapped=mapped)
        watched = [view.collection_id for view in found.plan.collections] if named is None else [i for i, _ in applied]
        warnings = [*way.warnings, *self._lacking(alert, found, mapped)]
        if named is not None and not applied:
            warnings.append("no collection applies it on ingest: it runs when it is asked to, or by a trigger")
        return _told(Way(way.mode, way.reason, tuple(warnings)), watched)

    @staticmethod
    def _lacking(alert: Record, found: Compiled, mapped: bool) -> list[str]:
        """Inputs that nobody gives."""
        given = alert.body.get("inputs") or {}
        fields = found.plan.schema.fields
        absent = [n for n, spec in fields.items() if spec.required and not spec.has_default and given.get(n) is None]
        if mapped or not absent:
            return []
        return [
            f"the retriever needs the input '{name}': set inputs.{name}; until then its runs fail" for name in absent
        ]

    # ---- reading

    def _fresh(self, scope: Scope) -> _Known:
        known = self._known.get(scope) or _Known()
        # What another process changed is seen after a while; on SQLite there is none.
        late = self._db.dialect == "postgresql" and known.expires <= time.monotonic()
        if known.generation != self._generation or late:
            known = self._known[scope] = self._read(scope, known)
        return known

    def _read(self, scope: Scope, before: _Known) -> _Known:
        generation = self._generation
        with self._db.read(scope) as tx:
            versions = {r["id"]: r["version"] for r in tx.rows("resources", WATCHING, columns=("id", "version"))}
            alerts = _alerts(tx, versions, before.alerts)
            retrievers = tx.rows("resources", {"kind": "retriever"}, columns=("id", "version"))
            collections = tx.resources("collection")
        made = _Known(
            alerts=alerts,
            retrievers={row["id"]: row["version"] for row in retrievers},
            collections=tuple(_shape(record) for record in collections),
            attached=_attached(collections, alerts),
            generation=generation,
            expires=time.monotonic() + TTL_S,
            kept=before.kept,
        )
        if made.collections == before.collections:
            made.searched = before.searched
        if _same(made, before):
            made.entries = before.entries
        return made

    # ---- entries

    def _made(self, scope: Scope, known: _Known, collection_id: str) -> list[Entry]:
        drafts = [
            draft
            for alert in known.alerts.values()
            if alert.body.get("enabled", True) and alert.body.get("source", "retriever") == "retriever"
            for draft in self._drafts(scope, known, alert, collection_id)
        ]
        drafts.sort(key=lambda draft: (-draft[0], draft[1].alert.id))
        entries = [entry for _, entry in drafts]
        fresh = [e for e in entries if e.key not in known.kept and not e.always]
        asked = self._runs.capture(scope, [(e.retriever, e.inputs) for e in fresh if e.retriever is not None])
        for entry, found in zip(fresh, asked, strict=True):
            if isinstance(found, Trouble):
                entry.error = f"{found.reason}; {found.next_step}"
            else:
                entry.probes = found
        others = {key: entry for key, entry in known.kept.items() if key[1] != collection_id}
        known.kept = others | {entry.key: entry for entry in entries if not entry.error}
        return entries

    def _drafts(self, scope: Scope, known: _Known, alert: Record, collection_id: str) -> Iterable[tuple[int, Entry]]:
        """The entries of an alert for a collection and how urgent each is; those that are new without their probes."""
        attached = known.attached.get(alert.id)
        if attached is None:
            if self._watches(scope, known, alert, collection_id):
                yield 0, self._entry(scope, known, alert, collection_id, {})
            return
        for ident, how in attached:
            if ident == collection_id and works_on_new(how):
                yield int(how.get("priority") or 0), self._entry(scope, known, alert, collection_id, how)

    def _watches(self, scope: Scope, known: _Known, alert: Record, collection_id: str) -> bool:
        """Whether an alert that no collection names watches this one: its retriever searches it."""
        version = known.retrievers.get(str(alert.body.get("retriever_id")))
        key = (alert.body.get("retriever_id"), version, known.collections)
        if key not in known.searched:
            found, _ = self._retriever(scope, alert)
            searched = None if found is None else frozenset(view.collection_id for view in found.plan.collections)
            known.searched[key] = searched
        searched = known.searched[key]
        return collection_id in ((alert.body.get("watched") or ()) if searched is None else searched)

    def _entry(self, scope: Scope, known: _Known, alert: Record, collection_id: str, how: Mapping[str, Any]) -> Entry:
        key = self._key(known, alert, collection_id, how)
        if key in known.kept:
            return known.kept[key]
        constant, read = split_mappings(how.get("input_mappings") or [])
        inputs = {**(alert.body.get("inputs") or {}), **constant}
        found, told = self._retriever(scope, alert)
        if found is None:
            return Entry(alert, None, Way("direct", told), inputs, error=f"{told}; {AGAIN}", key=key)
        way = way_of(found.plan, no_results=_waits(alert), mapped=bool(read))
        return Entry(alert, found, way, inputs, (), _scroll(how), read, key=key)

    @staticmethod
    def _key(known: _Known, alert: Record, collection_id: str, how: Mapping[str, Any]) -> tuple[Hashable, ...]:
        retriever = str(alert.body.get("retriever_id"))
        version = known.retrievers.get(retriever)
        applied = repr(sorted(how.items()))
        return (alert.id, collection_id, alert.version, retriever, version, hash(known.collections), applied)

    def _retriever(self, scope: Scope, alert: Record) -> tuple[Compiled | None, str]:
        """The compiled retriever of an alert, or why there is none."""
        ident = str(alert.body.get("retriever_id") or "")
        try:
            return self._plans.get(scope, ident), ""
        except NotFoundError as error:
            return None, GONE if error.details.get("resource_id", ident) == ident else error.message
        except MediathecaError as error:
            return None, f"its retriever no longer fits its collections: {error.message}"


def _told(way: Way, watched: Sequence[str]) -> dict[str, Any]:
    return {"mode": way.mode, "reason": way.reason, "collections": list(watched), "warnings": list(way.warnings)}


def attachments(tx: ReadTx, alerts: Iterable[Record]) -> Attached:
    """Alert → the collections that name it among their `alert_applications`, and how."""
    return _attached(tx.resources("collection"), {alert.id: alert for alert in alerts})


def _same(made: _Known, before: _Known) -> bool:
    """Whether nothing that entries depend on has changed."""
    if (made.retrievers, made.collections, made.attached) != (before.retrievers, before.collections, before.attached):
        return False
    return made.alerts.keys() == before.alerts.keys() and all(
        alert is before.alerts[ident] for ident, alert in made.alerts.items()
    )


def _waits(alert: Record) -> bool:
    return alert.body.get("trigger_on") == "no_results"


def _alerts(tx: ReadTx, versions: Mapping[str, int], before: Mapping[str, Record]) -> dict[str, Record]:
    """The alerts, read again only where they changed."""
    changed = [i for i, version in versions.items() if i not in before or before[i].version != version]
    read: dict[str, Record] = {}
    if len(changed) > _AT_ONCE * 4:
        read = {record.id: record for record in tx.resources(KIND, {"parent": ""})}
    else:
        for at in range(0, len(changed), _AT_ONCE):
            read |= {record.id: record for record in tx.resources(KIND, {"id": changed[at : at + _AT_ONCE]})}
    return {ident: read.get(ident) or before[ident] for ident in versions if ident in read or ident in before}


def _shape(record: Record) -> Hashable:
    """What a plan depends on of a collection."""
    return repr((record.id, record.name, record.body.get("vector_indexes"), record.body.get("indexed_fields")))


def _attached(collections: Sequence[Record], alerts: Mapping[str, Record]) -> Attached:
    by_name = {alert.name: alert.id for alert in alerts.values()}
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    for record in collections:
        for how in record.body.get("alert_applications") or ():
            named = str(how.get("alert_id") or "")
            found[named if named in alerts else by_name.get(named, named)].append((record.id, how))
    return dict(found)


def _scroll(how: Mapping[str, Any]) -> Filter | None:
    raw = how.get("scroll_filters")
    return parse_filter(raw, path="scroll_filters") if raw else None
