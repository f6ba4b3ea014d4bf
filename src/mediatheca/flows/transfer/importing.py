"""Rows of other systems as documents: what their fields are, where they go, and what each row becomes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mediatheca.kernel.errors import PayloadTooLargeError, ValidationError
from mediatheca.kernel.mapping import MISSING, read_path, write_path

MAX_ROWS = 1_000
MAX_FIELDS = 1_000
"""Of a mapping."""
MAX_EXPLODED = 1_000_000
"""Rows times the fields that each has from the object itself."""
KINDS = ("metadata", "vector", "identity", "parent", "ignore")
ROLES = ("document_id", "root_object_id", "source_object_id", "source_document_id", "source_collection_id")
_DTYPES = {"float16-base64": "<f2", "float32-base64": "<f4", "float64-base64": "<f8"}
_FEW = 20
"""Different values of a field that are still worth a filter each."""
_IDS = ("document_id", "id", "_id", "uuid")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a source field goes."""

    kind: str
    path: str = ""
    index: str = ""
    dim: int | None = None
    dtype: str = ""
    role: str = ""
    expected_type: str = ""

    def shown(self) -> dict[str, Any]:
        names = ("kind", "path", "index", "dim", "dtype", "role", "expected_type")
        return {name: value for name in names if (value := getattr(self, name)) or name == "kind"}


@dataclass(slots=True)
class Rows:
    """Documents to be, as an upsert takes them, and the rows that gave none."""

    documents: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)


# ---- what fields are


def infer(rows: Sequence[Mapping[str, Any]], dims: Mapping[str, int]) -> list[dict[str, Any]]:
    """Every field of sample rows: type, how many values, a sample, and where it would go."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        for path, value in _leaves(row):
            found.setdefault(path, []).append(value)
    return [_field(path, values, dims) for path, values in sorted(found.items())]


def _leaves(value: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for name, entry in value.items():
        path = f"{prefix}{name}"
        if isinstance(entry, Mapping) and entry and depth < 8:
            yield from _leaves(entry, f"{path}.", depth + 1)
        else:
            yield path, entry


def _field(path: str, values: Sequence[Any], dims: Mapping[str, int]) -> dict[str, Any]:
    sample = next((value for value in values if value is not None), None)
    kind, dim, dtype = _typed(sample, dims)
    target = _suggested(path, kind, dim, dtype, dims)
    several = len({str(value) for value in values if value is not None})
    shown: dict[str, Any] = {"path": path, "type": kind, "cardinality": "high" if several > _FEW else "low"}
    return {**shown, "sample": _short(sample), "dim": dim, "dtype": dtype or None, "suggested_target": target.shown()}


def _typed(value: Any, dims: Mapping[str, int]) -> tuple[str, int | None, str]:
    """JSON type, and for vectors their dimensions and how they are written."""
    if isinstance(value, bool):
        return "boolean", None, ""
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) else "float", None, ""
    if isinstance(value, list):
        numbers = bool(value) and all(type(entry) in (int, float) for entry in value)
        return ("vector", len(value), "float-list") if numbers and len(value) >= 8 else ("object", None, "")
    if isinstance(value, str):
        return _packed(value, dims)
    return ("object" if isinstance(value, Mapping) else "null"), None, ""


def _packed(value: str, dims: Mapping[str, int]) -> tuple[str, int | None, str]:
    """A base64 text is a vector only where its length is that of a known index."""
    try:
        size = len(base64.b64decode(value, validate=True)) if len(value) >= 64 else 0
    except (binascii.Error, ValueError):
        size = 0
    for dtype, code in _DTYPES.items():
        width = np.dtype(code).itemsize
        if size and size % width == 0 and size // width in dims.values():
            return "vector", size // width, dtype
    return "string", None, ""


def _suggested(path: str, kind: str, dim: int | None, dtype: str, dims: Mapping[str, int]) -> Target:
    if kind == "vector":
        index = next((name for name, size in dims.items() if size == dim), "")
        return Target("vector", index=index, dim=dim, dtype=dtype) if index else Target("ignore")
    if path.lower() in _IDS:
        return Target("identity", role="document_id")
    return Target("ignore") if kind == "null" else Target("metadata", path=path, expected_type=kind)


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value[:200]
    return value[:8] if isinstance(value, list) else value


# ---- where they go


def targets(raw: Mapping[str, Any]) -> dict[str, Target]:
    """Source field → target of a mapping: `{"fields": [{source_field, target}]}`.

    Raises:
        ValidationError: it is no such mapping.
    """
    fields = raw.get("fields") or []
    if not isinstance(fields, list) or not all(isinstance(entry, Mapping) for entry in fields):
        raise ValidationError.at(("body", "mapping", "fields"), "must be a list of {source_field, target}")
    if len(fields) > MAX_FIELDS:
        raise ValidationError.at(("body", "mapping", "fields"), f"has {len(fields)} entries; at most {MAX_FIELDS}")
    found = {}
    for number, entry in enumerate(fields):
        target, source = entry.get("target"), entry.get("source_field")
        if not isinstance(target, Mapping) or not isinstance(source, str) or not source:
            raise ValidationError.at(("body", "mapping", "fields", number), "needs source_field and target")
        texts = {name: str(target.get(name) or "") for name in ("path", "index", "dtype", "role", "expected_type")}
        dim = target.get("dim")
        found[source] = Target(str(target.get("kind") or ""), dim=dim if isinstance(dim, int) else None, **texts)
    return found


def problems(mapped: Mapping[str, Target], types: Mapping[str, str], dims: Mapping[str, int]) -> list[dict[str, Any]]:
    """What is wrong with a mapping: `{"field", "error"}`; `types` and `dims` are what is known of source and target."""
    found: list[dict[str, Any]] = []
    paths: dict[str, str] = {}
    for source, target in mapped.items():
        error = _problem(source, target, types, dims)
        place = target.path or target.index or target.role
        if not error and target.kind != "ignore" and place in paths:
            error = f"goes to '{place}', where '{paths[place]}' goes already"
        paths.setdefault(place, source)
        if error:
            found.append({"field": source, "error": error})
    if not mapped:
        found.append({"field": None, "error": "maps nothing"})
    return found


def _problem(source: str, target: Target, types: Mapping[str, str], dims: Mapping[str, int]) -> str:
    if target.kind not in KINDS:
        return f"kind must be one of {', '.join(KINDS)}, got '{target.kind[:40]}'"
    if target.kind == "metadata" and not target.path:
        return "needs a path"
    if target.kind == "identity" and target.role not in ROLES:
        return f"role must be one of {', '.join(ROLES)}"
    if target.kind == "vector":
        known = dims.get(target.index)
        if known is None:
            return f"index '{target.index[:100]}' is unknown; there are: {', '.join(dims) or 'none'}"
        if target.dim is not None and target.dim != known:
            return f"has {target.dim} dimensions, index '{target.index}' takes {known}"
    given = types.get(source)
    if target.expected_type and given and given != target.expected_type:
        return f"is {given}, the target takes {target.expected_type}"
    return ""


# ---- what rows become


def reconstruct(export: Mapping[str, Any], mapped: Mapping[str, Target], axis: str) -> Rows:
    """Documents of one export object; with an axis, one for each element of the array it names, with the object's own
    fields.

    Raises:
        PayloadTooLargeError: there are too many, before any of them is made.
    """
    found = Rows()
    for number, row in enumerate(_elements(export, axis)):
        try:
            found.documents.append(_document(row, mapped))
        except (ValidationError, ValueError) as error:
            found.errors.append({"row": number, "error": str(getattr(error, "message", error))})
    return found


def _elements(export: Mapping[str, Any], axis: str) -> list[Mapping[str, Any]]:
    if not axis:
        rows = export.get("rows")
        whole = isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows)
        return _few(rows) if whole and isinstance(rows, list) else [export]
    elements = read_path(export, axis)
    if not isinstance(elements, list):
        raise ValidationError.at(("body", "explode", "explode_axis"), f"'{axis[:100]}' is no array of the export")
    common = {name: value for name, value in export.items() if name != axis.split(".")[0]}
    if len(common) * len(_few(elements)) > MAX_EXPLODED:
        raise PayloadTooLargeError(f"{len(elements)} rows with {len(common)} fields each are too much for one import")
    return [
        {**common, **element} if isinstance(element, Mapping) else {**common, axis: element} for element in elements
    ]


def _few(rows: list[Any]) -> list[Any]:
    if len(rows) > MAX_ROWS:
        raise PayloadTooLargeError(f"the export holds {len(rows)} rows; send at most {MAX_ROWS} at a time")
    return rows


def _document(row: Mapping[str, Any], mapped: Mapping[str, Target]) -> dict[str, Any]:
    made: dict[str, Any] = {"source_type": "direct_upsert"}
    payload: dict[str, Any] = {}
    vectors: dict[str, Any] = {}
    for source, target in mapped.items():
        value = read_path(row, source)
        if value is MISSING or value is None or target.kind == "ignore":
            continue
        if target.kind == "vector":
            vectors[target.index] = _numbers(source, value, target.dtype)
        elif target.kind == "identity":
            made[target.role] = str(value)
        elif target.kind == "metadata":
            write_path(payload, target.path, value)
    return {**payload, **made, **({"vectors": vectors} if vectors else {})}


def _numbers(source: str, value: Any, dtype: str) -> Any:
    if dtype not in _DTYPES:
        return value
    try:
        return np.frombuffer(base64.b64decode(str(value), validate=True), _DTYPES[dtype]).astype(float).tolist()
    except (binascii.Error, ValueError) as error:
        raise ValidationError.at(("body", "export", source), f"is not {dtype}: {error}") from error
