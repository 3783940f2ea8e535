"""Numbers as people read them: short, with a unit, and never longer than their column."""

from __future__ import annotations

import math

from ..core.sizes import scaled, size_text

COUNT_UNITS = ("", "k", "M", "G", "T")
MINUTE, HOUR, DAY = 60, 3600, 86_400


def count(value: float) -> str:
    """A count in at most five characters: ``980``, ``9,800``, ``1.2M``."""
    if value < 10_000:
        return f"{value:,.0f}"
    return "".join(scaled(value, COUNT_UNITS))


def exact(value: int) -> str:
    """A count with all its digits: ``1,234,567``."""
    return f"{value:,}"


size = size_text


def duration(seconds: float) -> str:
    """Seconds in the two largest units: ``0.4 s``, ``35 s``, ``2 min 10 s``, ``1 h 5 min``."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return _two(whole, MINUTE, "min", 1, "s")
    if whole < DAY:
        return _two(whole, HOUR, "h", MINUTE, "min")
    return _two(whole, DAY, "d", HOUR, "h")


def _two(value: int, large: int, large_name: str, small: int, small_name: str) -> str:
    first, rest = divmod(value, large)
    second = rest // small
    return f"{first} {large_name}" + (f" {second} {small_name}" if second else "")


def rate(per_second: float) -> str:
    """Items a second, or a minute or hour where that is slow: ``1.2k/s``, ``3.0/min``."""
    if per_second <= 0 or not math.isfinite(per_second):
        return ""
    factor, unit = 1, "s"
    if per_second * MINUTE < 1:
        factor, unit = HOUR, "h"
    elif per_second < 1:
        factor, unit = MINUTE, "min"
    value = per_second * factor
    return f"{value:.1f}/{unit}" if value < 9.95 else f"{count(value)}/{unit}"
