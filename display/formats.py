"""Numbers as people read them: short, with a unit, and never longer than their column."""

from __future__ import annotations

import math

from ..core.durations import duration_text
from ..core.sizes import scaled, size_text

COUNT_UNITS = ("", "k", "M", "G", "T")
MINUTE, HOUR = 60, 3600


def count(value: float) -> str:
    """A count in at most five characters: ``980``, ``9,800``, ``1.2M``."""
    if value < 10_000:
        return f"{value:,.0f}"
    return "".join(scaled(value, COUNT_UNITS))


def exact(value: int) -> str:
    """A count with all its digits: ``1,234,567``."""
    return f"{value:,}"


size = size_text
duration = duration_text


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
