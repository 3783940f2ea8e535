"""Fixtures: a real PostgreSQL, which comes as a wheel."""

import itertools
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from servers.process import running

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Start the server; yield libpq's URI of its database ``postgres``."""
    with running("postgres_server") as facts:
        yield facts["uri"]


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """SQLAlchemy's URL of an empty database, the test's own, dropped at its end."""
    name = f"test_{next(_numbers)}"
    database = Identifier(name)
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(database))
        yield postgres_server.replace("postgresql:", "postgresql+psycopg:", 1).replace(
            "/postgres?", f"/{name}?", 1
        )
        connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(database))
