"""Cuts of a picture, exact to the frame: PySceneDetect's content detector over every frame.

Frames come small and straight from the decoder. The detector compares hue, saturation and brightness of neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mediatheca.extractors import ExtractContext
from mediatheca.extractors._video import Clip
from mediatheca.kernel.extras import require
from mediatheca.kernel.steps import Step, step

if TYPE_CHECKING:
    from scenedetect.detectors import ContentDetector

CONTENT_SCALE = 54.0
"""A threshold of 0.5 is the detector's own default of 27."""
SENSITIVITIES = {"low": 0.5, "medium": 0.37, "high": 0.26}
SIDE = 160
"""Pixels of the longer side that are compared."""
SHORTEST_SCENE_S = 0.6
_BEAT_FRAMES = 100
_CUTS = Step("video.cuts", 1)


def need_scene_libraries(what: str) -> None:
    """Raises UnavailableError: PySceneDetect is not installed."""
    require(what, "video", "scenedetect")


def warm_up() -> None:
    """As `_container.warm_up`."""
    import scenedetect.detectors  # noqa: F401


def cuts_of(clip: Clip, threshold: float, context: ExtractContext) -> list[float]:
    """As `find_cuts`; looked for once in a file, kept as a step."""

    def find() -> list[float]:
        with context.timed("decode"):
            return find_cuts(clip, threshold, context.beat)

    found: list[float] = step(context.desk, _CUTS, [clip.source.digest(), threshold], find)
    return found


def find_cuts(clip: Clip, threshold: float, beat: Callable[[float], None]) -> list[float]:
    """Times of the first frames of new scenes, ascending, in seconds.

    Args:
        threshold: 0 to 1, how much must change; 0.5 finds cuts and leaves movement alone.
    """
    from scenedetect.common import FrameTimecode

    rate = clip.info.fps or 25.0
    detector = _detector(threshold)
    found: list[int] = []
    for number, pixels in clip.small(SIDE):
        if number % _BEAT_FRAMES == 0:
            beat(number / max(len(clip.times), 1))
        found += [cut.frame_num for cut in detector.process_frame(FrameTimecode(number, rate), pixels)]
    return [float(clip.times[number]) for number in found if 0 < number < len(clip.times)]


def _detector(threshold: float) -> ContentDetector | Any:
    from scenedetect.detectors import ContentDetector

    return ContentDetector(threshold=threshold * CONTENT_SCALE, min_scene_len=SHORTEST_SCENE_S)
