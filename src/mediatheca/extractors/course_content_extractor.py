"""Teaching material: lectures (with captions), scripts as PDF, and exercises as source code, in units to find again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mediatheca.extractors import (
    Artifact,
    Description,
    Dropped,
    Extract,
    ExtractContext,
    Extractor,
    Item,
    ItemError,
    Row,
    Source,
)
from mediatheca.extractors._captions import Cue
from mediatheca.extractors._chunked_text import MAX_ROWS, beyond_window, clean_text, embed_chunks
from mediatheca.extractors._code import LANGUAGES
from mediatheca.extractors._container import need_video_libraries
from mediatheca.extractors._course import Lecture, Script, Unit, exercise_units
from mediatheca.extractors._llm import ModelParams, needs, say
from mediatheca.extractors._looking import look
from mediatheca.extractors._outputs import MODEL_NAME, Positions, cleaned, vector_index
from mediatheca.extractors._pictures import thumbnail
from mediatheca.extractors._scans import PageReader
from mediatheca.extractors._scenes import need_scene_libraries
from mediatheca.extractors._speech import transcript_of
from mediatheca.extractors._texts import text_of
from mediatheca.extractors._video import Clip
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.extras import require
from mediatheca.kernel.models import ImageEmbedder, Models, SpeechRecognizer, TextEmbedder, TextReader

TEXT = "multilingual_e5_large_instruct_v1"
CODE = "jina_embeddings_v2_base_code"
VISUAL = "google_siglip_base_v1"
STRUCTURE = "facebook_dinov2_base_v1"
NO_OCR = "none"
MAX_CODE = 8000
"""Characters of a unit of code that are embedded: the models look at the beginning only."""
_SUMMARY = "Summarise this piece of teaching material in two or three sentences: what does it explain?"
_FRAMES = "These are frames of one part of a lecture. Say in a few sentences what is shown and written in them."


class Params(ModelParams):
    """Parameters of `course_content_extractor`."""

    extractor_type: Literal["course_content_extractor"] = "course_content_extractor"
    target_segment_duration_ms: int = Field(120_000, ge=1000, le=3_600_000, description="Of a lecture's segments.")
    min_segment_duration_ms: int = Field(30_000, ge=500, le=3_600_000)
    segmentation_method: Literal["scene", "srt", "time"] = Field(
        "scene", description="Where segments end: at changes of the picture, at captions, or by the clock alone."
    )
    scene_threshold: float = Field(0.3, gt=0, le=1)
    use_whisper_asr: bool = Field(True, description="Write down what is said, where no captions are given.")
    transcription_language: str = Field("auto", pattern=r"^[a-z]{2,3}$|^auto$")
    transcription_model: str = Field("whisper_base", pattern=MODEL_NAME, max_length=200)
    expand_to_granular_docs: bool = Field(True, description="False: a document a page and a file, not finer.")
    ocr_frames_per_segment: int = Field(3, ge=0, le=20, description="Looked at for writing; 0: none.")
    ocr_model: str = Field("rapidocr", pattern=MODEL_NAME, max_length=200, description="rapidocr, tesseract, none.")
    pdf_extraction_mode: Literal["per_element", "per_page"] = "per_element"
    pdf_render_dpi: int = Field(150, ge=72, le=300)
    detect_code_in_pdf: bool = True
    segment_functions: bool = Field(True, description="A document a function or class; false: a file.")
    supported_languages: list[str] = Field(default_factory=list, max_length=50, description="Of code; empty: all.")
    run_text_embedding: bool = True
    run_code_embedding: bool = True
    run_visual_embedding: bool = True
    run_structure_embedding: bool = True
    enable_thumbnails: bool = True
    run_vlm_frame_analysis: bool = Field(False, description="Let a vision model say what frames show.")
    enrich_with_llm: bool = Field(False, description="Let a language model summarise each unit.")

    _cleaned = model_validator(mode="before")(cleaned)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_segment_duration_ms > self.target_segment_duration_ms:
            raise ValueError(
                f"min_segment_duration_ms ({self.min_segment_duration_ms}) must not be larger than "
                f"target_segment_duration_ms ({self.target_segment_duration_ms})"
            )
        known = set(LANGUAGES.values())
        if unknown := sorted(set(self.supported_languages) - known):
            raise ValueError(
                f"supported_languages: {', '.join(unknown)} is not known; known: {', '.join(sorted(known))}"
            )
        return self

    @property
    def outputs(self) -> list[tuple[str, str]]:
        """Models asked for, each with what it embeds."""
        wanted = (
            (self.run_text_embedding, TEXT, "text"),
            (self.run_code_embedding, CODE, "text"),
            (self.run_visual_embedding, VISUAL, "image"),
            (self.run_structure_embedding, STRUCTURE, "image"),
        )
        return [(name, modality) for on, name, modality in wanted if on]

    @property
    def reads(self) -> bool:
        return self.ocr_model != NO_OCR


_FIELDS: dict[str, dict[str, Any]] = {
    "unit_type": {"type": "string", "enum": ["video_segment", "pdf_element", "pdf_page", "code"]},
    "doc_type": {"type": "string", "description": "video, pdf, function, class, module, file"},
    "title": {"type": "string", "description": "The heading above, the name of a function, the times of a segment."},
    "text_content": {"type": "text"},
    "code_content": {"type": "text"},
    "code_language": {"type": "string"},
    "screen_text": {"type": "text", "description": "What can be read in frames of a lecture."},
    "segment_index": {"type": "integer"},
    "start_time": {"type": "number", "description": "Seconds."},
    "end_time": {"type": "number", "description": "Seconds."},
    "start_line": {"type": "integer", "description": "From 1."},
    "end_line": {"type": "integer", "description": "The last line, included."},
    "file_path": {"type": "string", "description": "In the archive."},
    "element_type": {"type": "string", "description": "paragraph, list, table, figure, code, …"},
    "page_number": {"type": "integer", "description": "From 1."},
    "total_pages": {"type": "integer"},
    "block_index": {"type": "integer", "description": "On its page."},
    "bbox": {"type": "object", "description": "x0, y0, x1, y1 in points from the top left of the page."},
}


def describe(params: Params, models: Models) -> Description:
    """Up to four indexes; a document has those that fit it.

    Raises:
        UnavailableError: a library or model is not installed; the message says how to get it.
    """
    name = "course_content_extractor"
    require(name, "pdf")
    need_video_libraries(name)
    if params.segmentation_method == "scene":
        need_scene_libraries(name)
    weights = []
    if params.use_whisper_asr:
        weights.append(models.info(params.transcription_model).weights)
    if params.reads:
        weights.append(models.info(params.ocr_model).weights)
    fields = dict(_FIELDS)
    if params.enable_thumbnails:
        fields["thumbnail_url"] = {"type": "string", "description": "JPEG, at most 640 pixels a side."}
    if params.enrich_with_llm:
        fields["llm_summary"] = {"type": "text"}
    if params.run_vlm_frame_analysis:
        fields["frame_analysis"] = {"type": "text", "description": "What a vision model sees in the frames."}
    indexes: list[VectorIndex] = [
        vector_index(name, "v1", models.info(model), modality) for model, modality in params.outputs
    ]
    return Description(
        tuple(indexes),
        fields,
        tuple(weights),
        optional=frozenset(model for model, _ in params.outputs),
        texts={CODE: "code_content"} if params.run_code_embedding else {},
        needs=needs(params, params.enrich_with_llm or params.run_vlm_frame_analysis),
    )


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the models; the returned function goes through lectures, scripts and exercises."""
    course = _Course(params, context)

    def extract(item: Item) -> Iterable[Row | Dropped]:
        if not any(item.inputs.get(name) for name in ("video", "pdf", "code")):
            raise ItemError("the object has no value for any of the inputs 'video', 'pdf', 'code'")
        positions = Positions()
        rows = 0
        for source, made in course.units(item):
            if isinstance(made, Dropped):
                yield made
                continue
            rows += 1
            if rows > MAX_ROWS:
                yield Dropped("the units that follow", f"the object makes more than {MAX_ROWS:,} documents", source.key)
                return
            yield from course.rows(made, source, positions.take(source.key))

    return extract


class _Course:
    """One set of parameters with its models."""

    def __init__(self, params: Params, context: ExtractContext) -> None:
        models, self._params, self._context = context.models, params, context
        reader = models.load(params.ocr_model, TextReader) if params.reads else None
        self._recognizer = models.load(params.transcription_model, SpeechRecognizer) if params.use_whisper_asr else None
        self._texts: dict[str, TextEmbedder] = {}
        self._images: dict[str, ImageEmbedder] = {}
        for name, modality in params.outputs:
            if modality == "text":
                self._texts[name] = models.text(name)
            else:
                self._images[name] = models.image(name)
        self._lecture = Lecture(
            context,
            params.segmentation_method,
            params.scene_threshold,
            params.target_segment_duration_ms / 1000,
            params.min_segment_duration_ms / 1000,
            reader,
            params.ocr_frames_per_segment,
        )
        by_element = params.expand_to_granular_docs and params.pdf_extraction_mode == "per_element"
        self._script = Script(
            context,
            PageReader(context, reader, params.pdf_render_dpi),
            by_element,
            params.detect_code_in_pdf,
            params.pdf_render_dpi,
            bool(self._images) or params.enable_thumbnails,
        )

    def units(self, item: Item) -> Iterator[tuple[Source, Unit | Dropped]]:
        """The units of everything the object holds."""
        cues = [cue for source in item.inputs.get("captions", ()) for cue in _cues(source)]
        for number, source in enumerate(item.inputs.get("video", ())):
            for unit in self._lecture.units(source, () if number else cues, self._heard):
                yield source, unit
        for source in item.inputs.get("pdf", ()):
            for unit in self._script.units(source):
                yield source, unit
        by_function = self._params.segment_functions and self._params.expand_to_granular_docs
        for source in item.inputs.get("code", ()):
            for unit in exercise_units(source, by_function, frozenset(self._params.supported_languages)):
                yield source, unit

    def _heard(self, clip: Clip) -> Sequence[Cue]:
        if self._recognizer is None:
            return ()
        language = self._params.transcription_language
        found = transcript_of(clip, self._recognizer, None if language == "auto" else language, self._context)
        return [Cue(word.start, word.end, word.text.strip()) for word in found.words]

    def rows(self, unit: Unit, source: Source, position: int) -> Iterator[Row | Dropped]:
        """The document of a unit, with what fits it."""
        fields = {key: clean_text(value) if isinstance(value, str) else value for key, value in unit.fields.items()}
        row = Row(fields, source_key=source.key, position=position)
        yield from self._embed(row, unit)
        if unit.picture is not None and self._params.enable_thumbnails:
            row.artifacts["thumbnail_url"] = Artifact(thumbnail(unit.picture), "image/jpeg", ".jpg")
        yield from self._told(row, unit)
        yield row

    def _embed(self, row: Row, unit: Unit) -> Iterator[Dropped]:
        for name, text in ((TEXT, unit.text), (CODE, unit.code[:MAX_CODE])):
            model = self._texts.get(name)
            if model is not None and text.strip():
                with self._context.timed("model"):
                    row.vectors[name] = next(embed_chunks([clean_text(text)], model, name, desk=self._context.desk))
                yield from beyond_window(model, clean_text(text), row.source_key, row.position)
        if unit.picture is not None:
            for name, looks in self._images.items():
                row.vectors[name] = look(unit.picture, looks, self._context)

    def _told(self, row: Row, unit: Unit) -> Iterator[Dropped]:
        """What language models say; a field that could not be filled is told."""
        params, desk = self._params, self._context.desk
        asked: list[tuple[str, str, list[str], list[Any]]] = []
        if params.enrich_with_llm and (unit.text or unit.code):
            asked.append(("llm_summary", _SUMMARY, [unit.text or unit.code], []))
        if params.run_vlm_frame_analysis and unit.more_pictures:
            asked.append(("frame_analysis", _FRAMES, [], unit.more_pictures))
        for name, prompt, texts, pictures in asked:
            said, problem = say(desk, params, prompt, texts, pictures)
            row.fields[name] = said or None
            if problem or not said:
                yield Dropped(name, problem or "the model said nothing", row.source_key, row.position, "field")


def _cues(source: Source) -> Sequence[Cue]:
    found = text_of(source).cues
    if not found:
        raise ItemError(f"'{source.key}' is no captions file (SubRip, WebVTT, SubStation Alpha)")
    return found


course_content_extractor = Extractor(
    name="course_content_extractor",
    version="v1",
    description="Lectures in segments with what is said and written, scripts by element, source code by function.",
    params=Params,
    inputs={
        "video": ("video", "audio"),
        "captions": ("text", "string", "document"),
        "pdf": ("pdf", "document"),
        "code": ("binary", "text", "document"),
    },
    extras={"captions": ("text", "pysubs2")},
    describe=describe,
    open=open_extractor,
    reads=frozenset(),
    cache_version=1,
    weight=50,
    position_fields=("start_time", "page_number", "block_index", "start_line"),
    icon="graduation-cap",
    example={"input_mappings": {"video": "lecture", "pdf": "script"}},
)
