"""Places under a filter: `{lat, lon}` objects in documents; circles, boxes and polygons in conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from mediatheca.kernel.errors import ValidationError

Point: TypeAlias = tuple[float, float]
"""Latitude and longitude in degrees."""

EARTH_M = 6_371_008.8
"""Mean radius."""
_SHAPES = {
    "geo_radius": "{lat, lon, radius_m}",
    "geo_bounding_box": "{top_left: {lat, lon}, bottom_right: {lat, lon}}",
    "geo_polygon": "{points: [{lat, lon}, ... 3 to 1,000 of them]}",
}
_MOST_POINTS = 1000


def document_point(value: Any) -> Point | None:
    """A document's value as a point: `{lat, lon}` in degrees, anything else is none."""
    if not isinstance(value, Mapping):
        return None
    return _point(value.get("lat"), value.get("lon"))


def _point(lat: Any, lon: Any) -> Point | None:
    if not (_is_number(lat) and _is_number(lon) and -90 <= lat <= 90 and -180 <= lon <= 180):
        return None
    return float(lat), float(lon)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _condition_point(value: Any) -> Point | None:
    if not isinstance(value, Mapping):
        return None
    lat, lon = value.get("lat", value.get("latitude")), value.get("lon", value.get("lng", value.get("longitude")))
    return _point(lat, lon)


def checked_shape(operator: str, value: Any, path: str) -> dict[str, Any]:
    """The canonical form of a geographic condition's value.

    Raises:
        ValidationError: corners, radius or ring are missing or wrong.
    """
    makers = {"geo_radius": _circle, "geo_bounding_box": _box, "geo_polygon": _polygon}
    shape = makers[operator](value)
    if shape is None:
        raise ValidationError.at(
            path, f"must be {_SHAPES[operator]} in degrees and metres, got {str(value)[:200]}", "filter_value"
        )
    return shape


def _circle(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, Mapping):
        return None
    center = _condition_point(value.get("center", value))
    radius = value.get("radius_m", value.get("radius"))
    if center is None or not _is_number(radius) or radius < 0:
        return None
    return {"lat": center[0], "lon": center[1], "radius_m": float(radius)}


def _box(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, Mapping):
        return None
    top, bottom = _condition_point(value.get("top_left")), _condition_point(value.get("bottom_right"))
    if top is None or bottom is None or top[0] < bottom[0]:
        return None
    return {"top_left": _degrees(top), "bottom_right": _degrees(bottom)}


def _polygon(value: Any) -> dict[str, Any] | None:
    ring = value
    for name in ("polygon", "exterior", "points"):
        ring = ring.get(name, ring) if isinstance(ring, Mapping) else ring
    if not isinstance(ring, list | tuple) or not 3 <= len(ring) <= _MOST_POINTS:
        return None
    points = [_condition_point(entry) for entry in ring]
    return None if None in points else {"points": [_degrees(point) for point in points if point is not None]}


def _degrees(point: Point) -> dict[str, float]:
    return {"lat": point[0], "lon": point[1]}


def inside(operator: str, point: Point, shape: Mapping[str, Any]) -> bool:
    """Whether a point lies in a checked shape; borders of circles and boxes count."""
    if operator == "geo_radius":
        return bool(haversine_m(point, (shape["lat"], shape["lon"])) <= shape["radius_m"])
    if operator == "geo_bounding_box":
        return _in_box(point, shape)
    return _in_ring(point, [(corner["lat"], corner["lon"]) for corner in shape["points"]])


def _in_box(point: Point, shape: Mapping[str, Any]) -> bool:
    top, bottom = shape["top_left"], shape["bottom_right"]
    if not bottom["lat"] <= point[0] <= top["lat"]:
        return False
    west, east = top["lon"], bottom["lon"]
    if west <= east:
        return bool(west <= point[1] <= east)
    return bool(point[1] >= west or point[1] <= east)  # the box crosses the date line


def haversine_m(one: Point, two: Point) -> float:
    """Great-circle distance in metres."""
    lat1, lon1, lat2, lon2 = map(math.radians, (*one, *two))
    h = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_M * math.asin(min(1.0, math.sqrt(h)))


def _in_ring(point: Point, ring: Sequence[Point]) -> bool:
    """Ray casting in the plane of latitude and longitude."""
    found: bool = False
    for (lat1, lon1), (lat2, lon2) in zip(ring, (*ring[1:], ring[0]), strict=True):
        if (lon1 > point[1]) != (lon2 > point[1]):
            found ^= point[0] < lat1 + (point[1] - lon1) * (lat2 - lat1) / (lon2 - lon1)
    return found
