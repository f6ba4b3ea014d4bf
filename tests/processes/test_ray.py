"""A Ray cluster of two nodes does the work: by the contract of runners, and whatever happens to it, each document once.

One cluster for all tests of the file: it takes half a minute to start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from datapath_app import Application
from datapath_process import wait_until
from datapath_shop import content, parts_of

from mediatheca.jobs.ray_cluster import RayCluster
from mediatheca.jobs.ray_runner import RayRunner
from mediatheca.jobs.runner_results import ItemFailure
from mediatheca.kernel.errors import UnavailableError
from mediatheca.providers import ModelSettings
from mediatheca.testing.runner import EXTRACTOR, PLUGINS, Make, RunnerContract, item, results, rows
from ports import free_ports

pytestmark = [
    pytest.mark.timeout(600),
    # Ray leaves sockets and files of its own open, and warns of what it will change.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


T = TypeVar("T")
TRIES = 4


def started(make: Callable[[], T]) -> T:
    """Ray gives a node half a minute to start, its agent a quarter, which a busy machine may not have."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(Exception):
            return make()
    return make()


@dataclass
class TwoNodes:
    """A head with its client server, and nodes beside it."""

    cluster: Any
    url: str

    def add(self, cpus: int = 2) -> Any:
        return started(lambda: self.cluster.add_node(num_cpus=cpus))

    def remove(self, node: Any) -> None:
        """As a machine goes: without a word."""
        self.cluster.remove_node(node, allow_graceful=False)

    def actors(self) -> list[int]:
        """Processes of its actors; another test process may have a cluster of its own."""
        running = [process for node in self.cluster.list_all_nodes() for process in node.live_processes()]
        raylets = {process.pid for kind, process in running if kind == "raylet"}
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and (folder / "cmdline").read_bytes().startswith(b"ray::Slot"):
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    found += [int(folder.name)] if int(parent) in raylets else []
        return found


def holds(folder: Path, size: int) -> bool:
    """Whether there is a file of this size."""
    try:
        return any(path.stat().st_size == size for path in folder.rglob("*") if path.is_file())
    except FileNotFoundError:  # it goes while we look
        return True


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(entry for entry in sys.path if entry))
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray.cluster_utils import Cluster

        health = {"health_check_initial_delay_ms": 2000, "health_check_period_ms": 500, "health_check_timeout_ms": 2000}
        head = {"num_cpus": 2, "include_dashboard": False, "_system_config": health}

        def cluster_of_one() -> tuple[Any, str]:
            (port,) = free_ports(1)
            made = Cluster(initialize_head=True, head_node_args={**head, "ray_client_server_port": port})
            return made, f"ray://127.0.0.1:{port}"

        cluster, url = started(cluster_of_one)
        try:
            started(lambda: cluster.add_node(num_cpus=2))
            inside = RayCluster(url, 1)  # all runners of this process share its connection, which takes long to make
            inside.enter()
            yield TwoNodes(cluster, url)
            inside.leave()
        finally:
            cluster.shutdown()


@pytest.fixture
def make(nodes: TwoNodes, tmp_path: Path) -> Iterator[Make]:
    made: list[RayRunner] = []

    def make(processes: int = 1, item_timeout_s: float = 20.0, memory_limit_mb: int = 400) -> RayRunner:
        settings = ModelSettings(models_dir=tmp_path)
        made.append(RayRunner(nodes.url, processes, memory_limit_mb, item_timeout_s, settings, [PLUGINS]))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


class TestRayRunner(RunnerContract):
    """The contract, over the client of a cluster of two nodes."""

    @pytest.fixture
    def make(self, make: Make) -> Make:
        return make


def test_files_of_this_machine_are_sent_to_the_workers(make: Make, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 5_000_000)
    (result,) = make().map(EXTRACTOR, {}, [item("read", file=tmp_path / "f")])
    assert rows(result)[0]["size"] == 5_000_000
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"mediatheca-slots-{os.getuid()}"
    wait_until(lambda: not holds(folder, 5_000_000))


def test_a_killed_actor_costs_no_item(nodes: TwoNodes, make: Make) -> None:
    wait_until(lambda: not nodes.actors())  # those of earlier tests end in their time
    runner = make(processes=2)
    results(runner, "say a", "say b")
    victims = nodes.actors()
    assert victims
    killer = threading.Timer(0.6, lambda: os.kill(victims[0], signal.SIGKILL))
    killer.start()
    found = results(runner, *[f"sleep 0.0{n % 10}" for n in range(80)])
    killer.join()
    assert [rows(result)[0]["text"] for result in found] == [f"0.0{n % 10}" for n in range(80)]


def test_an_item_that_takes_workers_with_it_is_given_up_and_the_others_are_done(make: Make) -> None:
    runner = make(processes=2)
    found = results(runner, "say a", "topple", "say b")
    assert isinstance(found[1], ItemFailure)
    assert found[1].phase == "crash"
    assert "workers of the cluster were lost" in found[1].reason
    assert [rows(found[n])[0]["text"] for n in (0, 2)] == ["a", "b"]


def test_a_cluster_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"MEDIATHECA_RUNNER_URL.*not ray://host:port"):
        RayRunner("ray://", 1, 400, 20, ModelSettings(models_dir=tmp_path))


def test_a_cluster_without_room_says_what_it_needs(nodes: TwoNodes, tmp_path: Path, make: Make) -> None:
    settings = ModelSettings(models_dir=tmp_path)
    wait_until(lambda: not nodes.actors())  # those of earlier tests end in their time
    full, waiting = make(processes=4), RayRunner(nodes.url, 1, 400, 20, settings, [PLUGINS], open_timeout_s=3)
    try:
        results(full, *[f"sleep 0.{n}" for n in range(8)])
        wait_until(lambda: len(nodes.actors()) == 4)
        with pytest.raises(UnavailableError, match="one free CPU"):
            results(waiting, "say x")
    finally:
        waiting.close()


# The whole way, from objects to documents


@pytest.fixture
def application(nodes: TwoNodes, tmp_path: Path) -> Iterator[Callable[..., Application]]:
    made: list[Application] = []

    def start(**changed: Any) -> Application:
        values = {"runner_url": nodes.url, "workers": 3, "chunk_size": 30, "item_timeout_s": 30, **changed}
        made.append(Application(tmp_path / "data", **values))
        return made[-1]

    yield start
    for application in made:
        application.close()


@pytest.mark.parametrize("harm", ["an actor is killed", "a node is removed"])
def test_every_document_is_there_exactly_once_whatever_happens(
    nodes: TwoNodes, application: Callable[..., Application], harm: str
) -> None:
    shop = application().shop()
    objects = [{**content(n, 1), "text": f"{content(n, 1)['text']}\n\n!slow 0.0{n % 10}"} for n in range(150)]
    shop.create(objects)
    wanted = sorted(part for n in range(150) for part in [*parts_of(n, 1), f"!slow 0.0{n % 10}"])
    third = nodes.add()
    batch = shop.trigger()
    wait_until(lambda: shop.documents())
    if harm == "an actor is killed":
        os.kill(nodes.actors()[-1], signal.SIGKILL)
    else:
        nodes.remove(third)
    ended = shop.ended(batch)
    assert (ended["status"], shop.failures(batch)) == ("COMPLETED", [])
    assert shop.texts() == wanted
    assert len({row["document_id"] for row in shop.documents()}) == len(wanted)
    if third in nodes.cluster.worker_nodes:
        nodes.remove(third)


def test_a_cluster_of_this_machine_alone_needs_no_address(tmp_path: Path) -> None:
    """In a process of its own: one process is in one cluster."""
    import subprocess

    code = f"""
import pathlib
from mediatheca.jobs.ray_cluster import RayCluster
from mediatheca.jobs.ray_runner import RayRunner
from mediatheca.providers import ModelSettings
from mediatheca.testing.runner import EXTRACTOR, PLUGINS, item
runner = RayRunner("ray://local", 1, 400, 20, ModelSettings(models_dir=pathlib.Path({str(tmp_path)!r})), [PLUGINS])
path = pathlib.Path({str(tmp_path)!r}) / "f"
path.write_bytes(b"x" * 3_000_000)
for result in runner.map(EXTRACTOR, {{}}, [item("read", "r", file=path), item("say a", "s")]):
    print(result.item_id, result.rows[0].fields, flush=True)
runner.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert "'size': 3000000" in lines[0]
    assert "'text': 'a'" in lines[1]
