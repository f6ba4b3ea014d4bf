"""`mediatheca batch watch`: the bar moves, the end is told, the exit status says whether everything was processed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))

from datapath_process import KEY, ServerProcess, environment, wait_until
from datapath_shop import Shop, content, ok


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("watched") / "data", chunk_size=5) as started:
        yield started


def watch(server: ServerProcess, shop: Shop, batch_id: str, key: str = KEY) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mediatheca.cli", "batch", "watch", batch_id, "--url", server.url]
    command += ["--namespace", shop.namespace, "--key", key]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment({"data_dir": server.data}))


def test_a_batch_is_followed_until_its_end(server: ServerProcess, tmp_path: Path) -> None:
    shop, gate = Shop.make(server.client(), "followed"), tmp_path / "gate"
    shop.create([{"number": 1, "version": 1, "text": f"!wait {gate}"}, *(content(n, 1) for n in range(9))])
    batch_id = shop.trigger()
    wait_until(Path(f"{gate}.waiting").exists)
    watcher = watch(server, shop, batch_id)
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == f"{batch_id}: 10 objects, 1 tiers\n"
    task = ok(shop.client.get(f"/v1/tasks/{shop.batch(batch_id)['task_id']}"))
    assert (task["progress"]["total"], task["progress"]["current_stage"]["name"]) == (10, "extraction")
    gate.touch()
    output, errors = watcher.communicate(timeout=240)
    assert (watcher.returncode, errors) == (0, "")
    assert f"{batch_id} COMPLETED: {len(shop.documents())} documents written" in output
    assert "10/10" in output
    assert "tier 0 COMPLETED: 10 read, 10 processed, 0 left out, 0 failed" in output


def test_failures_are_named_and_make_the_exit_status(server: ServerProcess) -> None:
    shop = Shop.make(server.client(), "failing")
    (ident,) = shop.create([{"number": 1, "version": 1, "text": "!raise [bold]odd"}])
    batch_id = shop.trigger()
    watcher = watch(server, shop, batch_id)
    output, _ = watcher.communicate(timeout=240)
    assert watcher.returncode == 1
    assert f"{ident}: " in output
    assert "[bold]odd" in output


def test_what_cannot_be_watched_is_said(server: ServerProcess) -> None:
    shop = Shop.make(server.client(), "unwatched")
    shop.create([content(1, 1)])
    draft = ok(shop.client.post(f"/v1/buckets/{shop.bucket}/batches", json={}))["batch_id"]
    for ident, key, said in (("btch_none", KEY, "btch_none"), (draft, KEY, "is a draft"), (draft, "sk_wrong", "key")):
        watcher = watch(server, shop, ident, key)
        _, errors = watcher.communicate(timeout=240)
        assert watcher.returncode == 1
        assert said in errors
        assert "Traceback" not in errors
