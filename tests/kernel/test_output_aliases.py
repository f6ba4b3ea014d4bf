"""Names that other clients have for the outputs of extractors."""

from __future__ import annotations

import pytest

from mediatheca.kernel.uris import resolve_output

M = "mixpeek://multimodal_extractor@v1"
MULTIMODAL = {
    f"{M}/vertex_multimodal_embedding": ("text", "image"),
    f"{M}/multilingual_e5_large_instruct_v1": ("text",),
    f"{M}/ocr_embedding": ("text",),
}
TEXT = {"mixpeek://text_extractor@v1/multilingual_e5_large_instruct_v1": ("text",)}
IMAGE = {"mixpeek://image_extractor@v1/google_siglip_base_v1": ("text", "image")}


@pytest.mark.parametrize(
    ("described", "wanted", "expected"),
    [
        (MULTIMODAL, f"{M}/embedding", "vertex_multimodal_embedding"),
        (MULTIMODAL, f"{M}/multimodal_embedding", "vertex_multimodal_embedding"),
        (MULTIMODAL, f"{M}/transcription_embedding", "multilingual_e5_large_instruct_v1"),
        (MULTIMODAL, f"{M}/text_embedding", "multilingual_e5_large_instruct_v1"),
        (MULTIMODAL, f"{M}/multilingual_e5_large_instruct_v1_embedding", "multilingual_e5_large_instruct_v1"),
        (MULTIMODAL, f"{M}/multilingual-e5-large-instruct", "multilingual_e5_large_instruct_v1"),
        (TEXT, "mixpeek://text_extractor@v1/text_embedding", "multilingual_e5_large_instruct_v1"),
        (TEXT, "mediatheca://text_extractor@v1/embedding", "multilingual_e5_large_instruct_v1"),
        (IMAGE, "mixpeek://image_extractor@v1/google_siglip_base_v1_embedding", "google_siglip_base_v1"),
        (IMAGE, "mixpeek://image_extractor@v1/image_embedding", "google_siglip_base_v1"),
    ],
)
def test_an_output_is_found_by_its_other_names(
    described: dict[str, tuple[str, ...]], wanted: str, expected: str
) -> None:
    found = resolve_output(described, wanted)
    assert found is not None
    assert found.endswith(f"/{expected}")


@pytest.mark.parametrize(
    "wanted",
    [
        "embedding",
        "mixpeek://image_extractor@v1/embedding",
        "mixpeek://multimodal_extractor@v2/embedding",
        f"{M}/audio_embedding",
        f"{M}/clip",
        f"{M}/_embedding",
        "not a uri",
    ],
)
def test_what_means_nothing_here_stays_unknown(wanted: str) -> None:
    assert resolve_output(MULTIMODAL, wanted) is None
