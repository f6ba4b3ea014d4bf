"""Evaluation, interactions and learned fusion by the hand-written client: every method it has for them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from compat_served import Served
from mixpeek import Mixpeek
from sdk_world import TEXT_URI, World

QUERY = {"query": "something to drink from"}


@pytest.fixture
def world(served: Served, client: Mixpeek, namespace: str) -> World:
    return World(client, served.url, namespace).build()


def learner(world: World) -> str:
    query = {"input_mode": "text", "value": "{{INPUT.query}}"}
    searches = [{"feature_uri": TEXT_URI, "query": query}, {"feature_uri": TEXT_URI, "query": query, "lexical": True}]
    parameters = {"searches": searches, "fusion": "learned", "learning_config": {}}
    made = world.client.retrievers.create(
        retriever_name="learner",
        collection_identifiers=[world.collection],
        stages=[{"stage_name": "s", "config": {"stage_id": "feature_search", "parameters": parameters}}],
        input_schema={"query": {"type": "string"}},
    )
    return str(made["retriever_id"])


def test_the_ten_routes_of_learned_fusion(world: World) -> None:
    retrievers, retriever = world.client.retrievers, learner(world)
    for _ in range(2):
        result = retrievers.execute(retriever, inputs=QUERY, user_id="ann")
        made = retrievers.create_interaction_from_result(result, position=0, user_id="ann")
        assert made["interaction_id"]
        assert made["learned"] is True
    assert result["learned_fusion_context"]["feature_uris"]
    assert retrievers.get_weights(retriever)["interactions"] == 2
    assert retrievers.get_user_weights(retriever, user_id="ann")["personal_interactions"] == 2
    assert retrievers.get_stats(retriever)["unique_users"] == 1
    assert retrievers.disable_learned_fusion(retriever)["enabled"] is False
    assert retrievers.enable_learned_fusion(retriever)["enabled"] is True
    assert retrievers.set_rollout(retriever, rollout_pct=12.5)["rollout_pct"] == 12.5
    assert retrievers.opt_out_user(retriever, user_id="ann")["opted_out"] is True
    assert retrievers.opt_in_user(retriever, user_id="ann")["opted_out"] is False
    assert retrievers.reset_user(retriever, user_id="ann")["reset"] is True
    assert retrievers.get_user_weights(retriever, user_id="ann")["personal_interactions"] == 0
    assert len(retrievers.get_activity(retriever)["activity"]) >= 5


def test_interactions_by_the_client(world: World) -> None:
    retrievers = world.client.retrievers
    past = (datetime.now(UTC) - timedelta(days=3)).isoformat()
    history = [
        {"feature_id": world.documents[0], "interaction_type": ["purchase"], "retriever_id": world.retriever,
         "user_id": "u1", "feature_uri": TEXT_URI, "occurred_at": past},
    ]  # fmt: skip
    assert retrievers.backfill_interactions(history)["created"] == 1
    listed = retrievers.list_interactions(world.retriever, page=1, page_size=10)
    ident = listed["results"][0]["interaction_id"]
    assert retrievers.get_interaction(ident)["timestamp"][:10] == past[:10]
    retrievers.delete_interaction(ident)
    assert retrievers.list_interactions(world.retriever)["results"] == []


def test_evaluations_by_the_client(world: World) -> None:
    client = world.client
    made = client.evaluations.create_dataset(
        dataset_name="golden",
        queries=[{"query_id": "q", "query_input": QUERY, "relevant_documents": [world.documents[0]]}],
        metadata={"by": "hand"},
    )
    assert client.evaluations.list_datasets()["datasets"][0]["dataset_id"] == made["dataset_id"]
    assert client.evaluations.get_dataset("golden")["metadata"] == {"by": "hand"}
    started = client.evaluations.run(world.retriever, dataset_id=made["dataset_id"])
    for _ in range(2_400):
        record = client.evaluations.get(world.retriever, started["evaluation_id"])
        if record["status"] in ("completed", "failed"):
            break
        time.sleep(0.05)
    assert record["status"] == "completed", record["error_message"]
    assert client.evaluations.list(world.retriever)["total"] == 1
    assert client.tasks.get(started["task_id"])["status"] == "COMPLETED"
    assert client.retrievers.run_evaluation(world.retriever, dataset_name="golden")["evaluation_id"]


def test_a_dataset_is_made_of_what_people_clicked(world: World) -> None:
    retrievers = world.client.retrievers
    for _ in range(5):
        result = retrievers.execute(world.retriever, inputs=QUERY)
        retrievers.create_interaction_from_result(result, position=0, user_id="ann")
    made = world.client.evaluations.generate_from_interactions(world.retriever, min_interactions=1)
    assert (made["query_count"], made["queries"][0]["query_input"]) == (1, QUERY)


def test_publishing_without_a_body(world: World) -> None:
    made = world.client.retrievers.publish(world.fresh_retriever())
    assert made["public_url"].endswith("/" + made["public_name"])
