"""Delivery of messages: everything arrives, with the same id, whatever the receiver does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from delivery_world import CHANNELS, SCOPE, World
from sqlalchemy import text
from standardwebhooks import Webhook

from mail_server import a_mail_server
from mediatheca.channels import Channel, ChannelParams
from mediatheca.flows.delivery import ChannelRef, Deliverer, refs_of, replay_many, rotate_signing
from mediatheca.flows.delivery.addresses import Address
from mediatheca.flows.delivery.attempts import outcome
from mediatheca.flows.delivery.backoff import BREAK_AFTER, Breaker, next_delay
from mediatheca.flows.delivery.lanes import Lanes
from mediatheca.flows.delivery.setup import NotifySetup
from mediatheca.kernel import clock
from mediatheca.kernel.notices import Notice, Sent
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.deliveries import Claimed, Result
from mediatheca.stores.db.engine import Database
from ports import free_ports
from webhook_receiver import Got, Receiver, Reply, a_receiver


def test_a_message_arrives_once_and_its_delivery_says_so(each_world: World, receiver: Receiver) -> None:
    each_world.deliverer()
    target = each_world.hook(f"{receiver.url}/hook", headers={"X-Team": "search"})
    (ident,) = each_world.send(target, body={"event_id": "e", "data": {"name": "Lisboa – é"}})
    row = each_world.ended(ident)
    assert (row["status"], row["attempts"], row["last_status"], row["response"]) == ("delivered", 1, 200, "ok")
    assert row["finished_at"] is not None
    (got,) = receiver.got
    assert got.path == "/hook"
    assert got.json == {"event_id": "e", "data": {"name": "Lisboa – é"}}
    assert got.message_id == ident
    assert got.headers["x-team"] == "search"
    assert [told.status for told in each_world.told] == ["delivered"]


def test_a_receiver_that_fails_half_the_time_gets_everything(each_world: World, receiver: Receiver) -> None:
    receiver.answer = lambda got: Reply(503 if hash((got.message_id, got.attempt)) % 2 else 200)
    each_world.deliverer()
    ids = each_world.send(each_world.hook(receiver.url), 150)
    rows = each_world.settled()
    assert {row["status"] for row in rows} == {"delivered"}
    assert {got.message_id for got in receiver.got} == set(ids)
    assert {row["message_id"]: row["attempts"] for row in rows} == {ident: receiver.ids.count(ident) for ident in ids}


def test_what_a_transaction_queued_and_undid_is_not_sent(world: World, receiver: Receiver) -> None:
    world.deliverer()
    target = world.hook(receiver.url)
    with pytest.raises(RuntimeError), world.db.begin(SCOPE) as tx:
        world.enqueue(tx, target, "evt_undone")
        raise RuntimeError
    (ident,) = world.send(target)
    world.ended(ident)
    assert receiver.ids == [ident]


def test_a_message_is_queued_once_however_often_it_is_asked_for(each_world: World, receiver: Receiver) -> None:
    target = each_world.hook(receiver.url)
    with each_world.db.begin(SCOPE) as tx:
        assert len(each_world.enqueue(tx, target, "evt_1")) == 1
        assert each_world.enqueue(tx, target, "evt_1") == []
    with each_world.db.begin(SCOPE) as tx:
        assert each_world.enqueue(tx, target, "evt_1") == []
    assert len(each_world.rows()) == 1


def test_one_of_two_transactions_that_queue_the_same_message_wins(each_world: World, receiver: Receiver) -> None:
    target, made = each_world.hook(receiver.url), []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        made.extend(each_world.db.run(SCOPE, lambda tx: each_world.enqueue(tx, target, "evt_1")))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["delivery_id"] for row in each_world.rows()] == made


def test_a_receiver_that_is_gone_gets_no_second_attempt_and_its_owner_is_told(world: World, receiver: Receiver) -> None:
    receiver.answer = lambda got: Reply(410)
    world.deliverer()
    (ident,) = world.send(world.hook(receiver.url))
    row = world.ended(ident)
    assert (row["status"], row["attempts"]) == ("failed", 1)
    assert [(told.gone, told.http_status) for told in world.told] == [(True, 410)]


def test_the_last_attempt_ends_it(world: World, receiver: Receiver) -> None:
    receiver.answer = lambda got: Reply(500, b"no\0pe")
    world.deliverer((0.0, 0.0))
    (ident,) = world.send(world.hook(receiver.url))
    row = world.ended(ident)
    assert (row["status"], row["attempts"], row["response"]) == ("failed", 3, "no\ufffdpe")
    assert row["last_error"] == "the receiver answered with status 500"
    assert [told.status for told in world.told] == ["pending", "pending", "failed"]


@pytest.mark.parametrize("told", ["7200", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_receiver_says_how_long_to_wait(world: World, receiver: Receiver, told: str) -> None:
    receiver.answer = lambda got: Reply(429, headers={"retry-after": told})
    world.deliverer((0.01,))
    (ident,) = world.send(world.hook(receiver.url))
    world.until(lambda: world.row(ident)["attempts"] == 1)
    wait = world.row(ident)["run_at"] / 1e6 - time.time()
    assert 7100 < wait <= 12 * 3600


def test_redirects_are_not_followed(world: World, receiver: Receiver) -> None:
    receiver.answer = lambda got: Reply(302, headers={"location": "http://169.254.169.254/"})
    world.deliverer(())
    (ident,) = world.send(world.hook(receiver.url))
    row = world.ended(ident)
    assert row["last_status"] == 302
    assert "redirects are not followed" in row["last_error"]
    assert len(receiver.got) == 1


def test_an_address_that_is_refused_by_now_is_not_asked(world: World, receiver: Receiver) -> None:
    target = world.hook(receiver.url)
    strict = World(world.db, allow="")
    strict.deliverer(())
    (ident,) = world.send(target)
    row = world.ended(ident)
    strict.close()
    assert row["status"] == "failed"
    assert "MEDIATHECA_FETCH_ALLOW" in row["last_error"]
    assert receiver.got == []


def test_a_receiver_that_is_not_there_is_no_trouble(world: World) -> None:
    (port,) = free_ports(1)
    world.deliverer((0.0,))
    (ident,) = world.send(world.hook(f"http://127.0.0.1:{port}"))
    row = world.ended(ident)
    assert (row["status"], row["attempts"], row["last_status"]) == ("failed", 2, None)
    assert "cannot be reached" in row["last_error"]


@pytest.mark.parametrize(
    "reply", [Reply(delay_s=3), Reply(body=b"x" * 100, drip_s=0.1)], ids=["that hangs", "that drips"]
)
def test_a_receiver_has_its_time_and_no_more(world: World, receiver: Receiver, reply: Reply) -> None:
    receiver.answer = lambda got: reply
    world.deliverer(())
    (ident,) = world.send(world.hook(receiver.url, timeout=0.3))
    row = world.ended(ident)
    assert (row["status"], row["last_error"]) == ("failed", "url: the receiver did not answer within 0.3 seconds")


def test_one_that_hangs_up_is_asked_again(world: World, receiver: Receiver) -> None:
    receiver.answer = lambda got: Reply(close=got.attempt < 3)
    world.deliverer()
    (ident,) = world.send(world.hook(receiver.url))
    assert world.ended(ident)["status"] == "delivered"


def test_of_a_large_answer_only_the_beginning_is_read_and_kept(world: World, receiver: Receiver) -> None:
    receiver.answer = lambda got: Reply(body=b"A" * (10 << 20))
    world.deliverer()
    (ident,) = world.send(world.hook(receiver.url))
    row = world.ended(ident)
    assert (row["status"], row["response"]) == ("delivered", "A" * 1024)


def held_up(receiver: Receiver) -> threading.Event:
    """Who asks for `/slow` waits until this is set, or for its thirty seconds."""
    told = threading.Event()

    def answer(got: Got) -> Reply:
        if got.path == "/slow":
            told.wait(60)
        return Reply()

    receiver.answer = answer
    return told


def test_a_slow_receiver_makes_nobody_else_wait(world: World, receiver: Receiver) -> None:
    told = held_up(receiver)
    world.deliverer(at_once=96, per_target=8)
    world.send(world.hook(f"{receiver.url}/slow", timeout=30), 300)
    world.until(lambda: len(receiver.got) >= 8)
    quick = world.send(world.hook(f"{receiver.url}/quick"), 20)
    world.until(lambda: {row["status"] for row in world.rows(message_id=quick)} == {"delivered"}, 25)
    assert sum(got.path == "/slow" for got in receiver.got) == 8
    told.set()


def test_many_slow_receivers_with_a_backlog_make_nobody_else_wait(world: World, receiver: Receiver) -> None:
    told = held_up(receiver)
    world.deliverer(at_once=256)
    for _ in range(24):
        world.send(world.hook(f"{receiver.url}/slow", timeout=30), 60)
    world.until(lambda: len(receiver.got) >= 24)
    (quick,) = world.send(world.hook(f"{receiver.url}/quick"))
    world.until(lambda: world.row(quick)["status"] == "delivered", 25)
    assert receiver.busiest <= 64 + 25
    told.set()


def test_one_organization_takes_no_more_than_its_part_of_what_is_on_its_way() -> None:
    lanes = Lanes(at_once=64, per_target=16)
    for org, targets in (("org_greedy", 1_000), ("org_late", 4)):
        for number in range(targets * 4):
            target, ident = f"wh_{org}_{number % targets}", f"dlv_{org}_{number}"
            lanes.add(Claimed(ident, Scope(org), "webhook", target, 0, {}, ident, "e", {}, 0), Address())
        flying = list(lanes.ready(0.0))
        assert {lane.organization_id for lane, _, _ in flying} == {org}, "the late one found no room"
        assert len(flying) == (32 if org == "org_greedy" else targets)
        if org == "org_greedy":
            lanes.landed(flying[0][0], True, 0.0)
            assert len(list(lanes.ready(0.0))) == 1


def test_a_result_that_the_database_refuses_keeps_back_no_other(
    each_world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(claimed: Claimed, address: Address, sent: Sent, backoff: Sequence[float]) -> Result:
        made = outcome(claimed, address, sent, backoff)
        return replace(made, response="\ud800") if claimed.message_id == ids[3] else made

    target = each_world.hook(receiver.url)
    ids = each_world.send(target, 12)
    monkeypatch.setattr("mediatheca.flows.delivery.deliverer.outcome", odd)
    each_world.deliverer()
    rows = {row["message_id"]: row for row in each_world.settled()}
    assert [ident for ident in ids if rows[ident]["status"] != "delivered"] == [ids[3]]
    assert (rows[ids[3]]["status"], rows[ids[3]]["response"]) == ("failed", None)
    assert "could not be recorded" in str(rows[ids[3]]["last_error"])
    assert len(each_world.told) == 12


def test_connections_are_kept(world: World, receiver: Receiver) -> None:
    world.deliverer(per_target=4)
    world.send(world.hook(receiver.url), 100)
    world.settled()
    assert len(receiver.got) == 100
    assert receiver.connections <= 4


def test_a_connection_that_the_receiver_closed_meanwhile_costs_no_attempt(world: World) -> None:
    world.deliverer()
    (port,) = free_ports(1)  # none that somebody else is given in between
    with a_receiver(port) as first:
        target = world.hook(first.url)
        world.ended(*world.send(target))
    with a_receiver(port) as second:
        (ident,) = world.send(target)
        assert world.ended(ident)["attempts"] == 1
        assert second.ids == [ident]


def test_targets_that_are_gone_or_off_get_nothing(world: World, receiver: Receiver) -> None:
    gone, off, none = (world.hook(receiver.url) for _ in range(3))
    ids = [world.send(target)[0] for target in (gone, off, none)]
    with world.db.begin(SCOPE) as tx:
        tx.remove(gone)
    world.change(off, is_active=False)
    world.change(none, deliver_to=[])
    world.deliverer()
    rows = {row["message_id"]: row for row in world.settled()}
    assert [rows[ident]["status"] for ident in ids] == ["canceled"] * 3
    assert [rows[ident]["last_error"].split(";")[0] for ident in ids] == [
        "the webhook was deleted", "the webhook is switched off", "the webhook has no such channel any more",
    ]  # fmt: skip
    (test,) = world.send(off, always=True)
    assert world.ended(test)["status"] == "delivered"
    assert receiver.ids == [test]


def test_a_change_of_settings_counts_for_what_waits(world: World, receiver: Receiver) -> None:
    target = world.hook("https://nobody.invalid/")
    (ident,) = world.send(target)
    refs = world.resolve({"channel_type": "webhook", "config": {"url": f"{receiver.url}/new"}}, current=refs_of(target))
    world.change(target, deliver_to=[ref.stored() for ref in refs])
    world.deliverer()
    assert world.ended(ident)["status"] == "delivered"
    assert receiver.got[0].path == "/new"


def test_secrets_that_a_receiver_repeats_are_not_kept(world: World, receiver: Receiver) -> None:
    receiver.answer = lambda got: Reply(500, got.headers["authorization"].encode() + b" is wrong")
    world.deliverer(())
    (ident,) = world.send(world.hook(receiver.url, headers={"Authorization": "Bearer very-secret-9"}))
    assert world.ended(ident)["response"] == "*** is wrong"
    assert receiver.got[0].headers["authorization"] == "Bearer very-secret-9"


def test_signatures_are_those_of_the_standard_and_two_secrets_are_valid_for_a_while(
    world: World, receiver: Receiver
) -> None:
    (ref,) = world.resolve({"channel": "webhook", "configs": {"url": receiver.url}})
    first = ref.secret
    with world.db.begin(SCOPE) as tx:
        target = tx.put("webhook", "wh", "signed", {"deliver_to": [ref.stored()]})
    world.deliverer()
    world.ended(*world.send(target))
    refs, second = rotate_signing(world.vault, SCOPE, refs_of(target), 3600)
    target = world.change(target, deliver_to=[each.stored() for each in refs])
    world.ended(*world.send(target))
    refs, third = rotate_signing(world.vault, SCOPE, refs, 0)
    world.change(target, deliver_to=[each.stored() for each in refs])
    world.ended(*world.send(target))
    accepted = [[_verifies(secret, got) for secret in (first, second, third)] for got in receiver.got]
    assert accepted == [[True, False, False], [True, True, False], [False, False, True]]


def _verifies(secret: str, got: Got) -> bool:
    try:
        Webhook(secret).verify(got.body, got.headers)
    except Exception:
        return False
    return True


def test_a_message_that_is_too_long_is_given_up_with_a_reason(world: World, receiver: Receiver) -> None:
    world.deliverer()
    (ident,) = world.send(world.hook(receiver.url), body={"data": "x" * (2 << 20)})
    row = world.ended(ident)
    assert (row["status"], row["attempts"]) == ("failed", 1)
    assert "at most 1,048,576" in row["last_error"]
    assert receiver.got == []


def test_a_failing_listener_does_not_undo_results(world: World, receiver: Receiver) -> None:
    def fail(*told: object) -> None:
        raise RuntimeError("broken")

    made = world.deliverer(start=False)
    made.recorded = fail
    made.start()
    (ident,) = world.send(world.hook(receiver.url))
    assert world.ended(ident)["status"] == "delivered"
    assert len(receiver.got) == 1


def test_a_closed_deliverer_leaves_the_rest_to_the_next(each_world: World, receiver: Receiver) -> None:
    receiver.answer = lambda got: Reply(delay_s=0.02)
    first = each_world.deliverer(per_target=2)
    ids = each_world.send(each_world.hook(receiver.url), 60)
    each_world.until(lambda: len(receiver.got) >= 5)
    first.close()
    assert {row["status"] for row in each_world.rows()} <= {"pending", "delivered"}
    each_world.deliverer()
    each_world.settled()
    assert sorted(receiver.ids) == sorted(ids)


def senders(database: Database) -> int:
    """How many deliverers have messages on their way."""
    count = text("SELECT count(DISTINCT lease_token) FROM deliveries WHERE status = 'sending'")
    with database.system() as connection:
        return int(connection.execute(count).scalar_one())


def test_two_deliverers_share_the_work_and_send_nothing_twice(postgres_url: str, receiver: Receiver) -> None:
    databases = [Database(postgres_url) for _ in range(2)]
    databases[0].migrate()
    with databases[0].system() as connection:
        connection.execute(text("TRUNCATE deliveries, resources"))
    worlds = [World(database) for database in databases]
    both = threading.Event()

    def answer(got: Got) -> Reply:
        both.wait(60)
        return Reply(delay_s=0.002)

    receiver.answer = answer
    target = worlds[0].hook(receiver.url, timeout=30)
    ids = worlds[0].send(target, 400)
    for each in worlds:
        each.deliverer(at_once=8, per_target=4)
    worlds[0].until(lambda: senders(databases[0]) == 2)
    both.set()
    worlds[0].settled()
    for each in worlds:
        each.close()
        each.db.close()
    assert sorted(receiver.ids) == sorted(ids)
    assert all(each.told for each in worlds)


def test_a_lost_lease_is_taken_over_and_the_late_result_is_left_out(each_world: World, receiver: Receiver) -> None:
    from mediatheca.stores.db.deliveries import Deliveries, Result

    (ident,) = each_world.send(each_world.hook(receiver.url))
    slow, quick = Deliveries(each_world.db, lease_s=0), Deliveries(each_world.db, lease_s=60)
    (claimed,) = slow.claim(10)
    time.sleep(0.01)
    assert quick.reap() == 1
    assert [each.message_id for each in quick.claim(10)] == [ident]
    with each_world.db.across("test") as tx:
        assert slow.record(tx, [Result(claimed.delivery_id, "failed")]) == []
        assert len(quick.record(tx, [Result(claimed.delivery_id, "delivered")])) == 1
    assert each_world.row(ident)["status"] == "delivered"


def test_a_receiver_that_fails_on_and_on_is_only_probed(world: World, receiver: Receiver) -> None:
    healthy, failed = threading.Event(), list[float]()

    def answer(got: Got) -> Reply:
        if healthy.is_set():
            return Reply()
        failed.append(time.monotonic())
        return Reply(500)

    receiver.answer = answer
    world.deliverer((30.0,) * 9, per_target=1, probes=(0.7,))
    target = world.hook(receiver.url)
    world.send(target, BREAK_AFTER + 100)
    world.until(lambda: all(row["last_error"] for row in world.rows()))
    waiting = [row for row in world.rows() if row["attempts"] == 0]
    probed = len(receiver.got) - BREAK_AFTER
    assert probed >= 0
    assert len(waiting) >= 100 - probed
    assert {row["status"] for row in waiting} <= {"pending", "sending"}
    healthy.set()
    world.settled()
    assert {row["status"] for row in world.rows()} == {"delivered"}
    assert all(later - earlier >= 0.69 for earlier, later in pairwise(failed[BREAK_AFTER - 1 :]))


def test_the_breaker_probes_one_at_a_time_and_waits_longer_each_time() -> None:
    breaker = Breaker()
    for _ in range(BREAK_AFTER):
        assert breaker.allowed(0, 16) == 16
        breaker.note(False, 0, (5, 30))
    assert breaker.allowed(4.9, 16) == 0
    assert breaker.allowed(5, 16) == 1
    breaker.note(False, 5, (5, 30))
    assert (breaker.allowed(34, 16), breaker.allowed(35, 16)) == (0, 1)
    breaker.note(True, 35, (5, 30))
    assert breaker.allowed(35, 16) == 16


def test_delays_grow_with_jitter_and_end() -> None:
    backoff = (5.0, 30.0)
    assert all(4 <= (next_delay(1, backoff, None) or 0) <= 6 for _ in range(100))
    assert len({next_delay(1, backoff, None) for _ in range(20)}) > 10
    assert next_delay(2, backoff, 3600) == 3600
    assert next_delay(3, backoff, 3600) is None


def test_alerts_of_a_namespace_and_channels_of_the_organization_are_found(world: World, receiver: Receiver) -> None:
    stored = world.target({"channel_type": "webhook", "config": {"url": f"{receiver.url}/stored"}}, kind="channel")
    refs = [ChannelRef(0, "webhook", stored.id)]
    with world.db.begin(SCOPE) as tx:
        inner = tx.within("ns_1")
        alert = inner.put("alert", "alt", "a", {"deliver_to": [ref.stored() for ref in refs]})
        world.enqueue(inner, alert, "evt_alert")
    world.deliverer()

    def row() -> str:
        with world.db.read(SCOPE) as tx:
            return str(tx.within("ns_1").rows("deliveries", {})[0]["status"])

    world.until(lambda: row() == "delivered")
    assert receiver.got[0].path == "/stored"
    assert receiver.got[0].headers["webhook-signature"]


def test_mails_beyond_the_hourly_number_wait_and_lose_no_attempt(lone_db: Database) -> None:
    with a_mail_server() as box:
        setup = NotifySetup.parse(f"smtp://127.0.0.1:{box.port}?from=robot@example.org&per_hour=2")
        world = World(lone_db, setup=setup)
        world.deliverer()
        ids = world.send(world.target({"channel_type": "email", "config": {"to": "ann@example.org"}}), 3)
        world.until(lambda: len(box.mails) == 2 and any(row["last_error"] for row in world.rows()))
        world.until(lambda: [row["status"] for row in world.rows()].count("delivered") == 2)
        (waiting,) = [row for row in world.rows() if row["status"] != "delivered"]
        world.close()
    assert (waiting["status"], waiting["attempts"]) == ("pending", 0)
    assert waiting["run_at"] / 1e6 - time.time() > 3000
    assert waiting["message_id"] in ids


def test_what_a_crashing_channel_does_is_recorded_and_tried_again(world: World, receiver: Receiver) -> None:
    """A fault in a plug-in must not stop the thread that serves everybody."""
    calls: list[str] = []

    async def crash(notice: Notice, params: object, context: object) -> Sent:
        calls.append(notice.message_id)
        raise KeyError("no such thing")

    broken = Channel("broken", "Crashes.", ChannelParams, crash)
    with world.db.begin(SCOPE) as tx:
        ref = ChannelRef(0, "broken")
        target = tx.put("webhook", "wh", "crashing", {"deliver_to": [ref.stored()]})
    made = Deliverer(world.db, world.fetcher, world.vault, [*CHANNELS, broken], world.setup, backoff=(0.0,))
    made.start()
    (bad,) = world.send(target)
    (good,) = world.send(world.hook(receiver.url))
    rows = {row["message_id"]: row for row in world.settled()}
    made.close()
    assert calls == [bad, bad]
    assert (rows[bad]["status"], rows[good]["status"]) == ("failed", "delivered")
    assert "KeyError" in rows[bad]["last_error"]


def test_replays_keep_their_ids_and_choose_by_time_and_status(each_world: World, receiver: Receiver) -> None:
    receiver.answer = lambda got: Reply(410 if got.attempt == 1 else 200)
    each_world.deliverer()
    target = each_world.hook(receiver.url)
    ids = each_world.send(target, 5)
    each_world.settled()
    moment = clock.now()
    with each_world.db.begin(SCOPE) as tx:
        assert replay_many(tx, "webhook", target.id, since=moment) == 0
        assert replay_many(tx, "webhook", target.id, since=moment - timedelta(days=1), status="delivered") == 0
        assert replay_many(tx, "webhook", target.id, since=moment - timedelta(days=1), until=moment) == 5
    assert {row["status"] for row in each_world.settled()} == {"delivered"}
    assert sorted(receiver.ids) == sorted([*ids, *ids])


def test_a_mail_server_that_hangs_keeps_no_webhook_waiting(lone_db: Database, receiver: Receiver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        setup = NotifySetup.parse(f"smtp://127.0.0.1:{silent.getsockname()[1]}?from=robot@example.org")
        world = World(lone_db, setup=setup)
        world.deliverer(at_once=40)
        for _ in range(10):
            world.send(world.target({"channel_type": "email", "config": {"to": "ann@example.org"}}), 20)
        world.until(lambda: any(row["status"] == "sending" for row in world.rows()))
        ids = world.send(world.hook(receiver.url), 30)
        world.until(lambda: {row["status"] for row in world.rows(message_id=ids)} == {"delivered"})
        silent.close()
        world.close()
