"""How a slot learns what was asked of a batch before the slot had it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ..core.interfaces import Control

Asked: TypeAlias = Callable[[], Control | None]
"""Called by a slot once it takes requests for the batch by itself."""


def nothing() -> Control | None:
    """Nothing was asked."""
    return None
