"""What a visitor may ask of a published retriever, and what of the answer leaves the house.

A visitor can filter, sort and group only by exposed fields: a filter on a hidden one would tell its value, guess by
guess. The publication's own constraints travel outside the request, as the execution's mandatory filter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mediatheca.flows.retrieve import ExecuteRequest
from mediatheca.flows.retrieve.request import MAX_PAGE
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filter_tree import leaves
from mediatheca.kernel.filters import Filter, parse_filter
from mediatheca.kernel.ordering import parse_sort

ASKED = (
    *("inputs", "filters", "pre_filters", "pagination", "limit", "page_size", "offset", "page", "page_number"),
    *("cursor", "next_cursor", "sort", "sorts", "group_by", "session_id", "user_id", "skip_cache"),
)
"""Keys of a visitor's request that count; others (vectors, explain, version, collections) are left aside."""
ALWAYS = ("document_id", "collection_id", "score")
_REACHING_OUT = ("api_call", "sql_lookup", "web_scrape", "code_execution", "external_web_search")


def public_request(body: Mapping[str, Any], publication: Mapping[str, Any], *, signed: bool) -> ExecuteRequest:
    """The request to execute.

    Raises:
        ValidationError: it names fields that are not exposed, or more results than allowed.
    """
    exposed = publication["display_config"]["exposed_fields"]
    given = {name: value for name, value in body.items() if name in ASKED}
    asked = ExecuteRequest.parse(given)
    _check_fields(_filtered(given), exposed, "filters")
    _check_fields((key.field for key in parse_sort(asked.sort)), exposed, "sort")
    if asked.group_by is not None:
        _check_fields([asked.group_by.field], exposed, "group_by")
        _check_fields((key.field for key in parse_sort(asked.group_by.sort)), exposed, "group_by")
    most = min(publication["rate_limit_config"]["max_results_per_query"], MAX_PAGE)
    paging = dict(asked.pagination or {})
    for name in ("limit", "page_size"):
        value = paging.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValidationError.at(("body", "pagination", name), "must be an integer", "int_type")
        if value is not None:
            paging[name] = min(value, most)
    limit = min(asked.limit or asked.page_size or 10, most)
    shown = {**given, "limit": limit, "select": list(exposed), "return_urls": signed}
    shown.pop("page_size", None)
    if asked.page_size and not asked.limit:
        shown["page_size"] = shown.pop("limit")
    return ExecuteRequest.parse(shown | ({"pagination": paging} if paging else {}))


def _filtered(given: Mapping[str, Any]) -> Iterable[str]:
    """Fields of every filter in the request; some clients put theirs among the inputs."""
    inputs = given.get("inputs")
    inner = inputs.get("filters") if isinstance(inputs, dict) else None
    for raw in (given.get("filters"), given.get("pre_filters"), inner):
        if isinstance(raw, dict | list) and raw:
            tree = parse_filter(raw, path="filters")
            if isinstance(tree, Filter):
                yield from (leaf.field for leaf in leaves(tree))


def _check_fields(fields: Iterable[str], exposed: Sequence[str], place: str) -> None:
    for field in fields:
        if field not in ALWAYS and not _is_exposed(field, exposed):
            message = f"'{field[:100]}' is not open here; these fields are: {', '.join(exposed)}"
            raise ValidationError.at(("body", place), message, "not_exposed")


def public_answer(result: Mapping[str, Any], publication: Mapping[str, Any]) -> dict[str, Any]:
    """What a visitor sees of an answer: exposed fields of the documents, and nothing of how they were found."""
    exposed = [*ALWAYS, *publication["display_config"]["exposed_fields"]]
    documents = [_shown(item, exposed) for item in result["documents"]]
    body: dict[str, Any] = {
        "execution_id": result["execution_id"],
        "status": result["status"],
        "documents": documents,
        "results": documents,
        "final_results": documents,
        "pagination": result["pagination"],
        "execution_time": result["execution_time"],
        "facets": [f for f in result.get("facets") or () if f.get("key") in exposed] or None,
        "cache_hit": result.get("cache_hit", False),
        **({"confidence": result["confidence"]} if "confidence" in result else {}),
        "warnings": _notes(result),
    }
    if result.get("did_you_mean"):
        body["did_you_mean"] = result["did_you_mean"]
    grouped = result.get("final_results") or []
    if grouped and isinstance(grouped[0], dict) and "group" in grouped[0]:
        body["final_results"] = [
            {**entry, "group": [_shown(item, exposed) for item in entry["group"]]} for entry in grouped
        ]
    return body


def _shown(item: Mapping[str, Any], exposed: Sequence[str]) -> dict[str, Any]:
    """Without what says how a document was found; a fragment of a hidden field is a part of that field."""
    hidden = ("scores", "_internal", "vectors", "lineage")
    shown = {name: value for name, value in item.items() if name not in hidden}
    if "highlights" in shown:
        shown["highlights"] = [entry for entry in shown["highlights"] if _is_exposed(entry.get("field"), exposed)]
    return shown


def _is_exposed(field: Any, exposed: Sequence[str]) -> bool:
    return isinstance(field, str) and any(field == name or field.startswith(f"{name}.") for name in exposed)


def _notes(result: Mapping[str, Any]) -> list[str]:
    if result["status"] == "failed":
        return ["the search failed; its owner finds the reason under the execution_id"]
    return ["the answer may be incomplete"] if result["status"] == "degraded" else []


def public_stages(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Stages for a template: parameters of those that reach out of the house are left out, they may hold addresses."""
    made = []
    for stage in stages:
        config = dict(stage.get("config") or {})
        shown = {name: value for name, value in stage.items() if name not in ("config", "parameters")}
        if config.get("stage_id") in _REACHING_OUT:
            config["parameters"] = {}
        for name in ("pre_filters", "post_filters"):
            config.pop(name, None)
        made.append({**shown, "config": config})
    return made
