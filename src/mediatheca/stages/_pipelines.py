"""Stages inside the parameters of a stage, and texts that must not become templates."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import orjson

from mediatheca.kernel.template_trees import compile_tree
from mediatheca.kernel.templates import is_template


def pack(stages: list[Any]) -> dict[str, Any]:
    """Stages as a parameter that the engine does not look into: their templates are about their own inputs.

    The secrets that they read stand beside them, for the engine to hand over.
    """
    secrets = [f"{{{{SECRET.{name}}}}}" for name in sorted(compile_tree(stages).secrets)]
    return {"packed": base64.b64encode(orjson.dumps(stages)).decode(), "secrets": secrets}


def unpack(packed: Mapping[str, Any]) -> list[Any]:
    stages: list[Any] = orjson.loads(base64.b64decode(packed["packed"]))
    return stages


def sealed(tree: Any, inputs: dict[str, Any]) -> Any:
    """A tree of rendered parameters, safe to be compiled again.

    A text in it that looks like a template is what a caller, a document or a model wrote. It moves to `inputs`, and a
    template that reads it from there takes its place.
    """
    if isinstance(tree, Mapping):
        return {key: sealed(value, inputs) for key, value in tree.items()}
    if isinstance(tree, list):
        return [sealed(value, inputs) for value in tree]
    if not is_template(tree):
        return tree
    name = f"sealed_{len(inputs)}"
    inputs[name] = tree
    return f"{{{{INPUT.{name}}}}}"
