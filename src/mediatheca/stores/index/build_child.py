"""The child process of a rebuild: `python -m mediatheca.stores.index.build_child <generation>`, documents on stdin."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import IO

from mediatheca.stores.index import search
from mediatheca.stores.index.edge_shard import EdgeShard
from mediatheca.stores.index.rebuild import read_frame
from mediatheca.stores.index.shard_files import write_spec, write_watermark


def build(generation: Path, source: IO[bytes]) -> None:
    """Write, optimise, flush; the watermark comes last, when everything below it is durable."""
    spec, watermark = pickle.loads(read_frame(source))  # noqa: S301 (our own parent's pipe)
    shard = EdgeShard.create(generation / "shard", spec)
    while frame := read_frame(source):
        search.apply(shard, pickle.loads(frame))  # noqa: S301
    shard.flush()
    shard.optimize()
    shard.flush()
    shard.close()
    write_spec(generation, spec)
    write_watermark(generation, watermark)


if __name__ == "__main__":
    os.nice(5)  # the server answers meanwhile
    build(Path(sys.argv[1]), sys.stdin.buffer)
