"""Uploaded feature extractors: archives that run in confined processes. Of one namespace, or of the organization."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from mediatheca.api.deps import Caller, OrgDeleter, OrgReader, OrgWriter, answer, in_slow_thread
from mediatheca.flows.plugins.deploy import ask_realtime, delete, deploy, enable, undeploy
from mediatheca.flows.plugins.host import KIND
from mediatheca.kernel import clock
from mediatheca.kernel.no_effect import NoEffect
from mediatheca.resources._plugin_view import document, item, status_of, uri_of
from mediatheca.resources._uploaded import copies, copy_of, listed_of, stored
from mediatheca.resources.base import Spec, notes_on
from mediatheca.resources.documents import in_namespace
from mediatheca.stores.db.tx import Record, Tx

router = APIRouter(tags=["plugins"])
_IN = "/namespaces/{namespace}/plugins"
_ONE = f"{_IN}/{{plugin_id}}"
_ORIGIN = "org_plugin_id"
_OF_COLLECTIONS = NoEffect("a plug-in has the parameters of each collection that uses it", harmless=({},))


class TestSpec(Spec):
    """A question to realtime.py."""

    inputs: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] | None = None


class EnableSpec(Spec):
    params: Annotated[dict[str, Any] | None, _OF_COLLECTIONS] = None
    deploy: bool = True


# ---- of the organization


@router.get("/plugins", operation_id="list_org_plugins", response_model=None)
def org_list(caller: OrgReader) -> Response:
    return answer(_listed(caller))


def _listed(caller: Caller) -> dict[str, Any]:
    found = [item(plugin) for plugin in listed_of(caller, KIND)]
    ids = {"organization_id": caller.scope.organization_id, "namespace_id": caller.scope.namespace_id}
    return {"success": True, "plugins": found, "results": found, "total": len(found), **ids}


@router.get("/plugins/{plugin_id}", operation_id="get_org_plugin", response_model=None)
def org_get(plugin_id: str, caller: OrgReader) -> Response:
    return answer({"success": True, "plugin": document(stored(caller, KIND, plugin_id), caller)})


@router.delete("/plugins/{plugin_id}", operation_id="delete_org_plugin", response_model=None)
def org_delete(plugin_id: str, caller: OrgDeleter) -> Response:
    """Refused while namespaces have enabled it."""
    return answer(_deleted(caller, plugin_id))


def _deleted(caller: Caller, plugin_id: str) -> dict[str, Any]:
    with caller.services.db.begin(caller.scope, caller.actor.key_id) as tx:
        plugin = tx.get(KIND, plugin_id)
        delete(tx, caller.services, plugin)
    message = f"plug-in '{plugin.name}' deleted"
    return {"success": True, "plugin_id": plugin.id, "message": message, "deployment_removed": plugin.body["active"]}


# ---- of a namespace


@router.get(_IN, operation_id="list_plugins", response_model=None)
def list_(namespace: str, request: Request, caller: OrgReader) -> Response:
    return answer(_listed(in_namespace(caller, request, namespace)))


@router.get(f"{_IN}/available", operation_id="list_available_org_plugins", response_model=None)
def available(namespace: str, request: Request, caller: OrgReader) -> Response:
    """Plug-ins of the organization, and which this namespace has enabled."""
    inside = in_namespace(caller, request, namespace)
    enabled = copies(inside, KIND, _ORIGIN)
    with caller.services.db.read(caller.scope) as tx:
        found = [{**item(each), "enabled_in_namespace": each.id in enabled} for each in tx.resources(KIND)]
    ids = {"organization_id": caller.scope.organization_id, "namespace_id": inside.scope.namespace_id}
    return answer({"success": True, "plugins": found, "total": len(found), **ids})


@router.post(f"{_IN}/org/{{plugin_id}}/enable", operation_id="enable_org_plugin", response_model=None)
def switch_on(
    namespace: str, plugin_id: str, request: Request, caller: OrgWriter, spec: EnableSpec | None = None
) -> Response:
    """Make a plug-in of the organization one of the namespace, and deploy it unless told not to."""
    inside, spec = in_namespace(caller, request, namespace), spec or EnableSpec()
    notes = notes_on(inside, spec)
    plugin = stored(caller, KIND, plugin_id)
    with inside.services.db.begin(inside.scope, inside.actor.key_id) as tx:
        made = enable(tx, plugin)
        if spec.deploy:
            made = deploy(tx, inside.services.plugins, made, batch_only=False)
    shown = {"plugin_id": made.id, "namespace_id": inside.scope.namespace_id, "feature_uri": uri_of(made.body)}
    message = f"plug-in '{made.name}' enabled"
    return answer({"success": True, **shown, "deployment_status": made.body["status"], "message": message} | notes)


@router.post(f"{_IN}/org/{{plugin_id}}/disable", operation_id="disable_org_plugin", response_model=None)
def switch_off(namespace: str, plugin_id: str, request: Request, caller: OrgWriter) -> Response:
    """Refused while collections use it."""
    inside = in_namespace(caller, request, namespace)
    held = copy_of(inside, KIND, _ORIGIN, stored(caller, KIND, plugin_id), "plug-in")
    done = _deleted(inside, held.id)
    return answer({**done, "namespace_id": inside.scope.namespace_id, "message": f"plug-in '{held.name}' disabled"})


@router.get(_ONE, operation_id="get_plugin", response_model=None)
def get(
    namespace: str, plugin_id: str, request: Request, caller: OrgReader, return_presigned_urls: bool = False
) -> Response:
    inside = in_namespace(caller, request, namespace)
    plugin = stored(inside, KIND, plugin_id)
    url = inside.signed(plugin.body["archive_key"]) if return_presigned_urls else None
    return answer({"success": True, "plugin": document(plugin, inside), "presigned_download_url": url})


@router.delete(_ONE, operation_id="delete_plugin", response_model=None)
def remove(namespace: str, plugin_id: str, request: Request, caller: OrgDeleter) -> Response:
    """Refused while collections use it."""
    return answer(_deleted(in_namespace(caller, request, namespace), plugin_id))


@router.get(f"{_ONE}/status", operation_id="get_plugin_status", response_model=None)
def status(namespace: str, plugin_id: str, request: Request, caller: OrgReader) -> Response:
    return answer(status_of(stored(in_namespace(caller, request, namespace), KIND, plugin_id)))


@router.post(f"{_ONE}/deploy", operation_id="deploy_plugin", response_model=None)
def start(
    namespace: str, plugin_id: str, request: Request, caller: OrgWriter, deployment_type: str = "realtime"
) -> Response:
    """Open it once, confined; when that works, collections may use it. `deployment_type=batch_only`: no realtime."""
    inside = in_namespace(caller, request, namespace)

    def act(tx: Tx) -> Record:
        return deploy(tx, inside.services.plugins, tx.get(KIND, plugin_id), batch_only=deployment_type == "batch_only")

    return answer({"success": True, **status_of(inside.services.db.run(inside.scope, act, inside.actor.key_id))})


@router.post(f"{_ONE}/undeploy", operation_id="undeploy_plugin", response_model=None)
def stop(namespace: str, plugin_id: str, request: Request, caller: OrgWriter) -> Response:
    """Refused while collections use it."""
    inside = in_namespace(caller, request, namespace)
    done = inside.services.db.run(inside.scope, lambda tx: undeploy(tx, tx.get(KIND, plugin_id)), inside.actor.key_id)
    return answer({"success": True, **status_of(done)})


@router.post(f"{_ONE}/realtime/test", operation_id="test_plugin_realtime", response_model=None)
async def test(namespace: str, plugin_id: str, spec: TestSpec, request: Request, caller: OrgWriter) -> Response:
    """Ask realtime.py, as a retriever would."""

    def work() -> Response:
        inside = in_namespace(caller, request, namespace)
        notes = notes_on(inside, spec)
        began = time.perf_counter()
        question = {"inputs": spec.inputs, "parameters": spec.parameters or {}}
        found = ask_realtime(inside.services, inside.scope, stored(inside, KIND, plugin_id), question)
        took = (time.perf_counter() - began) * 1000
        return answer({"status": "success", "raw_response": found, "response_type": type(found).__name__,
                       "latency_ms": took, "tested_at": clock.wire_time(clock.now()), **notes})  # fmt: skip

    return await in_slow_thread(work)
