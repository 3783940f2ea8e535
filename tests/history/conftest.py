"""Histories to test: one in a SQLite file, one in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.history.sql import SqlHistory


@pytest.fixture(params=["sqlite", "postgres"])
def history_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a history can be made, on each database."""
    if request.param == "sqlite":
        return str(tmp_path / "home" / "history.db")
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def history(history_url: str) -> Iterator[SqlHistory]:
    """An empty history on each database."""
    with SqlHistory(history_url) as opened:
        yield opened
