"""A disk that is full: clear errors, a red health, nothing acknowledged lost, and work goes on when there is space.

A small file system in memory is filled; and, apart from it, the kernel refuses larger files.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from datapath_process import ServerProcess, wait_until
from datapath_shop import Shop, content, parts_of


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """192 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.fail(f"this test needs the right to mount a small file system: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the space that is left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    return path


def health(client: httpx.Client) -> int:
    return client.get("/v1/health").status_code


def test_a_full_disk_is_reported_and_survived(small_disk: Path, tmp_path: Path) -> None:
    server = ServerProcess(small_disk / "data", chunk_size=5)
    server.log = tmp_path / "server.log"  # there is space
    with server:
        client = server.client()
        shop = Shop.make(client)
        ids = shop.create([content(number, 1) for number in range(20)])
        assert shop.process()["status"] == "COMPLETED"
        waiting = shop.create([content(number, 1) for number in range(20, 30)])
        batch = shop.trigger()
        filler = fill(small_disk)
        acknowledged: dict[int, str] = {}
        refused = []
        for number in range(100, 400):
            body = {"objects": [{**content(number, 1), "tag": "x" * 2000}]}
            answer = client.post(f"/v1/buckets/{shop.bucket}/objects/batch", json=body)
            if answer.status_code < 300:
                (row,) = answer.json()["succeeded"]
                acknowledged[number] = row["object_id"]
            else:
                refused.append(answer)
            if len(refused) == 30:
                break
        assert refused, "the disk was not full"
        assert {answer.status_code for answer in refused} == {503}
        assert "disk" in refused[0].json()["error"]["message"]
        wait_until(lambda: health(client) == 503)
        assert {part for number in range(20) for part in parts_of(number, 1)} <= set(shop.texts())
        assert shop.finds(parts_of(3, 1)[0])
        assert server.running
        os.unlink(filler)
        wait_until(lambda: health(client) == 200)
        assert {*ids, *waiting, *acknowledged.values()} <= shop.objects().keys()
        ended = shop.ended(batch)
        if ended["status"] != "COMPLETED":
            shop.retry(batch)
            assert shop.ended(batch)["status"] == "COMPLETED"
        assert shop.process()["status"] == "COMPLETED"
        numbers = [*range(30), *acknowledged]  # work that ends gives space back: some may follow the first refusal
        assert shop.texts() == sorted(part for number in numbers for part in parts_of(number, 1))
        assert all(shop.finds(part) for part in parts_of(25, 1))
        server.kill()
        filler = fill(small_disk)
        os.truncate(filler, filler.stat().st_size - (8 << 20))  # a start needs a little, less than the reserve
        shop = shop.at(server.start().client())
        assert shop.finds(parts_of(25, 1)[0])
        assert shop.execute(parts_of(25, 1)[0])["degraded"]
        assert {*ids, *waiting, *acknowledged.values()} <= shop.objects().keys()


def test_a_limit_on_the_size_of_files_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", chunk_size=5) as server:
        shop = Shop.make(server.client())
        ids = shop.create([content(number, 1) for number in range(20)])
        assert shop.process()["status"] == "COMPLETED"
        unlimited = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1024, unlimited[1]))
        answer = shop.client.post(f"/v1/buckets/{shop.bucket}/objects/batch", json={"objects": [content(50, 1)]})
        assert answer.status_code == 503, answer.text
        wait_until(lambda: health(shop.client) == 503)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
        wait_until(lambda: health(shop.client) == 200)
        assert shop.objects().keys() == set(ids)
        shop.create([content(50, 1)])
        assert shop.process()["status"] == "COMPLETED"
        assert shop.finds(parts_of(50, 1)[0])
