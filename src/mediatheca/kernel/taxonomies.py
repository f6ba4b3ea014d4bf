"""What a taxonomy is made of, as plain values, and how assignments follow from what was found. Pure.

A `Side` is one set of labels and the way to compare a document with it. A flat taxonomy has one; so has a hierarchy
whose label documents name their own path or parent. A hierarchy of collections has one for every node and is walked
from the roots down; a carried one has none: the documents say their path themselves.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from mediatheca.kernel.assignments import Assignment, FieldRule, Tier, best_first
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.hierarchy import Forest, path_of
from mediatheca.kernel.mapping import MISSING, read_path
from mediatheca.kernel.models import EmbeddingTask

EXAMPLES_PER_LABEL = 5
"""How many label documents are read for every label that is wanted: several may have the same one."""
LABEL_FIELDS = ("label", "label_name", "name", "title", "category", "category_name")
"""Where a label document usually says its label, in the order in which they are looked for."""
WHOLE = "*"
"""As the field path of a rule: every field of the label document under its own name."""


@dataclass(frozen=True, slots=True)
class InputMap:
    """Where an input of the retriever comes from."""

    input_key: str
    source: Literal["payload", "literal", "vector"]
    path: str = ""
    value: Any = None


@dataclass(frozen=True, slots=True)
class Join:
    """The retriever is one search by vectors in one collection: documents are compared with all labels at once."""

    collection_id: str
    index: VectorIndex
    mapping: InputMap
    depth: int
    """Label documents the retriever gives at most."""
    floor: float | None = None
    keep: Filter | None = None
    """Of the label documents."""
    task: EmbeddingTask = "retrieval_query"
    stored: Mapping[str, str] = field(default_factory=dict)
    """Collection → its vector index that stands for the mapped field: nothing is embedded again."""


@dataclass(frozen=True, slots=True)
class Side:
    """A set of labels."""

    retriever_id: str
    collection_ids: tuple[str, ...]
    mappings: tuple[InputMap, ...]
    rules: tuple[FieldRule, ...] = ()
    label_field: str = ""
    """Empty: the first of `LABEL_FIELDS` that a label document has."""
    min_score: float | None = None
    path_field: str = ""
    separator: str = "/"
    parent_field: str = ""
    join: Join | None = None
    """None: the retriever runs once for every document."""
    reason: str = ""
    """Why it is compared as it is."""


@dataclass(frozen=True, slots=True)
class Node:
    """A collection of a hierarchy of collections."""

    node_id: str
    label: str
    side: Side


@dataclass(frozen=True, slots=True)
class TaxonomyView:
    """A version of a taxonomy, ready to be compared with."""

    taxonomy_id: str
    name: str
    version: int
    top_k: int = 1
    side: Side | None = None
    """Of a flat taxonomy, or of one whose labels say where they stand."""
    forest: Forest[str] | None = None
    nodes: Mapping[str, Node] = field(default_factory=dict)
    carried: str = ""
    """The field in which documents carry their own path."""
    separator: str = "/"

    @property
    def tree(self) -> bool:
        """Whether it has levels."""
        return self.side is None or bool(self.side.path_field or self.side.parent_field)

    @property
    def sides(self) -> list[Side]:
        return [self.side] if self.side is not None else [node.side for node in self.nodes.values()]


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A label document that was found."""

    document_id: str
    score: float
    fields: Mapping[str, Any]


Chain: TypeAlias = Mapping[str, Sequence[tuple[str, str]]]
"""Label document → (node id, label) from the root to itself."""


def needed_paths(side: Side) -> tuple[str, ...] | None:
    """What is read of a label document; None: all of it."""
    paths = {rule.field_path for rule in side.rules} | {side.path_field, side.parent_field, side.label_field}
    if WHOLE in paths:
        return None
    return tuple(sorted(path for path in {*paths, *(() if side.label_field else LABEL_FIELDS)} if path))


def label_of(side: Side, fields: Mapping[str, Any], document_id: str) -> str:
    """The label of a label document; its id where it says none."""
    for path in (side.label_field,) if side.label_field else LABEL_FIELDS:
        value = read_path(fields, path)
        if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
            return str(value)
    return document_id


def inputs_of(mappings: Sequence[InputMap], payload: Mapping[str, Any], vectors: Mapping[str, Any]) -> dict[str, Any]:
    """The retriever's inputs of a document; what the document does not have is left out.

    Args:
        vectors: by path of a mapping, in the form of the wire.
    """
    found: dict[str, Any] = {}
    for mapping in mappings:
        if mapping.source == "literal":
            found[mapping.input_key] = mapping.value
        elif mapping.source == "vector" and mapping.path in vectors:
            found[mapping.input_key] = vectors[mapping.path]
        elif mapping.source == "payload":
            value = input_value(mapping, payload)
            if value is not None and value != "":
                found[mapping.input_key] = value
    return found


def input_value(mapping: InputMap, payload: Mapping[str, Any]) -> Any:
    """What a payload holds for a mapping; raw inputs may stand under the name of the input. None: nothing."""
    for path in (mapping.path, mapping.input_key):
        value = read_path(payload, path) if path else MISSING
        if value is not MISSING:
            return value
    return None


def row_tier(side: Side, row: LabelRow, node_id: str = "", label: str = "") -> Tier:
    """The tier that a label document stands for."""
    rules, values = _copied(side.rules, row.fields)
    label = label or label_of(side, row.fields, row.document_id)
    return Tier(node_id or row.document_id, label, row.score, row.document_id, values, rules)


def _copied(rules: Sequence[FieldRule], fields: Mapping[str, Any]) -> tuple[tuple[FieldRule, ...], dict[str, Any]]:
    """The rules, `*` spelled out, and what they read."""
    plain = [rule for rule in rules if rule.field_path != WHOLE]
    if len(plain) < len(rules):
        named = {rule.field_path for rule in plain}
        plain += [FieldRule(name, name, gentle=True) for name in fields if name not in named]
    values = {rule.field_path: value for rule in plain if (value := read_path(fields, rule.field_path)) is not MISSING}
    return tuple(plain), {path: value for path, value in values.items() if value is not None}


def assignments_of(side: Side, rows: Sequence[LabelRow], top_k: int, chains: Chain | None = None) -> list[Assignment]:
    """The labels of what was found, best first, each once, with its best example.

    Args:
        rows: best first.
        chains: where label documents stand below each other (`parent_field`).
    """
    found: dict[str, Assignment] = {}
    for row in rows:
        if side.min_score is not None and row.score < side.min_score:
            continue
        made = _placed(side, row, chains)
        key = made.node.label if not (side.path_field or side.parent_field) else made.node.node_id
        found.setdefault(key, made)
        if len(found) == top_k:
            break
    return list(found.values())


def _placed(side: Side, row: LabelRow, chains: Chain | None) -> Assignment:
    own = row_tier(side, row)
    if side.path_field:
        value = read_path(row.fields, side.path_field)
        steps = path_of(value, side.separator)
        if steps:
            return carried_assignment(steps, side.separator, row.score, own)
    chain = (chains or {}).get(row.document_id, ())
    above = [Tier(node_id, label, row.score) for node_id, label in chain[:-1]]
    return Assignment((*above, own))


def carried_assignment(
    steps: tuple[str, ...], separator: str, score: float = 1.0, own: Tier | None = None
) -> Assignment:
    """The node that a path names, and those above it. A node's id is its path."""
    tiers = [Tier(separator.join(steps[: n + 1]), step, score) for n, step in enumerate(steps)]
    if own is not None:
        tiers[-1] = replace(own, node_id=tiers[-1].node_id, label=tiers[-1].label)
    return Assignment(tuple(tiers))


Asked: TypeAlias = dict[str, list[int]]
"""Node → the documents (by number) that are to be compared with it."""
Compared: TypeAlias = Mapping[str, Sequence[Tier | None]]
"""Node → for each of those documents the tier, or None where it is not alike enough."""


def walk(forest: Forest[str], count: int, top_k: int) -> Generator[Asked, Compared, list[list[Assignment]]]:
    """Walk a hierarchy from the roots down with `count` documents at once.

    Below every node that a document reached its children are asked for; of each level it keeps the `top_k` that are
    most alike. Where nothing below is alike enough the way ends, and that node is the document's.
    """
    open_ = [[Assignment(())] for _ in range(count)]
    ended: list[list[Assignment]] = [[] for _ in range(count)]
    while any(open_):
        asked: Asked = {}
        for number, ways in enumerate(open_):
            for way in ways:
                for child in forest.children.get(way.node.node_id if way.tiers else None, ()):
                    asked.setdefault(child, []).append(number)
        compared = (yield asked) if asked else {}
        answers = {
            (child, number): tier
            for child, numbers in asked.items()
            for number, tier in zip(numbers, compared[child], strict=True)
        }
        open_ = [_next(forest, ways, number, answers, top_k, ended[number]) for number, ways in enumerate(open_)]
    return [best_first(found, top_k) for found in ended]


def _next(
    forest: Forest[str],
    ways: Sequence[Assignment],
    number: int,
    answers: Mapping[tuple[str, int], Tier | None],
    top_k: int,
    ended: list[Assignment],
) -> list[Assignment]:
    """The ways of one document, a level further; those that end are added to `ended`."""
    further: list[tuple[Assignment, Assignment]] = []
    for way in ways:
        for child in forest.children.get(way.node.node_id if way.tiers else None, ()):
            tier = answers.get((child, number))
            if tier is not None:
                further.append((way, Assignment((*way.tiers, tier))))
    further.sort(key=lambda pair: (-pair[1].node.score, pair[1].node.node_id))
    kept = further[:top_k]
    gone_on = {id(way) for way, _ in kept}
    ended.extend(way for way in ways if way.tiers and id(way) not in gone_on)
    return [made for _, made in kept]
