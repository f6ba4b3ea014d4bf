"""A retriever's stages checked and compiled once: what an execution runs."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import orjson
import pydantic
from pydantic import BaseModel

from mediatheca.flows.retrieve.advice import advise
from mediatheca.flows.retrieve.cache import AUTO, StageCaching, take_caching
from mediatheca.flows.retrieve.keys import parameter_names, unknown_inside
from mediatheca.flows.retrieve.levels import Level
from mediatheca.flows.retrieve.normalise import OUTER, NormalStage
from mediatheca.flows.retrieve.request import field_errors
from mediatheca.flows.retrieve.sizes import check_sizes
from mediatheca.flows.retrieve.views import named
from mediatheca.kernel.errors import FieldError, MediathecaError, ValidationError
from mediatheca.kernel.filters import Filter, parse_filter
from mediatheca.kernel.inputs import InputSchema
from mediatheca.kernel.relaxation import Relaxation
from mediatheca.kernel.template_trees import BLANK, CompiledTree, compile_tree
from mediatheca.kernel.templates import DOCUMENT_NAMES, Scope, translate_ternary
from mediatheca.stages import CollectionView, Stage

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """A rewrite of a plan that was made, or left, and why."""

    rule: str
    stage: str
    into: str | None
    """The stage that does its work."""
    applied: bool
    reason: str


@dataclass(frozen=True, slots=True)
class FilterSlot:
    """A filter that may have templates in it."""

    tree: CompiledTree | None = None
    fixed: Filter | None = None
    path: str = "filters"
    written: Any = None
    """As it was written, where it has no templates."""

    @property
    def given(self) -> bool:
        return self.tree is not None or self.fixed is not None

    def render(self, scope: Scope, relaxations: list[Relaxation]) -> Filter | None:
        return self.fixed if self.tree is None else parse_filter(self.tree.render(scope, relaxations), path=self.path)


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage, ready to run. `fixed` are its parameters when no template is in them: shared, never changed."""

    name: str
    place: Place
    stage: Stage
    tree: CompiledTree
    fixed: BaseModel | None
    pre: FilterSlot
    post: FilterSlot
    on_error: str
    output_alias: str | None
    takes: tuple[PlannedStage, ...] = ()
    """Filters that follow and are applied here."""
    cap: PlannedStage | None = None
    """A limit that follows: no more than it keeps is looked for."""
    needless: str | None = None
    """The later sort that leaves nothing of the order this one makes."""
    caching: StageCaching = AUTO
    """How its result may be kept."""

    @property
    def others(self) -> tuple[PlannedStage, ...]:
        """The stages whose work is done here."""
        return self.takes if self.cap is None else (*self.takes, self.cap)

    @property
    def inputs(self) -> frozenset[str]:
        """The inputs that it reads; `*`: all."""
        trees = [self.tree, *(slot.tree for slot in (self.pre, self.post) if slot.tree is not None)]
        own = frozenset(name for tree in trees for name in tree.inputs)
        return own.union(*(other.inputs for other in self.others))

    @property
    def content(self) -> list[Any]:
        """Everything that decides what it gives."""
        filters = [slot.tree.raw if slot.tree is not None else repr(slot.fixed) for slot in (self.pre, self.post)]
        own = [self.name, self.stage.stage_id, self.tree.raw, filters, self.on_error, self.output_alias]
        return own if not self.others else [*own, [other.content for other in self.others]]

    def params(self, scope: Scope, relaxations: list[Relaxation]) -> BaseModel:
        """The parameters of this execution.

        Raises:
            ValidationError: what the templates gave does not fit.
        """
        if self.fixed is not None:
            return self.fixed
        return validate(self.stage, self.tree.render(scope, relaxations), self.place)


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled retriever version."""

    stages: tuple[PlannedStage, ...]
    collections: tuple[CollectionView, ...]
    schema: InputSchema
    inputs: frozenset[str]
    """The inputs something reads; `*`: all."""
    names: frozenset[str]
    """The template namespaces that are used."""
    secrets: frozenset[str]
    """The secrets that templates read, by name: what an execution must be given in `ExecutionContext.secrets`."""
    warnings: tuple[str, ...]
    feature_uris: tuple[str, ...]
    fusion: str | None
    key: str
    """Digest of stages and collections: cursors are bound to it."""
    page_stage: int | None = None
    """The stage whose declared `final_top_k` is the default page size."""
    keeps_documents: bool = True
    """No stage changes payloads or makes rows of its own: a later page may read the documents again."""
    clocked: bool = False
    """A template reads the clock: the same question has another answer later."""
    optimize: Level = "semantic"
    decisions: tuple[Decision, ...] = ()
    """What the optimiser did and left."""
    gone: tuple[str, ...] = ()
    """Collections of the retriever that were deleted since it was made: its answers are degraded."""

    def narrow(self, identifiers: Sequence[str] | None) -> Plan:
        """The plan on some of its collections.

        Raises:
            ValidationError: one is not a collection of the retriever.
        """
        if not identifiers:
            return self
        return replace(self, collections=tuple(named(self.collections, identifiers, "collection_ids")))


def validate(stage: Stage, raw: Any, place: Place) -> BaseModel:
    """The parameters of a stage as its model."""
    try:
        return stage.params.model_validate(raw)
    except pydantic.ValidationError as error:
        raise ValidationError.of(field_errors(error, (*place, "parameters"))) from error
    except ValidationError as error:
        raise relocate(error, (*place, "parameters")) from error


def relocate(error: ValidationError, prefix: Place) -> ValidationError:
    """The same error, at its place in the whole request."""
    errors = [replace(e, loc=(*prefix, *_split(e.loc))) for e in error.errors] or [FieldError(prefix, error.message)]
    return ValidationError.of(errors)


def _split(loc: Place) -> Place:
    return tuple(int(part) if isinstance(part, str) and part.isdigit() else part for part in loc)


def _dotted(loc: Place) -> str:
    return ".".join(map(str, loc))


MAX_NOTES = 50
"""Unknown keys of one place that are spelled out: looking for the likely meaning of a million takes a minute."""
CLOCK = ("utc_now", "time_ago", "days_since")
"""Template functions that read the clock."""


class Compiler:
    """Compiles stages and gathers every offence before it raises."""

    def __init__(
        self,
        collections: Sequence[CollectionView],
        schema: InputSchema,
        *,
        strict: bool,
        lacking: Callable[[str], str] = lambda need: "",
    ) -> None:
        self.collections = collections
        self.schema = schema
        self.strict = strict
        self.lacking = lacking
        self.errors: list[FieldError] = []
        self.warnings: list[str] = []
        self.inputs: set[str] = set()
        self.names: set[str] = set()
        self.secrets: set[str] = set()
        self.prepared: list[dict[str, Any]] = []

    def compile(self, stages: Sequence[NormalStage]) -> Plan:
        """The plan.

        Raises:
            ValidationError: every offence, with the path of its stage.
        """
        check_sizes(stages)
        planned = [self._stage(stage, ("stages", number, "config")) for number, stage in enumerate(stages)]
        if self.errors:
            raise ValidationError.of(self.errors)
        done = tuple(stage for stage in planned if stage is not None)
        advice = advise(done, self.collections)
        if advice.errors:
            raise ValidationError.of(advice.errors)
        self.warnings.extend(advice.warnings)
        if not done[0].stage.starts:
            first = done[0]
            self.warnings.append(f"stage '{first.name}' ({first.stage.stage_id}) comes first and gets no documents")
        pages = [
            n for n, stage in enumerate(done) if isinstance(stage.tree.raw, dict) and "final_top_k" in stage.tree.raw
        ]
        return Plan(
            stages=done,
            collections=tuple(self.collections),
            schema=self.schema,
            inputs=frozenset(self.inputs),
            names=frozenset(self.names),
            secrets=frozenset(self.secrets),
            warnings=tuple(self.warnings),
            feature_uris=tuple(dict.fromkeys(uri for raw in self.prepared for uri in _feature_uris(raw))),
            fusion=next((raw["fusion"] for raw in self.prepared if isinstance(raw.get("fusion"), str)), None),
            key=self._key(done),
            page_stage=pages[-1] if pages else None,
            clocked=any(word in repr([s.content for s in done if not s.caching.eager]) for word in CLOCK),
            keeps_documents=all(s.stage.kind in ("filter", "sort") and not s.stage.writes for s in done),
        )

    def _key(self, stages: Sequence[PlannedStage]) -> str:
        content = [stage.content for stage in stages], [v.collection_id for v in self.collections]
        return hashlib.blake2b(orjson.dumps(content, default=repr), digest_size=12).hexdigest()

    def _stage(self, stage: NormalStage, place: Place) -> PlannedStage | None:
        try:
            return self._compile_stage(stage, place)
        except ValidationError as error:
            self.errors.extend(error.errors or [FieldError(place, error.message)])
        return None

    def _compile_stage(self, stage: NormalStage, place: Place) -> PlannedStage:
        where = (*place, "parameters")
        self._report_ignored(stage, place[:2])
        raw = dict(stage.parameters)
        caching = self._caching(raw, where)
        raw = self._prepare(stage, raw, where)
        self._report_unknown(stage.stage, raw, where)
        self._report_lacking(stage, raw)
        self.prepared.append(raw)
        tree = self._tree(raw, where)
        if tree.names & DOCUMENT_NAMES and not stage.stage.per_document:
            message = "DOC is not known here: the stage runs once, for all documents; use INPUT, CONTEXT or STAGE"
            raise ValidationError.at(where, message, "template")
        fixed = validate(stage.stage, tree.render(BLANK), place)
        return PlannedStage(
            name=stage.name,
            place=place,
            stage=stage.stage,
            tree=tree,
            fixed=None if tree.templated else fixed,
            pre=self._filter(stage.pre_filters, (*place, "pre_filters")),
            post=self._filter(stage.post_filters, (*place, "post_filters")),
            on_error=stage.on_error,
            output_alias=stage.output_alias,
            caching=caching,
        )

    def _caching(self, raw: dict[str, Any], where: Place) -> StageCaching:
        try:
            caching = take_caching(raw)
        except ValidationError as error:
            raise relocate(error, where) from error
        if caching.eager and raw.get("fusion") == "learned":
            message = "must not be aggressive with learned fusion: what was learned differs from user to user"
            raise ValidationError.at((*where, "cache_behavior"), message, "conflict")
        return caching

    def _prepare(self, stage: NormalStage, raw: dict[str, Any], where: Place) -> dict[str, Any]:
        if stage.batch_size is not None and "batch_size" in stage.stage.params.model_fields:
            size = translate_ternary(stage.batch_size) if isinstance(stage.batch_size, str) else stage.batch_size
            raw.setdefault("batch_size", size)
        if stage.stage.prepare is None:
            return raw
        try:
            return stage.stage.prepare(raw, self.collections)
        except ValidationError as error:
            raise relocate(error, where) from error

    def _tree(self, raw: Any, where: Place, *, is_filter: bool = False) -> CompiledTree:
        tree = compile_tree(raw, where, is_filter=is_filter)
        self.inputs |= tree.inputs
        self.names |= tree.names
        self.secrets |= tree.secrets
        undeclared = sorted(tree.inputs - set(self.schema.fields) - {"*"}) if self.schema.fields else []
        for name in undeclared:
            close = difflib.get_close_matches(name, self.schema.fields, 1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            message = f"a template reads INPUT.{name}, which input_schema does not declare; {hint}"
            self.errors.append(
                FieldError(where, f"{message}declared: {', '.join(self.schema.fields)}", "undeclared_input")
            )
        return tree

    def _filter(self, raw: Any, where: Place) -> FilterSlot:
        if not raw:
            return FilterSlot()
        tree = self._tree(raw, where, is_filter=True)
        if tree.names & DOCUMENT_NAMES:
            raise ValidationError.at(
                where, "DOC is not known here; use INPUT, or an attribute_filter stage", "template"
            )
        path = _dotted(where)
        fixed = parse_filter(tree.render(BLANK), path=path)
        return FilterSlot(tree=tree, path=path) if tree.templated else FilterSlot(fixed=fixed, written=raw)

    def _report_lacking(self, stage: NormalStage, raw: Mapping[str, Any]) -> None:
        """What is not here now may be there when the retriever is executed: a warning, no error."""
        for need in stage.stage.needs:
            reason = self.lacking(need.name) if need.concerns(raw) else ""
            if reason:
                self.warnings.append(f"stage '{stage.name}' ({stage.stage.stage_id}) cannot run here: {reason}")

    def _report_unknown(self, stage: Stage, raw: Mapping[str, Any], where: Place) -> None:
        """A parameter that nothing reads is told; a key of an object in one is refused: it changes what is meant."""
        known = parameter_names(stage.params)
        unknown = [key for key in raw if key not in known]
        self._unknown(unknown, known, f"is not a parameter of {stage.stage_id}", where)
        for found in islice(unknown_inside(stage.params, raw, where), MAX_NOTES):
            key = found.key[:100]
            message = f"'{key}' means nothing here{found.hint}; accepted: {', '.join(found.known)}"
            self.errors.append(FieldError((*found.place, key), message, "extra_forbidden"))

    def _report_ignored(self, stage: NormalStage, where: Place) -> None:
        self._unknown(stage.ignored, OUTER, "is not a key of a stage", where)

    def _unknown(self, given: Sequence[str], known: Sequence[str], what: str, where: Place) -> None:
        """Keys that nothing reads, with the likely meaning: refused when strict, else told."""
        for key in given[:MAX_NOTES]:
            shown = key[:100]
            close = difflib.get_close_matches(shown, known, 1)
            message = f"'{shown}' {what}" + (f"; did you mean '{close[0]}'?" if close else "")
            if self.strict:
                self.errors.append(FieldError((*where, shown), message, "extra_forbidden"))
            else:
                self.warnings.append(f"{_dotted((*where, shown))}: {message}; it was ignored")
        if len(given) > MAX_NOTES:
            self.warnings.append(f"{_dotted(where)}: {len(given) - MAX_NOTES} more unknown keys were ignored")


def _feature_uris(raw: Any) -> list[str]:
    if isinstance(raw, Mapping):
        own = [raw["feature_uri"]] if isinstance(raw.get("feature_uri"), str) and raw["feature_uri"] else []
        return own + [uri for value in raw.values() for uri in _feature_uris(value)]
    return [uri for item in raw for uri in _feature_uris(item)] if isinstance(raw, list) else []


def stage_failure(error: MediathecaError, place: Place, name: str) -> MediathecaError:
    """An error of a stage, saying which stage."""
    if isinstance(error, ValidationError):
        if error.errors and error.errors[0].loc[:1] == ("stages",):
            return error
        return relocate(error, (*place, "parameters"))
    error.details.setdefault("stage", name)
    return error
