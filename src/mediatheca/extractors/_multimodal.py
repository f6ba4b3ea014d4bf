"""What `multimodal_extractor` does with one object: recordings into segments, each with its pictures and words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mediatheca.extractors import Artifact, Dropped, ExtractContext, Item, ItemError, Row, Source
from mediatheca.extractors._chunked_text import beyond_window, clean_text, embed_chunks
from mediatheca.extractors._container import head_of, warm_up
from mediatheca.extractors._llm import answer, say
from mediatheca.extractors._looking import look
from mediatheca.extractors._outputs import Positions, task_of
from mediatheca.extractors._pictures import decode_picture, thumbnail
from mediatheca.extractors._scenes import cuts_of
from mediatheca.extractors._scenes import warm_up as warm_up_scenes
from mediatheca.extractors._screen import distinct_pictures, read_screen
from mediatheca.extractors._segments import MAX_SEGMENTS, Segment, at_marks, by_time, middles
from mediatheca.extractors._silence import silences
from mediatheca.extractors._speech import transcript_of
from mediatheca.extractors._texts import nothing_to_embed
from mediatheca.extractors._transcode import Recipe, scratch_file, transcode
from mediatheca.extractors._video import Clip, Frame
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.models import (
    EmbeddingTask,
    ImageEmbedder,
    Picture,
    SpeechRecognizer,
    TextEmbedder,
    TextReader,
    Word,
)
from mediatheca.kernel.sniff import kind_of
from mediatheca.kernel.speech import spoken_language, text_of, words_between
from mediatheca.kernel.steps import Step, step

if TYPE_CHECKING:
    from mediatheca.extractors.multimodal_extractor import Params

OCR = "ocr_embedding"
DESCRIPTION = "description_embedding"
_MEDIA = ("video", "gif", "image", "text")
LOOKS = 3
"""Pictures of a segment that are looked at; the middle one is its thumbnail."""
SEEN_SIDE = 640
READ_SIDE = 1280
_SEGMENT_RECIPE = Recipe(crf=28, preset="ultrafast", max_height=720)
_SILENCES = Step("sound.silences", 1)
_SILENCE_RATE = 8_000


@dataclass(frozen=True)
class Tools:
    """The models that the parameters ask for, loaded."""

    context: ExtractContext
    visual: ImageEmbedder | None
    words: TextEmbedder | None
    """Of transcripts and of text in pictures."""
    recognizer: SpeechRecognizer | None
    reader: TextReader | None
    task: EmbeddingTask
    """Of `words`."""
    visual_words: TextEmbedder | None
    """The text side of the visual model, where it has one."""

    @classmethod
    def load(cls, params: Params, context: ExtractContext) -> Self:
        warm_up()
        if params.split_method == "scene":
            warm_up_scenes()
        models = context.models
        visual = models.image(params.embedding_model) if params.run_multimodal_embedding else None
        embeds_words = params.embeds_speech or params.run_ocr_embedding or params.run_description_embedding
        return cls(
            context,
            visual,
            models.text(params.text_embedding_model) if embeds_words else None,
            models.load(params.speech_model, SpeechRecognizer) if params.run_transcription else None,
            models.load(params.ocr_model, TextReader) if params.reads_screen else None,
            task_of(params.embedding_task),
            visual if isinstance(visual, TextEmbedder) else None,
        )

    def look(self, pictures: Sequence[Picture]) -> Vector:
        """One vector of pictures: the mean of theirs. The same picture is looked at once."""
        assert self.visual is not None
        rows = [look(pixels, self.visual, self.context) for pixels in pictures]
        mean: Vector = np.mean(rows, axis=0, dtype=np.float32)
        length = float(np.linalg.norm(mean))
        return mean / np.float32(length) if self.visual.info.metric == "cosine" and length else mean

    def say_as_vector(self, text: str, name: str) -> Vector:
        """The vector of words in a transcript, a picture or a description."""
        assert self.words is not None
        with self.context.timed("model"):
            return next(embed_chunks([text], self.words, name, self.task, self.context.desk))


# One object


def rows_of(item: Item, params: Params, tools: Tools) -> Iterator[Row | Dropped]:
    """Every document of an object.

    Raises:
        ItemError: there is nothing to look at, or it cannot be read.
    """
    positions, files, poster = Positions(), count(), _poster(item)
    given = [(name, source) for name in _MEDIA for source in item.inputs.get(name, ())]
    if not given:
        raise ItemError(f"the object has no value for any of the inputs {', '.join(_MEDIA)}")
    for name, source in given:
        position: int | None = None
        for made in documents_of(source, params, tools, name, files):
            if isinstance(made, Dropped):
                yield replace(made, position=position) if made.kind == "field" else made
                continue
            position = made.position = positions.take(source.key)
            if poster and "thumbnail_url" in made.artifacts:
                made.artifacts["thumbnail_url"] = poster
            yield made


def _poster(item: Item) -> Artifact | None:
    """The picture that the owner gave for all documents of the object."""
    for source in item.inputs.get("custom_thumbnail", ()):
        pixels = decode_picture(source.read(), source.key or "custom_thumbnail").pixels
        return Artifact(thumbnail(pixels), "image/jpeg", ".jpg")
    return None


def documents_of(
    source: Source, params: Params, tools: Tools, name: str = "video", files: Iterator[int] | None = None
) -> Iterator[Row | Dropped]:
    """The documents of one file or text; what the bytes are counts, not the input they came by.

    Raises:
        ItemError: it cannot be read, and why.
    """
    if name == "text" or (source.data is None and source.path is None):
        return _text_rows(source, params, tools)
    if is_picture(source):
        return _picture_rows(source, params, tools)
    return _recording_rows(source, params, tools, files or count())


def is_picture(source: Source) -> bool:
    """A still one: animations are recordings."""
    kind, mime = kind_of(head_of(source))
    if mime != "image/gif":
        return kind == "image"
    with Clip(source) as clip:
        return len(clip.times) < 2


def _text_rows(source: Source, params: Params, tools: Tools) -> Iterator[Row | Dropped]:
    if source.value is not None and not isinstance(source.value, str | int | float):
        raise ItemError(f"'{source.key}' is a {type(source.value).__name__}, not a text")
    text = clean_text(source.text())
    if not text.strip():
        yield nothing_to_embed(source)
        return
    row = Row({"modality": "text", "text": text}, source_key=source.key)
    if tools.visual_words is not None:
        vectors = embed_chunks([text], tools.visual_words, params.embedding_model, desk=tools.context.desk)
        row.vectors[params.embedding_model] = next(vectors)
        yield from beyond_window(tools.visual_words, text, source.key)
    yield from _complete(row, params, tools, [text], [])


def _picture_rows(source: Source, params: Params, tools: Tools) -> Iterator[Row | Dropped]:
    with tools.context.timed("decode"):
        picture = decode_picture(
            source.read(), source.key or "image", side=READ_SIDE if params.reads_screen else SEEN_SIDE
        )
    row = Row({"modality": "image", "width": picture.width, "height": picture.height}, source_key=source.key)
    yield from _seen(row, [picture.pixels], params, tools, "")


# Recordings


def _recording_rows(source: Source, params: Params, tools: Tools, files: Iterator[int]) -> Iterator[Row | Dropped]:
    context = tools.context
    with context.timed("decode"):
        clip = Clip(source)
    segments, warning = _cut(clip, params, context)
    if warning:
        yield Dropped("split_method", warning, source.key, kind="warning")
    if len(segments) > MAX_SEGMENTS:
        raise ItemError(f"'{clip.name}' makes {len(segments):,} segments, more than {MAX_SEGMENTS:,}; take longer ones")
    words: tuple[Word, ...] = ()
    spoken: dict[str, Any] = {}
    if tools.recognizer is not None:
        said = transcript_of(clip, tools.recognizer, spoken_language(params.transcription_language), context)
        words, spoken = said.words, {"language": said.language} if said.language else {}
    for number, (segment, frames) in enumerate(_with_pictures(clip, segments, params, context)):
        context.beat(number / len(segments))
        row = Row({**_facts(clip, segment, number, len(segments)), **spoken}, source_key=source.key)
        if clip.info.has_video and not frames:
            yield Dropped(f"segment {number}", "no picture of it can be decoded", source.key, kind="warning")
        said_here = text_of(words_between(words, segment.start, segment.end)) if params.run_transcription else ""
        if params.run_transcription:
            row.fields["transcription"] = said_here
        if said_here and params.embeds_speech:
            row.vectors[params.text_embedding_model] = tools.say_as_vector(said_here, params.text_embedding_model)
            yield from beyond_window(tools.words, said_here, source.key)
        if params.store_segments:
            row.artifacts["video_segment_url"] = _segment_file(clip, segment, context, next(files))
        yield from _seen(row, [frame.pixels for frame in frames], params, tools, said_here)


def _facts(clip: Clip, segment: Segment, number: int, total: int) -> dict[str, Any]:
    info = clip.info
    facts: dict[str, Any] = {
        "modality": "video" if info.has_video else "audio",
        "start_time": round(segment.start, 3),
        "end_time": round(segment.end, 3),
        "duration": round(segment.length, 3),
        "segment_index": number,
        "total_segments": total,
    }
    if info.has_video:
        # The last frame is the one before the first frame of what follows.
        last = max(clip.index_at(segment.start), int(np.searchsorted(clip.times, segment.end - 1e-4)) - 1)
        facts |= {"start_frame": clip.index_at(segment.start), "end_frame": last, "fps": info.fps}
        facts |= {"source_fps": round(info.source_fps, 3), "width": info.width, "height": info.height}
    return facts


def _cut(clip: Clip, params: Params, context: ExtractContext) -> tuple[list[Segment], str]:
    """The segments, and why they are not those that were asked for."""
    duration, longest = clip.info.duration, params.max_segment_duration
    warning = ""
    if params.split_method == "scene" and clip.info.has_video:
        cuts = cuts_of(clip, params.cut_threshold, context)
        if cuts:
            return at_marks(cuts, duration, longest), ""
    elif params.split_method == "scene":
        warning = "there is no picture to find cuts in; it is cut by time"
    elif params.split_method == "silence" and clip.info.has_audio:
        marks = middles(_silences(clip, params.silence_db_threshold, context), duration)
        if marks:
            return at_marks(marks, duration, longest), ""
    elif params.split_method == "silence":
        warning = "there is no sound to find silences in; it is cut by time"
    return by_time(duration, params.time_split_interval), warning


def _silences(clip: Clip, threshold_db: float, context: ExtractContext) -> list[tuple[float, float]]:
    def find() -> list[tuple[float, float]]:
        with context.timed("decode"):
            return silences(clip.audio_blocks(_SILENCE_RATE), _SILENCE_RATE, threshold_db)

    found = step(context.desk, _SILENCES, [clip.source.digest(), threshold_db], find)
    return [(start, end) for start, end in found]


def _with_pictures(
    clip: Clip, segments: Sequence[Segment], params: Params, context: ExtractContext
) -> Iterator[tuple[Segment, list[Frame]]]:
    """Each segment with the pictures that are looked at, in one pass over the file."""
    wanted = params.run_multimodal_embedding or params.reads_screen or params.describes or params.response_shape
    each = LOOKS if wanted else 1 if params.enable_thumbnails else 0
    side = READ_SIDE if params.reads_screen else SEEN_SIDE
    groups = clip.groups([segment.spread(each) if each else [] for segment in segments], size=side)
    for segment in segments:
        with context.timed("decode"):
            held = next(groups)
        yield segment, held


def _segment_file(clip: Clip, segment: Segment, context: ExtractContext, number: int) -> Artifact:
    path = scratch_file(context.scratch, number)
    with context.timed("decode"):
        transcode(clip, path, _SEGMENT_RECIPE, context.beat, segment.start, segment.end)
    return Artifact(path=str(path), mime_type="video/mp4", suffix=".mp4", role="artifact")


# What is seen


def _seen(row: Row, pictures: list[Picture], params: Params, tools: Tools, said: str) -> Iterator[Row | Dropped]:
    """The row with everything that comes of its pictures; then what could not be had."""
    distinct = distinct_pictures(pictures)
    if pictures and params.enable_thumbnails:
        middle = pictures[len(pictures) // 2]
        row.artifacts["thumbnail_url"] = Artifact(thumbnail(middle), "image/jpeg", ".jpg")
    if pictures and tools.visual is not None:
        row.vectors[params.embedding_model] = tools.look(distinct)
    if tools.reader is not None:
        row.fields["ocr_text"] = screen = read_screen(distinct, tools.reader, tools.context)
        if screen and params.run_ocr_embedding:
            row.vectors[OCR] = tools.say_as_vector(screen, params.text_embedding_model)
            yield from beyond_window(tools.words, screen, row.source_key)
    texts = [text for text in (said, row.fields.get("ocr_text", "")) if text]
    yield from _complete(row, params, tools, texts, distinct)


def _complete(
    row: Row, params: Params, tools: Tools, texts: list[str], pictures: list[Picture]
) -> Iterator[Row | Dropped]:
    """The row with what language models find in it; then what they could not."""
    desk, problems = tools.context.desk, {}
    if params.describes and pictures:
        how = params.generation_config
        said, problems["description"] = say(
            desk, params, params.description_prompt, texts, pictures,
            temperature=how.temperature, top_p=how.top_p, max_tokens=how.max_output_tokens,
        )  # fmt: skip
        row.fields["description"] = said or None
        if said and params.run_description_embedding:
            row.vectors[DESCRIPTION] = tools.say_as_vector(said, params.text_embedding_model)
            yield from beyond_window(tools.words, said, row.source_key)
    if params.response_shape is not None:
        fields, problems["response_shape"] = answer(desk, params, texts, pictures)
        row.fields |= fields
    yield row
    for what, problem in problems.items():
        if problem:
            yield Dropped(what, problem, row.source_key, kind="field")
