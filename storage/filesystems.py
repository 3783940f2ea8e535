"""fsspec file systems, opened the way headrace needs them: no listing caches, no surprise waits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..core.errors import ConfigurationError, MissingExtraError
from .locations import Location

EXTRAS = {"s3": "s3", "gs": "gcs"}


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
    from fsspec.registry import known_implementations, registry

    scheme = location.scheme
    if scheme == "gs":
        # Read at import of gcsfs. Its bucket probe over gRPC stalls for a minute per bucket wherever
        # that port is closed (emulators, closed networks).
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    if scheme not in registry and scheme not in known_implementations:
        raise ConfigurationError(
            f"unknown storage scheme '{scheme}://' in {location.url}: use a path, memory://, "
            "s3://, gs://, or any scheme that fsspec knows"
        )
    try:
        filesystem, _ = url_to_fs(location.source, use_listings_cache=False, **reveal(options))
    except ImportError as error:
        raise MissingExtraError(_missing(scheme, location.url, error)) from error
    except (TypeError, ValueError) as error:
        names = ", ".join(sorted(options)) or "none"
        raise ConfigurationError(
            f"storage options ({names}) do not fit {location.url}: {error}"
        ) from error
    return filesystem


def _missing(scheme: str, url: str, error: ImportError) -> str:
    extra = EXTRAS.get(scheme)
    how = f'pip install "headrace[{extra}]"' if extra else str(error)
    return f"{url} needs a package that is not installed: {how}"


def reveal(options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the options with pydantic's secret strings as plain ones, at any depth."""
    out: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            value = reveal(value)
        elif callable(getattr(value, "get_secret_value", None)):
            value = value.get_secret_value()
        out[name] = value
    return out
