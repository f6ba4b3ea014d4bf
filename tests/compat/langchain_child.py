"""LangChain's package for the hosted product in a process of its own: a call a line on standard input, its answer a
line on standard output. The first line names the server; warnings of that package are not ours."""

from __future__ import annotations

import json
import sys
from typing import Any

import mixpeek._client.client
from langchain_mixpeek import MixpeekRetriever, MixpeekToolkit, MixpeekVectorStore


def perform(store: MixpeekVectorStore, what: str, name: str, arguments: dict[str, Any]) -> Any:
    """A tool of the toolkit, a method of the store, or a retriever made from the store."""
    if what == "tool":
        (tool,) = MixpeekToolkit(store=store).get_tools([name])
        return json.loads(answer) if (answer := tool.invoke(arguments["input"]))[:1] in "[{" else answer
    if what == "single":
        return json.loads(store.as_tool(top_k=2).invoke(arguments["input"]))
    if what == "retriever":
        query = arguments.pop("query")
        made = MixpeekRetriever(
            api_key=store.api_key, namespace=store.namespace, retriever_id=store.retriever_id, **arguments
        )
        return made.invoke(query)
    return getattr(store, name)(**arguments)


def plain(value: Any) -> Any:
    """Documents of LangChain as objects."""
    return {"text": value.page_content, **value.metadata} if hasattr(value, "page_content") else str(value)


def main() -> None:
    first = json.loads(sys.stdin.readline())
    url = first.pop("url")
    mixpeek._client.client.Mixpeek.DEFAULT_BASE_URL = url
    store = MixpeekVectorStore(**first)
    store._base_url = url
    for line in sys.stdin:
        what, name, arguments = json.loads(line)
        try:
            answer = {"gave": perform(store, what, name, arguments)}
        except Exception as error:
            answer = {"raised": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=plain), flush=True)


if __name__ == "__main__":
    main()
