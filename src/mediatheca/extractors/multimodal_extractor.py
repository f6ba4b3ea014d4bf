"""Videos, sound, pictures and texts: a document for every segment of a recording, with what is seen, said and shown.

Version v2 is the same with other defaults and another name of the visual model.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, Field, model_validator

from mediatheca.extractors import Description, EmbedFile, Extract, ExtractContext, Extractor
from mediatheca.extractors._container import need_video_libraries
from mediatheca.extractors._llm import ShapeParams, needs, shape_fields
from mediatheca.extractors._multimodal import DESCRIPTION, OCR, Tools, rows_of
from mediatheca.extractors._multimodal_queries import embed_file
from mediatheca.extractors._outputs import (
    CDN,
    DIMENSIONS,
    MODEL_NAME,
    TASK_TYPE,
    TaskName,
    vector_index,
    without_nulls,
)
from mediatheca.extractors._scenes import SENSITIVITIES, need_scene_libraries
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.models import ModelInfo, Models
from mediatheca.kernel.no_effect import NoEffect
from mediatheca.kernel.speech import spoken_language

_NAME = "multimodal_extractor"
_PROMPT = (
    "Watch this video segment carefully and describe exactly what you see. Do not make up or infer details that are "
    "not visible in the footage. Include: who is shown (gender, appearance, actions), what they are doing, the "
    "setting/location, and any products, text, or branding visible on screen."
)


_SHAPE = "a description is plain text; response_shape gives structured answers"


def _language(text: str) -> str:
    spoken_language(text)
    return text


class GenerationConfig(BaseModel):
    """How a language model writes descriptions."""

    temperature: float = Field(0.2, ge=0, le=2)
    max_output_tokens: int = Field(1024, ge=16, le=8192)
    top_p: float = Field(
        0.8, gt=0, le=1, description="Of the likeliest words. Anthropic's models take the temperature alone."
    )
    video_fps: Annotated[float | None, NoEffect("models are shown pictures of a segment, not the film")] = Field(
        None, gt=0, le=24
    )
    candidate_count: Annotated[int, NoEffect("a segment has one description")] = Field(1, ge=1, le=8)
    response_mime_type: Annotated[str | None, NoEffect(_SHAPE, harmless=("text/plain",))] = Field(None, max_length=100)
    response_schema: Annotated[dict[str, Any] | None, NoEffect(_SHAPE)] = None

    _cleaned = model_validator(mode="before")(without_nulls)


class Params(ShapeParams):
    """Parameters of `multimodal_extractor` v1."""

    extractor_type: Literal["multimodal_extractor"] = "multimodal_extractor"
    split_method: Literal["time", "scene", "silence"] = Field(
        "time", description="Windows of equal length, cuts of the picture, or silences. Without any: time."
    )
    time_split_interval: float = Field(10, ge=1, le=3600, description="Seconds of a window.")
    scene_detection_threshold: float | None = Field(
        None, gt=0, le=1, description="How much must change for a cut; 0.5 is usual. Not given: by sensitivity."
    )
    sensitivity: Literal["low", "medium", "high"] = Field(
        "low",
        validation_alias=AliasChoices("sensitivity", "scene_sensitivity"),
        description="low is a threshold of 0.5.",
    )
    silence_db_threshold: float = Field(
        -40, ge=-90, lt=0, description="Decibels below full scale that count as silence."
    )
    max_segment_duration: float = Field(
        30, ge=1, le=3600, description="Seconds; longer scenes and stretches of sound are cut into equal parts."
    )
    run_transcription: bool = Field(True, description="Write down what is said.")
    transcription_language: Annotated[str, AfterValidator(_language)] = Field(
        "auto", max_length=40, description="A code such as en or de; auto: found out once for each file."
    )
    run_transcription_embedding: bool = Field(
        True, description="A vector of what is said, where run_transcription is on."
    )
    run_ocr: bool = Field(False, description="Read text in the picture.")
    run_ocr_embedding: bool = Field(False, description="A vector of it; switches run_ocr on.")
    run_video_description: bool = Field(False, description="Let a language model say what is seen.")
    run_description_embedding: bool = Field(False, description="A vector of it; switches run_video_description on.")
    run_multimodal_embedding: bool = Field(True, description="A vector of what is seen.")
    enable_thumbnails: bool = Field(True, description="Store a JPEG of the middle of every segment.")
    store_segments: bool = Field(
        False,
        description="Store every segment as an MP4. Not needed to play them: documents/{id}/download cuts on demand.",
    )
    use_cdn: Annotated[bool, CDN] = False
    description_prompt: str = Field(_PROMPT, min_length=3, max_length=4000)
    generation_config: GenerationConfig = Field(default_factory=GenerationConfig)
    embedding_model: str = Field(
        "vertex_multimodal_embedding",
        pattern=MODEL_NAME,
        max_length=200,
        description="Of pictures and texts about them.",
    )
    text_embedding_model: str = Field(
        "multilingual_e5_large_instruct_v1",
        pattern=MODEL_NAME,
        max_length=200,
        description="Of what is said and shown.",
    )
    speech_model: str = Field("whisper_base", pattern=MODEL_NAME, max_length=200)
    ocr_model: str = Field(
        "rapidocr", pattern=MODEL_NAME, max_length=200, description="rapidocr, or tesseract (faster)."
    )
    output_dimensionality: Annotated[int | None, DIMENSIONS] = Field(None, ge=1, le=65536)
    task_type: Annotated[str | None, TASK_TYPE] = Field(None, max_length=64)
    embedding_task: TaskName = Field(
        "document", description="What text_embedding_model is told its texts are for; query: they embed like queries."
    )

    _cleaned = model_validator(mode="before")(without_nulls)

    @model_validator(mode="after")
    def _models_differ(self) -> Params:
        if self.embedding_model == self.text_embedding_model:
            raise ValueError("embedding_model and text_embedding_model must differ: an output is named for its model")
        return self

    @property
    def reads_screen(self) -> bool:
        return self.run_ocr or self.run_ocr_embedding

    @property
    def describes(self) -> bool:
        return self.run_video_description or self.run_description_embedding

    @property
    def embeds_speech(self) -> bool:
        return self.run_transcription and self.run_transcription_embedding

    @property
    def cut_threshold(self) -> float:
        return self.scene_detection_threshold or SENSITIVITIES[self.sensitivity]


class ParamsV2(Params):
    """Parameters of `multimodal_extractor` v2."""

    run_transcription: bool = Field(False, description="Write down what is said.")
    run_transcription_embedding: bool = Field(
        False, description="A vector of what is said; switches run_transcription on."
    )
    embedding_model: str = Field(
        "gemini_embedding_2", pattern=MODEL_NAME, max_length=200, description="Of pictures and texts about them."
    )

    @model_validator(mode="after")
    def _writes_down_what_it_embeds(self) -> ParamsV2:
        self.run_transcription = self.run_transcription or self.run_transcription_embedding
        return self


_FIELDS: dict[str, dict[str, Any]] = {
    "modality": {"type": "string", "enum": ["video", "audio", "image", "text"]},
    "start_time": {"type": "number", "description": "Seconds; not there for pictures and texts."},
    "end_time": {"type": "number", "description": "Seconds."},
    "duration": {"type": "number", "description": "Of the segment, seconds."},
    "start_frame": {"type": "integer", "description": "Number of its first frame, from 0."},
    "end_frame": {"type": "integer", "description": "Number of its last frame."},
    "fps": {"type": "number", "description": "Frames a second, counted."},
    "source_fps": {"type": "number", "description": "Frames a second, as the file says."},
    "segment_index": {"type": "integer", "description": "From 0."},
    "total_segments": {"type": "integer"},
    "width": {"type": "integer", "description": "Pixels, upright."},
    "height": {"type": "integer", "description": "Pixels, upright."},
    "text": {"type": "text", "description": "Of a text."},
    "source_video_url": {"type": "string", "description": "The file it was made of."},
}


def _describe(version: str, params: Params, models: Models) -> Description:
    """Every vector, field, library and model that the parameters ask for; a missing one is said now."""
    need_video_libraries(_NAME)
    if params.split_method == "scene":
        need_scene_libraries(f"{_NAME} with split_method scene")
    fields = {**_FIELDS, **_chosen_fields(params)}
    fields |= shape_fields(params, taken=fields)
    text = params.text_embedding_model
    made = {
        text: (params.embeds_speech, ""),
        OCR: (params.run_ocr_embedding, OCR),
        DESCRIPTION: (params.run_description_embedding, DESCRIPTION),
    }
    vectors = [vector_index(_NAME, version, models.info(text), "text", output) for on, output in made.values() if on]
    if params.run_multimodal_embedding:
        vectors.insert(0, vector_index(_NAME, version, models.info(params.embedding_model), "image"))
    sources = {text: "transcription", OCR: "ocr_text", DESCRIPTION: "description"}
    outputs = [name for name, (on, _) in made.items() if on]
    return Description(
        tuple(vectors),
        fields,
        weights=tuple(info.weights for info in _helpers(params, models)),
        optional=frozenset((*outputs, params.embedding_model) if params.run_multimodal_embedding else outputs),
        texts={name: sources[name] for name in outputs},
        needs=needs(params, params.response_shape is not None or params.describes),
    )


def _chosen_fields(params: Params) -> dict[str, dict[str, Any]]:
    wanted: dict[str, tuple[bool, str, str]] = {
        "transcription": (params.run_transcription, "text", "What is said; empty where nothing is."),
        "language": (params.run_transcription, "string", "Of what is said, as a code."),
        "ocr_text": (params.reads_screen, "text", "Text in the picture."),
        "description": (params.describes, "text", "What is seen, in the words of a language model."),
        "thumbnail_url": (params.enable_thumbnails, "string", "JPEG, at most 640 pixels a side."),
        "video_segment_url": (params.store_segments, "string", "The segment as MP4."),
    }
    return {name: {"type": kind, "description": told} for name, (on, kind, told) in wanted.items() if on}


def _helpers(params: Params, models: Models) -> list[ModelInfo]:
    """Models that make no vector.

    Raises:
        ValidationError: one is of another kind.
    """
    wanted = [("speech_model", params.speech_model, "speech")] if params.run_transcription else []
    wanted += [("ocr_model", params.ocr_model, "ocr")] if params.reads_screen else []
    found = []
    for field, name, role in wanted:
        info = models.info(name)
        if role not in info.modalities:
            message = f"'{name}' is a model for {', '.join(info.modalities)}, not for {role}"
            raise ValidationError.at(f"feature_extractor.parameters.{field}", message)
        found.append(info)
    return found


def describe_v1(params: Params, models: Models) -> Description:
    return _describe("v1", params, models)


def describe_v2(params: Params, models: Models) -> Description:
    return _describe("v2", params, models)


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the models that the parameters ask for."""
    tools = Tools.load(params, context)
    return lambda item: rows_of(item, params, tools)


def open_query(params: Params, output: str, context: ExtractContext) -> EmbedFile:
    """Embeds a picture, a video (also piece by piece) or a text as a query of one output."""
    return embed_file(params, output, context)


_INPUTS: dict[str, tuple[str, ...]] = {
    "video": ("video", "audio"),
    "image": ("image",),
    "text": ("text", "string"),
    "gif": ("image", "gif"),
    "custom_thumbnail": ("image",),
}
_EXAMPLE = {
    "input_mappings": {"video": "video"},
    "parameters": {"split_method": "scene", "run_transcription": True, "run_ocr": False},
}

multimodal_extractor = Extractor(
    name=_NAME,
    version="v1",
    description="A document per segment of a video or recording: vectors of what is seen and said, transcript, "
    "text in the picture, thumbnail, start and end. Pictures and texts give one each.",
    params=Params,
    inputs=_INPUTS,
    describe=describe_v1,
    open=open_extractor,
    reads=frozenset(),
    cache_version=1,
    weight=50,
    query=open_query,
    position_fields=("start_time", "end_time"),
    icon="video",
    example=_EXAMPLE,
)

multimodal_extractor_v2 = Extractor(
    name=_NAME,
    version="v2",
    description="As v1, in the space of gemini_embedding_2, without a transcript unless it is asked for.",
    params=ParamsV2,
    inputs=_INPUTS,
    describe=describe_v2,
    open=open_extractor,
    reads=frozenset(),
    cache_version=1,
    weight=50,
    query=open_query,
    position_fields=("start_time", "end_time"),
    icon="video",
    example=_EXAMPLE,
)
