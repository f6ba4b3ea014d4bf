"""PDFs: a document for each block of a page, with its place, its kind, its text, and how far that can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mediatheca.extractors import (
    Artifact,
    Description,
    Dropped,
    EmbedFile,
    Extract,
    ExtractContext,
    Extractor,
    Item,
    ItemError,
    Row,
    Source,
)
from mediatheca.extractors._block_choice import as_one, long_enough
from mediatheca.extractors._boxes import Box
from mediatheca.extractors._chunked_text import MAX_ROWS, beyond_window, clean_text, embed_chunks
from mediatheca.extractors._layout import Block, PageBlocks, mark_running
from mediatheca.extractors._llm import ModelParams, say
from mediatheca.extractors._outputs import MODEL_NAME, Positions, cleaned, sources, vector_index
from mediatheca.extractors._page_pictures import PagePictures
from mediatheca.extractors._pages import Page, PageError, Pdf
from mediatheca.extractors._scans import PageReader
from mediatheca.extractors._text_queries import Passage, TextFile
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import MediathecaError, UnavailableError
from mediatheca.kernel.extras import require
from mediatheca.kernel.models import Models, TextEmbedder, TextReader
from mediatheca.kernel.search import Cutting, evenly

NO_OCR = "none"
TAGS = ((0.85, "A"), (0.70, "B"), (0.50, "C"), (0.0, "D"))
_CORRECT = (
    "The picture shows one block of a document, the text is what a program read in it. Answer with the text as it is "
    "written in the picture, corrected where the program misread, and nothing else."
)


class Params(ModelParams):
    """Parameters of `document_graph_extractor`."""

    extractor_type: Literal["document_graph_extractor"] = "document_graph_extractor"
    use_layout_detection: bool = Field(True, description="False: one block a page.")
    layout_detector: Literal["pymupdf"] = Field(
        "pymupdf", description="The wire's name for layout by geometry; PDFium does it here. docling is not installed."
    )
    vertical_threshold: float = Field(15.0, ge=0, le=1000, description="Points between lines of one block at most.")
    horizontal_threshold: float = Field(
        50.0, ge=0, le=2000, description="Points that the left (or right) edges of lines of one block differ at most."
    )
    min_text_length: int = Field(
        20, ge=0, le=10_000, description="Shorter blocks are left out and counted; a heading joins the block below."
    )
    base_confidence: float = Field(0.85, ge=0, le=1, description="Of a text layer without unreadable characters.")
    min_confidence_for_vlm: float = Field(0.6, ge=0, le=1, description="Blocks below are shown to a vision model.")
    use_vlm_correction: bool = Field(
        True, description="Where a language model is configured it corrects what was read badly; else nothing does."
    )
    fast_mode: bool = Field(False, description="No correction by a vision model.")
    vlm_provider: str = Field("", max_length=64, description="openai, or a server with its protocol; anthropic.")
    vlm_model: str = Field("", max_length=256, description="Empty: the installation's default.")
    run_text_embedding: bool = True
    render_dpi: int = Field(150, ge=72, le=300, description="Of pages that are recognised.")
    generate_thumbnails: bool = True
    thumbnail_mode: Literal["full_page", "segment", "both"] = "both"
    thumbnail_dpi: int = Field(72, ge=36, le=300)
    ocr_model: str = Field(
        "rapidocr",
        pattern=MODEL_NAME,
        max_length=200,
        description="What reads scanned pages: rapidocr, tesseract (faster); none: they are left out and counted.",
    )
    embedding_model: str = Field(
        "multilingual_e5_large_instruct_v1",
        pattern=MODEL_NAME,
        max_length=200,
        description="Logical name of the text model.",
    )

    _cleaned = model_validator(mode="before")(cleaned)

    @field_validator("layout_detector", mode="before")
    @classmethod
    def _no_docling(cls, value: Any) -> Any:
        if value == "docling":
            raise ValueError("docling's models are not part of this installation; use pymupdf (layout by geometry)")
        return value

    @property
    def model(self) -> str:
        """As `Generate.model` has it. What clients send by default names a hosted model: the installation's answers."""
        if self.vlm_provider == "google" or not (self.vlm_provider or self.vlm_model):
            return super().model
        return ":".join(part for part in (self.vlm_provider, self.vlm_model) if part)

    @property
    def corrects(self) -> bool:
        return self.use_vlm_correction and not self.fast_mode

    def shows(self, mode: Literal["full_page", "segment"]) -> bool:
        """Whether pictures of pages, or of blocks, are stored."""
        return self.generate_thumbnails and self.thumbnail_mode in (mode, "both")


def describe(params: Params, models: Models) -> Description:
    """One text index where blocks are embedded; where a block is and what it is.

    Raises:
        UnavailableError: PDFium, the recogniser or the text model is not installed; the message says how to get it.
    """
    require("document_graph_extractor", "pdf")
    weights = () if params.ocr_model == NO_OCR else (_reader_info(params, models),)
    fields: dict[str, dict[str, Any]] = {
        "page_number": {"type": "integer", "description": "From 1."},
        "block_index": {"type": "integer", "description": "In reading order on its page, from 0."},
        "object_type": {
            "type": "string",
            "enum": ["paragraph", "table", "form", "list", "header", "footer", "figure", "handwritten"],
            "description": "handwritten is never told apart here.",
        },
        "bbox": {"type": "object", "description": "x0, y0, x1, y1 in points from the top left of the page as shown."},
        "page_size": {"type": "object", "description": "width and height in points."},
        "text_raw": {"type": "text", "description": "As in the file, or as recognised."},
        "text_source": {"type": "string", "enum": ["text_layer", "ocr", "none"]},
        "table": {"type": "array", "description": "Of a table: its rows, each a list of the texts of its cells."},
        "overall_confidence": {"type": "number", "description": "0 to 1."},
        "confidence_tag": {"type": "string", "description": "A from .85, B from .70, C from .50, else D."},
        "total_pages": {"type": "integer"},
        "blocks_left_out": {"type": "integer", "description": "Blocks of this page shorter than min_text_length."},
    }
    if params.corrects:
        fields["text_corrected"] = {"type": "text", "description": "By a vision model; only where one corrected it."}
    if params.shows("full_page"):
        fields["thumbnail_url"] = {"type": "string", "description": "JPEG of the page."}
    if params.shows("segment"):
        fields["segment_thumbnail_url"] = {"type": "string", "description": "JPEG of the block."}
    if not params.run_text_embedding:
        return Description((), fields, weights)
    name = params.embedding_model
    index = vector_index("document_graph_extractor", "v1", models.info(name), "text")
    # A corrected text is embedded instead of the raw one, so this vector is not that of one field.
    texts = {} if params.corrects else {name: "text_raw"}
    return Description((index,), fields, weights, optional=frozenset({name}), texts=texts)


def _reader_info(params: Params, models: Models) -> str:
    try:
        return models.info(params.ocr_model).weights
    except UnavailableError as error:
        raise UnavailableError(f"ocr_model: {error.message}; or set it to '{NO_OCR}'") from error


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the models; the returned function reads page after page."""
    model = context.models.text(params.embedding_model) if params.run_text_embedding else None
    worker = _Worker(params, context, _reader(params, context), model)

    def extract(item: Item) -> Iterable[Row | Dropped]:
        positions, left = Positions(), MAX_ROWS
        for source in sources(item.inputs.get("pdf"), "pdf"):
            for made in worker.source(source, positions):
                left -= isinstance(made, Row)
                if left < 0:
                    reason = f"the object makes more than {MAX_ROWS:,} blocks; raise min_text_length"
                    yield Dropped("the blocks that follow", reason, source.key, kind="segment")
                    return
                yield made

    return extract


def open_query(params: Params, output: str, context: ExtractContext) -> EmbedFile:
    """Embeds a PDF by the texts of its blocks as they were read; nothing is corrected."""
    worker = _Worker(params, context, _reader(params, context), None)
    return TextFile(worker.passages, context.models.text(params.embedding_model), output, context)


def _reader(params: Params, context: ExtractContext) -> TextReader | None:
    return None if params.ocr_model == NO_OCR else context.models.load(params.ocr_model, TextReader)


@dataclass(slots=True)
class _Read(PageBlocks):
    """A page that was read."""

    width: float = 0.0
    recognised: bool = False
    left_out: int = 0


class _Worker:
    """Reads PDFs with one set of parameters and models."""

    def __init__(
        self, params: Params, context: ExtractContext, reader: TextReader | None, model: TextEmbedder | None
    ) -> None:
        self._params, self._context, self._model = params, context, model
        self._pages = PageReader(
            context, reader, params.render_dpi, params.vertical_threshold, params.horizontal_threshold
        )
        self._corrects = params.corrects

    def source(self, source: Source, positions: Positions) -> Iterator[Row | Dropped]:
        """The blocks of a file, page by page, after all of it was read: only then headers and footers are known.

        Raises:
            ItemError: the file cannot be opened, or none of its pages can be read.
        """
        with Pdf.open(source) as pdf:
            failed: list[Dropped] = []
            pages = list(self._pages_of(pdf, range(1, len(pdf) + 1), source, failed))
            yield from failed
            mark_running(pages)
            for read in pages:
                read.blocks, read.left_out = long_enough(read.blocks, self._params.min_text_length)
                yield from self._rows(pdf, read, source, positions)
                self._context.beat(0.7 + 0.3 * read.number / len(pdf))

    def passages(self, source: Source, how: Cutting | None) -> Iterator[Passage]:
        """The texts of the blocks that would be rows, as `_text_queries.Read` asks for them."""
        with Pdf.open(source) as pdf:
            every = range(1, len(pdf) + 1)
            pages = self._pages_of(pdf, every if how is None else evenly(every, how.most), source, [])
            if how is not None:
                held = list(pages)
                mark_running(held)
                pages = iter(held)
            for read in pages:
                blocks, _ = long_enough(read.blocks, self._params.min_text_length)
                for text in (clean_text(block.text) for block in blocks if block.text.strip()):
                    yield Passage(text, read.number, len(pdf))

    def _pages_of(self, pdf: Pdf, numbers: Sequence[int], source: Source, failed: list[Dropped]) -> Iterator[_Read]:
        """Some pages, one after the other; `failed` gets those that cannot be read.

        Raises:
            ItemError: not one can.
        """
        for place, number in enumerate(numbers, start=1):
            try:
                with self._context.timed("decode"), pdf.page(number) as page:
                    read = self._read(page)
            except PageError as error:
                failed.append(Dropped(f"page {number}", str(error), source.key, number, "page"))
            else:
                yield read
            self._context.beat(0.7 * place / len(numbers))
        if len(failed) == len(numbers):
            raise ItemError(f"no page of '{source.key}' can be read: {failed[0].reason}")

    def _read(self, page: Page) -> _Read:
        blocks, recognised = self._pages.read(page)
        if not self._params.use_layout_detection:
            blocks = as_one(blocks, (page.width, page.height))
        return _Read(page.number, page.height, blocks, page.width, recognised)

    def _rows(self, pdf: Pdf, page: _Read, source: Source, positions: Positions) -> Iterator[Row | Dropped]:
        params, pictures = self._params, PagePictures(pdf, page.number)
        texts = [clean_text(block.text) for block in page.blocks]
        corrected = [self._corrected(block, page, pictures) for block in page.blocks]
        vectors = self._vectors([better or text for text, (better, _) in zip(texts, corrected, strict=True)])
        shows = params.generate_thumbnails
        for index, (block, text, (better, problem)) in enumerate(zip(page.blocks, texts, corrected, strict=True)):
            row = Row(
                {**_facts(block, page, params), "block_index": index, "text_raw": text, "total_pages": len(pdf)},
                source_key=source.key,
                position=positions.take(source.key),
            )
            if better:
                row.fields["text_corrected"] = better
            if (vector := next(vectors)) is not None:
                row.vectors[params.embedding_model] = vector
                yield from beyond_window(self._model, better or text, source.key, row.position)
            if shows:
                try:
                    row.artifacts = self._artifacts(pictures, block.box)
                except PageError as error:
                    shows, problem = False, str(error)
            if problem:
                yield Dropped(f"block {index} of page {page.number}", problem, source.key, row.position, "warning")
            yield row

    def _artifacts(self, pictures: PagePictures, box: Box) -> dict[str, Artifact]:
        params, made = self._params, {}
        with self._context.timed("decode"):
            if params.shows("full_page"):
                made["thumbnail_url"] = pictures.page(params.thumbnail_dpi)
            if params.shows("segment"):
                made["segment_thumbnail_url"] = pictures.block(params.thumbnail_dpi, box)
        return made

    def _vectors(self, texts: list[str]) -> Iterator[Vector | None]:
        """For each text its vector; none for an empty one, or where nothing is embedded."""
        model = self._model
        if model is None:
            yield from (None for _ in texts)
            return
        with self._context.timed("model"):
            written = [text for text in texts if text]
            made = iter(list(embed_chunks(written, model, self._params.embedding_model, desk=self._context.desk)))
        for text in texts:
            yield next(made) if text else None

    def _corrected(self, block: Block, page: _Read, pictures: PagePictures) -> tuple[str, str]:
        """What a vision model makes of a block that was read badly, and why nothing; empty where nobody was asked."""
        confidence = _confidence(block, page, self._params)
        if not self._corrects or not block.text or confidence >= self._params.min_confidence_for_vlm:
            return "", ""
        try:
            crop = pictures.crop(self._params.render_dpi, block.box)
            text, problem = say(self._context.desk, self._params, _CORRECT, [block.text], [crop])
        except UnavailableError:
            self._corrects = False  # there is no model to ask; the parameter's description says what happens then
            return "", ""
        except (MediathecaError, PageError) as error:
            return "", f"not corrected: {error}"
        return clean_text(text), problem and f"not corrected: {problem}"


def _confidence(block: Block, page: _Read, params: Params) -> float:
    if page.recognised:
        return block.confidence
    return params.base_confidence * (1 - block.garbled)


def _facts(block: Block, page: _Read, params: Params) -> dict[str, Any]:
    confidence = round(_confidence(block, page, params), 4)
    x0, y0, x1, y1 = (round(float(value), 2) for value in block.box)
    facts: dict[str, Any] = {
        "page_number": page.number,
        "object_type": block.kind,
        "bbox": {"x0": x0, "y0": y0, "x1": x1, "y1": y1},
        "page_size": {"width": round(page.width, 2), "height": round(page.height, 2)},
        "text_source": "none" if not block.text else "ocr" if page.recognised else "text_layer",
        "overall_confidence": confidence,
        "confidence_tag": next(tag for least, tag in TAGS if confidence >= least),
        "blocks_left_out": page.left_out,
    }
    if block.cells is not None:
        facts["table"] = [[clean_text(cell) for cell in row] for row in block.cells]
    return facts


document_graph_extractor = Extractor(
    name="document_graph_extractor",
    version="v1",
    description="PDFs: a document per paragraph, table, list, form or figure, with its box; scanned pages are read.",
    params=Params,
    inputs={"pdf": ("pdf", "document")},
    describe=describe,
    open=open_extractor,
    required=frozenset({"pdf"}),
    reads=frozenset(),
    cache_version=1,
    weight=10,
    query=open_query,
    query_files=frozenset({"pdf"}),
    position_fields=("page_number", "block_index"),
    icon="file-stack",
    example={"input_mappings": {"pdf": "report"}, "parameters": {"render_dpi": 150}},
)
