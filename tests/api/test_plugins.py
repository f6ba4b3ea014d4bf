"""Uploaded extractors: sent, looked at, deployed into a confined process, used by collections, and gone again."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from plugin_archives import STEPS, Sender, sources, tarred, zipped

from helpers import failed, ok, wait_for
from mediatheca.settings import Settings
from server import Server, Tenant, new_tenant


@pytest.fixture(scope="module")
def code_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("plugins")
    made = Server(Settings(data_dir=folder, workers=1, allow_code=True, item_timeout_s=20, log_level="error"))
    yield made
    made.close()


@pytest.fixture
def owner(code_server: Server) -> Tenant:
    return new_tenant(code_server)


@pytest.fixture
def admin(owner: Tenant) -> Iterator[httpx.Client]:
    with owner.client() as client:
        ok(client.post("/v1/namespaces", json={"namespace_name": "main"}))
        yield client


@pytest.fixture
def client(owner: Tenant, admin: httpx.Client) -> Iterator[httpx.Client]:
    with owner.client("main") as made:
        yield made


@pytest.fixture
def sender(client: httpx.Client) -> Sender:
    return Sender(client, "main")


def collection_of(client: httpx.Client, extractor: str, version: str = "1.0.0", **parameters: Any) -> httpx.Response:
    schema = {"properties": {"text": {"type": "text"}}}
    number = ok(client.post("/v1/buckets/list"))["total_count"]
    bucket = ok(client.post("/v1/buckets", json={"bucket_name": f"texts {number}", "bucket_schema": schema}))
    body = {
        "collection_name": f"shouts {number}",
        "source": {"type": "bucket", "bucket_ids": [bucket["bucket_id"]]},
        "feature_extractor": {"feature_extractor_name": extractor, "version": version, "parameters": parameters},
    }
    return client.post("/v1/collections", json=body)


def processed(client: httpx.Client, collection: dict[str, Any], *texts: str) -> list[dict[str, Any]]:
    """The documents of these texts."""
    bucket = collection["source"]["bucket_ids"][0]
    for text in texts:
        ok(client.post(f"/v1/buckets/{bucket}/objects", json={"text": text}))
    answered = client.post(f"/v1/collections/{collection['collection_id']}/trigger")
    assert answered.status_code == 202, answered.text
    batch = f"/v1/buckets/{bucket}/batches/{answered.json()['batch_id']}"
    done = wait_for(lambda: (b := ok(client.get(batch)))["status"] not in ("QUEUED", "PROCESSING") and b, 240)
    assert done["status"] == "COMPLETED", done
    path = f"/v1/collections/{collection['collection_id']}/documents/list"
    found: list[dict[str, Any]] = ok(client.post(path, json={"return_vectors": True}))["results"]
    return found


def test_an_archive_is_sent_deployed_and_fills_a_collection(client: httpx.Client, sender: Sender) -> None:
    plugin = sender.sent("shouter")
    assert sender.status(plugin)["status"] == "NOT_DEPLOYED"
    assert failed(collection_of(client, "shouter"), 404)  # not before it was deployed
    done = sender.deployed(plugin)
    assert (done["status"], done["deployed"], done["realtime_enabled"]) == ("DEPLOYED", True, True), done
    assert done["feature_uri"] == "mixpeek://shouter@1.0.0/letters"
    collection = ok(collection_of(client, "shouter", mark="?", times=2))
    assert collection["vector_indexes"][0]["index"]["dimensions"] == 4
    documents = processed(client, collection, "aha", "io")
    assert {document["shout"] for document in documents} == {"AHA??", "IO??"}
    (aha,) = [document for document in documents if document["length"] == 3]
    assert aha["vectors"]["shouter_1.0.0_letters"] == pytest.approx([2.01, 0.01, 0.01, 0.01])


def test_parameters_of_a_plug_in_are_checked_against_its_manifest(client: httpx.Client, sender: Sender) -> None:
    sender.deployed(sender.sent("strict_one"))
    assert "mark" in failed(collection_of(client, "strict_one", colour="red"), 422)["message"]
    assert failed(collection_of(client, "strict_one", times=9), 422)
    assert failed(collection_of(client, "strict_one", times="two"), 422)


def test_steps_over_a_table_work_without_pandas(client: httpx.Client, sender: Sender) -> None:
    plugin = sender.sent("stepper", pipeline=STEPS, realtime=None)
    done = sender.deployed(plugin)
    assert (done["status"], done["deployed"]) == ("NOT_DEPLOYED", True)  # no realtime.py: batches only
    documents = processed(client, ok(collection_of(client, "stepper", mark="#")), "hello")
    assert [(document["shout"], sorted(document["vectors"])) for document in documents] == [
        ("HELLO#", ["stepper_1.0.0_letters"])
    ]


def test_realtime_answers_a_test_call(sender: Sender) -> None:
    plugin = sender.sent("answerer")
    assert failed(sender.asked(plugin, {"text": "aha"}), 409)
    sender.deployed(plugin)
    answered = ok(sender.asked(plugin, {"text": "aha"}))
    assert answered["status"] == "success"
    assert answered["response_type"] == "dict"
    assert answered["raw_response"] == {"embedding": [2.01, 0.01, 0.01, 0.01], "mark": "?"}
    assert "KeyError" in failed(sender.asked(plugin, {}), 400)["message"]


def test_what_has_no_effect_in_a_compute_profile_is_told(sender: Sender) -> None:
    plugin = sender.sent("calculating")
    shown = ok(sender.client.get(f"{sender.path}/{plugin}"))["plugin"]
    assert shown["warnings"] == [
        "compute_profile.batch_size: 8 has no effect: one object at a time is given to a plug-in"
    ]


def test_unknown_keys_of_plug_in_routes_are_told(sender: Sender) -> None:
    body = {"name": "told", "version": "1", "descripton": "x"}
    announced = ok(sender.client.post(f"{sender.path}/uploads", json=body))
    assert announced["warnings"] == ["descripton: unknown key is ignored; did you mean 'description'?"]
    data = base64.b64encode(zipped(sources("told", "1"))).decode()
    whole = ok(sender.client.post(sender.path, json={**body, "file": data}))
    assert whole["warnings"][0] == announced["warnings"][0]
    assert whole["warnings"][1].startswith("compute_profile.batch_size")


def test_a_version_never_changes_and_a_new_one_stands_beside_it(client: httpx.Client, sender: Sender) -> None:
    sender.deployed(sender.sent("versioned"))
    again = client.post(f"{sender.path}/uploads", json={"name": "versioned", "version": "1.0.0"})
    assert "never change" in failed(again, 409)["message"]
    sender.deployed(sender.sent("versioned", "1.1.0"))
    assert ok(collection_of(client, "versioned", "1.1.0"))
    listed = ok(client.get(sender.path))
    assert {entry["version"] for entry in listed["plugins"]} == {"1.0.0", "1.1.0"}
    assert listed["results"] == listed["plugins"]


def test_a_plug_in_in_use_is_neither_undeployed_nor_deleted(client: httpx.Client, sender: Sender) -> None:
    plugin = sender.sent("used_one")
    sender.deployed(plugin)
    collection = ok(collection_of(client, "used_one"))
    assert failed(client.post(f"{sender.path}/{plugin}/undeploy"), 409)
    assert failed(client.delete(f"{sender.path}/{plugin}"), 409)
    ok(client.delete(f"/v1/collections/{collection['collection_id']}"))
    assert ok(client.post(f"{sender.path}/{plugin}/undeploy"))["status"] == "NOT_DEPLOYED"
    assert failed(collection_of(client, "used_one"), 404)
    assert ok(client.delete(f"{sender.path}/{plugin}"))["success"] is True
    assert failed(client.get(f"{sender.path}/{plugin}"), 404)


def test_code_that_cannot_be_opened_fails_at_deployment_and_says_why(sender: Sender) -> None:
    done = sender.deployed(sender.sent("broken_one", pipeline="import no_such_module_at_all\n"))
    assert (done["status"], done["deployed"]) == ("FAILED", False)
    assert "no_such_module_at_all" in done["error"]
    done = sender.deployed(sender.sent("empty_one", pipeline="nothing = 1\n"))
    assert "build_steps" in done["error"]


def test_a_plug_in_of_the_organization_is_enabled_where_it_is_wanted(
    admin: httpx.Client, client: httpx.Client, sender: Sender
) -> None:
    plugin = Sender(admin).sent("shared_one")
    assert [entry["enabled_in_namespace"] for entry in ok(client.get(f"{sender.path}/available"))["plugins"]] == [False]
    enabled = ok(client.post(f"{sender.path}/org/{plugin}/enable", json={"params": {"mark": "?"}}))
    assert "parameters of each collection" in enabled["warnings"][0]
    wait_for(lambda: sender.status(enabled["plugin_id"])["deployed"], 240)
    assert ok(collection_of(client, "shared_one"))
    assert failed(admin.delete(f"/v1/plugins/{plugin}"), 409)
    ok(admin.post("/v1/namespaces", json={"namespace_name": "other"}))
    assert ok(admin.get("/v1/namespaces/other/plugins"))["plugins"] == []


def test_another_organization_sees_and_uses_nothing_of_it(code_server: Server, sender: Sender) -> None:
    plugin = sender.sent("private_one")
    sender.deployed(plugin)
    stranger = new_tenant(code_server)
    with stranger.client() as theirs:
        ok(theirs.post("/v1/namespaces", json={"namespace_name": "main"}))
    with stranger.client("main") as theirs:
        assert failed(theirs.get(f"/v1/namespaces/main/plugins/{plugin}"), 404)
        assert failed(collection_of(theirs, "private_one"), 404)


def test_a_tar_with_a_folder_around_it_and_a_file_in_the_request_are_taken_too(
    client: httpx.Client, sender: Sender
) -> None:
    found = sender.confirmed(tarred(sources("in_a_tar"), "in_a_tar/"), "in_a_tar")
    assert found["success"], found
    body = {"name": "directly", "version": "1.0.0", "file": base64.b64encode(zipped(sources("directly"))).decode()}
    assert ok(client.post(sender.path, json=body))["success"] is True
    assert failed(client.post(sender.path, json={**body, "name": "directly2", "file": "%%%"}), 422)


def test_plug_ins_do_not_run_where_nobody_allowed_it(client: httpx.Client, tmp_path: Path) -> None:
    server = Server(Settings(data_dir=tmp_path, workers=0, log_level="error"))
    try:
        tenant = new_tenant(server)
        with tenant.client() as admin:
            ok(admin.post("/v1/namespaces", json={"namespace_name": "main"}))
        with tenant.client("main") as theirs:
            closed = Sender(theirs, "main")
            plugin = closed.sent("not_allowed")
            error = failed(theirs.post(f"{closed.path}/{plugin}/deploy"), 503)
            assert "MEDIATHECA_ALLOW_CODE" in error["message"]
    finally:
        server.close()


# --- queries ------------------------------------------------------------------------------------------------------

OTHER_LETTERS = """
from processors.core import letters


def run_inference(inputs, parameters):
    import numpy
    if inputs["text"] == "stumble":
        raise RuntimeError("no letters today")
    if inputs["text"] == "short":
        return {"embedding": [1.0, 2.0]}
    if inputs["text"] == "mark":
        return {"letters": [float(parameters["times"]), 0.0, 0.0, 0.0]}
    return {"embedding": numpy.asarray(letters(inputs["text"])[::-1])}
"""


def feature_of(collection: dict[str, Any]) -> str:
    extractor = collection["feature_extractor"]
    return f"mixpeek://{extractor['feature_extractor_name']}@{extractor['version']}/letters"


def sought(
    client: httpx.Client, collection: dict[str, Any], text: str, *stages: dict[str, Any], **query: Any
) -> httpx.Response:
    """A search of a collection of an uploaded extractor."""
    asked = query or {"input_mode": "text", "value": text}
    search = {"feature_uri": feature_of(collection), "query": asked, "top_k": 5}
    first = {"stage_id": "feature_search", "parameters": {"searches": [search]}}
    body = {"collection_identifiers": [collection["collection_id"]], "stages": [first, *stages], "inputs": {}}
    return client.post("/v1/retrievers/execute", json=body)


def shouts(answered: httpx.Response) -> list[str]:
    return [hit["shout"] for hit in ok(answered)["documents"]]


def test_realtime_embeds_the_texts_of_queries(client: httpx.Client, sender: Sender) -> None:
    sender.deployed(sender.sent("asked_one"))
    collection = ok(collection_of(client, "asked_one"))
    processed(client, collection, "banana", "rhythm bee", "fiji")
    assert shouts(sought(client, collection, "a cat has a hat"))[0] == "BANANA!"
    assert shouts(sought(client, collection, "this is it"))[0] == "FIJI!"
    words = "data:text/plain;base64,c2VlIG1l"
    assert shouts(sought(client, collection, "", input_mode="content", value=words))[0] == "RHYTHM BEE!"
    again = {"stage_id": "rerank", "parameters": {"query": "iii", "feature_uri": feature_of(collection)}}
    assert shouts(sought(client, collection, "banana", again))[0] == "FIJI!"


def test_the_answers_of_two_tenants_plug_ins_of_one_name_are_never_mixed(
    code_server: Server, client: httpx.Client, sender: Sender
) -> None:
    sender.deployed(sender.sent("same_name"))
    ours = ok(collection_of(client, "same_name"))
    processed(client, ours, "aaa", "ooo")
    assert shouts(sought(client, ours, "banana"))[0] == "AAA!"
    stranger = new_tenant(code_server)
    with stranger.client() as theirs:
        ok(theirs.post("/v1/namespaces", json={"namespace_name": "main"}))
    with stranger.client("main") as theirs:
        other = Sender(theirs, "main")
        other.deployed(other.sent("same_name", realtime=OTHER_LETTERS))
        turned = ok(collection_of(theirs, "same_name"))
        processed(theirs, turned, "aaa", "ooo")
        assert shouts(sought(theirs, turned, "banana"))[0] == "OOO!"  # theirs counts the letters backwards
    assert shouts(sought(client, ours, "banana"))[0] == "AAA!"


def test_realtime_that_fails_or_gives_no_vector_says_so(client: httpx.Client, sender: Sender) -> None:
    sender.deployed(sender.sent("stumbler", realtime=OTHER_LETTERS))
    collection = ok(collection_of(client, "stumbler", times=3))
    processed(client, collection, "aaa", "ooo")
    assert "no letters today" in failed(sought(client, collection, "stumble"), 400)["message"]
    assert "4 finite numbers" in failed(sought(client, collection, "short"), 400)["message"]
    assert shouts(sought(client, collection, "mark"))[0] == "AAA!!!"  # it gets the parameters of the collection


def test_without_realtime_the_refusal_is_true_and_vectors_still_search(client: httpx.Client, sender: Sender) -> None:
    plugin = sender.sent("batch_only")
    sender.deployed(plugin, deployment_type="batch_only")
    collection = ok(collection_of(client, "batch_only"))
    processed(client, collection, "aaa", "ooo")
    message = failed(sought(client, collection, "banana"), 422)["message"]
    assert "realtime.py" in message
    assert shouts(sought(client, collection, "", input_mode="vector", value=[1, 0, 0, 0]))[0] == "AAA!"
    sender.deployed(plugin)  # now with its realtime.py
    assert shouts(sought(client, collection, "banana"))[0] == "AAA!"


SLOW = """
import time


def run_inference(inputs, parameters):
    time.sleep(1)
    return {"embedding": [1.0, 0.0, 0.0, 0.0]}
"""


def test_no_more_than_a_few_queries_wait_for_one_plug_in(client: httpx.Client, sender: Sender) -> None:
    sender.deployed(sender.sent("slow_one", realtime=SLOW))
    collection = ok(collection_of(client, "slow_one"))
    processed(client, collection, "aaa")
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda number: sought(client, collection, f"query {number}"), range(12)))
    assert {answered.status_code for answered in answers} == {200, 429}
    assert sum(answered.status_code == 200 for answered in answers) >= 4
    with ThreadPoolExecutor(12) as threads:  # one question, whoever asks it
        same = list(threads.map(lambda _: sought(client, collection, "one more"), range(12)))
    assert [shouts(answered) for answered in same] == [["AAA!"]] * 12
