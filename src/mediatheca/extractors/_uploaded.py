"""Uploaded extractors: what `manifest.py` of an archive declares, read from its syntax tree. Nothing of it is executed.

Understood are constants (`metadata`, `features`, `supported_input_types`, `compute_profile`), and the fields of classes
that `input_schema`, `output_schema` and `parameter_schema` name; a schema may also be a dictionary of JSON Schema.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict

from mediatheca.extractors import Description, Extract, ExtractContext, Extractor
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.models import Models
from mediatheca.kernel.no_effect import NoEffect
from mediatheca.kernel.uris import FeatureUri

Metric: TypeAlias = Literal["cosine", "dot", "euclid"]
MAX_DIMENSIONS = 8_192
MAX_FEATURES = 8
MAX_FIELDS = 100
MAX_MANIFEST = 256 << 10
_NAME = re.compile(r"[a-z][a-z0-9_]{2,63}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,31}")
_FEATURE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_TYPES = {
    "str": "string", "int": "integer", "float": "number", "bool": "boolean", "dict": "object", "list": "array",
    "Dict": "object", "List": "array", "Any": "string", "bytes": "string",
}  # fmt: skip
_INPUTS = {
    "text": ("text", "string"), "string": ("text", "string"), "image": ("image",), "video": ("video",),
    "audio": ("audio",), "pdf": ("pdf", "document"), "document": ("pdf", "document"), "json": ("object",),
}  # fmt: skip
_METRICS = {"cosine": "cosine", "dot": "dot", "euclid": "euclid", "euclidean": "euclid", "l2": "euclid"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive declares."""

    name: str
    version: str
    description: str
    inputs: Mapping[str, tuple[str, ...]]
    fields: Mapping[str, dict[str, Any]]
    parameters: Mapping[str, dict[str, Any]]
    features: tuple[VectorIndex, ...]
    required: frozenset[str] = frozenset()
    compute: Mapping[str, Any] = field(default_factory=dict)

    @property
    def extractor_id(self) -> str:
        return f"{self.name}_{self.version}"


class Compute(BaseModel):
    """The `compute_profile` of a manifest. Of any types: what cannot be read counts as not said."""

    resource_type: Annotated[Any, NoEffect("plug-ins run on the processor")] = "cpu"
    batch_size: Annotated[Any, NoEffect("one object at a time is given to a plug-in")] = 64
    max_concurrency: Annotated[Any, NoEffect("an archive has one process")] = 2
    actor_memory_gb: Any = 2


class UploadedParams(BaseModel):
    """Parameters of an uploaded extractor; its manifest says which there are."""

    model_config = ConfigDict(extra="allow")


def _wrong(place: str, message: str) -> ValidationError:
    return ValidationError.at(("manifest.py", place), message, "manifest")


def read_manifest(source: str) -> Manifest:
    """The declarations of a `manifest.py`.

    Raises:
        ValidationError: naming what is missing, unreadable or out of bounds.
    """
    if len(source) > MAX_MANIFEST:
        raise _wrong("manifest", f"has {len(source)} characters; at most {MAX_MANIFEST}")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _wrong("manifest", f"is not Python: {error}") from error
    values = {name: value for node in tree.body for name, value in _assigned(node)}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    metadata = _constant(values, "metadata", dict, {})
    name = str(metadata.get("name") or metadata.get("feature_extractor_name") or "")
    version = str(metadata.get("version") or "v1")
    if not _NAME.fullmatch(name):
        raise _wrong(
            "metadata", f"name must be 3 to 64 of a-z, 0-9 and '_', beginning with a letter, got '{name[:80]}'"
        )
    if not _VERSION.fullmatch(version):
        raise _wrong("metadata", f"version must be like v1 or 1.0.0, got '{version[:40]}'")
    inputs = _schema(values, classes, "input_schema")
    features = _features(_constant(values, "features", list, []), name, version)
    outputs = {f.feature_uri.rpartition("/")[2] for f in features} | {"embedding"}
    kinds = _constant(values, "supported_input_types", list, [])
    return Manifest(
        name=name,
        version=version,
        description=str(metadata.get("description") or f"Uploaded extractor {name}.")[:1_000],
        inputs=_inputs(inputs, [str(kind).lower() for kind in kinds]),
        fields={key: rule for key, rule in _schema(values, classes, "output_schema").items() if key not in outputs},
        parameters=_schema(values, classes, "parameter_schema"),
        features=features,
        required=frozenset(key for key, rule in inputs.items() if rule.get("required")),
        compute=_constant(values, "compute_profile", dict, {}),
    )


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """Names that a statement of the module gives a value."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
    elif isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
        yield node.target.id, node.value


def _constant(values: Mapping[str, ast.expr], name: str, kind: type, default: Any) -> Any:
    if name not in values:
        return default
    try:
        found = ast.literal_eval(values[name])
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise _wrong(name, "must be a constant: a manifest is read, not run") from error
    if not isinstance(found, kind):
        raise _wrong(name, f"must be a {kind.__name__}, got {type(found).__name__}")
    return found


def _schema(
    values: Mapping[str, ast.expr], classes: Mapping[str, ast.ClassDef], name: str
) -> dict[str, dict[str, Any]]:
    """Field name → schema property of a class or of a JSON Schema."""
    node = values.get(name)
    if node is None or (isinstance(node, ast.Constant) and node.value is None):
        return {}
    if isinstance(node, ast.Name):
        if node.id not in classes:
            raise _wrong(name, f"'{node.id}' is not a class of this file")
        found = dict(_class_fields(classes[node.id]))
    else:
        given = _constant(values, name, dict, {})
        needed = set(given.get("required") or ())
        found = {
            str(key): {**rule, "required": key in needed}
            for key, rule in (given.get("properties") or {}).items()
            if isinstance(rule, dict)
        }
    if len(found) > MAX_FIELDS:
        raise _wrong(name, f"has {len(found)} fields; at most {MAX_FIELDS}")
    return found


def _class_fields(node: ast.ClassDef) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in node.body:
        if not isinstance(entry, ast.AnnAssign) or not isinstance(entry.target, ast.Name):
            continue
        kind, optional = _annotation(entry.annotation)
        rule: dict[str, Any] = {"type": kind}
        rule |= _declared(entry.value)
        rule["required"] = not optional and "default" not in rule
        yield entry.target.id, rule


def _annotation(node: ast.expr) -> tuple[str, bool]:
    """JSON type of an annotation, and whether None is among its values."""
    try:
        text = ast.unparse(node)
    except RecursionError as error:
        raise _wrong("manifest", "has an annotation that is nested too deeply") from error
    optional = "Optional" in text or "None" in text
    names = [name for name in re.findall(r"[A-Za-z]+", text) if name not in ("Optional", "None", "typing", "Union")]
    return _TYPES.get(names[0] if names else "str", "string"), optional


def _declared(value: ast.expr | None) -> dict[str, Any]:
    """Default and bounds of `= 3` or `= Field(3, ge=0)`."""
    if value is None:
        return {}
    if not isinstance(value, ast.Call):
        return {"default": _literal(value)}
    named = {word.arg: _literal(word.value) for word in value.keywords if word.arg}
    rule = {key: named[arg] for arg, key in _BOUNDS.items() if named.get(arg) is not None}
    first = value.args[0] if value.args else None
    if first is not None and not (isinstance(first, ast.Constant) and first.value is ...):
        rule["default"] = _literal(first)
    elif "default" in named:
        rule["default"] = named["default"]
    elif "default_factory" in {word.arg for word in value.keywords}:
        rule["default"] = None
    return rule


_BOUNDS = {"ge": "minimum", "le": "maximum", "description": "description"}


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _inputs(schema: Mapping[str, Mapping[str, Any]], kinds: list[str]) -> dict[str, tuple[str, ...]]:
    """Input name → field types; a field of text takes what the plug-in supports when its name says nothing."""
    supported = tuple(dict.fromkeys(kind for name in kinds for kind in _INPUTS.get(name, ()))) or _INPUTS["text"]
    names = list(schema) or [kinds[0] if kinds else "text"]
    return {name: _INPUTS.get(name.lower(), supported) for name in names}


def _features(raw: list[Any], name: str, version: str) -> tuple[VectorIndex, ...]:
    found: list[VectorIndex] = []
    for number, entry in enumerate(raw):
        if not isinstance(entry, dict) or str(entry.get("feature_type", "embedding")) != "embedding":
            continue
        found.append(_feature(entry, f"features.{number}", name, version))
    if len(found) > MAX_FEATURES or len({index.name for index in found}) < len(found):
        raise _wrong("features", f"at most {MAX_FEATURES} embeddings, each with a name of its own")
    return tuple(found)


def _feature(entry: Mapping[str, Any], place: str, name: str, version: str) -> VectorIndex:
    output = str(entry.get("feature_name") or "")
    dimensions, metric = entry.get("embedding_dim"), str(entry.get("distance_metric") or "cosine").lower()
    if not _FEATURE.fullmatch(output):
        raise _wrong(place, f"feature_name must be letters, digits and '_', got '{output[:80]}'")
    if not isinstance(dimensions, int) or not 1 <= dimensions <= MAX_DIMENSIONS:
        raise _wrong(place, f"embedding_dim must be 1 to {MAX_DIMENSIONS}, got {dimensions!r}")
    if metric not in _METRICS:
        raise _wrong(place, f"distance_metric must be one of {', '.join(sorted(set(_METRICS)))}, got '{metric[:40]}'")
    uri = FeatureUri(name, version, output)
    return VectorIndex(uri.index_name, str(uri), dimensions, cast(Metric, _METRICS[metric]), modalities=())


def complete(manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with their defaults.

    Raises:
        ValidationError: an unknown one, one of another type, out of bounds or missing.
    """
    known = manifest.parameters
    for key, value in given.items():
        if key not in known:
            names = ", ".join(known) or "none"
            raise ValidationError.at(_at(key), f"'{manifest.name}' has no such parameter; it has: {names}", "unknown")
        if value is not None:
            _check_value(key, value, known[key])
    missing = [key for key, rule in known.items() if rule.get("required") and given.get(key) is None]
    if missing:
        raise ValidationError.at(_at(missing[0]), "is required", "missing")
    defaults = {key: rule["default"] for key, rule in known.items() if "default" in rule}
    return {**defaults, **{key: value for key, value in given.items() if value is not None}}


def _at(key: str) -> tuple[str, ...]:
    return ("feature_extractor", "parameters", key)


_PYTHON: Mapping[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list,
}  # fmt: skip


def _check_value(key: str, value: Any, rule: Mapping[str, Any]) -> None:
    kind = str(rule.get("type", "string"))
    if not isinstance(value, _PYTHON.get(kind, object)) or (isinstance(value, bool) and kind != "boolean"):
        raise ValidationError.at(_at(key), f"must be of type {kind}, got {value!r}"[:300], "type")
    low, high = rule.get("minimum"), rule.get("maximum")
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValidationError.at(_at(key), f"must be {low} to {high}, got {value!r}", "range")


def uploaded_extractor(manifest: Manifest, archive_hash: str, open_: Any = None) -> Extractor:
    """The extractor of an archive. Without `open_` it can be described and not run: it runs in its own process."""
    weights = f"sha256:{archive_hash}"

    def describe(params: UploadedParams, models: Models) -> Description:
        complete(manifest, params.model_dump())
        fields = {name: {k: v for k, v in rule.items() if k != "required"} for name, rule in manifest.fields.items()}
        return Description(manifest.features, fields, weights=(weights,))

    def nowhere(params: UploadedParams, context: ExtractContext) -> Extract:
        raise UnavailableError(f"'{manifest.extractor_id}' is an uploaded plug-in; it runs only in its own process")

    return Extractor(
        name=manifest.name,
        version=manifest.version,
        description=manifest.description,
        params=UploadedParams,
        inputs=dict(manifest.inputs),
        describe=describe,
        open=open_ or nowhere,
        required=manifest.required & manifest.inputs.keys(),
        reads=frozenset(),
        cache_version=1,
        archive=archive_hash,
    )
