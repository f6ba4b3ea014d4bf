"""A server that speaks the protocols of OpenAI and Anthropic and answers from a script: the seam to language models.

    with LanguageServer(["red", Say(tools=[("search", {"query": "fox"})])]) as server: ...

Every entry of the script answers one request; the last one answers all that follow. An entry may be a function of the
request. What was asked is kept in `requests`, whatever the protocol, as `Asked`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-the-only-right-key"


@dataclass
class Asked:
    """A request as both protocols have it."""

    protocol: str
    model: str
    text: str
    """System and messages, one after the other."""
    tools: list[str]
    body: dict[str, Any]
    key: str

    @property
    def last(self) -> str:
        return _text(self.body["messages"][-1])


@dataclass
class Say:
    """One answer. A `status` other than 200 is an error; `delay_s` is waited before it."""

    text: str = ""
    tools: Sequence[tuple[str, Any]] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0
    finish: str = "stop"
    tokens: tuple[int, int] = (11, 7)
    body: Any = None
    """Sent as it is, in the place of an answer."""


Script = str | Say | Callable[[Asked], "str | Say"]


class LanguageServer:
    """Listens on a port of this machine while it is entered."""

    def __init__(self, script: Sequence[Script] = ("ok",), key: str = KEY) -> None:
        self.script = list(script)
        self.key = key
        self.requests: list[Asked] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    def __enter__(self) -> LanguageServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, asked: Asked) -> Say:
        with self._lock:
            number = len(self.requests)
            self.requests.append(asked)
        entry = self.script[min(number, len(self.script) - 1)]
        said = entry(asked) if callable(entry) else entry
        return Say(said) if isinstance(said, str) else said

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                asked = _asked(self.path, body, self.headers)
                said = server.answer(asked)
                if said.delay_s:
                    time.sleep(said.delay_s)
                if said.status == 200 and asked.key != server.key:
                    message = f"Incorrect API key provided: {asked.key}"
                    said = Say(status=401, body={"error": {"message": message, "type": "invalid_request_error"}})
                try:
                    self._send(asked, said)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def _send(self, asked: Asked, said: Say) -> None:
                if asked.body.get("stream") and said.status == 200 and said.body is None:
                    self._begin(200, "text/event-stream", {"connection": "close", **said.headers})
                    for piece in _events(asked, said):
                        self.wfile.write(piece.encode())
                        self.wfile.flush()
                    self.close_connection = True
                    return
                data = json.dumps(_body(asked, said)).encode()
                self._begin(said.status, "application/json", {"content-length": str(len(data)), **said.headers})
                self.wfile.write(data)

            def _begin(self, status: int, kind: str, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"content-type": kind, **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

        return Handler


def _asked(path: str, body: dict[str, Any], headers: Any) -> Asked:
    anthropic = path.endswith("/messages")
    key = headers.get("x-api-key") or str(headers.get("authorization", "")).removeprefix("Bearer ")
    tools = [tool["name"] if anthropic else tool["function"]["name"] for tool in body.get("tools", [])]
    texts = [_content(body.get("system")), *(_text(message) for message in body["messages"])]
    protocol = "anthropic" if anthropic else "openai"
    return Asked(protocol, body["model"], "\n".join(texts), tools, body, key)


def _text(message: dict[str, Any]) -> str:
    return _content(message.get("content"))


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part.get("text") or _content(part.get("content")) for part in parts if isinstance(part, dict))


def _body(asked: Asked, said: Say) -> Any:
    if said.body is not None:
        return said.body
    if said.status != 200:
        return {"type": "error", "error": {"type": "api_error", "message": said.text or "it is broken"}}
    read, written = said.tokens
    if asked.protocol == "anthropic":
        content = [{"type": "text", "text": said.text}] if said.text else []
        content += [
            {"type": "tool_use", "id": f"call_{n}", "name": name, "input": arguments}
            for n, (name, arguments) in enumerate(said.tools)
        ]
        reason = "tool_use" if said.tools else "max_tokens" if said.finish == "length" else "end_turn"
        usage = {"input_tokens": read, "output_tokens": written}
        kind = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked.model}
        return {**kind, "content": content, "stop_reason": reason, "stop_sequence": None, "usage": usage}
    calls = [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": _arguments(arguments)}}
        for n, (name, arguments) in enumerate(said.tools)
    ]
    message: dict[str, Any] = {"role": "assistant", "content": said.text or None}
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else said.finish}
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    frame = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": asked.model}
    return {**frame, "choices": [choice], "usage": usage}


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _events(asked: Asked, said: Say) -> Iterator[str]:
    """The answer word by word."""
    words = [word + " " for word in said.text.split(" ")]
    read, written = said.tokens
    if asked.protocol == "anthropic":
        message = {**_body(asked, Say()), "usage": {"input_tokens": read, "output_tokens": 1}}
        yield _event("message_start", {"message": message})
        yield _event("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}})
        for word in words:
            yield _event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}})
        yield _event("content_block_stop", {"index": 0})
        delta = {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": written}}
        yield _event("message_delta", delta)
        yield _event("message_stop", {})
        return
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": asked.model}
    for word in words:
        delta = {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
        yield f"data: {json.dumps({**frame, 'choices': [delta]})}\n\n"
    done = {"index": 0, "delta": {}, "finish_reason": said.finish}
    yield f"data: {json.dumps({**frame, 'choices': [done]})}\n\n"
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    yield f"data: {json.dumps({**frame, 'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


def _event(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n"
