"""Trivial functions over trivial items, of which every hundredth fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any


def add_one(value: int) -> int:
    if value % 100 == 99:
        raise ValueError(f"item {value} is made to fail")
    return value + 1


def grow(row: dict[str, Any]) -> dict[str, Any]:
    if row["id"] % 100 == 99:
        raise ValueError(f"item {row['id']} is made to fail")
    return {"id": row["id"], "name": row["name"], "score": row["score"] * 2}


def upper(text: str) -> str:
    if text.startswith("99"):
        raise ValueError("this item is made to fail")
    return text.upper()


TASKS: Mapping[str, Callable[[Any], Any]] = {"int": add_one, "dict": grow, "str": upper}


def items(kind: str, n: int) -> list[Any]:
    """``n`` items: ints, rows of three fields, or texts of 200 bytes."""
    if kind == "int":
        return list(range(n))
    if kind == "dict":
        return [{"id": i, "name": f"name {i}", "score": i / 7} for i in range(n)]
    return [f"{i % 100:02d}{i:08d}" + "x" * 190 for i in range(n)]


def compute(seconds: float) -> None:
    """Keep a core busy for so long: time on the core counts, not on the clock."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
