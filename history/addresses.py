"""Where a history is: the path or URL that a user gives, made into one that SQLAlchemy opens."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ..core.errors import ConfigurationError

SECRET_WORDS = ("password", "secret", "token", "sslkey", "passfile")


def parse(address: str | os.PathLike[str]) -> URL:
    """Make a database URL of an address.

    Parameters
    ----------
    address
        A path of a SQLite file, ``sqlite:///<path>``, or ``postgresql://user:password@host/name``.

    Raises
    ------
    ConfigurationError
        It is neither; says what can be given.
    """
    text = os.fspath(address)
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The text is left out: it may hold a password.
        raise ConfigurationError(f"history URL cannot be read. {FORMS}") from None
    kind = url.drivername.partition("+")[0]
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise ConfigurationError(f"history cannot be kept in {kind!r}. {FORMS}")
    if url.database in (None, "", ":memory:"):
        raise ConfigurationError(f"history needs a file, not SQLite in memory. {FORMS}")
    return URL.create("sqlite", database=str(Path(str(url.database)).expanduser().absolute()))


FORMS = "Give a file path, sqlite:///<path> or postgresql://<user>@<host>/<database>."


def public(url: URL) -> str:
    """The URL as text, without its password and without options that are secrets."""
    secret = [key for key in url.query if any(word in key.lower() for word in SECRET_WORDS)]
    plain = url.difference_update_query(secret)
    if plain.drivername == "postgresql+psycopg":
        plain = plain.set(drivername="postgresql")
    # `set(password=None)` would mean "unchanged".
    return URL.create(
        plain.drivername,
        plain.username,
        None,
        plain.host,
        plain.port,
        plain.database,
        plain.query,
    ).render_as_string(hide_password=True)
