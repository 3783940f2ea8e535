"""Spans of time as people write them."""

from __future__ import annotations

import re

_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


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
