"""Video: how many times faster than it plays ten minutes of 720p are cut into scenes with thumbnails, and transcribed.

The film is made by the benchmark: photographs under a moving camera, cuts every four to eleven seconds, speech of
espeak-ng. Each figure is of a fresh process that opens `multimodal_extractor` and works on the file, as a child of the
runner does; loading the models counts for memory, not for time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._report import ROOT, Report

SECONDS = float(os.environ.get("BENCHMARK_VIDEO_S", "600"))
RUNS = int(os.environ.get("BENCHMARK_VIDEO_RUNS", "3"))
SIZE = (1280, 720)
FPS = 25
_CHILD = """
import json, resource, sys, time
from pathlib import Path
from mediatheca.extractors import ExtractContext, Item, Row, Source
from mediatheca.extractors.multimodal_extractor import Params, multimodal_extractor
from mediatheca.kernel.stopwatch import Stopwatch
from mediatheca.providers import ModelSettings
from mediatheca.providers._catalog import build_catalog
path, folder, params = sys.argv[1:]
watch = Stopwatch()
scratch = Path(folder) / "scratch"
scratch.mkdir(exist_ok=True)
context = ExtractContext(build_catalog(ModelSettings(Path(folder))), scratch, watch=watch)
extract = multimodal_extractor.open(Params.model_validate_json(params), context)
began = time.perf_counter()
item = Item("film", {"video": [Source(path=path, key="film", hash="0" * 64)]})
made = [each for each in extract(item) if isinstance(each, Row)]
taken = time.perf_counter() - began
words = " ".join(row.fields.get("transcription") or "" for row in made).split()
rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": taken, "rows": len(made), "words": len(words), "rss_mb": rss, "times": watch.take(),
                  "thumbnails": sum("thumbnail_url" in row.artifacts for row in made)}))
"""
_SENTENCES = (
    "The expedition reached the summit shortly after sunrise.",
    "In the harbor the fishermen were mending their nets.",
    "A new bridge will connect both parts of the city next year.",
    "The museum shows photographs from the last hundred years.",
    "Engineers tested the engine for more than forty hours.",
)
SCENES: dict[str, Any] = {
    "split_method": "scene",
    "run_multimodal_embedding": False,
    "run_transcription": False,
}


def run() -> Report:
    report = Report("video")
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        cuts = make_film(film)
        for _ in range(RUNS):
            done = work(film, folder, SCENES)
            note = f"{done['rows']} segments of {cuts + 1} scenes"
            report.add("decode, scenes and thumbnails, times real time", SECONDS / done["seconds"], "x", ">= 15", note)
            report.add("segments with a thumbnail", done["thumbnails"] / done["rows"], "", ">= 1")
            report.add("memory of the process", done["rss_mb"], "MB", "<= 1500")
            report.add("of the time neither decoding nor a model", overhead(done), "", "<= 0.1")
        done = work(film, folder, {**SCENES, "run_transcription": True, "transcription_language": "en"})
        report.add("the same with transcription, times real time", SECONDS / done["seconds"], "x", ">= 4")
        report.add("memory of the process with transcription", done["rss_mb"], "MB", "<= 1500")
        report.add("words heard", done["words"], "")
    return report


def overhead(done: dict[str, Any]) -> float:
    counted: dict[str, float] = done["times"]
    return float(max(0.0, 1 - sum(counted.values()) / done["seconds"]))


def work(film: Path, folder: str, params: dict[str, Any]) -> dict[str, Any]:
    """What one process tells of the film."""
    command = [sys.executable, "-c", _CHILD, str(film), folder, json.dumps(params)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def make_film(target: Path) -> int:
    """Returns the number of cuts."""
    import av
    from PIL import Image

    from mediatheca.testing.media import PHOTOS, RATE, photo, speech

    pictures = [np.asarray(Image.fromarray(photo(name)).resize((1500, 900))) for name in PHOTOS]
    sentences = [np.concatenate([speech(text), np.zeros(RATE // 2, np.float32)]) for text in _SENTENCES]
    generator, total, scene = np.random.default_rng(0), round(SECONDS * FPS), 0
    with av.open(str(target), "w", format="mp4") as made:
        video: Any = made.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        video.width, video.height = SIZE
        video.pix_fmt = "yuv420p"
        sound: Any = made.add_stream("aac", rate=RATE)
        sound.layout = "mono"
        number = left = 0
        while number < total:
            length = min(int(generator.integers(4 * FPS, 11 * FPS)), total - number)
            picture = pictures[scene % len(pictures)]
            for step in range(length):
                left = 200 * step // length
                view = np.ascontiguousarray(picture[90:810, left : left + SIZE[0]])
                frame = av.VideoFrame.from_ndarray(view, format="rgb24").reformat(format="yuv420p")
                frame.pts = number
                made.mux(video.encode(frame))
                number += 1
            scene += 1
        made.mux(video.encode(None))
        _speak(made, sound, sentences)
    return scene - 1


def _speak(made: Any, sound: Any, sentences: list[Any]) -> None:
    """Sentences one after the other until the film is over."""
    from fractions import Fraction

    from av import AudioFrame

    from mediatheca.testing.media import RATE

    track, size = np.concatenate(sentences), 1024
    for start in range(0, round(SECONDS * RATE) - size, size):
        block = np.take(track, range(start, start + size), mode="wrap").astype(np.float32)[None]
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        made.mux(sound.encode(frame))
    made.mux(sound.encode(None))
