"""Picking a part of an answer with JSONPath (RFC 9535)."""

from __future__ import annotations

import re
from typing import Any

from jinja2.exceptions import SecurityError

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.template_functions import check_size

MAX_PATH = 500
MAX_PICKED = 8 << 20
_COSTLY = re.compile(r"=~|\b(?:match|search)\s*\(")


def check_json_path(path: Any) -> None:
    """Raises ValidationError for what is no path, or one that could run for minutes."""
    if not isinstance(path, str) or len(path) > MAX_PATH:
        raise ValidationError.at("response_path", f"must be a JSONPath of at most {MAX_PATH} characters", "json_path")
    inside = path.partition("?")[2]
    if path.count("..") > 1 or ".." in inside or "$" in path[1:] or _COSTLY.search(path):
        message = "may have one '..', not in a filter, one '$' at its beginning, and no regular expressions"
        raise ValidationError.at("response_path", message, "json_path")
    _compiled(path)


def _compiled(path: str) -> Any:
    import jsonpath

    try:
        return jsonpath.compile(path)
    except (jsonpath.JSONPathError, RecursionError) as error:
        message = f"is not a JSONPath: {str(error).splitlines()[0][:200]}; an example is $.data.items[0].name"
        raise ValidationError.at("response_path", message, "json_path") from None


def picked(data: Any, path: str) -> Any:
    """What a path finds: the value where it names one place (None where there is none), else a list.

    Raises:
        ValidationError: the path does not parse.
    """
    import jsonpath

    compiled = _compiled(path)
    try:
        found = compiled.findall(data)
        if ".." in path:  # a value and everything around it: the same text many times
            check_size(found, MAX_PICKED)
    except SecurityError:
        message = f"picks more than {MAX_PICKED >> 20} MB; name the part without '..'"
        raise ValidationError.at("response_path", message, "too_large") from None
    except (jsonpath.JSONPathError, RecursionError, TypeError) as error:
        raise ValidationError.at("response_path", f"cannot be applied: {str(error)[:200]}", "json_path") from None
    if isinstance(compiled, jsonpath.JSONPath) and compiled.singular_query():
        return found[0] if found else None
    return found
