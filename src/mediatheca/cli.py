"""The command line: serve · worker · demo · batch watch · doctor."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mediatheca.app import App
    from mediatheca.settings import Settings

SWITCH_S = 0.001
"""How long a thread that wants Python's lock waits for it, at least. An ingest asks for it after every read and write
of a file; with the default of 5 ms it got 28 documents/s done beside 32 clients that never pause."""

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Mediatheca: a self-hosted multimodal data warehouse."
)


def main() -> None:
    """Entry point of the `mediatheca` command."""
    from mediatheca.kernel.errors import MediathecaError

    try:
        app()
    except MediathecaError as error:
        print(f"mediatheca: {error.message}", file=sys.stderr)
        raise SystemExit(1) from error


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    data: Annotated[Path | None, typer.Option(help="Directory of the embedded backends.")] = None,
) -> None:
    """Start the server: API, indexer, scheduler and workers in one process."""
    gc.disable()  # nothing that start-up makes is garbage; see _keep_what_is_loaded
    from mediatheca.app import build
    from mediatheca.flows.tenancy import first_key
    from mediatheca.settings import Settings

    settings = Settings() if data is None else Settings(data_dir=data)
    _configure(settings)
    listener = _bound(host, port)
    composed = build(settings)
    key = first_key(composed.services.db, settings.api_key.get_secret_value())
    composed.start()
    listener.listen(2048)  # from here on a client that read the next line is queued, not refused
    shown, real = host if ":" not in host else f"[{host}]", listener.getsockname()[1]
    print(f"Mediatheca on http://{shown}:{real}  data: {settings.data_dir.absolute()}", flush=True)
    if key:
        print(f"API key (shown once, keep it): {key}", flush=True)
    sys.setswitchinterval(SWITCH_S)
    _answer_requests(composed, listener)


def _configure(settings: Settings) -> None:
    """Logs and spans as the settings want them."""
    from mediatheca.telemetry import configure_logs, configure_spans

    configure_logs(settings.log_level, json=settings.log_json)
    configure_spans(settings.otlp_endpoint)


def _answer_requests(composed: App, listener: socket.socket) -> None:
    """Until a signal ends it; then everything is closed."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            composed.services.live.end()  # those streams never end by themselves
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        composed.asgi, loop="uvloop", http="httptools", access_log=False, log_level="warning", lifespan="off",
        timeout_graceful_shutdown=10, server_header=False,
    )  # fmt: skip
    _stop_on_sigterm()  # uvicorn raises the signal again when it has stopped
    _keep_what_is_loaded()
    try:
        Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        composed.close()


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has its address before anything is made or opened, and does not listen yet."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        print(f"mediatheca: cannot listen on {host}:{port}: {error.strerror}; choose another --port", file=sys.stderr)
        raise SystemExit(1) from error
    return listener


def _keep_what_is_loaded() -> None:
    """Modules, classes and routes live as long as the process: the collector need not walk their 170,000 objects.

    Measured: a pause of 90 ms for each full collection, and 8 % of the server's time in an ingest.
    """
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


def _stop_on_sigterm() -> None:
    """SIGTERM ends the process like Ctrl-C does: what is open is closed."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


@app.command()
def worker() -> None:
    """Run jobs in a process of their own; needs PostgreSQL and stores that both processes reach."""
    from mediatheca.app import build_worker
    from mediatheca.settings import Settings

    settings = Settings()
    _configure(settings)
    composed = build_worker(settings)
    composed.start()
    print(f"Mediatheca worker {composed.pool.name}", flush=True)
    _stop_on_sigterm()
    try:
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        composed.close()


@app.command()
def demo(
    keep: Annotated[bool, typer.Option(help="Leave the server running until Ctrl-C.")] = False,
) -> None:
    """From nothing to four searches over photographs and texts."""
    from mediatheca.demo import run

    raise SystemExit(run(keep=keep))


batch = typer.Typer(no_args_is_help=True, help="Batches of a running server.")
app.add_typer(batch, name="batch")


@batch.command()
def watch(
    batch_id: Annotated[str, typer.Argument(help="Id of the batch.")],
    namespace: Annotated[str, typer.Option(help="Id or name of its namespace.", envvar="MEDIATHECA_NAMESPACE")],
    key: Annotated[str, typer.Option(help="API key.", envvar="MEDIATHECA_API_KEY")],
    url: Annotated[str, typer.Option(help="Of the server.", envvar="MEDIATHECA_URL")] = "http://127.0.0.1:8000",
) -> None:
    """Show how far a batch is until it has ended; the exit status is 0 when everything of it was processed."""
    from mediatheca.batch_watch import watch as watch_batch

    raise SystemExit(watch_batch(url, key, namespace, batch_id))


@app.command()
def doctor() -> None:
    """Check every configured backend and model, and say what to do about each problem."""
    from mediatheca.doctor import report
    from mediatheca.settings import Settings

    raise SystemExit(report(Settings()))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
