"""fsspec file systems, opened the way headrace needs them: no listing caches, no surprise waits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from ..core.errors import ConfigurationError, MissingExtraError
from .locations import LOCAL, MEMORY, Location

EXTRAS = {"s3": "s3", "gs": "gcs"}
SILENCE_SECONDS = 60.0
"""A server that sends nothing for so long is asked again."""


def check_scheme(location: Location) -> None:
    """Raise `ConfigurationError` for a scheme that fsspec does not know."""
    scheme = location.scheme
    if scheme in (LOCAL, MEMORY, *EXTRAS):
        return
    from fsspec.registry import known_implementations, registry

    if scheme not in registry and scheme not in known_implementations:
        raise ConfigurationError(
            f"unknown storage scheme '{scheme}://' in {location.url}: use a path, memory://, "
            "s3://, gs://, or any scheme that fsspec knows"
        )


def open_filesystem(location: Location, options: Mapping[str, Any]) -> Any:
    """The fsspec file system of a location.

    Raises
    ------
    MissingExtraError
        The scheme's package is not installed.
    ConfigurationError
        fsspec knows no such scheme, or the options do not fit it.
    """
    from fsspec.core import url_to_fs

    scheme = location.scheme
    check_scheme(location)
    try:
        if scheme == "gs":
            return _google(reveal(options))
        filesystem, _ = url_to_fs(location.source, use_listings_cache=False, **reveal(options))
        if type(filesystem).__module__ == "s3fs.core" and filesystem.session is None:
            filesystem.session = _session(filesystem.kwargs)
    except ImportError as error:
        raise MissingExtraError(_missing(scheme, location.url, error)) from error
    except (TypeError, ValueError) as error:
        names = ", ".join(sorted(options)) or "none"
        raise ConfigurationError(
            f"storage options ({names}) do not fit {location.url}: {error}"
        ) from error
    return filesystem


def _session(options: Mapping[str, Any]) -> Any:
    """The session that s3fs would make, but for how it reads times.

    botocore tries every way in which people write times, on each key of a listing: three fourths of
    what a listing takes.
    """
    from aiobotocore.session import AioSession

    session = AioSession(**options)
    factory = session.get_component("response_parser_factory")
    factory.set_parser_defaults(timestamp_parser=time_of)
    return session


def time_of(text: Any) -> datetime:
    """A time in a server's answer: as listings have it, or in any way that botocore knows."""
    if isinstance(text, str) and text.endswith("Z"):
        with suppress(ValueError):
            return datetime.fromisoformat(text)
    from botocore.utils import parse_timestamp

    return parse_timestamp(text)


def _google(options: dict[str, Any]) -> Any:
    """Gcsfs without its probe of each bucket's type over gRPC, unless its variable asks for that.

    The probe stalls for a minute per bucket wherever that port is closed: emulators, closed networks.
    gcsfs reads the variable when it is imported, which may have happened already. Nor has it any limit
    of its own on how long it waits for an answer (s3fs waits a minute).
    """
    from aiohttp import ClientTimeout

    if os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false").lower() in ("true", "1"):
        from gcsfs import GCSFileSystem
    else:
        from gcsfs.core import GCSFileSystem
    limits = ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
    settings: dict[str, Any] = {"requests_timeout": limits, **options}
    return GCSFileSystem(use_listings_cache=False, **settings)


def _missing(scheme: str, url: str, error: ImportError) -> str:
    extra = EXTRAS.get(scheme)
    how = f'pip install "headrace[{extra}]"' if extra else str(error)
    return f"{url} needs a package that is not installed: {how}"


def reveal(options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the options with pydantic's secret strings as plain ones, at any depth."""
    return {name: _plain(value) for name, value in options.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return reveal(value)
    secret = getattr(value, "get_secret_value", None)
    return secret() if callable(secret) else value
