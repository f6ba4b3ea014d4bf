"""Pixeltable in a process and an environment of its own, doing the job of `media_peers`.

`python _media_peer.py pixeltable FOLDER`; FOLDER holds `photos`, `clips` and `papers`. Every line read from standard
input is a pass over all that lies there then; every answer is a line of JSON. Imports nothing of ours but the embedding
functions: it runs where only the peer is installed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

KINDS = ("photos", "clips", "papers")
QUIET = {"PIXELTABLE_VERBOSITY": "0", "PIXELTABLE_TELEMETRY_ENABLED": "false", "PIXELTABLE_START_DASHBOARD": "false"}


class Pixeltable:
    """Three tables of files, two views that split them, and an index over what comes of it."""

    def __init__(self, folder: Path) -> None:
        os.environ.update(QUIET, PIXELTABLE_HOME=str(folder / "pixeltable"))
        import pixeltable as pxt  # type: ignore[import-not-found]
        from pixeltable.functions.document import document_splitter  # type: ignore[import-not-found]
        from pixeltable.functions.video import frame_iterator  # type: ignore[import-not-found]

        from _pixeltable_functions import embed_picture, embed_text

        self._folder = folder
        pxt.create_dir("job", if_exists="ignore")
        media = {"photos": pxt.Image, "clips": pxt.Video, "papers": pxt.Document}
        self._tables = {
            kind: pxt.create_table(f"job/{kind}", {"name": pxt.String, "file": media[kind]}, if_exists="ignore")
            for kind in KINDS
        }
        photos, clips, papers = (self._tables[kind] for kind in KINDS)
        frames = pxt.create_view("job/frames", clips, iterator=frame_iterator(clips.file, fps=1.0), if_exists="ignore")
        pages = document_splitter(papers.file, separators="page")
        pages = pxt.create_view("job/pages", papers, iterator=pages, if_exists="ignore")
        photos.add_embedding_index("file", embedding=embed_picture, if_exists="ignore")
        frames.add_embedding_index("frame", embedding=embed_picture, if_exists="ignore")
        pages.add_embedding_index("text", embedding=embed_text, if_exists="ignore")
        self._found = {"photos": photos, "clips": frames, "papers": pages}

    def run(self) -> dict[str, int]:
        """Insert what is new; pixeltable does the rest. Documents of each kind."""
        for kind, table in self._tables.items():
            known = {row["name"] for row in table.select(table.name).collect()}
            new = [path for path in sorted((self._folder / kind).iterdir()) if path.name not in known]
            if new:
                table.insert([{"name": path.name, "file": str(path)} for path in new], print_stats=False)
        return {kind: int(found.count()) for kind, found in self._found.items()}


def main(folder: Path) -> None:
    """Set up, say so, do passes until standard input ends."""
    began = time.perf_counter()
    sys.stdout, answers = sys.stderr, sys.stdout  # it prints what it does
    job = Pixeltable(folder)
    print(json.dumps({"loaded_s": time.perf_counter() - began}), file=answers, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        found: dict[str, Any] = {"documents": job.run()}
        print(json.dumps({**found, "seconds": time.perf_counter() - began}), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[2]))
