"""How a collection reads its source: input mappings and passed-through fields, in every spelling of the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mediatheca.kernel.errors import FieldError, ValidationError

_PREFIXES = ("$.", "payload.", "INPUT.", "DOC.")
MISSING: Any = type("Missing", (), {"__repr__": lambda self: "MISSING"})()


@dataclass(frozen=True, slots=True)
class Passthrough:
    """One field copied from the source into the document."""

    source_path: str
    target_path: str
    default: Any = None
    required: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def clean_path(path: str) -> str:
    """`$.metadata.title` and `payload.title` mean `metadata.title` and `title`."""
    for prefix in _PREFIXES:
        path = path.removeprefix(prefix)
    return path


def parse_inputs(raw: Any) -> dict[str, list[str]]:
    """Extractor input → source paths. Accepts a dict, or a list of `{input_key, path}`.

    Raises:
        ValidationError: naming the offending entry.
    """
    if raw is None:
        return {}
    where = ("feature_extractor", "input_mappings")
    if isinstance(raw, list):
        found: dict[str, list[str]] = {}
        for number, entry in enumerate(raw):
            if not isinstance(entry, dict) or not isinstance(entry.get("input_key"), str):
                raise ValidationError.at((*where, number), "must be {input_key, source_type, path}")
            path = entry.get("path", entry.get("source_path"))
            found.setdefault(entry["input_key"], []).extend(_paths(path, (*where, number, "path")))
        return found
    if not isinstance(raw, dict):
        raise ValidationError.at(where, "must be an object or a list", "dict_type")
    return {name: _paths(path, (*where, name)) for name, path in raw.items()}


def _paths(path: Any, where: tuple[str | int, ...]) -> list[str]:
    if isinstance(path, dict):
        path = path.get("path", path.get("source_path"))
    paths = path if isinstance(path, list) else [path]
    if not paths or not all(isinstance(entry, str) and entry for entry in paths):
        raise ValidationError.at(where, f"must be a path or a list of paths, got {path!r}")
    return [clean_path(entry) for entry in paths]


def parse_passthrough(raw: Any) -> list[Passthrough]:
    """Accepts strings and `{source_path, target_path, default, required}`, mixed.

    Raises:
        ValidationError: every offending entry.
    """
    found, errors = [], []
    for number, entry in enumerate(raw or []):
        if isinstance(entry, str) and entry:
            entry = {"source_path": entry}
        if not isinstance(entry, dict) or not isinstance(entry.get("source_path", entry.get("field")), str):
            where = ("feature_extractor", "field_passthrough", number)
            errors.append(FieldError(where, f"must be a name or {{source_path, target_path}}, got {entry!r}"))
            continue
        source = clean_path(str(entry.get("source_path", entry.get("field"))))
        target = str(entry.get("target_path") or source.rsplit(".", 1)[-1])
        found.append(Passthrough(source, target, entry.get("default"), bool(entry.get("required", False))))
    if errors:
        raise ValidationError("field_passthrough: " + "; ".join(e.msg for e in errors), errors)
    return found


def read_path(source: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, `MISSING` when there is none."""
    if path in source:
        return source[path]
    value: Any = source
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def write_path(target: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path, making objects on the way."""
    *parents, last = path.split(".")
    for part in parents:
        following = target.get(part)
        if not isinstance(following, dict):
            following = target[part] = {}
        target = following
    target[last] = value
