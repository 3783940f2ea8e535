"""Spans of time as people write and read them."""

from __future__ import annotations

import math
import re

_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def seconds_of(text: str) -> float:
    """Seconds of ``"90s"``, ``"15min"`` (or ``"15m"``), ``"12h"``, ``"30d"`` or ``"2w"``.

    Raises
    ------
    ValueError
        Not a span of time; a number needs its unit.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s|min|m|h|d|w)\s*", text, re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is not a span of time; write it as 90s, 15min, 12h, 30d or 2w")
    return float(found[1]) * _SECONDS[found[2].lower()]


def duration_text(seconds: float) -> str:
    """Seconds in the two largest units: ``0.4 s``, ``35 s``, ``2 min 10 s``, ``1 h 5 min``."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return _two(whole, _MINUTE, "min", 1, "s")
    if whole < _DAY:
        return _two(whole, _HOUR, "h", _MINUTE, "min")
    return _two(whole, _DAY, "d", _HOUR, "h")


def _two(value: int, large: int, large_name: str, small: int, small_name: str) -> str:
    first, rest = divmod(value, large)
    second = rest // small
    return f"{first} {large_name}" + (f" {second} {small_name}" if second else "")


def brief_text(seconds: float) -> str:
    """The same, where it may be short: ``3.1 ms``, ``120 µs``."""
    if seconds >= 0.9995 or seconds <= 0:
        return duration_text(seconds)
    factor, unit = (1e3, "ms") if seconds >= 0.9995e-3 else (1e6, "µs")
    return f"{seconds * factor:.3g} {unit}"
