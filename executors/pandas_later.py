"""Keeps pyarrow from importing pandas into every child before anybody asks for it.

The first `pyarrow.array` of a process imports pandas if it is installed, only to learn whether its
argument is a Series: more than half of a child's start, and some 40 MB each. Here pyarrow looks
once while pandas is out of sight, and looks again as soon as something really imports it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Hidden(MetaPathFinder):
    """Pandas is not installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError("not yet", name=fullname)
        return None


class _Told(MetaPathFinder):
    """Pandas is what it is, and pyarrow hears of it."""

    def __init__(self, shim: Any) -> None:
        self.shim = shim

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "pandas":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _ = self.shim.pd  # this property looks for pandas again

        loader.exec_module = exec_module
        return spec


def defer() -> None:
    """Do it, in a process of ours that has one thread yet; harmless where it cannot be done."""
    if "pandas" in sys.modules:
        return
    import pyarrow as pa
    import pyarrow.lib as arrow

    shim = getattr(arrow, "_pandas_api", None)
    if shim is None or not hasattr(type(shim), "pd"):
        return  # a pyarrow that does it otherwise
    hidden = _Hidden()
    sys.meta_path.insert(0, hidden)
    try:
        pa.array([None])
    finally:
        sys.meta_path.remove(hidden)
    sys.meta_path.insert(0, _Told(shim))
