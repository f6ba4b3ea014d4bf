"""SIGTERM and SIGKILL of a server, and what the next one finds."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from datapath_process import ServerProcess, wait_until
from datapath_shop import Shop, content, ok, parts_of

GRACE_S = 10
BUSY_S = 50
"""So much longer may everything take where the machine has other work."""


def running(server: ServerProcess) -> list[tuple[str, int]]:
    """Status and attempts of the chunks that are not over, read without the server."""
    connection = sqlite3.connect(server.data / "mediatheca.db")
    try:
        query = "SELECT status, attempts FROM jobs WHERE kind = 'ingest.chunk' AND status != 'done'"
        return list(connection.execute(query))
    finally:
        connection.close()


def test_the_server_accepts_requests_when_it_has_said_where(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        assert server.client().get("/v1/health").status_code == 200


def test_sigterm_lets_short_work_finish_and_ends_at_once(server: ServerProcess, shop: Shop) -> None:
    shop.create([content(number, 1) for number in range(40)])
    batch = shop.trigger()
    code, seconds = server.terminate()
    assert code == 0, server.log.read_text()[-2000:]
    assert seconds < GRACE_S + BUSY_S
    assert {status for status, _ in running(server)} <= {"ready"}
    shop = shop.at(server.start().client())
    assert shop.ended(batch)["status"] == "COMPLETED"
    assert shop.texts() == sorted(part for number in range(40) for part in parts_of(number, 1))


def test_sigterm_ends_the_streams_of_events_at_once(server: ServerProcess) -> None:
    with server.client().stream("GET", "/v1/events/stream") as stream:
        assert stream.status_code == 200
        code, seconds = server.terminate()
        assert code == 0, server.log.read_text()[-2000:]
        assert seconds < GRACE_S + BUSY_S
        list(stream.iter_raw())


def test_sigterm_hands_long_work_back_and_a_restart_completes_it(server: ServerProcess, shop: Shop) -> None:
    gate = server.data.parent / "gate"
    shop.create([{"number": 1, "version": 1, "text": f"!wait {gate}"}])
    batch = shop.trigger()
    wait_until(Path(f"{gate}.waiting").exists)
    code, seconds = server.terminate()
    assert code == 0, server.log.read_text()[-2000:]
    assert seconds < GRACE_S + BUSY_S
    assert running(server) == [("ready", 0)]  # the attempt does not count
    shop = shop.at(server.start().client())
    gate.touch()
    assert shop.ended(batch)["status"] == "COMPLETED"
    assert shop.finds(f"!wait {gate}")


def test_work_of_a_killed_server_is_taken_up_at_once_and_not_when_its_lease_runs_out(
    server: ServerProcess, shop: Shop
) -> None:
    gate = server.data.parent / "gate"
    shop.create([{"number": 1, "version": 1, "text": f"!wait {gate}"}])
    batch = shop.trigger()
    wait_until(Path(f"{gate}.waiting").exists)
    server.settings["lease_s"] = 3600
    server.terminate()
    shop = shop.at(server.start().client())
    wait_until(lambda: running(server) == [("running", 1)])
    server.kill()
    gate.touch()
    shop = shop.at(server.start().client())
    assert shop.ended(batch)["status"] == "COMPLETED"


def test_a_killed_server_leaves_no_processes_behind(server: ServerProcess, shop: Shop) -> None:
    gate = server.data.parent / "gate"
    shop.create([{"number": 1, "version": 1, "text": f"!wait {gate}"}])
    shop.trigger()
    wait_until(Path(f"{gate}.waiting").exists)
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    server.kill()
    wait_until(lambda: not any(alive(child) for child in children))


def alive(pid: str) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_second_server_on_the_same_data_is_refused_and_harms_nothing(server: ServerProcess, shop: Shop) -> None:
    shop.create([content(1, 1)])
    shop.process()
    second = ServerProcess(server.data)
    second.spawn()
    assert second._process is not None
    assert second._process.wait(240) != 0
    assert "in use by another process" in server.log.read_text()
    second.kill()
    assert ok(shop.client.get("/v1/health"))["status"] == "OK"
    assert shop.finds(parts_of(1, 1)[0])
