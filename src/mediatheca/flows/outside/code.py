"""Code that retrievers carry, in Monty: a Python interpreter of its own, in processes of its own.

It has no files, no network, no modules of the host, and no way to any of them: what is not in the interpreter does not
exist. Time, memory, recursion and output are bounded inside it; a process that dies or hangs is killed and replaced.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import orjson

from mediatheca.kernel.errors import NotEnabledError, UnavailableError, ValidationError
from mediatheca.kernel.extras import require

if TYPE_CHECKING:
    from pydantic_monty import Monty

SETTING = "MEDIATHECA_ALLOW_CODE"
MAX_SOURCE = 64 * 1024
MAX_INPUT = 32 << 20
MAX_PROCESSES = 2
_WAIT_S = 30.0
_PRINTED = 64 * 1024
_HOW_PYTHON = "write it in Python; nothing here runs {language}"


class CodeSandbox:
    """`Code` for all tenants of a process. Workers start with the first run."""

    def __init__(self, allowed: bool, threads: ThreadPoolExecutor) -> None:
        self._allowed, self._threads = allowed, threads
        self._lock = threading.Lock()
        self._pool: Monty | None = None

    def close(self) -> None:
        """End the worker processes."""
        with self._lock:
            if self._pool is not None:
                self._pool.__exit__(None, None, None)
                self._pool = None

    async def run(
        self,
        source: str,
        *,
        language: str,
        inputs: Mapping[str, Any],
        result: str,
        timeout_ms: int,
        max_output_bytes: int,
        memory_mb: int,
    ) -> Any:
        """See `mediatheca.kernel.outside.Code`."""
        if not self._allowed:
            raise NotEnabledError(
                f"code_execution: code is not run on this server; the operator can allow it with {SETTING}=true"
            )
        require("code_execution", "code")
        if language != "python":
            raise ValidationError.at("language", _HOW_PYTHON.format(language=language[:30]), "language")
        if len(source) > MAX_SOURCE:
            raise ValidationError.at("code", f"has {len(source):,} characters; at most {MAX_SOURCE:,}", "too_long")
        if not result.isidentifier():
            raise ValidationError.at("result_variable", f"'{result[:40]}' is not the name of a variable", "name")
        given = orjson.dumps(dict(inputs), default=str, option=orjson.OPT_NON_STR_KEYS)
        if len(given) > MAX_INPUT:
            raise ValidationError.at(
                "code", f"gets {len(given):,} bytes of documents; at most {MAX_INPUT:,}", "too_long"
            )
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(
            self._threads,
            lambda: self._run(source, orjson.loads(given), result, timeout_ms, max_output_bytes, memory_mb),
        )
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            raise ValidationError.at("code", f"'{result}' is not JSON: it holds NaN or infinity", "not_json") from None

    def _workers(self) -> Monty:
        with self._lock:
            if self._pool is None:
                from pydantic_monty import Monty

                pool = Monty(max_processes=MAX_PROCESSES, checkout_timeout=_WAIT_S, max_checkouts_per_worker=1)
                pool.__enter__()
                self._pool = pool
            return self._pool

    def _run(
        self, source: str, inputs: dict[str, Any], result: str, timeout_ms: int, max_output: int, memory_mb: int
    ) -> str:
        from pydantic_monty import CollectString, MontyCrashedError, MontyError

        limits: Any = {
            "max_feed_duration_secs": timeout_ms / 1000,
            "max_memory": memory_mb << 20,
            "max_recursion_depth": 200,
            "max_suspensions": 1,
        }
        policy: Any = {"sleep": "zero", "random_start": {"seed": 0}}
        try:
            with self._workers().checkout(script_name="code", limits=limits, os_policy=policy) as session:
                session.feed_run(source, inputs=inputs, print_callback=CollectString(_PRINTED))
                text = session.feed_run(_measured(result, max_output), print_callback=CollectString(_PRINTED))
        except MontyCrashedError as error:
            late = "ran too long" if error.timed_out else "used up the memory of its process, or broke it"
            raise ValidationError.at(
                "code", f"{late}; simplify it, or give it fewer documents", "code_crashed"
            ) from None
        except MontyError as error:
            raise ValidationError.at("code", f"failed: {_said(error)}", "code_failed") from None
        except TimeoutError:
            raise UnavailableError("code_execution: other code is running; try again in a few seconds") from None
        if isinstance(text, int):
            message = f"gave {text:,} bytes; max_output_size allows {max_output:,}"
            raise ValidationError.at("code", message, "too_large")
        return str(text)


def _measured(result: str, max_output: int) -> str:
    """The result as JSON, measured before it leaves the sandbox: its text, or its size where that is too large."""
    return (
        "import json as _json\n"
        f"_made = _json.dumps({result})\n"
        f"_made if len(_made.encode()) <= {max_output} else len(_made.encode())"
    )


def _said(error: Any) -> str:
    """`NameError: name 'x' is not defined`, with the line it is about; no paths of ours are in it."""
    shown = str(error.display(format="type-msg")) if hasattr(error, "display") else str(error)
    lines = [frame.line for frame in error.traceback()] if hasattr(error, "traceback") else []
    return shown.strip()[:500] + (f" (line {lines[-1]})" if lines else "")
