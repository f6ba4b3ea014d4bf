"""`image_extractor` with the real bundled model, and decoding of pictures from anywhere."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mediatheca.extractors import Dropped, ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.extractors._pictures import decode_picture, thumbnail
from mediatheca.extractors.image_extractor import Params, caption_of, image_extractor
from mediatheca.kernel.errors import ValidationError
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract, dropped_of, rows_of
from mediatheca.testing.media import pdf

Picture = Callable[..., bytes]
MODEL = "google_siglip_base_v1"


def rows(models: ModelCatalog, *sources: Source, fields: dict[str, Any] | None = None, **params: Any) -> list[Row]:
    extract = image_extractor.open(Params(**params), ExtractContext(models, models.settings.models_dir))
    return rows_of(extract(Item("obj_1", {"image": sources}, fields or {})))


class TestImage(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return image_extractor

    @pytest.fixture
    def item(self, picture: Picture) -> Item:
        return Item("obj_1", {"image": [Source(data=picture(), key="photo")]}, {"title": "two colours"})


def test_the_default_feature_uri_is_that_of_the_wire_format_and_takes_both_queries(models: ModelCatalog) -> None:
    (index,) = image_extractor.describe(Params(), models).vectors
    assert index.feature_uri == "mixpeek://image_extractor@v1/google_siglip_base_v1"
    assert set(index.modalities) == {"text", "image"}
    assert index.dimensions == 768


def test_a_text_model_cannot_embed_pictures(models: ModelCatalog) -> None:
    with pytest.raises(ValidationError, match="needs a model that embeds image"):
        image_extractor.describe(Params(embedding_model="all_minilm_l6_v2"), models)


def test_a_photo_becomes_a_document_that_a_text_finds(models: ModelCatalog, photo: Callable[[str], Path]) -> None:
    names = ["chelsea.png", "coffee.png", "rocket.jpg"]
    found = [rows(models, Source(path=str(photo(name)), key="photo"))[0] for name in names]
    assert [row.fields["format"] for row in found] == ["png", "png", "jpeg"]
    assert (found[2].fields["width"], found[2].fields["height"]) == (640, 427)
    queries = models.text(MODEL).embed_texts(["a cat", "a cup of coffee", "a rocket"], query=True)
    scores = queries @ np.stack([row.vectors[MODEL] for row in found]).T
    assert scores.argmax(axis=1).tolist() == [0, 1, 2]


def test_the_caption_of_the_object_takes_part_and_can_be_switched_off(models: ModelCatalog, picture: Picture) -> None:
    source = Source(data=picture(), key="photo")
    fields = {"title": "Greek coins from Pompeii", "price": 3}
    query = models.text(MODEL).embed_texts(["ancient money"], query=True)[0]
    plain, with_caption, off = (
        float(rows(models, source, **options)[0].vectors[MODEL] @ query)
        for options in ({}, {"fields": fields}, {"fields": fields, "use_captions": False})
    )
    assert with_caption > plain + 0.05
    assert off == pytest.approx(plain, abs=1e-5)


def test_captions_come_from_the_mapped_input_or_the_telling_fields() -> None:
    fields = {"Description": "d", "title": " t ", "alt": 5, "caption": "", "note": "no"}
    assert caption_of(Item("o", {}, fields)) == "t. d"
    assert caption_of(Item("o", {"caption": [Source(value="mapped", key="c")]}, fields)) == "mapped"
    assert caption_of(Item("o", {}, {"title": "same", "alt": "same"})) == "same"
    assert caption_of(Item("o", {}, {"price": 3})) is None


def test_thumbnails_are_jpegs_of_at_most_640_and_can_be_switched_off(models: ModelCatalog, picture: Picture) -> None:
    from PIL import Image

    (row,) = rows(models, Source(data=picture("JPEG", 2000, 1000), key="photo"))
    artifact = row.artifacts["thumbnail_url"]
    assert (artifact.mime_type, artifact.suffix) == ("image/jpeg", ".jpg")
    with Image.open(io.BytesIO(artifact.data)) as small:
        assert (small.format, small.size) == ("JPEG", (640, 320))
    assert (row.fields["width"], row.fields["height"]) == (2000, 1000)
    (row,) = rows(models, Source(data=picture(), key="photo"), enable_thumbnails=False)
    assert row.artifacts == {}
    assert "thumbnail_url" not in image_extractor.describe(Params(enable_thumbnails=False), models).fields


def test_small_pictures_are_not_enlarged(picture: Picture) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(thumbnail(decode_picture(picture()).pixels))) as small:
        assert small.size == (80, 40)


def test_a_pdf_gives_a_document_a_page(models: ModelCatalog, photo: Callable[[str], Path]) -> None:
    pages = [decode_picture(photo(name).read_bytes()).pixels for name in ("chelsea.png", "rocket.jpg")]
    found = rows(models, Source(data=pdf([*pages, "Some words"]), key="album"))
    assert [row.fields["page_number"] for row in found] == [1, 2, 3]
    assert {row.fields["total_pages"] for row in found} == {3}
    assert {(row.fields["width"], row.fields["height"], row.fields["format"]) for row in found} == {(596, 842, "pdf")}
    assert [row.position for row in found] == [0, 1, 2]
    query = models.text(MODEL).embed_texts(["a cat"], query=True)[0]
    scores = [float(row.vectors[MODEL] @ query) for row in found]
    assert scores.index(max(scores)) == 0


def test_a_broken_page_of_a_pdf_leaves_the_others(models: ModelCatalog) -> None:
    data = pdf(["Some words"]).replace(b"/Count 1 ", b"/Count 2 ")
    extract = image_extractor.open(Params(), ExtractContext(models, models.settings.models_dir))
    found: list[Row | Dropped] = list(extract(Item("obj_1", {"image": [Source(data=data, key="album")]})))
    assert len(rows_of(found)) == 1
    assert [dropped.kind for dropped in dropped_of(found)] == ["page"]


def test_an_encrypted_pdf_says_so(models: ModelCatalog) -> None:
    with pytest.raises(ItemError, match="'album' is encrypted"):
        rows(models, Source(data=pdf(["x"], password="p"), key="album"))


# --- decoding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000", "MPO"])
def test_every_usual_format_is_read(picture: Picture, kind: str) -> None:
    decoded = decode_picture(picture(kind))
    assert (decoded.width, decoded.height, decoded.pixels.shape) == (80, 40, (40, 80, 3))
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels[30, 20, 0] > 200 > 60 > decoded.pixels[30, 20, 2]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_every_colour_mode_becomes_rgb(picture: Picture, mode: str) -> None:
    from PIL import Image

    kind = "TIFF" if mode == "CMYK" else "PNG"
    if mode == "I;16":
        out = io.BytesIO()
        Image.fromarray((np.arange(40 * 80).reshape(40, 80) * 20).astype(np.uint16)).save(out, "PNG")
        decoded = decode_picture(out.getvalue())
        assert decoded.pixels[0, 0].max() < 5
        assert 200 < decoded.pixels[-1, -1].min() < 255
    else:
        decoded = decode_picture(picture(kind, mode=mode))
    assert decoded.pixels.shape == (40, 80, 3)


def test_transparency_is_shown_over_white() -> None:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(out, "PNG")
    assert (decode_picture(out.getvalue()).pixels == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_out_upright_whatever_the_camera_wrote(picture: Picture, orientation: int) -> None:
    from PIL import Image

    upright = decode_picture(picture()).pixels
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(out, "PNG", exif=exif)
    decoded = decode_picture(out.getvalue())
    np.testing.assert_array_equal(decoded.pixels, upright)
    assert (decoded.width, decoded.height) == (80, 40)


def test_a_turned_big_jpeg_tells_its_full_size(picture: Picture) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode_picture(picture("JPEG", 3000, 2000, exif=exif))
    assert (decoded.width, decoded.height) == (2000, 3000)
    height, width = decoded.pixels.shape[:2]
    assert 640 <= height < 3000
    assert height / width == pytest.approx(1.5, abs=0.01)


def test_camera_and_time_are_kept_and_the_place_is_not(picture: Picture) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0132] = "Maker", "Model 5", "2026:01:02 03:04:05"
    exif.get_ifd(0x8825)[1] = "N"
    assert decode_picture(picture("JPEG", exif=exif)).exif == {
        "camera": "Maker Model 5",
        "taken_at": "2026:01:02 03:04:05",
    }


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so; outside tests it is no error
def test_damaged_metadata_does_not_cost_the_picture(picture: Picture) -> None:
    data = picture("JPEG")
    garbage = b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xee" * 40
    segment = b"\xff\xe1" + struct.pack(">H", len(garbage) + 2) + garbage
    assert decode_picture(data[:2] + segment + data[2:]).width == 80


def test_an_animation_gives_its_first_frame() -> None:
    from PIL import Image

    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    assert decode_picture(out.getvalue()).pixels[0, 0].tolist() == [255, 0, 0]


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a huge size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"'photo' is empty \(0 bytes\)"),
        (b"hello, I am text", "looks like text"),
        (b"%PDF-1.7\n%\xe2\xe3", "looks like a PDF"),
        (b"<svg xmlns='...'></svg>", "an SVG drawing"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "an MP4 video"),
        (b"\x00" * 100, "looks like text|unknown binary"),
        (b"\xde\xad\xbe\xef" * 9, "unknown binary data .first bytes de ad be ef"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "a PostScript file"),
        (bomb(20_000, 20_000), "more pixels than the limit|more than the limit"),
        (bomb(9_000, 9_000), "more than the limit"),
        (bomb(100_000, 10), "60,000 a side"),
        (bomb(2_000_000_000, 2_000_000_000), "more pixels than the limit"),
        (bomb(0, 10), "photo"),
    ],
)
def test_what_cannot_be_decoded_fails_with_the_cause(data: bytes, reason: str) -> None:
    with pytest.raises(ItemError, match=reason):
        decode_picture(data, "photo")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_picture_is_an_item_error_or_complete(picture: Picture, kind: str, part: float) -> None:
    whole = picture(kind, 200, 100)
    try:
        decoded = decode_picture(whole[: int(len(whole) * part)], "photo")
    except ItemError:
        return
    assert decoded.pixels.shape == (100, 200, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF", "ICO"])
def test_flipped_bytes_never_escape_as_another_error(picture: Picture, kind: str) -> None:
    whole = bytearray(picture(kind, 48, 48))
    rng = np.random.default_rng(5)
    for _ in range(150):
        damaged = whole.copy()
        for place in rng.integers(0, len(whole), 4):
            damaged[place] = int(rng.integers(0, 256))
        with contextlib.suppress(ItemError):
            decode_picture(bytes(damaged), "photo")


def test_a_truncated_jpeg_says_so(picture: Picture) -> None:
    whole = picture("JPEG", 300, 200)
    with pytest.raises(ItemError, match="'photo' is truncated or damaged"):
        decode_picture(whole[: len(whole) // 2], "photo")
