"""`scrolling_text_extractor`: tickers and credits of known words, text that stands still, pictures that do not move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from film_world import Film

from mediatheca.extractors import Extractor, Item, ItemError, Source
from mediatheca.extractors._scrolling import Band, Panorama, find_bands, strip_shifts, tiles
from mediatheca.extractors.scrolling_text_extractor import Params, scrolling_text_extractor
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract
from mediatheca.testing.media import Scene, clip, photo, tone

WORDS = "embedding"
NEWS = "PARLIAMENT PASSES NEW BUDGET   STORM WARNING FOR THE NORTHERN COAST   FOOTBALL TEAM WINS THE CUP"
FPS = 10


def written(text: str, size: int, colour: int = 255, background: int = 30) -> np.ndarray:
    """A line of text as a picture."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    width = round(font.getlength(text)) + 20
    image = Image.new("RGB", (width, size * 2), (background,) * 3)
    ImageDraw.Draw(image).text((10, size // 3), text, (colour,) * 3, font)
    return np.asarray(image)


def ticker(seconds: float = 9, step: int = 15, direction: int = 1) -> bytes:
    """A photograph with a line of news below it that runs to the left, and a name above that stands still."""
    from PIL import Image

    line = written(NEWS, 24)
    height, width = 360, 640
    still = np.array(Image.fromarray(photo("rocket.jpg")).resize((width, height)))
    title = written("CITY NEWS", 30, 255, 0)
    still[20 : 20 + title.shape[0], 40 : 40 + title.shape[1]] = title
    padded = np.concatenate(
        [np.full((48, width, 3), 30, np.uint8), line, np.full((48, width, 3), 30, np.uint8)], axis=1
    )
    scenes = []
    for number in range(round(seconds * FPS)):
        frame, left = still.copy(), number * step
        frame[300:348] = padded[:, left : left + width]
        scenes.append(Scene(frame, 1 / FPS, 0))
    return clip(scenes, FPS, (width, height))


def credits(step: int = 6) -> bytes:
    """Lines that roll upwards over black."""
    lines = ["DIRECTED BY", "MARIA SCHNEIDER", "MUSIC", "JOHN WALKER", "CAMERA", "ANNA PETROVA"]
    column = np.zeros((360, 480, 3), np.uint8)
    parts = [column]
    for line in lines:
        drawn, row = written(line, 26, 255, 0), np.zeros((52, 480, 3), np.uint8)
        row[:, 60 : 60 + drawn.shape[1]] = drawn
        parts += [row, np.zeros((40, 480, 3), np.uint8)]
    roll = np.concatenate([*parts, column])
    frames = range(0, roll.shape[0] - 360, step)
    return clip([Scene(roll[top : top + 360], 1 / FPS, 0) for top in frames], FPS, (480, 360))


@pytest.fixture
def film(models: ModelCatalog, tmp_path: Path) -> Film:
    return Film(scrolling_text_extractor, models, tmp_path)


class TestScrollingText(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return scrolling_text_extractor

    @pytest.fixture
    def params(self) -> Params:
        return Params(max_static_frames=1, fps=FPS)

    @pytest.fixture
    def item(self) -> Item:
        return Item("obj_1", {"video": [Source(data=ticker(2), key="film")]})


def found_of(text: str, expected: str) -> float:
    """Share of the expected words that were read."""
    read = set(text.upper().replace(",", " ").split())
    words = expected.upper().split()
    return sum(word in read for word in words) / len(words)


def test_a_ticker_is_read_as_one_line_and_the_title_beside_it(film: Film) -> None:
    (row,) = film.rows(ticker(), fps=FPS)
    assert row.fields["bands_detected"] == 1
    (band,) = row.fields["scroll_bands"]
    assert band["direction"] == "left"
    assert band["speed"] == pytest.approx(150, rel=0.1)
    assert band["bbox"]["y0"] <= 305
    assert band["bbox"]["y1"] >= 340
    assert found_of(row.fields["scrolling_text"], NEWS) >= 0.7
    assert "NEWS" in row.fields["static_text"].upper()
    assert "BUDGET" not in row.fields["static_text"].upper()
    query = film.models.text("multilingual_e5_large_instruct_v1").embed_texts(["bad weather at sea"], query=True)[0]
    assert float(row.vectors["multilingual_e5_large_instruct_v1"] @ query) > 0.75


def test_credits_are_read_from_top_to_bottom(film: Film) -> None:
    (row,) = film.rows(credits(), fps=FPS, static_ocr=False)
    (band,) = row.fields["scroll_bands"]
    assert (band["direction"], row.fields["static_text"]) == ("up", "")
    text = row.fields["scrolling_text"].upper()
    assert found_of(text, "SCHNEIDER WALKER PETROVA") == 1
    assert text.index("SCHNEIDER") < text.index("WALKER") < text.index("PETROVA")


def test_a_picture_that_stands_still_or_pans_has_no_band_of_text(film: Film) -> None:
    for scene in (Scene("coffee.png", 3, 0), Scene("coffee.png", 3, 0.3)):
        (row,) = film.rows(clip([scene], FPS, (320, 240)), fps=FPS, static_ocr=False)
        assert (row.fields["bands_detected"], row.fields["scrolling_text"]) == (0, "")
        assert row.vectors == {}


def test_a_sound_without_a_picture_gives_an_empty_document(film: Film) -> None:
    from mediatheca.testing.media import wav

    (row,) = film.rows(wav(tone(2)))
    assert row.fields["bands_detected"] == 0


def test_what_is_no_video_is_refused(film: Film) -> None:
    with pytest.raises(ItemError, match="not audio or video"):
        film.rows(b"GIF? no, only words " * 20)


# --- the parts ----------------------------------------------------------------------------------------------------


def noisy(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("shift", [-37, -2, 0, 5, 60])
def test_the_movement_of_a_strip_is_found(shift: int) -> None:
    wide = noisy(80, 800)
    first, second = wide[:, 200:600], wide[:, 200 - shift : 600 - shift]
    assert strip_shifts(first, second, 40).tolist() == [shift, shift]


def test_strips_without_texture_say_nothing() -> None:
    flat = np.full((80, 300, 3), 90, np.uint8)
    assert np.isnan(strip_shifts(flat, flat, 40)).all()


def test_only_steady_movement_makes_a_band() -> None:
    shifts = np.zeros((20, 5))
    shifts[:, 2:4] = -12
    shifts[:, 0] = np.random.default_rng(0).integers(-50, 50, 20)
    still = np.zeros((20, 8))
    (band,) = find_bands(shifts, still, (320, 200), 40, 2, 0.6, 8)
    assert band == Band(0, 72, 320, 168, "left", 12)
    assert find_bands(np.zeros((20, 5)), still, (320, 200), 40, 2, 0.6, 8) == []


@pytest.mark.parametrize("direction", ["left", "right", "up", "down"])
def test_a_panorama_holds_everything_once(direction: str) -> None:
    whole = noisy(60, 400) if direction in ("left", "right") else noisy(400, 60)
    band = Band(0, 0, 100 if whole.shape[1] == 400 else 60, 60 if whole.shape[1] == 400 else 100, direction, 20)  # type: ignore[arg-type]
    starts = list(range(0, 301, 20))
    grown = Panorama(band)
    for number, start in enumerate(starts if direction in ("left", "up") else starts[::-1]):
        view = whole[:, start : start + 100] if band.sideways else whole[start : start + 100]
        grown.add(view, 20 if number else 0)
    np.testing.assert_array_equal(grown.picture(), whole)


def test_a_panorama_is_cut_between_words() -> None:
    line = written("one two three four five six seven eight nine ten " * 3, 24)
    pieces = tiles(line, True)
    assert sum(piece.shape[1] for piece in pieces) == line.shape[1]
    assert len(pieces) > 1
    for piece in pieces[1:]:
        assert piece[:, :2].std() < 5
