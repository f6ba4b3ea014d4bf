"""The setup wizard's last scripts (5g to 5k), as printed but for the base URL and the user's own answers: classes,
groups, a schedule, an alert and a webhook over the products of its first steps."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from compat_served import KEY, Served
from mixpeek import Mixpeek
from sdk_world import TEXT_URI, World

from outside_site import Asked, Reply, Site, a_site

SCRIPTS = Path(__file__).parent / "wizard"
LABELS = {
    "kitchen": "cups, mugs and everything for tea and coffee",
    "audio": "headphones, loudspeakers and other things to listen to music",
    "garden": "machines and tools for the lawn and the garden",
}
EXPECTED = {"Mug": "kitchen", "Headphones": "audio", "Lawn mower": "garden"}


@dataclass
class Wizard:
    """What the wizard knows when it comes to its last steps; `run` runs one of its scripts."""

    world: World
    site: Site
    project: str
    printed: dict[str, str] = field(default_factory=dict)

    def run(self, step: str, **answers: str) -> dict[str, str]:
        """What the script prints, by name."""
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        known: dict[str, Any] = {
            "BASE": self.world.url,
            "API_KEY": KEY,
            "PROJECT": self.project,
            "headers": headers | {"X-Namespace": self.world.namespace},
            "TEXT_COLLECTION_ID": self.world.collection,
            "ALERT_RETRIEVER_ID": self.world.retriever,
            "CLUSTER_ID": self.printed.get("cluster_id"),
        }
        script = next(SCRIPTS.glob(f"{step}_*.txt")).read_text()
        for placeholder, answer in answers.items():
            assert placeholder in script
            script = script.replace(placeholder, answer)
        # Two of them write to sys.stderr without importing it.
        before = "import sys\n" + "".join(f"{name} = {value!r}\n" for name, value in known.items())
        done = subprocess.run([sys.executable, "-c", before + script], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ERROR" not in done.stdout
        said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        self.printed |= said
        return said

    def get(self, path: str) -> Any:
        return self.world.request("GET", path)

    def until(self, what: Callable[[], Any]) -> Any:
        for _ in range(4_800):
            if found := what():
                return found
            time.sleep(0.05)
        raise AssertionError(f"did not happen: {what}")

    def task(self, task_id: str) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            task: dict[str, Any] = self.get(f"/tasks/{task_id}")
            return task if task["status"] in ("COMPLETED", "FAILED", "CANCELED") else None

        found: dict[str, Any] = self.until(ended)
        assert found["status"] == "COMPLETED", found
        return found

    def documents(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.world.client.documents.list(self.world.collection)["results"]
        return found


@pytest.fixture
def receiver() -> Iterator[Site]:
    with a_site() as made:
        made.routes["/hook"] = Reply({"ok": True})
        yield made


@pytest.fixture
def wizard(served: Served, client: Mixpeek, namespace: str, receiver: Site) -> Wizard:
    return Wizard(World(client, served.url, namespace).build(), receiver, f"wizard-{uuid.uuid4().hex[:8]}")


def labels() -> str:
    rows = [
        {"label_name": name, "description": text, "blobs": [{"property": "description", "type": "text", "data": text}]}
        for name, text in LABELS.items()
    ]
    return f"LABELS = {rows!r} or ["


def test_the_taxonomy_script_makes_one_that_labels_documents(wizard: Wizard) -> None:
    said = wizard.run("5g", REPLACE_TEXT_FIELD="text", **{"LABELS = [": labels()})
    taxonomy = said["taxonomy_id"]
    made = wizard.get(f"/taxonomies/{taxonomy}")
    assert made["config"]["taxonomy_type"] == "flat"
    reference = wizard.world.client.collections.get(f"{wizard.project}-taxonomy-reference")["collection_id"]
    wizard.world.wait(wizard.world.client.collections.trigger(reference)["batch_id"])

    path = f"/collections/{wizard.world.collection}/apply-taxonomy"
    applied = wizard.world.request("POST", path, {"taxonomy_id": taxonomy})
    assert applied["taxonomy_id"] == taxonomy
    wizard.task(applied["task_id"])
    ran = wizard.world.request("POST", f"/taxonomies/{taxonomy}/execute", {})
    found = {match["document_id"]: match["label"] for match in ran["matches"]}
    names = {document["document_id"]: document["name"] for document in wizard.documents()}
    assert {names[ident]: label for ident, label in found.items()} == EXPECTED
    assert {document["name"]: document["label_name"] for document in wizard.documents()} == EXPECTED


def test_a_field_that_the_source_lacks_is_refused_with_400(wizard: Wizard) -> None:
    with pytest.raises(AssertionError, match=r"ERROR 400.*no_such_field"):
        wizard.run("5g", REPLACE_TEXT_FIELD="no_such_field", **{"LABELS = [": labels()})


def test_the_cluster_script_groups_and_the_trigger_script_runs_it_again(wizard: Wizard) -> None:
    for number in range(6):
        wizard.world.fresh_object(name=f"Cup {number}", description=f"A red cup for tea and coffee, size {number}")
        wizard.world.fresh_object(name=f"Mower {number}", description=f"A machine that mows the lawn, model {number}")
    wizard.world.wait(wizard.world.client.collections.trigger(wizard.world.collection)["batch_id"])
    said = wizard.run("5h")
    wizard.printed["cluster_id"] = cluster = said["cluster_id"]
    wizard.task(said["execution_task_id"])
    groups = wizard.get(f"/clusters/{cluster}/groups")
    assert groups["cluster_id"] == cluster
    assert (groups["total_groups"], groups["total_documents"]) == (2, 14), groups  # the headphones stay alone
    assert wizard.get(f"/clusters/{cluster}")["vector_config"]["feature_uris"] == [TEXT_URI]

    trigger = wizard.run("5i")["trigger_id"]
    made = wizard.get(f"/triggers/{trigger}")
    assert (made["status"], made["trigger_type"]) == ("active", "cron")
    assert made["next_scheduled_at"][11:16] == "02:00"
    ran = wizard.world.request("POST", f"/triggers/{trigger}/execute", {})
    wizard.task(ran["task_id"])
    history = wizard.until(lambda: wizard.get(f"/triggers/{trigger}/history")["executions"])
    assert history[0]["task_id"] == ran["task_id"]


def test_the_alert_script_tells_a_receiver_of_new_documents(wizard: Wizard) -> None:
    alert = wizard.run("5j", REPLACE_WEBHOOK_URL=f"{wizard.site.url}/hook")["alert_id"]
    made = wizard.get(f"/alerts/{alert}")
    assert made["enabled"]
    assert made["retriever_id"] == wizard.world.retriever
    answer = wizard.world.request("POST", f"/alerts/{alert}/execute", {"inputs": {"query": "music"}, "notify": True})
    assert answer, answer
    told: list[Asked] = wizard.until(lambda: list(wizard.site.asked))
    assert told[0].path == "/hook"
    assert "webhook-signature" in told[0].headers
    assert wizard.world.documents[0] in told[0].body.decode()
    result = wizard.get(f"/alerts/{alert}/results")
    assert result["triggered"]
    assert result["matches"][0]["score"] <= 1


def test_the_webhook_script_hears_of_documents_and_clusters(wizard: Wizard) -> None:
    webhook = wizard.run("5k", REPLACE_WEBHOOK_URL=f"{wizard.site.url}/hook")["webhook_id"]
    said = wizard.run("5h")
    wizard.task(said["execution_task_id"])
    wizard.world.fresh_object(name="Teapot", description="A pot for tea")
    wizard.world.wait(wizard.world.client.collections.trigger(wizard.world.collection)["batch_id"])
    wanted = {"cluster.execution.completed", "collection.documents.written"}
    wizard.until(lambda: wanted <= {asked.json["event_type"] for asked in wizard.site.asked})
    for asked in wizard.site.asked:
        assert asked.headers["webhook-id"] == asked.json["event_id"]
    wizard.world.request("DELETE", f"/organizations/webhooks/{webhook}")


def test_every_kind_of_the_wizard_is_listed_by_post(wizard: Wizard) -> None:
    wizard.run("5g", REPLACE_TEXT_FIELD="text", **{"LABELS = [": labels()})
    wizard.run("5h")
    wizard.run("5i")
    wizard.run("5j", REPLACE_WEBHOOK_URL=f"{wizard.site.url}/hook")
    webhook = wizard.run("5k", REPLACE_WEBHOOK_URL=f"{wizard.site.url}/hook")["webhook_id"]
    for path in ("taxonomies", "clusters", "triggers", "alerts"):
        assert len(wizard.world.request("POST", f"/{path}/list", {})["results"]) == 1, path
    listed = wizard.world.request("POST", "/organizations/webhooks/list", {})["results"]
    assert webhook in [one["webhook_id"] for one in listed]
    wizard.world.request("DELETE", f"/organizations/webhooks/{webhook}")


@pytest.mark.parametrize("namespace_header", ["own", "ns_production", "", None])
def test_the_webhook_of_the_security_page_is_made(wizard: Wizard, namespace_header: str | None) -> None:
    """As printed there but for base URL and receiver; the namespace of the page's examples is nobody's."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    if namespace_header is not None:
        headers["X-Namespace"] = wizard.world.namespace if namespace_header == "own" else namespace_header
    body = {
        "webhook_name": f"batch-notify-{wizard.project}",
        "url": f"{wizard.site.url}/hook",
        "events": ["batch.completed", "batch.failed"],
    }
    answer = httpx.post(f"{wizard.world.url}/v1/webhooks", headers=headers, json=body)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert made["events"] == body["events"]
    assert made.get("namespace_id") == (wizard.world.namespace if namespace_header == "own" else None)
    if namespace_header in ("own", None):
        wizard.world.wait(wizard.world.client.collections.trigger(wizard.world.collection)["batch_id"])
        # One of the whole organization also hears of batches that tests before this one have left behind.
        told = wizard.until(lambda: [a.json for a in wizard.site.asked if wizard.world.namespace in a.json.values()])
        assert (told[0]["event_type"], told[0]["namespace_id"]) == ("batch.completed", wizard.world.namespace)
        if namespace_header == "own":
            assert {a.json["namespace_id"] for a in wizard.site.asked} == {wizard.world.namespace}
    wizard.world.request("DELETE", f"/webhooks/{made['webhook_id']}")


def test_new_documents_are_labelled_and_their_batch_says_so(wizard: Wizard) -> None:
    taxonomy = wizard.run("5g", REPLACE_TEXT_FIELD="text", **{"LABELS = [": labels()})["taxonomy_id"]
    world = wizard.world
    reference = world.client.collections.get(f"{wizard.project}-taxonomy-reference")["collection_id"]
    world.wait(world.client.collections.trigger(reference)["batch_id"])
    world.request("PATCH", f"/collections/{world.collection}", {"taxonomy_applications": [{"taxonomy_id": taxonomy}]})
    world.fresh_object(name="Rake", description="A rake for the leaves in the garden")
    batch = world.wait(world.client.collections.trigger(world.collection)["batch_id"])

    def followed() -> dict[str, Any] | None:
        found: dict[str, Any] = wizard.get(f"/batches/{batch['batch_id']}")["post_processing"]
        return found if found["done"] else None

    said = wizard.until(followed)
    assert (said["open"], said["done"], said["failed"]) == (0, 1, 0)
    assert said["phases"]["taxonomies"] == {"done": 1, "skipped": 0, "failed": 0, "problems": []}
    assert {row["name"]: row.get("label_name") for row in wizard.documents()}["Rake"] == "garden"
