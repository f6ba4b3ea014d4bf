"""Uploaded plug-ins as callers read them."""

from __future__ import annotations

from typing import Any

from mediatheca.api.deps import Caller
from mediatheca.flows.plugins.deploy import OPEN
from mediatheca.stores.db.tx import Record

_TRIAL_S = 10
"""About what the first opening takes."""


def uri_of(body: dict[str, Any]) -> str:
    """What collections name it by: the URI of its first feature, else its own."""
    features = body["manifest"]["features"]
    return str(features[0]["feature_uri"]) if features else f"mixpeek://{body['plugin_name']}@{body['version']}"


def item(plugin: Record) -> dict[str, Any]:
    """In a list."""
    body = plugin.body
    return {
        "plugin_id": plugin.id,
        "name": body["plugin_name"],
        "version": body["version"],
        "description": body["description"],
        "feature_extractor_id": plugin.name,
        "feature_uri": uri_of(body),
        "source": body["source"],
        "status": body["status"],
        "deployed": bool(body["active"]),
        "realtime_enabled": body["realtime"],
        "validation_status": "passed",
        "created_at": plugin.created_at,
        "updated_at": plugin.updated_at,
    }


def document(plugin: Record, caller: Caller) -> dict[str, Any]:
    """By itself, with everything that its manifest says."""
    body = plugin.body
    manifest = body["manifest"]
    return {
        **item(plugin),
        "organization_id": caller.scope.organization_id,
        "namespace_id": plugin.namespace_id,
        "s3_archive_url": body["archive_key"],
        "archive_hash": body["sha256"],
        "size_bytes": body["size_bytes"],
        "file_count": body["file_count"],
        "files": body["files"],
        "input_schema": {"properties": {name: {"types": kinds} for name, kinds in manifest["inputs"].items()}},
        "output_schema": {"properties": manifest["fields"]},
        "parameter_schema": {"properties": manifest["parameters"]},
        "features": manifest["features"],
        "compute_profile": manifest["compute"],
        "warnings": body["warnings"],
        "org_plugin_id": body.get("org_plugin_id"),
        "error": body.get("error"),
    }


_MESSAGES = {
    "QUEUED": "waiting to be opened for the first time",
    "IN_PROGRESS": "being opened for the first time, confined",
    "DEPLOYED": "collections may use it, and realtime calls are answered",
    "FAILED": "it could not be opened",
}


def status_of(plugin: Record) -> dict[str, Any]:
    """How far its deployment is."""
    body = plugin.body
    idle = "collections may use it; it answers no realtime calls" if body["active"] else "deploy it to use it"
    return {
        "plugin_id": plugin.id,
        "namespace_id": plugin.namespace_id,
        "name": body["plugin_name"],
        "version": body["version"],
        "status": body["status"],
        "realtime_enabled": body["realtime"],
        "message": _MESSAGES.get(body["status"], idle),
        "queued_at": body.get("queued_at"),
        "estimated_completion_seconds": _TRIAL_S if body["status"] in OPEN else 0,
        "deployed": bool(body["active"]),
        "route_prefix": None,
        "feature_uri": uri_of(body),
        "deployed_at": body.get("deployed_at"),
        "error": body.get("error"),
    }
