"""kill -9 while messages are on their way: all of them arrive, under their own ids."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from delivery_world import World

from mediatheca.stores.db.engine import Database
from webhook_receiver import Receiver, Reply

HERE = Path(__file__).parent
MESSAGES = 240


def test_every_message_arrives_although_the_process_is_killed_again_and_again(db: Database, receiver: Receiver) -> None:
    gate = Gate(receiver)
    # A third of the first attempts fails, so that retries are interrupted, too.
    receiver.answer = lambda got: gate.passed(
        Reply(500 if got.attempt == 1 and hash(got.message_id) % 3 == 0 else 200, delay_s=0.01)
    )
    world = World(db)
    target = world.hook(receiver.url)
    ids = world.send(target, MESSAGES)
    for kill in range(1, 4):
        _killed_after(db, receiver, gate, kill * MESSAGES // 6)
    assert any(row["status"] == "sending" for row in world.rows()), "nothing was interrupted"
    world.deliverer(lease_s=1.0)
    rows = world.settled()
    world.close()
    assert {row["status"] for row in rows} == {"delivered"}
    assert {row["message_id"] for row in rows} == set(receiver.ids) == set(ids)
    bodies: Counter[str] = Counter(
        got.message_id for got in {(got.message_id, got.body): got for got in receiver.got}.values()
    )
    assert set(bodies.values()) == {1}, "the same id must always be the same message"


class Gate:
    """Beyond `limit` requests nobody gets an answer until it is opened: so whoever sends cannot be ready too soon."""

    def __init__(self, receiver: Receiver) -> None:
        self.limit, self.opened = MESSAGES * 10, threading.Event()
        self._receiver = receiver

    def passed(self, reply: Reply) -> Reply:
        if len(self._receiver.got) > self.limit:
            self.opened.wait(120)
        return reply


def _killed_after(database: Database, receiver: Receiver, gate: Gate, requests: int) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, str(HERE / "delivery_child.py"), url]
    gate.limit, gate.opened = requests, threading.Event()
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as child:
        end = time.monotonic() + 120
        while len(receiver.got) < requests and time.monotonic() < end:
            time.sleep(0.005)
        child.kill()
    assert len(receiver.got) >= requests
    gate.limit = MESSAGES * 10
    gate.opened.set()
