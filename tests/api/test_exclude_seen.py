"""`exclude_seen`: what a session or a person was shown before is left out."""

from __future__ import annotations

from typing import Any

from learning_shop import Shop

from helpers import failed, places


def idents(result: dict[str, Any]) -> list[str]:
    return [document["document_id"] for document in result["documents"]]


def test_a_session_gets_new_documents_every_time(shop: Shop) -> None:
    retriever = shop.retriever()
    session: dict[str, Any] = {"session_id": "s1", "limit": 2}
    first = idents(shop.run(retriever, **session))
    again = idents(shop.run(retriever, **session))
    assert again == first  # it never narrows results by itself
    second = idents(shop.run(retriever, **session, exclude_seen="session"))
    third = idents(shop.run(retriever, **session, exclude_seen="session"))
    assert len({*first, *second, *third}) == 6
    assert idents(shop.run(retriever, **session, exclude_seen="session")) == []
    other = shop.run(retriever, session_id="s2", limit=2, exclude_seen="session")
    assert idents(other) == first


def test_a_person_is_known_across_sessions_and_retrievers(shop: Shop) -> None:
    one, two = shop.retriever("one"), shop.retriever("two")
    first = idents(shop.run(one, user_id="ann", session_id="a", limit=2))
    shop.server.app.services.executions.flush()
    second = idents(shop.run(two, user_id="ann", session_id="b", limit=2, exclude_seen="user"))
    assert not set(first) & set(second)
    by_input = idents(shop.run(two, inputs={"user_id": "ann"}, limit=2, exclude_seen="user"))
    assert not {*first, *second} & set(by_input)
    assert idents(shop.run(two, user_id="bob", limit=2, exclude_seen="user")) == first


def test_what_somebody_clicked_counts_as_seen(shop: Shop) -> None:
    retriever = shop.retriever()
    result = shop.run(retriever)
    shop.click(result, 0, user_id="ann", session_id="s")
    assert "rose" not in idents(shop.run(retriever, user_id="ann", exclude_seen="user"))
    assert "rose" not in idents(shop.run(retriever, session_id="s", exclude_seen="session"))


def test_cursors_walk_on_through_one_ranking(shop: Shop) -> None:
    retriever = shop.retriever()
    seen = idents(shop.run(retriever, session_id="s", limit=1))
    asked: dict[str, Any] = {"session_id": "s", "exclude_seen": "session", "limit": 2}
    page = shop.run(retriever, **asked)
    found = idents(page)
    while page["pagination"]["cursor"]:
        page = shop.run(retriever, **asked, cursor=page["pagination"]["cursor"])
        found += idents(page)
    assert len(found) == len(set(found)) == 5
    assert not set(seen) & set(found)


def test_counted_pages_and_nobody_are_refused(shop: Shop) -> None:
    retriever = shop.retriever()
    path = f"/v1/retrievers/{retriever}/execute"
    for body, field in (
        ({"exclude_seen": "session"}, "session_id"),
        ({"exclude_seen": "user", "session_id": "s"}, "user_id"),
        ({"exclude_seen": "session", "session_id": "s", "offset": 2}, "exclude_seen"),
        ({"exclude_seen": "everybody", "session_id": "s"}, "exclude_seen"),
    ):
        error = failed(shop.client.post(path, json={"inputs": {"query": "rose"}, **body}), 422)
        assert any(field in place for place in places(error)), (body, error)


def test_filters_and_caches_stay_what_they_are(shop: Shop) -> None:
    retriever = shop.retriever(cache_config={"enabled": True})
    cheap = {"field": "price", "operator": "lte", "value": 5}
    first = idents(shop.run(retriever, session_id="s", limit=2, filters=cheap))
    second = shop.run(retriever, session_id="s", filters=cheap, exclude_seen="session")
    assert second["cache_hit"] is False
    assert {document["price"] <= 5 for document in second["documents"]} == {True}
    assert not set(first) & set(idents(second))


def test_a_replay_leaves_out_the_same(shop: Shop) -> None:
    retriever = shop.retriever()
    shop.run(retriever, session_id="s", limit=2)
    past = shop.run(retriever, session_id="s", exclude_seen="session")
    shop.server.app.services.executions.flush()
    again = shop.post(f"/retrievers/{retriever}/executions/{past['execution_id']}/replay")
    assert again["identical"] is True


def test_other_tenants_and_forgotten_people_have_seen_nothing(shop: Shop, foreign: Shop) -> None:
    retriever, own = shop.retriever(), foreign.retriever()
    first = idents(shop.run(retriever, user_id="ann", session_id="s", limit=2))
    assert idents(foreign.run(own, user_id="ann", limit=2, exclude_seen="user")) == first
    shop.server.app.services.executions.flush()
    with shop.server.app.services.db.read(shop.scope) as tx:
        rows = tx.rows("shown_results", {})
    assert len(rows) == 1
    assert "ann" not in str(rows)
    assert shop.client.delete("/v1/retrievers/interactions/users/ann").status_code == 200
    assert idents(shop.run(retriever, user_id="ann", limit=2, exclude_seen="user")) == first
