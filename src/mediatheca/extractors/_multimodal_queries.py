"""Files as queries of `multimodal_extractor`: pictures, texts, and recordings as a whole or piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mediatheca.extractors import TOTAL, EmbedFile, ExtractContext, ItemError, Row, Source
from mediatheca.extractors._chunked_text import embed_chunks
from mediatheca.extractors._container import head_of
from mediatheca.extractors._multimodal import LOOKS, SEEN_SIDE, Tools, is_picture
from mediatheca.extractors._pictures import decode_picture
from mediatheca.extractors._segments import Segment, by_time
from mediatheca.extractors._video import Clip
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.search import Cutting, evenly
from mediatheca.kernel.sniff import kind_of

if TYPE_CHECKING:
    from mediatheca.extractors.multimodal_extractor import Params


def embed_file(params: Params, output: str, context: ExtractContext) -> EmbedFile:
    """What embeds a file as a query: a picture or recording where the output is visual, a text everywhere."""
    if output != params.embedding_model:
        model = context.models.text(params.text_embedding_model)
        return lambda source: next(embed_chunks([source.text()], model, output, "retrieval_query"))
    seen = {
        "run_transcription": False,
        "run_ocr": False,
        "run_ocr_embedding": False,
        "run_multimodal_embedding": True,
    }
    return _Looks(params.model_copy(update=seen), output, context)


class _Looks:
    """Files by what is seen in them. A `CutFile`."""

    def __init__(self, params: Params, output: str, context: ExtractContext) -> None:
        self._params, self._output, self._context = params, output, context
        self._tools = Tools.load(params, context)

    def __call__(self, source: Source) -> Vector:
        kind, words = kind_of(head_of(source))[0], self._tools.visual_words
        if kind == "text" and words is not None:
            return next(embed_chunks([source.text()], words, self._output, "retrieval_query"))
        if is_picture(source):
            return self._tools.look([decode_picture(source.read(), source.key, side=SEEN_SIDE).pixels])
        with Clip(source) as clip:
            whole = next(self._looked(clip, [Segment(0.0, clip.info.duration)]), None)
            if whole is None:
                raise ItemError(f"no picture of '{clip.name}' can be decoded")
            return whole

    def pieces(self, source: Source, how: Cutting) -> Iterator[Row]:
        """Cut by time, as long as the collection's own segments where it is not said."""
        if kind_of(head_of(source))[0] == "text" or is_picture(source):
            return
        with Clip(source) as clip:
            found = by_time(clip.info.duration, how.seconds or self._params.time_split_interval)
            chosen = evenly(found, how.most)
            for number, (segment, vector) in enumerate(zip(chosen, self._looked(clip, chosen), strict=False)):
                place = {"start_time": segment.start, "end_time": segment.end, TOTAL: len(found)}
                yield Row(place, {self._output: vector})
                self._context.beat((number + 1) / len(chosen))

    def _looked(self, clip: Clip, segments: Sequence[Segment]) -> Iterator[Vector]:
        """A vector for each segment, in one pass over the file; fewer where it is damaged."""
        if not clip.info.has_video:
            raise ItemError(f"'{clip.name}' has no picture; '{self._output}' is of what is seen")
        for frames in clip.groups([segment.spread(LOOKS) for segment in segments], size=SEEN_SIDE):
            if not frames:
                return
            yield self._tools.look([frame.pixels for frame in frames])
