"""Bringing a database's tables to the version that this headrace knows."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import column, inspect, select, table, text
from sqlalchemy.engine import Connection

from ..core.errors import HistoryError
from .databases import Database
from .tables import metadata

VERSIONS = ("0001", "0002", "0003")
"""All versions of the tables, oldest first."""

VERSION_TABLE = "headrace_version"
"""Alembic's table, under a name that no other program's migrations use in a shared database."""

VERSION = select(column("version_num")).select_from(table(VERSION_TABLE))

MIGRATIONS = Path(__file__).parent / "migrations"

LOCK = 0x68656164
"""Key of the PostgreSQL advisory lock that one migrating process holds."""


def ensure(database: Database) -> None:
    """Make or upgrade the tables if need be; safe when many processes do it at once.

    A database that is up to date costs one query.

    Raises
    ------
    HistoryError
        The database cannot be opened, or was written by a newer headrace.
    """
    if _quick_version(database) == VERSIONS[-1]:
        return
    with database.write() as connection:
        if not database.sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        # Another process may have done it while this one waited for the lock.
        found = _version(connection)
        if found == VERSIONS[-1]:
            return
        if found is not None and found not in VERSIONS:
            raise HistoryError(
                f"history {database.name} has tables of version {found}, written by a newer"
                f" headrace; this one knows versions up to {VERSIONS[-1]}."
                " Upgrade headrace, or use another history (setting history, HEADRACE_HISTORY)."
            )
        upgrade(connection)


def _quick_version(database: Database) -> str | None:
    try:
        with database.read() as connection:
            row = connection.execute(VERSION).first()
    except HistoryError:
        return None  # no such table yet, or an error that the slow way explains
    return None if row is None else str(row[0])


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    row = connection.execute(VERSION).first()
    return None if row is None else str(row[0])


def upgrade(connection: Connection, target: str = "head") -> None:
    """Run the missing steps in the connection's open transaction."""
    # Imported here: a database that is up to date does not need it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes.update(connection=connection, metadata=metadata, version_table=VERSION_TABLE)
    command.upgrade(config, target)
