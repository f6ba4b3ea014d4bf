"""`feature_search` in the spellings of ten years of clients, and what can be checked before the first execution."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.query_files import told_kind
from mediatheca.kernel.templates import is_template
from mediatheca.kernel.uris import resolve_output, spellings
from mediatheca.stages import CollectionView

_LISTS = ("searches", "feature_searches", "features", "feature_uris", "queries")
_URI = ("feature_uri", "uri", "feature_address", "vector_name", "vector_index", "feature")
_QUERY = ("query", "query_input", "input", "input_mapping", "inputs")
_COLLECTIONS = ("collection_identifiers", "collections", "collection_ids", "collection_names", "collection_id")
_FILTERS = ("filters", "filter", "pre_filters")
_UNITS = ("characters", "words", "paragraphs", "paragraph", "tokens", "markdown", "none")
"""Units of the extractors, for which passages of `chunk_size` characters are the nearest there is."""
_READ = ("", "text", "captions", "pdf")
"""Kinds of files that a feature of texts may be searched with; empty: only the file will tell."""
_VALUE = ("value", "text", "query", "vector", "values", "content", "image", "url", "base64")
_CONTENT = ("content", "image", "url", "base64", "audio", "video")
_MODES = {
    "image": "content", "url": "content", "audio": "content", "video": "content", "embedding": "vector",
    "sparse": "vector", "sparse_vector": "vector",
}  # fmt: skip


def find_index(view: CollectionView, name: str) -> VectorIndex | None:
    """The index of a collection that a feature URI, index name, output name or model name means."""
    wanted = name.replace("mediatheca://", "mixpeek://", 1)
    for old, new in view.index_map.items():
        if wanted in spellings(old):
            wanted = new
            break
    for index in view.vectors:
        if index.feature_uri == wanted:
            return index
    for index in view.vectors:
        if wanted in (index.name, index.feature_uri.partition("://")[2], index.feature_uri.rpartition("/")[2]):
            return index
    meant = resolve_output({index.feature_uri: index.modalities for index in view.vectors}, wanted)
    return next((index for index in view.vectors if index.feature_uri == meant), None)


def prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    """The canonical parameters.

    Raises:
        ValidationError: at the search that cannot work on these collections.
    """
    params = dict(raw)
    entries = _take_searches(params)
    _rename(params, "fusion", ("fusion", "fusion_method", "fusion_strategy"))
    _rename(params, "final_top_k", ("final_top_k", "limit", "top_k", "max_results"))
    _rename(params, "collection_identifiers", _COLLECTIONS)
    _rename(params, "filters", _FILTERS)
    _as_list(params, "collection_identifiers")
    if isinstance(params.get("group_by"), dict):
        params["group_by"] = _group_by(params["group_by"])
    uris = [uri for entry in entries if isinstance(entry, dict) for name in _URI if (uri := entry.get(name))]
    params["query_preprocessing"] = _preprocessing(params.get("query_preprocessing"), uris, "query_preprocessing")
    if isinstance(params.get("highlight"), list):
        params["highlight"] = {"fields": params["highlight"]}
    stage_views = _declared(params.get("collection_identifiers"), collections, "collection_identifiers")
    searches: list[dict[str, Any]] = []
    for number, entry in enumerate(entries):
        searches.extend(_search(entry, f"searches.{number}", stage_views, collections))
    params["searches"] = searches
    return params


def _take_searches(params: dict[str, Any]) -> list[Any]:
    """The list of searches, under whatever name; or the one search written at the stage level."""
    for name in _LISTS:
        if isinstance(params.get(name), list):
            return list(params.pop(name))
        if params.get(name) is not None:
            raise ValidationError.at(name, f"must be a list of searches, got {params[name]!r}", "list_type")
    keys = (*_URI, *_QUERY, "vector", "feature_extractor", "min_score", "on_empty", "lexical", "optional")
    single = {key: params.pop(key) for key in keys if key in params}
    if not single:
        return []
    limit = params.get("final_top_k") or params.get("limit") or params.get("top_k")
    return [{**single, "top_k": max(100, limit)} if isinstance(limit, int) else single]


def _rename(target: dict[str, Any], name: str, aliases: Iterable[str]) -> None:
    for alias in aliases:
        value = target.pop(alias, None)
        if value is not None and value != []:
            target.setdefault(name, value)


def _as_list(target: dict[str, Any], name: str) -> None:
    if isinstance(target.get(name), str) and not is_template(target[name]):
        target[name] = [target[name]]


def _group_by(raw: dict[str, Any]) -> dict[str, Any]:
    made = dict(raw)
    _rename(made, "max_per_group", ("max_per_group", "max_features", "group_size"))
    return made


def _preprocessing(raw: Any, uris: Sequence[Any], path: str) -> Any:
    """The form of the wire: `{feature_uri, params: {…}, max_chunks, …}`; the parameters are those of the extractor.

    Raises:
        ValidationError: another extractor than that of the searches is to cut the query.
    """
    if not isinstance(raw, dict):
        return raw
    made = dict(raw)
    inner = made.pop("params", None)
    if inner is not None and not isinstance(inner, dict):
        raise ValidationError.at(f"{path}.params", f"must be an object, got {inner!r}", "dict_type")
    for name, value in (inner or {}).items():
        made.setdefault(name, value)
    _rename(made, "split_method", ("split_method", "split_by"))
    uri = made.pop("feature_uri", None)
    if uri and uri not in uris:
        message = f"is '{uri}', but a query is cut for the feature that is searched; leave it out"
        raise ValidationError.at(f"{path}.feature_uri", message, "not_enabled")
    units = {"sentence": "sentences", **dict.fromkeys(_UNITS, "passages")}
    if made.get("split_method") == "time":
        del made["split_method"]  # recordings are always cut by time
    if isinstance(made.get("split_method"), str):
        made["split_method"] = units.get(made["split_method"], made["split_method"])
    return made


def _search(
    raw: Any, path: str, stage_views: Sequence[CollectionView], all_views: Sequence[CollectionView]
) -> list[dict[str, Any]]:
    if not isinstance(raw, dict):
        raise ValidationError.at(path, f"must be an object with feature_uri and query, got {raw!r}", "dict_type")
    search = dict(raw)
    _rename(search, "feature_uri", _URI)
    _rename(search, "top_k", ("top_k", "limit", "k"))
    _rename(search, "collection_identifiers", _COLLECTIONS)
    _rename(search, "filters", _FILTERS)
    _as_list(search, "collection_identifiers")
    if "vector" in search and not any(key in search for key in _QUERY):
        search["query"] = {"input_mode": "vector", "value": search.pop("vector")}
    _rename(search, "query", _QUERY)
    own = search.get("collection_identifiers")
    views = _declared(own, all_views, f"{path}.collection_identifiers") if own else stage_views
    if "query_preprocessing" in search:
        own_uri = [search.get("feature_uri")]
        where = f"{path}.query_preprocessing"
        search["query_preprocessing"] = _preprocessing(search["query_preprocessing"], own_uri, where)
    extractor = _extractor(search.pop("feature_extractor", None))
    search["query"] = _query(search.get("query"), f"{path}.query", search, views)
    if search.get("feature_uri") or search.get("lexical") is True:
        _check_feature(search, path, views)
        return [search]
    return [{**search, "feature_uri": uri} for uri in _implied(search, path, views, extractor)]


def _extractor(raw: Any) -> str:
    """`{"type": "text"}` names no extractor; a name or `{feature_extractor_name}` does."""
    if isinstance(raw, dict):
        raw = raw.get("feature_extractor_name") or raw.get("name") or raw.get("type")
    return raw if isinstance(raw, str) and raw not in ("text", "image", "multimodal") else ""


def _implied(search: dict[str, Any], path: str, views: Sequence[CollectionView], extractor: str) -> list[str]:
    """The features a search without a URI means: the first of every collection that takes such a query."""
    mode = search["query"]["input_mode"]
    wanted = {"text": ("text",), "content": ("image", "audio", "video", "text")}.get(mode, ())
    found: dict[str, None] = {}
    for view in views:
        fitting = [
            index
            for index in view.vectors
            if (not wanted or set(wanted) & set(index.modalities))
            and (not extractor or extractor.partition("@")[0] in index.feature_uri)
        ]
        if fitting:
            found.setdefault(fitting[0].feature_uri)
    if not found:
        raise ValidationError.at(f"{path}.feature_uri", f"is required; {_available(views)}", "missing")
    return list(found)


def _declared(names: Any, views: Sequence[CollectionView], path: str) -> Sequence[CollectionView]:
    """The collections named, among the retriever's; those in templates are checked at run time."""
    if not isinstance(names, list) or any(is_template(name) for name in names):
        return views
    known = {view.collection_id: view for view in views} | {view.name: view for view in views}
    unknown = [str(name) for name in names if name not in known]
    if unknown:
        declared = ", ".join(view.name for view in views) or "none"
        raise ValidationError.at(path, f"'{unknown[0]}' is not a collection of this retriever ({declared})", "unknown")
    return [known[name] for name in names]


def _query(raw: Any, path: str, search: dict[str, Any], views: Sequence[CollectionView]) -> dict[str, Any]:
    if raw is None:
        return {"input_mode": "text"}
    if isinstance(raw, str):
        return {"input_mode": _mode_of_text(raw, search, views), "value": raw}
    if isinstance(raw, list):
        return {"input_mode": "vector", "value": raw}
    if not isinstance(raw, dict):
        raise ValidationError.at(path, f"must be a text, a vector or an object with input_mode, got {raw!r}")
    query = dict(raw)
    kind = query.pop("type", None)
    mode = query.get("input_mode") or kind or _mode_of(query)
    mode = _MODES.get(mode, mode)
    if mode == "multi_content":
        raise ValidationError.at(f"{path}.input_mode", "no index here takes several contents as one query; use content")
    query["input_mode"] = mode
    if mode == "vector" and "indices" in query:
        query.setdefault("value", {name: query.pop(name) for name in ("indices", "values") if name in query})
    for name in _VALUE:
        if name in query and name != "value":
            query.setdefault("value", query.pop(name))
    if isinstance(query.get("value"), dict) and mode == "content":
        query["value"] = _one_content(query["value"], path)
    if mode == "document" and "document_ref" not in query:
        query["document_ref"] = {key: query.pop(key) for key in ("collection_id", "document_id") if key in query}
    return query


def _mode_of(query: dict[str, Any]) -> str:
    if "document_ref" in query or "document_id" in query:
        return "document"
    if "vector" in query or "indices" in query or isinstance(query.get("value"), list):
        return "vector"
    return "content" if any(key in query for key in _CONTENT) else "text"


def _one_content(raw: dict[str, Any], path: str) -> Any:
    given = [raw[key] for key in ("url", "base64", "data") if raw.get(key)]
    if len(given) != 1:
        raise ValidationError.at(f"{path}.content", f"give exactly one of url and base64, got {sorted(raw)}")
    return given[0]


def _mode_of_text(text: str, search: dict[str, Any], views: Sequence[CollectionView]) -> str:
    """A bare string is a text; it is content where the index takes no text, or where it is a URL and the index takes
    more than text. A search for words takes nothing but a text."""
    if search.get("lexical") is True:
        return "text"
    uri = search.get("feature_uri")
    found = [find_index(view, uri) for view in views] if isinstance(uri, str) else []
    taken = {modality for index in found if index is not None for modality in index.modalities}
    if text.startswith(("http://", "https://", "s3://", "data:")):
        return "text" if taken == {"text"} else "content"
    return "content" if taken and "text" not in taken else "text"


def _check_feature(search: dict[str, Any], path: str, views: Sequence[CollectionView]) -> None:
    uri = search.get("feature_uri") or ""
    if not isinstance(uri, str):
        raise ValidationError.at(f"{path}.feature_uri", f"must be a text, got {uri!r}", "string_type")
    if is_template(uri) or search.get("optional") is True or not uri:
        return
    indexes = [index for view in views if (index := find_index(view, uri)) is not None]
    if not indexes:
        known = {index.feature_uri for view in views for index in view.vectors}
        close = difflib.get_close_matches(uri, sorted(known), 1, 0.5)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ValidationError.at(
            f"{path}.feature_uri", f"no collection has '{uri}'; {hint}{_available(views)}", "unknown"
        )
    if search.get("lexical") is True:
        return
    if search["query"].get("input_mode") == "text":
        _check_takes_text(indexes, path)
    if search["query"].get("input_mode") == "content":
        _check_takes_content(indexes, search, path)


def _check_has_model(index: VectorIndex, path: str) -> None:
    if not index.is_answered:
        raise ValidationError.at(f"{path}.query.input_mode", index.why_unanswered, "modality")


def _check_takes_text(indexes: Sequence[VectorIndex], path: str) -> None:
    for index in indexes:
        _check_has_model(index, path)
        if "text" not in index.modalities:
            takes = ", ".join(index.modalities) or "vectors only"
            message = f"'{index.feature_uri}' cannot be searched with text; it takes {takes} (input_mode content)"
            raise ValidationError.at(f"{path}.query.input_mode", message, "modality")


def _check_takes_content(indexes: Sequence[VectorIndex], search: dict[str, Any], path: str) -> None:
    """Features of texts read text files and PDFs; any other file needs an index that takes such files."""
    value = search["query"].get("value")
    if value is None:
        return
    kind = told_kind(value)
    for index in indexes:
        _check_has_model(index, path)
        if set(index.modalities) <= {"text"} and kind not in _READ:
            message = (
                f"'{index.feature_uri}' takes text and no files but texts and PDFs, and this one is of the kind "
                f"{kind}; use input_mode text, or a feature of pictures"
            )
            raise ValidationError.at(f"{path}.query.input_mode", message, "modality")


def _available(views: Sequence[CollectionView]) -> str:
    found = [f"{view.name}: {', '.join(i.feature_uri for i in view.vectors) or 'no vectors'}" for view in views]
    return f"available: {'; '.join(found) or 'the retriever has no collections'}"
