"""What was uploaded belongs to whoever sent it: others neither use it nor take it away, by accident or on purpose."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from model_archives import DIMENSIONS, graph, model_files, send_model, table
from plugin_archives import Sender, sources, zipped

from helpers import failed, ok, wait_for
from mediatheca.flows.plugins import deploy, models
from mediatheca.flows.plugins.confined import ConfinedModels
from mediatheca.flows.plugins.uploads import Arrived
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import SparseEmbedder
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from server import Server, Tenant, new_tenant


@pytest.fixture(scope="module")
def code_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("many")
    made = Server(Settings(data_dir=folder, workers=1, allow_code=True, item_timeout_s=20, log_level="error"))
    yield made
    made.close()


@pytest.fixture
def owner(code_server: Server) -> Tenant:
    return new_tenant(code_server)


@pytest.fixture
def admin(owner: Tenant) -> Iterator[httpx.Client]:
    with owner.client() as client:
        for name in ("main", "other"):
            ok(client.post("/v1/namespaces", json={"namespace_name": name}))
        yield client


def scope_of(owner: Tenant, admin: httpx.Client) -> Scope:
    return Scope(owner.organization_id, ok(admin.get("/v1/namespaces/main"))["namespace_id"])


def test_a_namespace_that_disables_a_shared_plug_in_takes_it_from_no_other(admin: httpx.Client) -> None:
    plugin = Sender(admin).sent("shared_by_two")
    enabled = {}
    for name in ("main", "other"):
        sender = Sender(admin, name)
        enabled[name] = ok(admin.post(f"{sender.path}/org/{plugin}/enable", json={}))["plugin_id"]
        wait_for(lambda sender=sender, name=name: sender.status(enabled[name])["deployed"], 240)
        assert ok(sender.asked(enabled[name], {"text": "a"}))["raw_response"]["mark"] == "?"
    ok(admin.post(f"/v1/namespaces/other/plugins/org/{plugin}/disable"))
    assert ok(Sender(admin, "main").asked(enabled["main"], {"text": "b"}))["raw_response"]["mark"] == "?"


def put_plugin(owner: Tenant, admin: httpx.Client, name: str) -> Any:
    """An upload that has arrived, as its record was before anybody confirmed it."""
    announced = ok(admin.post("/v1/namespaces/main/plugins/uploads", json={"name": name, "version": "1.0.0"}))
    httpx.put(announced["presigned_url"], content=zipped(sources(name)), timeout=120).raise_for_status()
    with owner.server.app.services.db.read(scope_of(owner, admin)) as tx:
        return tx.get(deploy.UPLOAD, announced["upload_id"])


def test_a_confirmation_that_is_repeated_while_it_works_takes_nothing_away(owner: Tenant, admin: httpx.Client) -> None:
    services, scope, upload = owner.server.app.services, scope_of(owner, admin), put_plugin(owner, admin, "twice_sent")
    copy = services.blobs.get(upload.body["store_key"])
    first = deploy.confirm(services, scope, "key", upload, Arrived())
    services.blobs.put(upload.body["store_key"], copy, "application/zip")  # the second had begun before that was over
    again = deploy.confirm(services, scope, "key", upload, Arrived())
    assert (again.id, again.body["archive_key"]) == (first.id, first.body["archive_key"])
    assert services.blobs.get(first.body["archive_key"]) == copy
    kept = [info.key for info in services.blobs.list(f"{scope.organization_id}/{scope.namespace_id}/plugins/")]
    assert [key for key in kept if key.endswith(".archive")] == [first.body["archive_key"]]


def deployed_model(client: httpx.Client) -> str:
    found = send_model(client, model_files(), "words")
    assert found["success"], found
    ok(client.post(f"/v1/namespaces/main/models/{found['model_id']}/deploy"))
    return str(found["model_id"])


def test_raw_inference_with_an_uploaded_model_is_for_its_namespace_alone(owner: Tenant, admin: httpx.Client) -> None:
    with owner.client("main") as client, owner.client("other") as neighbour:
        model = deployed_model(client)
        asked = {"inference_name": model, "inputs": {"texts": ["cat", "rocket"]}}
        found = ok(client.post("/v1/inference", json=asked))["data"]
        assert np.array(found["embeddings"]).shape == (2, DIMENSIONS)
        assert "not deployed in this namespace" in failed(neighbour.post("/v1/inference", json=asked), 503)["message"]
        stranger = new_tenant(owner.server)
        with stranger.client() as theirs:
            ok(theirs.post("/v1/namespaces", json={"namespace_name": "main"}))
        with stranger.client("main") as theirs:
            assert "not deployed in this namespace" in failed(theirs.post("/v1/inference", json=asked), 503)["message"]


def test_the_server_itself_never_loads_an_uploaded_model(owner: Tenant, admin: httpx.Client) -> None:
    with owner.client("main") as client:
        model = deployed_model(client)
        held = owner.server.app.services.models
        assert isinstance(held, ConfinedModels)
        assert held.text(model).embed_texts(["cat", "dog"], query=True).shape == (2, DIMENSIONS)
        for act in (held.image, held.sparse, held.reranker, lambda name: held.load(name, SparseEmbedder)):
            with pytest.raises(UnavailableError, match="uploaded model"):
                act(model)
        for spelling in (f"x/{model}", model.replace("_", "-").upper()):
            with pytest.raises(UnavailableError, match="uploaded model"):
                held.reranker(spelling)


def test_two_confirmations_of_a_model_keep_one_archive(owner: Tenant, admin: httpx.Client) -> None:
    services, scope = owner.server.app.services, scope_of(owner, admin)
    wanted = {"name": "twice", "version": "1.0.0", "model_format": "onnx"}
    announced = ok(admin.post("/v1/namespaces/main/models/uploads", json=wanted))
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in model_files().items():
            archive.writestr(name, data)
    with services.db.read(scope) as tx:
        upload = tx.get(models.UPLOAD, announced["upload_id"])
    made = []
    for _ in range(2):
        services.blobs.put(upload.body["store_key"], sink.getvalue(), "application/zip")
        made.append(models.confirm_model(services, scope, "key", upload, Arrived()))
    assert made[0].id == made[1].id
    assert services.blobs.get(made[0].body["archive_key"]) == sink.getvalue()


def with_constant(location: str) -> bytes:
    """A graph with a constant, inside a node, that lies in another file."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(graph(table()))
    tensor = TensorProto(name="stolen", data_type=TensorProto.UINT8, dims=[8])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    model.graph.node.append(helper.make_node("Constant", [], ["stolen"], value=tensor))
    return bytes(model.SerializeToString())


def in_function(domain: str) -> bytes:
    """A graph with a function that uses an operator of somebody's."""
    import onnx
    from onnx import helper

    model = onnx.load_from_string(graph(table()))
    node = helper.make_node("Evil", ["x"], ["y"], domain=domain)
    model.functions.append(helper.make_function("", "F", ["x"], ["y"], [node], [helper.make_opsetid("", 17)]))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": with_constant("../../../../../../proc/self/environ")}, "outside its folder"),
        ({"model": with_constant("/etc/passwd")}, "outside its folder"),
        ({"model": in_function("com.evil")}, "com.evil"),
        ({"card": b'{"kind": "reranker"}'}, "kind"),
        ({"card": b'{"kind": "text", "dimensions": 8, "model": "model.ort"}', "extra": "model.ort"}, "model.ort"),
    ],
    ids=["constant outside", "absolute constant", "operator in a function", "reranker", "another format"],
)
def test_what_nobody_can_look_at_is_refused(admin: httpx.Client, changed: dict[str, Any], told: str) -> None:
    extra = changed.pop("extra", None)
    files = model_files(**changed)
    if extra:
        files[extra] = graph(table())
    found = send_model(admin, files, "bad", "other")
    assert not found["success"]
    assert told in found["message"], found
    assert "/tmp" not in found["message"], found
