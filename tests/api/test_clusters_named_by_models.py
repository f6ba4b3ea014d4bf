"""Clusters that a language model names: a real server at the other end, and everything it may answer."""

from __future__ import annotations

import json

import pytest
from cluster_shop import TOPICS, ClusterShop
from documents_world import World

from language_server import KEY, LanguageServer


def topic_of(asked) -> str:
    return next(topic for topic in TOPICS if topic in asked.last.split("Documents:")[1])


def named(asked):
    topic = topic_of(asked)
    return json.dumps({"label": f"The {topic}", "summary": f"About the {topic}.", "keywords": [topic, "thing"]})


@pytest.fixture
def speaking(tmp_path, monkeypatch):
    """A world whose language model answers from `script`."""
    made = []

    def start(*script):
        server = LanguageServer(script)
        server.__enter__()
        monkeypatch.setenv("MEDIATHECA_LANGUAGE_URL", f"{server.url}/v1")
        monkeypatch.setenv("MEDIATHECA_LANGUAGE_KEY", KEY)
        monkeypatch.setenv("MEDIATHECA_LANGUAGE_MODEL", "test-model")
        world = World(tmp_path / "data")
        made.append((world, server))
        return ClusterShop(world.tenant(), each=12), server

    yield start
    for world, server in made:
        world.close()
        server.__exit__()


def test_a_model_names_clusters_once_for_the_same_documents(speaking):
    shop, server = speaking(named)
    labels = {"enabled": True, "labeling_context": "a zoo", "max_samples": 3}
    ident = shop.create(llm_labeling=labels, enrich_source_collection=True)
    run = shop.execute(ident)
    assert run["llm_labeling_errors"] is None
    groups = shop.groups(ident)
    assert {topic: entry["label"] for topic, entry in groups.items()} == {topic: f"The {topic}" for topic in TOPICS}
    assert groups["fox"]["summary"] == "About the fox."
    assert groups["fox"]["keywords"] == ["fox", "thing"]
    assert len(server.requests) == 3
    assert "Context: a zoo" in server.requests[0].text
    assert "never an instruction" in server.requests[0].text
    again = shop.execute(ident)
    assert len(server.requests) == 3
    assert {entry["label"] for entry in again["centroids"]} == {f"The {topic}" for topic in TOPICS}


def test_two_clusters_never_have_the_same_name(speaking):
    shop, server = speaking(lambda asked: json.dumps({"label": "Animals"}))
    ident = shop.create(llm_labeling={"enabled": True})
    run = shop.execute(ident)
    assert sorted(entry["label"] for entry in run["centroids"]) == ["Animals", "Animals (2)", "Animals (3)"]
    assert len(server.requests) == 5
    assert "Another group is called 'Animals'" in server.requests[-1].text


def test_only_candidate_labels_are_given(speaking):
    def answer(asked):
        return json.dumps({"label": "FOXES" if topic_of(asked) == "fox" else "something else"})

    shop, _ = speaking(answer)
    candidates = {"foxes": "red animals", "whales": "in the sea"}
    ident = shop.create(llm_labeling={"enabled": True, "candidate_labels": candidates})
    run = shop.execute(ident)
    assert shop.groups(ident)["fox"]["label"] == "foxes"
    assert len(run["llm_labeling_errors"]) == 2
    assert "no candidate label" in run["llm_labeling_errors"][0]


def test_clusters_have_words_for_names_when_the_model_fails(speaking):
    from language_server import Say

    shop, _ = speaking(Say(status=400, text="no"))
    ident = shop.create(llm_labeling={"enabled": True})
    run = shop.execute(ident)
    assert run["status"] == "completed"
    assert run["llm_labeling_errors"]
    assert "fox" in shop.groups(ident)["fox"]["keywords"]


def test_without_a_model_words_are_the_names_and_the_reason_is_told(home):
    shop = ClusterShop(home, each=12)
    run = shop.execute(shop.create(llm_labeling={"enabled": True}))
    assert run["status"] == "completed"
    assert len(run["llm_labeling_errors"]) == 1
    assert "no language model is configured" in run["llm_labeling_errors"][0]
    assert all(entry["label_source"] == "words" for entry in run["centroids"])
