"""An index that was deleted or damaged while the server was down is made again from the documents.

One restart for all kinds of damage: each has a collection of its own.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from datapath_process import ServerProcess, wait_until
from datapath_shop import Shop, content, parts_of


def everything(index: Path) -> None:
    shutil.rmtree(index)


def shards(index: Path) -> None:
    for path in index.glob("gen-*/shard"):
        shutil.rmtree(path)


def generations(index: Path) -> None:
    for path in index.glob("gen-*"):
        shutil.rmtree(path)


def pointers(index: Path) -> None:
    for path in index.glob("CURRENT"):
        path.write_bytes(b"\xff\x00 nonsense")


def small_files(index: Path) -> None:
    for path in (*index.glob("gen-*/*.json"), *index.glob("gen-*/shard/*.json")):
        path.write_bytes(b"{")


def _files(index: Path) -> list[Path]:
    return [path for path in sorted(index.glob("gen-*/shard/**/*")) if path.is_file()]


def truncated(index: Path) -> None:
    for path in _files(index):
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)


def emptied(index: Path) -> None:
    for path in _files(index):
        path.write_bytes(b"")


def overwritten(index: Path) -> None:
    noise = random.Random(1)
    for path in _files(index):
        with path.open("r+b") as file:
            file.write(noise.randbytes(min(4096, path.stat().st_size)))


Damage: TypeAlias = Callable[[Path], None]
DAMAGES: list[Damage] = [everything, shards, generations, pointers, small_files, truncated, emptied, overwritten]


def test_damaged_indexes_are_made_again(server: ServerProcess) -> None:
    shops: dict[Damage, Shop] = {}
    for damage in DAMAGES:
        shops[damage] = shop = Shop.make(server.client(), damage.__name__)
        ids = shop.create([content(number, 1) for number in range(15)])
        assert shop.process()["status"] == "COMPLETED"
        shop.delete(ids[0])
    server.terminate()
    for damage, shop in shops.items():
        damage(server.data / "index" / shop.collection)
    server.start()
    for damage, shop in shops.items():
        check(damage.__name__, shop.at(server.client()))


def check(name: str, shop: Shop) -> None:
    wanted = [part for number in range(1, 15) for part in parts_of(number, 1)]
    assert shop.texts() == sorted(wanted), name
    wait_until(lambda: not shop.execute(wanted[0])["degraded"])
    assert [text for text in wanted if not shop.finds(text)] == [], name
    assert parts_of(0, 1)[0] not in [hit["text"] for hit in shop.search(parts_of(0, 1)[0], limit=20)], name
    shop.create([content(99, 1)])
    assert shop.process()["status"] == "COMPLETED", name
    assert shop.finds(parts_of(99, 1)[0]), name
