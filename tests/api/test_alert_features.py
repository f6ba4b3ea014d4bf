"""How an alert names the searches that a document matched."""

from __future__ import annotations

from documents_world import URI
from learning_shop import Shop, search, stage

from mediatheca.flows.alerts.evaluate import run_alerts
from mediatheca.flows.follow_up import FollowUp
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import Run
from mediatheca.kernel.ids import new_id


def test_a_match_names_its_searches_alike_in_the_pass_and_in_a_run(shop: Shop) -> None:
    retriever = shop.retriever("near", stage(search(min_score=0.95)))
    body = {"name": new_id("a"), "retriever_id": retriever, "inputs": {"query": "yellow submarine"}}
    path = f"/alerts/{shop.post('/alerts', body)['alert_id']}"
    shop.write([("sub", "yellow submarine", 1.0, "x")])
    services = shop.server.app.services
    with services.db.read(shop.scope) as tx:
        collection = tx.get("collection", shop.collection)
    job = Job(new_id("job"), shop.scope, "follow_up", {}, 1, 5, None, "token")
    run_alerts(services, Run(job), FollowUp(new_id("fol"), shop.scope, collection, ["sub"]))
    passed = shop.get(f"{path}/results")
    assert passed["trigger_reason"] == "1 document matched"
    ran = shop.post(f"{path}/execute", {})
    assert set(passed["matches"][0]["matched_features"]) == set(ran["matches"][0]["matched_features"]) == {URI}
