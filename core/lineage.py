"""Whose code makes a node's values: what ``resume(recompute="changed")`` goes by.

A node's code is its task's function with all that it refers to among the user's own, and its
``setup`` (`core.fingerprint`, as for `TASK_SOURCE`); of a map that another one feeds also the code of
that one, for its items' ids come from there. What else is computed from a future counts by the
commit of its value (`core.provenance`) and needs no mention here. The journal keeps it by node and
driver, and so it is known of each partition.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import blake2b
from types import FunctionType
from typing import TYPE_CHECKING, Any

from .identity import SIZE

if TYPE_CHECKING:
    from .calls import Call
    from .nodes import Node


def nobody() -> str:
    """Code that equals no other: what it makes runs again."""
    return os.urandom(SIZE).hex()


class Lineage:
    """Tells code apart; looks at each function once in a run."""

    def __init__(self) -> None:
        self.known: dict[FunctionType, bytes] = {}

    def code_of(self, call: Call, link: Node | None) -> str:
        """The code of a call's values, given the map that feeds it."""
        setup = call.options.setup
        try:
            own = self._of(call.fn) + (self._of(setup) if setup is not None else b"")
        except Exception:  # noqa: BLE001 - what users' classes raise: it only means that it has none
            return nobody()
        above = "" if link is None else link.mixed or link.code
        return blake2b(own + above.encode(), digest_size=SIZE).hexdigest()

    def _of(self, function: Callable[..., Any]) -> bytes:
        from .fingerprint import fingerprint

        # A coroutine function on its caller's loop is another object each time.
        function = getattr(function, "fn", function)
        if not isinstance(function, FunctionType):
            return fingerprint(function)
        if function not in self.known:
            self.known[function] = fingerprint(function)
        return self.known[function]
