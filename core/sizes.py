"""Sizes in bytes as people write and read them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40, "pi": 1 << 50}

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB")


def bytes_of(text: str | int) -> int:
    """Bytes of ``"4GB"`` (10**9), ``"4GiB"`` (2**30) or a number.

    Raises
    ------
    ValueError
        Not a size.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError(f"{text} is not a size in bytes")
        return text
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]i?)?b?\s*", str(text), re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is not a size; write it as 4GB, 512MiB or a number of bytes")
    unit = (found[2] or "").lower()
    return round(float(found[1]) * (_UNITS | _BINARY)[unit])


def size_text(value: float) -> str:
    """Bytes in powers of 1000, in few digits: ``512 B``, ``3.4 GB``."""
    digits, unit = scaled(value, _DECIMAL)
    return f"{digits} {unit}"


def scaled(value: float, units: tuple[str, ...]) -> tuple[str, str]:
    """A number in at most three digits, and its unit: each is a thousand of the one before."""
    i = 0
    # 999,950 would round to 1000.0k.
    while value >= 999.5 and i < len(units) - 1:
        value /= 1000
        i += 1
    return f"{value:.1f}" if i and value < 99.95 else f"{value:,.0f}", units[i]
