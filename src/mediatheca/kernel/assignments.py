"""What a taxonomy says of a document, and how that is written into it: fields, merge modes, styles, taking back. Pure.

An assignment names a node and the label document that was most alike. What is written is remembered beside the
document, so that the next evaluation first takes it back: doing it twice changes nothing, and a label that no longer
holds leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from mediatheca.kernel.mapping import MISSING, read_path

Style: TypeAlias = Literal["full_chain", "best_match", "combined"]
MergeMode: TypeAlias = Literal["replace", "append"]
MAX_APPENDED = 1_000
"""Values of a field that appending makes; what is over is left out."""


@dataclass(frozen=True, slots=True)
class FieldRule:
    """A field taken over from the label document into the classified one."""

    field_path: str
    target_field: str
    merge_mode: MergeMode = "replace"
    gentle: bool = False
    """Only where the document has no value of its own."""


@dataclass(frozen=True, slots=True)
class Tier:
    """One node on the way to an assigned one."""

    node_id: str
    label: str
    score: float
    document_id: str = ""
    """The label document that was most alike at this node; empty where the node has none of its own."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Field path of a rule → what the label document holds there."""
    rules: tuple[FieldRule, ...] = ()
    """What is taken over from it. A rule without values takes nothing."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A node that a document belongs to, with everything above it: `tiers` from the root down, at least one."""

    tiers: tuple[Tier, ...]

    @property
    def node(self) -> Tier:
        return self.tiers[-1]

    @property
    def level(self) -> int:
        """0 for a root."""
        return len(self.tiers) - 1

    @property
    def path(self) -> list[str]:
        """Labels from the root down."""
        return [tier.label for tier in self.tiers]

    def as_dict(self) -> dict[str, Any]:
        """As it is kept in `_assignments`."""
        return {
            "node_id": self.node.node_id,
            "label": self.node.label,
            "score": self.node.score,
            "path": self.path,
            "level": self.level,
            "label_document_id": self.node.document_id or None,
        }


def best_first(found: Sequence[Assignment], top_k: int) -> list[Assignment]:
    """The assignments that count: the deepest first, then the most alike, each node once."""
    ordered = sorted(found, key=lambda entry: (-entry.level, -entry.node.score, entry.node.node_id))
    return list({entry.node.node_id: entry for entry in reversed(ordered)}.values())[::-1][:top_k]


# ---- what is written


def prefix_of(taxonomy_id: str) -> str:
    """Of the system fields of a taxonomy, shown under `_internal`."""
    return f"_taxonomy_{taxonomy_id}_"


@dataclass(frozen=True, slots=True)
class Marks:
    """Beside the document: what was said, of which inputs, by which version."""

    taxonomy_id: str
    version: int
    inputs_key: str
    """Digest of what was read of the document, and of the labels it was compared with."""
    evaluated_at: str
    run_id: str = ""


def held_state(system: Mapping[str, Any], taxonomy_id: str) -> Mapping[str, Any]:
    """What the last evaluation left: `version`, `inputs_key`, `run_id`, `before`, `evaluated_at`; empty: none yet."""
    state = system.get(f"{prefix_of(taxonomy_id)}state")
    return state if isinstance(state, Mapping) else {}


def system_part(found: Sequence[Assignment], marks: Marks, before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The system fields of an evaluation. No match: an empty list of assignments, and no id, label or score."""
    prefix = prefix_of(marks.taxonomy_id)
    best = found[0].node if found else None
    return {
        f"{prefix}id": best.node_id if best else None,
        f"{prefix}label": best.label if best else None,
        f"{prefix}score": best.score if best else None,
        f"{prefix}assignments": [entry.as_dict() for entry in found],
        f"{prefix}state": {
            "version": marks.version,
            "inputs_key": marks.inputs_key,
            "evaluated_at": marks.evaluated_at,
            "run_id": marks.run_id,
            "before": list(before),
        },
    }


def taken_back(payload: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The payload as it was before the last evaluation wrote into it, as far as nobody else has written since.

    `before`: `{"target", "had"?}` with `wrote` or `added`, as `enriched` gives it.
    """
    fields = dict(payload)
    for note in reversed(before):
        fields = _back(fields, note)
    return fields


def _back(fields: dict[str, Any], note: Mapping[str, Any]) -> dict[str, Any]:
    target, had = note["target"], note.get("had", MISSING)
    current = read_path(fields, target)
    if "added" in note:
        if not isinstance(current, list):
            return fields
        kept = [value for value in current if value not in note["added"]]
        if kept != _listed(had):
            return _with(fields, target, kept)
    elif current is MISSING or current != note.get("wrote"):
        return fields
    return _without(fields, target) if had is MISSING else _with(fields, target, had)


def enriched(
    payload: Mapping[str, Any], found: Sequence[Assignment], style: Style, *, tree: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The payload with what the assignments say, and how to take it back.

    Args:
        tree: the taxonomy is a hierarchy, so `style` says which levels are written.
    """
    fields, before = dict(payload), list[dict[str, Any]]()
    for rule, values in _writes(found, style, tree=tree):
        old = read_path(fields, rule.target_field)
        if rule.gentle and old is not MISSING:
            continue
        note: dict[str, Any] = {"target": rule.target_field} | ({} if old is MISSING else {"had": old})
        if rule.merge_mode == "append":
            held = _listed(old)
            added = [v for n, v in enumerate(values) if v not in held and v not in values[:n]][:MAX_APPENDED]
            if not added:
                continue
            note["added"], new = added, [*held, *added]
        else:
            note["wrote"] = new = values[0]
        before.append(note)
        fields = _with(fields, rule.target_field, new)
    return fields, before


def _writes(found: Sequence[Assignment], style: Style, *, tree: bool) -> list[tuple[FieldRule, list[Any]]]:
    """What is written where, with the values of the assignments, best first. The first rule of a target counts."""
    pairs = [
        pair
        for assignment in (found if not tree or style != "full_chain" else ())
        for pair in _inherited(assignment).values()
    ]
    made: dict[str, tuple[FieldRule, list[Any]]] = {}
    for rule, value in [*pairs, *(_of_tree(found[0], style) if tree and found else ())]:
        made.setdefault(rule.target_field, (rule, []))[1].append(value)
    return list(made.values())


def _inherited(assignment: Assignment) -> dict[str, tuple[FieldRule, Any]]:
    """The fields of a node and of those above it by target; the deeper one wins."""
    return {rule.target_field: (rule, value) for tier in assignment.tiers for rule, value in _values(tier)}


def _of_tree(best: Assignment, style: Style) -> Iterator[tuple[FieldRule, Any]]:
    """The fields of a hierarchy, of the best assignment."""
    if style != "full_chain":
        yield FieldRule("", "category_id"), best.node.node_id
        yield FieldRule("", "category_name"), best.node.label
        yield FieldRule("", "path", gentle=True), best.path
    for number, tier in enumerate(best.tiers if style != "best_match" else (), start=1):
        yield FieldRule("", f"tier{number}_id"), tier.node_id
        yield FieldRule("", f"tier{number}_label"), tier.label
        yield FieldRule("", f"tier{number}_score"), tier.score
        for rule, value in _values(tier):
            yield replace(rule, target_field=f"tier{number}_{rule.target_field}", merge_mode="replace"), value


def _values(tier: Tier) -> list[tuple[FieldRule, Any]]:
    return [(rule, tier.values[rule.field_path]) for rule in tier.rules if rule.field_path in tier.values]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is MISSING or value is None else [value]


def _with(fields: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    if not rest:
        return {**fields, head: value}
    inner = fields.get(head)
    return {**fields, head: _with(inner if isinstance(inner, Mapping) else {}, rest, value)}


def _without(fields: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Without the value at a path, and without the objects that held nothing else."""
    head, _, rest = path.partition(".")
    kept = dict(fields)
    inner = kept.pop(head, None)
    if rest and isinstance(inner, Mapping) and (left := _without(inner, rest)):
        return {**fields, head: left}
    return kept
