"""Clients that write, change, delete and trigger until the server dies under them, and say so to the model."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx
from crash_model import Doubt, Model, Thing
from datapath_process import ServerProcess
from datapath_shop import Shop, content, ok, parts_of


class Clients:
    """One thread a kind of request, all through HTTP. They end when the server no longer answers."""

    def __init__(self, server: ServerProcess, shop: Shop, model: Model) -> None:
        self._server, self._shop, self._model = server, shop, model
        self._stop = threading.Event()
        self.errors: list[BaseException] = []
        acts = (self._create, self._update, self._delete, self._delete_document, self._trigger)
        self._threads = [threading.Thread(target=self._loop, args=(act, n), daemon=True) for n, act in enumerate(acts)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(150)  # longer than a request may take
            assert not thread.is_alive(), "a client hangs"

    def _loop(self, act: Callable[[Shop], float], number: int) -> None:
        with self._server.client() as client:
            shop = self._shop.at(client)
            try:
                while not self._stop.wait(act(shop)):
                    pass
            except httpx.TransportError:
                self._model.count("clients cut off")
            except BaseException as error:
                if not self._gone(error):
                    self.errors.append(error)

    def _gone(self, error: BaseException) -> bool:
        return isinstance(error, AssertionError) and self._stop.is_set()

    def _create(self, shop: Shop) -> float:
        things = self._model.new(self._model.random.randint(1, 25))
        made = shop.create([content(thing.number, thing.version) for thing in things])
        for thing, object_id in zip(things, made, strict=True):
            thing.object_id, thing.doubt = object_id, None
            self._model.give(thing)
        self._model.count("created", len(made))
        return 0.05 if len(self._model.things) < 500 else 1.0

    def _update(self, shop: Shop) -> float:
        thing = self._model.borrow()
        if thing is None:
            return 0.05
        thing.doubt, thing.settled = Doubt.UPDATE, False
        shop.update(thing.object_id, content(thing.number, thing.version + 1))
        thing.version += 1
        thing.buried.clear()
        self._done(thing, "updated")
        return 0.005

    def _delete(self, shop: Shop) -> float:
        thing = self._model.borrow()
        if thing is None or len(self._model.alive()) < 30:
            if thing is not None:
                self._model.give(thing)
            return 0.1
        thing.doubt, thing.settled = Doubt.DELETE, False
        shop.delete(thing.object_id)
        thing.exists = False
        self._done(thing, "deleted")
        self._check_gone(shop, thing, parts_of(thing.number, thing.version))
        return 0.04

    def _delete_document(self, shop: Shop) -> float:
        thing = self._model.borrow(settled=True)
        if thing is None:
            return 0.05
        texts = parts_of(thing.number, thing.version)
        left = [part for part in range(len(texts)) if part not in thing.buried]
        if not left:
            self._model.give(thing)
            return 0.01
        part = self._model.random.choice(left)
        found = [hit for hit in shop.search(texts[part]) if hit["text"] == texts[part]]
        assert len(found) == 1, f"{len(found)} documents of {thing} part {part}, though its batch is complete"
        thing.doubt, thing.doubtful_part = Doubt.DOCUMENT, part
        shop.delete_document(found[0]["document_id"])
        thing.buried.add(part)
        self._done(thing, "documents deleted")
        self._check_gone(shop, thing, [texts[part]])
        return 0.03

    def _check_gone(self, shop: Shop, thing: Thing, texts: list[str]) -> None:
        for text in texts:
            assert not any(hit["text"] == text for hit in shop.search(text)), f"still found after its delete: {thing}"

    def _done(self, thing: Thing, name: str) -> None:
        thing.doubt = None
        self._model.give(thing)
        self._model.count(name)

    def _trigger(self, shop: Shop) -> float:
        if not self._model.waiting():
            return 0.05
        if not self._model.open:  # else the batch that the last kill interrupted comes first
            covered = self._model.waiting()
            changed = [thing.object_id for thing, _ in covered if not thing.settled]
            try:
                self._model.open = (shop.trigger(**({"object_ids": changed} if changed else {})), covered)
            except AssertionError as error:
                if "missing_object_ids" not in str(error):
                    raise
                return 0.01  # one of them was deleted since they were listed
        ident, covered = self._model.open
        batch = shop.ended(ident)
        self._model.open = None
        self._model.count("batches ended")
        assert batch["status"] != "CANCELED", batch
        if batch["status"] == "COMPLETED":
            self._model.settle(covered)
        else:  # a chunk may have been taken down by too many kills
            assert all(row["phase"] == "job" for row in batch["failed_objects"]), batch["failed_objects"][:3]
        return 0.02


def reconcile(shop: Shop, model: Model) -> None:
    """After a restart: what was acknowledged must be there; what got no answer happened or did not."""
    stored = shop.objects()
    numbers = [row["number"] for row in stored.values()]
    assert len(numbers) == len(set(numbers)), "an object is there twice"
    by_number = {row["number"]: (ident, row["version"]) for ident, row in stored.items()}
    for thing in model.things.values():
        _resolve(thing, by_number.pop(thing.number, None))
        thing.busy, thing.doubt = False, None
    assert not by_number, f"objects that nobody made: {by_number}"
    _resolve_documents(shop, model)


def _resolve(thing: Thing, seen: tuple[str, int] | None) -> None:
    if thing.doubt in (Doubt.CREATE, Doubt.DELETE):
        thing.exists = seen is not None
        if seen is not None:
            thing.object_id = seen[0]
    if not thing.exists:
        assert seen is None, f"back from the dead: {thing}"
        return
    assert seen is not None, f"an acknowledged object is lost: {thing}"
    assert seen[0] == thing.object_id, thing
    if thing.doubt is Doubt.UPDATE and seen[1] == thing.version + 1:
        thing.version += 1
        thing.buried.clear()
    assert seen[1] == thing.version, f"version {seen[1]} is stored, acknowledged was {thing}"


def _resolve_documents(shop: Shop, model: Model) -> None:
    """Deleted documents stay deleted; documents of settled objects are all there, once, whole."""
    rows = shop.documents()
    ids = [row["document_id"] for row in rows]
    assert len(ids) == len(set(ids)), "a document is there twice"
    seen = {(row["number"], row["version"], row["part"]) for row in rows}
    for thing in model.things.values():
        versions = {version for number, version, _ in seen if number == thing.number}
        assert thing.exists or not versions, f"documents of a deleted object: {thing}"
        if not thing.settled or not thing.exists:
            continue
        parts = {part for number, version, part in seen if (number, version) == (thing.number, thing.version)}
        wanted = set(range(len(parts_of(thing.number, thing.version)))) - thing.buried
        if wanted - parts == {thing.doubtful_part}:  # the delete that got no answer happened
            thing.buried.add(thing.doubtful_part)
            wanted.discard(thing.doubtful_part)
        assert parts == wanted, f"{thing}: parts {sorted(parts)} are stored, {sorted(wanted)} should be"
    for row in rows:
        expected = parts_of(row["number"], row["version"])
        assert row["part"] < len(expected), f"torn: {row}"
        assert row["text"] == expected[row["part"]], f"torn: {row}"


def fill(shop: Shop, model: Model, objects: int) -> None:
    """On a busy machine the clients may have come to little: so many objects there must be to look at."""
    while len(model.alive()) < objects:
        things = model.new(10)
        made = shop.create([content(thing.number, thing.version) for thing in things])
        for thing, object_id in zip(things, made, strict=True):
            thing.object_id, thing.doubt = object_id, None
            model.give(thing)


def finish(shop: Shop) -> None:
    """Process what is left, until a batch is complete without a failure; retry what too many kills took down."""
    for _ in range(5):
        batch = shop.ended(shop.trigger(), timeout_s=120)
        if batch["status"] == "COMPLETED":
            return
        shop.retry(batch["batch_id"])
        if shop.ended(batch["batch_id"], timeout_s=120)["status"] == "COMPLETED":
            return
    raise AssertionError(f"the batch never completed: {ok(shop.client.get('/v1/health'))}")
