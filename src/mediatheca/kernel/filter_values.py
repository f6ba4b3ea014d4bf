"""Values under a filter: paths, folding, dates, and what each operator means for them."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import re2

from mediatheca.kernel.errors import ValidationError

_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}:\d{2})(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})?)?", re.ASCII)
_WORD = re.compile(r"\w+")
_EARTH_M = 6_371_000.0
_SCALARS = (str, int, float, bool)


def fold(text: str) -> str:
    """The case-insensitive form of a string."""
    return text.casefold()


def fold_shadow(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload's structure with only the strings that folding changes, folded. Arrays keep just those."""
    shadow: dict[str, Any] = {}
    for key, value in payload.items():
        folded = _shadow(value)
        if folded is not None:
            shadow[key] = folded
    return shadow


def _shadow(value: Any) -> Any:
    if isinstance(value, str):
        folded = fold(value)
        return folded if folded != value else None
    if isinstance(value, Mapping):
        return fold_shadow(value) or None
    if isinstance(value, list):
        return [folded for entry in value if (folded := _shadow(entry)) is not None] or None
    return None


def parse_date(value: Any) -> datetime | None:
    """`YYYY-MM-DD`, optionally `T` or a space, `HH:MM:SS`, up to six decimals and `Z` or `±HH:MM`; naive is UTC."""
    if not isinstance(value, str):
        return None
    match = _DATE.fullmatch(value)
    if match is None:
        return None
    try:
        moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def at_path(view: Any, path: str) -> Iterator[Any]:
    """Every value at a dotted path; arrays on the way, and at its end, mean any element."""
    yield from _walk(view, path.split("."))


def _walk(value: Any, parts: Sequence[str]) -> Iterator[Any]:
    if isinstance(value, list):
        for entry in value:
            yield from _walk(entry, parts)
    elif not parts:
        yield value
    elif isinstance(value, Mapping) and parts[0] in value:
        yield from _walk(value[parts[0]], parts[1:])


def as_bool(value: Any, path: str) -> bool:
    """`true`, `false`, 1, 0 and their strings."""
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in ("true", "false", "1", "0"):
        raise ValidationError.at(path, f"must be true or false, got {value!r}", "filter")
    return text in ("true", "1")


@functools.lru_cache(256)
def _regex(pattern: str, sensitive: bool) -> Any:
    options = re2.Options()
    options.case_sensitive = sensitive
    options.log_errors = False
    options.max_mem = 1 << 20
    return re2.compile(pattern, options)


def compile_regex(pattern: str, path: str) -> None:
    """Raises ValidationError: not a pattern of the RE2 language, or too large."""
    if len(pattern) > 1000:
        raise ValidationError.at(path, "a pattern may have 1,000 characters at most", "regex")
    try:
        _regex(pattern, True)
    except re2.error as error:
        raise ValidationError.at(path, f"is not an RE2 pattern: {error}", "regex") from error


def number(value: Any) -> float | int | None:
    """The number a value is, or spells without loss."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value if not (isinstance(value, float) and not math.isfinite(value)) else None
    return None


def _spelled(text: str) -> float | int | None:
    """The number whose canonical spelling is `text`."""
    try:
        found: float | int = int(text)
    except ValueError:
        try:
            found = float(text)
        except ValueError:
            return None
    return found if str(found) == text else None


def equal(left: Any, right: Any, *, case_sensitive: bool) -> bool:
    """Typed equality; numbers across int and float; a number and the string that spells it are equal."""
    if isinstance(left, bool) or isinstance(right, bool):
        return isinstance(left, bool) and isinstance(right, bool) and left == right
    if isinstance(left, str) and isinstance(right, str):
        return left == right or (not case_sensitive and fold(left) == fold(right))
    if isinstance(left, str):
        left = _spelled(left)
    elif isinstance(right, str):
        right = _spelled(right)
    if left is None or right is None:
        return False
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left == right
    return type(left) is type(right) and left == right


def _compare(operator: str, left: Any, right: Any) -> bool:
    if operator == "gt":
        return bool(left > right)
    if operator == "gte":
        return bool(left >= right)
    return bool(left < right) if operator == "lt" else bool(left <= right)


def _ordered(operator: str, found: Any, wanted: Any) -> bool:
    if isinstance(wanted, str):
        moment = parse_date(wanted)
        if moment is not None:
            other = parse_date(found)
            return other is not None and _compare(operator, other, moment)
        return isinstance(found, str) and _compare(operator, found, wanted)
    other_number = number(found)
    return other_number is not None and _compare(operator, other_number, wanted)


def _textual(operator: str, found: str, wanted: str, sensitive: bool) -> bool:
    if operator == "regex":
        return _regex(wanted, sensitive).search(found) is not None
    if not sensitive or operator in ("text", "phrase", "words"):
        found, wanted = fold(found), fold(wanted)
    if operator in ("text", "contains"):
        return wanted in found
    if operator == "starts_with":
        return found.startswith(wanted)
    if operator == "ends_with":
        return found.endswith(wanted)
    tokens, needle = _WORD.findall(found), _WORD.findall(wanted)
    if operator == "phrase":
        return bool(needle) and any(tokens[i : i + len(needle)] == needle for i in range(len(tokens) - len(needle) + 1))
    return bool(needle) and set(_stems(needle)) <= set(_stems(tokens))


def _stems(words: Sequence[str]) -> list[str]:
    import snowballstemmer

    return list(snowballstemmer.stemmer("english").stemWords(list(words)))


def test(operator: str, found: Sequence[Any], wanted: Any, *, case_sensitive: bool) -> bool:
    """Whether any of the values found satisfies the condition; `ne` and `nin` when none equals."""
    if operator in ("exists", "is_null"):
        present = any(value is not None for value in found)
        return present == (wanted if operator == "exists" else not wanted)
    if operator in ("ne", "nin"):
        return not test("eq" if operator == "ne" else "in", found, wanted, case_sensitive=case_sensitive)
    if operator in ("eq", "in"):
        choices = wanted if operator == "in" else (wanted if isinstance(wanted, list) else (wanted,))
        return any(equal(v, choice, case_sensitive=case_sensitive) for v in found for choice in choices)
    if operator in ("gt", "gte", "lt", "lte"):
        return any(_ordered(operator, value, wanted) for value in found)
    if operator.startswith("geo_"):
        return any(_geo(operator, value, wanted) for value in found)
    if operator == "contains" and not isinstance(wanted, str):
        return any(equal(value, wanted, case_sensitive=case_sensitive) for value in found)
    return any(isinstance(value, str) and _textual(operator, value, wanted, case_sensitive) for value in found)


# ---- geography


def point(value: Any) -> tuple[float, float] | None:
    """`{lat, lon}` as (latitude, longitude)."""
    if not isinstance(value, Mapping):
        return None
    lat, lon = number(value.get("lat")), number(value.get("lon", value.get("lng")))
    if lat is None or lon is None or not (-90 <= lat <= 90 and -180 <= lon <= 180):
        return None
    return float(lat), float(lon)


def check_geo(operator: str, value: Any, path: str) -> Any:
    """Raises ValidationError: corners, radius or ring are missing or wrong."""
    good = isinstance(value, Mapping)
    if good and operator == "geo_radius":
        good = (
            point(value.get("center", value)) is not None
            and (number(value.get("radius_m", value.get("radius"))) or -1) >= 0
        )
    elif good and operator == "geo_bounding_box":
        good = all(point(value.get(corner)) is not None for corner in ("top_left", "bottom_right"))
    elif good:
        ring = _ring(value)
        good = len(ring) >= 3 and all(point(corner) is not None for corner in ring)
    if not good:
        shapes = {
            "geo_radius": "{lat, lon, radius_m}",
            "geo_bounding_box": "{top_left: {lat, lon}, bottom_right: {lat, lon}}",
            "geo_polygon": "{points: [{lat, lon}, … at least 3]}",
        }
        raise ValidationError.at(path, f"must be {shapes[operator]}", "filter")
    return value


def _ring(value: Mapping[str, Any]) -> list[Any]:
    ring = value.get("points", value.get("exterior", value.get("polygon")))
    if isinstance(ring, Mapping):
        ring = ring.get("points")
    return ring if isinstance(ring, list) else []


def _geo(operator: str, found: Any, wanted: Mapping[str, Any]) -> bool:
    spot = point(found)
    if spot is None:
        return False
    if operator == "geo_radius":
        center = point(wanted.get("center", wanted))
        radius = number(wanted.get("radius_m", wanted.get("radius")))
        return center is not None and radius is not None and haversine_m(spot, center) <= radius
    if operator == "geo_bounding_box":
        top, bottom = point(wanted["top_left"]), point(wanted["bottom_right"])
        if top is None or bottom is None or not bottom[0] <= spot[0] <= top[0]:
            return False
        west, east = top[1], bottom[1]
        return west <= spot[1] <= east if west <= east else spot[1] >= west or spot[1] <= east
    return _inside(spot, [corner for raw in _ring(wanted) if (corner := point(raw)) is not None])


def haversine_m(one: tuple[float, float], two: tuple[float, float]) -> float:
    """Great-circle distance in metres."""
    lat1, lon1, lat2, lon2 = map(math.radians, (*one, *two))
    h = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * _EARTH_M * math.asin(min(1.0, math.sqrt(h)))


def _inside(spot: tuple[float, float], ring: Sequence[tuple[float, float]]) -> bool:
    """Ray casting."""
    inside = False
    for (lat1, lon1), (lat2, lon2) in zip(ring, (*ring[1:], ring[0]), strict=True):
        if (lon1 > spot[1]) != (lon2 > spot[1]):
            crossing = lat1 + (spot[1] - lon1) * (lat2 - lat1) / (lon2 - lon1)
            inside ^= spot[0] < crossing
    return inside
