"""The command line, as a person meets it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

COMMAND = [sys.executable, "-m", "mediatheca.cli"]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEDIATHECA_")}
    return {**kept, **more}


@contextmanager
def serving(data: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """A server; gives the process, its URL and the file of its log."""
    command = [*COMMAND, "serve", "--port", "0", "--data", str(data)]
    log = data / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment(**settings)
        )
    assert process.stdout is not None
    try:
        url = next(word for word in process.stdout.readline().split() if word.startswith("http://"))
        yield process, url, log
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def stop(process: subprocess.Popen[str]) -> str:
    """Stop it politely; gives what it had printed after its first line."""
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    output = process.stdout.read()
    assert process.wait(120) == 0
    return output


def test_a_first_key_is_printed_once_works_and_is_still_valid_after_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url, _):
        assert httpx.get(f"{url}/v1/health").status_code == 200
        printed = stop(process)
    key = re.search(r"API key \(shown once, keep it\): (\S+)", printed)
    assert key is not None
    headers = {"Authorization": f"Bearer {key[1]}"}
    with serving(tmp_path) as (process, url, _):
        assert httpx.get(f"{url}/v1/namespaces", headers=headers).status_code == 200
        assert httpx.get(f"{url}/v1/namespaces", headers={"Authorization": "Bearer sk_wrong"}).status_code == 401
        assert "API key" not in stop(process)


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [*COMMAND, "serve", "--port", port, "--data", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=240, check=False)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, _, _):
        command = [*COMMAND, "serve", "--port", "0", "--data", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=240, check=False)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        stop(process)


def test_a_worker_without_postgresql_says_what_to_set(tmp_path: Path) -> None:
    settings = environment(MEDIATHECA_DATA_DIR=str(tmp_path))
    done = subprocess.run([*COMMAND, "worker"], capture_output=True, text=True, env=settings, timeout=240, check=False)
    assert done.returncode == 1
    assert "MEDIATHECA_DATABASE_URL=postgresql://" in done.stderr


def test_the_doctor_is_content_with_the_defaults_and_names_what_is_broken(tmp_path: Path) -> None:
    good = environment(MEDIATHECA_DATA_DIR=str(tmp_path), COLUMNS="200")
    done = subprocess.run([*COMMAND, "doctor"], capture_output=True, text=True, env=good, timeout=240, check=False)
    assert done.returncode == 0, done.stdout
    assert "multilingual-e5-small" in done.stdout
    bad = good | {"MEDIATHECA_DATABASE_URL": "postgresql://someone:topsecret@127.0.0.1:1/none"}
    done = subprocess.run([*COMMAND, "doctor"], capture_output=True, text=True, env=bad, timeout=240, check=False)
    assert done.returncode == 1
    assert "MEDIATHECA_DATABASE_URL" in done.stdout
    assert "topsecret" not in done.stdout


def test_a_runner_we_do_not_have_is_refused_at_the_start(tmp_path: Path) -> None:
    settings = environment(MEDIATHECA_DATA_DIR=str(tmp_path), MEDIATHECA_RUNNER_URL="dask://head:8786")
    command = [*COMMAND, "serve", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=240, check=False)
    assert done.returncode == 1
    assert "MEDIATHECA_RUNNER_URL" in done.stderr


def test_spans_reach_a_configured_collector(tmp_path: Path) -> None:
    received = threading.Event()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces" and b"mediatheca" in body:
                received.set()
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    with serving(tmp_path, MEDIATHECA_OTLP_ENDPOINT=endpoint) as (process, url, _):
        httpx.get(f"{url}/v1/health")
        assert received.wait(120)
        stop(process)
    collector.shutdown()
    collector.server_close()


def test_logs_are_one_json_object_a_line_with_the_request_id(tmp_path: Path) -> None:
    settings = {"MEDIATHECA_LOG_JSON": "true", "MEDIATHECA_LOG_LEVEL": "debug"}
    with serving(tmp_path, **settings) as (process, url, log):
        httpx.get(f"{url}/v1/health", headers={"X-Request-Id": "req_from_a_proxy"})
        stop(process)
        lines = log.read_text().splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    assert any(entry.get("request_id") == "req_from_a_proxy" and entry["status"] == 200 for entry in entries)
