"""Decoding pictures from anywhere: hostile, damaged, huge or mislabelled files become an `ItemError` with the cause."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mediatheca.extractors import ItemError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM", "ICO", "JPEG2000")
"""What is decoded. Formats that call other programs (EPS) or are not pictures of pixels are left out."""
MAX_PIXELS = 80_000_000
"""A picture of this size takes 240 MB decoded; a bomb claims far more in a few kilobytes."""
MAX_SIDE = 60_000
THUMBNAIL_SIDE = 640
THUMBNAIL_QUALITY = 85

_KNOWN_OTHERS = {
    b"%PDF": "a PDF",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    b"PK\x03\x04": "a ZIP archive or office document",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML file",
    b"<!DOC": "a web page",
    b"<html": "a web page",
    b"ID3": "an MP3",
    b"OggS": "an Ogg file",
    b"%!PS": "a PostScript file",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture, upright, RGB. Big JPEGs are decoded at a reduced size; `width` and `height` are the file's."""

    pixels: npt.NDArray[np.uint8]
    """Shape (height, width, 3)."""
    width: int
    height: int
    format: str
    """`jpeg`, `png`, …"""
    exif: dict[str, Any] = field(default_factory=dict)
    """`camera`, `taken_at`, where the file says so. Never the place: it is the owner's to publish."""


def decode_picture(data: bytes, name: str = "image", side: int = THUMBNAIL_SIDE) -> Picture:
    """Decode the first frame, upright, over white where it is transparent.

    Args:
        name: what error messages call the input.
        side: a bigger JPEG may come out smaller than it is, but its longer side not below this.

    Raises:
        ItemError: empty, not a picture, truncated, damaged, or larger than the limits; the message says which.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ItemError(f"'{name}' is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _decode(image, name, side)
    except ItemError:
        raise
    except UnidentifiedImageError as error:
        raise ItemError(f"'{name}' is not a picture that can be read: it looks like {_guess(data)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ItemError(f"'{name}' has more pixels than the limit of {MAX_PIXELS:,}") from error
    except MemoryError as error:
        raise ItemError(f"'{name}' does not fit into memory when decoded") from error
    except Exception as error:  # a dozen decoders: on damaged files they raise whatever they stumble over
        raise ItemError(f"'{name}' is truncated or damaged: {error}") from error


def _decode(image: Image, name: str, side: int) -> Picture:
    width, height = image.size
    _check_size(width, height, name)
    kind = (image.format or "").lower()
    _reduce_jpeg(image, side)
    image.load()
    exif = _exif(image)
    upright = _upright(image)
    if _turned(image):
        width, height = height, width
    pixels = np.asarray(_to_rgb(upright), np.uint8)
    return Picture(pixels, width, height, "jpeg" if kind == "mpo" else kind, exif)


def _check_size(width: int, height: int, name: str) -> None:
    """Before anything is decoded: the header alone says how much memory it would take."""
    if width < 1 or height < 1:
        raise ItemError(f"'{name}' has no pixels ({width} × {height})")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ItemError(
            f"'{name}' is {width} × {height}: more than the limit of {MAX_PIXELS:,} pixels or {MAX_SIDE:,} a side"
        )


def _reduce_jpeg(image: Image, side: int) -> None:
    """Let the JPEG decoder halve big pictures while decoding: four times faster, where nobody needs more."""
    scale = side / max(image.size)
    if image.format in ("JPEG", "MPO") and scale < 0.5:
        image.draft(None, (round(image.width * scale), round(image.height * scale)))


def _turned(image: Image) -> bool:
    return _orientation(image) in (5, 6, 7, 8)


def _orientation(image: Image) -> int:
    """The EXIF orientation; 1 (upright) where the metadata is damaged, as every viewer does."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # as in `decode_picture`
        return 1


def _upright(image: Image) -> Image:
    from PIL import Image as pil

    turns = {
        2: pil.Transpose.FLIP_LEFT_RIGHT,
        3: pil.Transpose.ROTATE_180,
        4: pil.Transpose.FLIP_TOP_BOTTOM,
        5: pil.Transpose.TRANSPOSE,
        6: pil.Transpose.ROTATE_270,
        7: pil.Transpose.TRANSVERSE,
        8: pil.Transpose.ROTATE_90,
    }
    turn = turns.get(_orientation(image))
    return image.transpose(turn) if turn is not None else image


def _to_rgb(image: Image) -> Image:
    from PIL import Image as pil

    if image.mode.startswith(("I", "F")):
        image = pil.fromarray(_to_8_bits(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = pil.new("RGBA", image.size, (255, 255, 255, 255))
        image = pil.alpha_composite(white, image)
    return image.convert("RGB")


def _to_8_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """16-bit and float grey pictures: by the range of the type, or of the values where the type has none."""
    finite = np.nan_to_num(values.astype(np.float64))
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 65535 and values.dtype.kind in "iu":
        low, high = 0.0, 65535.0 if high > 255 else 255.0
    return ((finite - low) / max(high - low, 1e-12) * 255).astype(np.uint8)


def _exif(image: Image) -> dict[str, Any]:
    try:
        tags = image.getexif()
        taken = tags.get_ifd(0x8769).get(0x9003) or tags.get(0x0132)
        camera = " ".join(str(tags[tag]).strip("\0 ") for tag in (0x010F, 0x0110) if tags.get(tag))
    except Exception:  # as in `decode_picture`
        return {}
    found = {"camera": camera, "taken_at": str(taken).strip("\0 ") if taken else ""}
    return {key: value for key, value in found.items() if value}


def _guess(data: bytes) -> str:
    """A name for what the bytes are instead, for the owner of the file."""
    head = data[:16].lstrip()
    for start, name in _KNOWN_OTHERS.items():
        if head.startswith(start):
            return name
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("ascii", "replace")
        return "a HEIC photo (convert it to JPEG)" if brand.startswith(("hei", "hev", "mif")) else "an MP4 video"
    try:
        data[:512].decode()
    except UnicodeDecodeError:
        return f"unknown binary data (first bytes {data[:8].hex(' ')})"
    return "text"


def thumbnail(pixels: npt.NDArray[np.uint8]) -> bytes:
    """JPEG of at most 640 pixels a side, quality 85; smaller pictures keep their size."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return _as_jpeg(image)


def jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    """JPEG of RGB pixels, quality 85."""
    from PIL import Image

    return _as_jpeg(Image.fromarray(pixels))


def _as_jpeg(image: Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=THUMBNAIL_QUALITY)
    return out.getvalue()
