"""Backoff for storage calls: what passes is tried again, what stays is told at once.

Full jitter after M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): the
n-th pause is uniform in ``[0, min(cap, first * 2**n)]``.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar, cast

from ..core.errors import AlreadyExistsError, HeadraceError, NotFoundError, StorageError

T = TypeVar("T")

_log = logging.getLogger("headrace")
TELL_AFTER = 5.0
"""Seconds of failures after which a person is told why nothing happens, and between two such lines."""

TRANSIENT_ERRNO = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.EPIPE,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EREMOTEIO,
    }
)
TRANSIENT_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
TRANSIENT_CODES = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "TooManyRequestsException",
    }
)
TRANSIENT_CLASSES = frozenset(
    {
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
        "botocore.exceptions.IncompleteReadError",
        "botocore.exceptions.ResponseStreamingError",
        "botocore.parsers.ResponseParserError",
        "fsspec.exceptions.FSTimeoutError",
        "gcsfs.retry.ChecksumError",
        "google.auth.exceptions.TransportError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.Timeout",
        "requests.exceptions.ChunkedEncodingError",
    }
)
PERMANENT_CLASSES = frozenset(
    {
        "botocore.exceptions.ProxyConnectionError",
        "botocore.exceptions.SSLError",
        "botocore.exceptions.InvalidProxiesConfigError",
        "aiohttp.client_exceptions.ClientConnectorCertificateError",
        "aiohttp.client_exceptions.InvalidURL",
    }
)
PERMANENT_TYPES = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    HeadraceError,
)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to go on: pauses in seconds, ``total`` from the first failure on."""

    first: float = 0.1
    cap: float = 8.0
    total: float = 90.0
    tries: int = 12

    def pauses(self, draw: Callable[[], float] = random.random) -> Iterator[float]:
        """The pauses between tries."""
        for n in range(self.tries - 1):
            yield draw() * min(self.cap, self.first * 2**n)


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: throttling, 5xx, timeouts, dropped connections."""
    seen: set[int] = set()
    current: BaseException | None = answered(error)
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        verdict = _verdict(current)
        if verdict is not None:
            return verdict
        current = current.__cause__ or current.__context__
    return False


def answered(error: BaseException) -> BaseException:
    """What a server said or did, where fsspec's ``https://`` calls all of it a file that is not there."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or cause is None:
        return error
    status, _ = _answer(cause)
    missing = not is_transient(cause) if status is None else status in (404, 410)
    return error if missing else cause


def _verdict(error: BaseException) -> bool | None:
    """True or False where this exception itself tells, None where its cause may."""
    names = {f"{c.__module__}.{c.__qualname__}" for c in type(error).__mro__}
    if names & PERMANENT_CLASSES or isinstance(error, PERMANENT_TYPES):
        return False
    status, code = _answer(error)
    if status is not None or code is not None:
        return status in TRANSIENT_STATUS or code in TRANSIENT_CODES
    if names & TRANSIENT_CLASSES or isinstance(error, (TimeoutError, ConnectionError)):
        return True
    if isinstance(error, OSError) and error.errno is not None and error.errno != errno.EIO:
        return error.errno in TRANSIENT_ERRNO
    return None


def _answer(error: BaseException) -> tuple[int | None, str | None]:
    """HTTP status and error code, as botocore, aiohttp and gcsfs carry them."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status, str(response.get("Error", {}).get("Code"))
    for name in ("status", "code", "status_code"):
        value = getattr(error, name, None)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and 100 <= value < 600:
            return value, None
    return None, None


def retrying(
    call: Callable[[], T],
    *,
    operation: str,
    url: str,
    backoff: Backoff = Backoff(),
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Call until it succeeds, fails for good, or the time is up.

    Raises
    ------
    NotFoundError, AlreadyExistsError
        In place of `FileNotFoundError` and `FileExistsError`.
    StorageError
        Names the operation, the URL, how often it was tried, and the cause.
    """
    pauses = backoff.pauses()
    began: float | None = None
    tries = 0
    while True:
        tries += 1
        try:
            return call()
        except HeadraceError:
            raise
        except Exception as error:  # any library's: classified by what it says
            pause = next(pauses, None) if is_transient(error) else None
            now = clock()
            began = now if began is None else began
            if pause is None or now + pause - began > backoff.total:
                raise as_storage_error(error, operation, url, tries) from error
            if now - began > TELL_AFTER and _patience.lost(now):
                left = backoff.total - (now - began)
                _log.warning(
                    "%s; trying on for %.0f s", as_storage_error(error, operation, url, tries), left
                )
        sleep(pause)


class _Patience:
    """Many threads may wait for one store: one of them tells, now and then."""

    def __init__(self) -> None:
        self.told = -inf

    def lost(self, now: float) -> bool:
        if now - self.told < TELL_AFTER:
            return False
        self.told = now
        return True


_patience = _Patience()


def as_storage_error(
    error: BaseException, operation: str, url: str, tries: int = 1
) -> StorageError:
    """The error that headrace raises for a storage library's."""
    error = answered(error)
    if isinstance(error, FileNotFoundError):
        missing = "no such bucket or folder" if operation == "write" else "there is no such object"
        here = (
            " in this process, and others have their own memory"
            if url.startswith("memory:")
            else ""
        )
        return NotFoundError(f"cannot {operation} {url}: {missing}{here}")
    if isinstance(error, FileExistsError):
        return AlreadyExistsError(f"cannot {operation} {url}: it exists already")
    often = f" (tried {tries} times)" if tries > 1 else ""
    hint = _hint(error)
    said = str(error)
    if hasattr(error, "request_info"):  # aiohttp's text has the URL with all that its query holds
        said = f"{cast(Any, error).status} {cast(Any, error).message}"
    cause = f"{type(error).__name__}: {said}".strip().rstrip(":").split("\n", 1)[0]
    return StorageError(f"cannot {operation} {url}{often}: {cause}{hint}")


def no_ranges(error: BaseException) -> bool:
    """Whether fsspec says that a server of ``https://`` answers with whole files only."""
    told = str(error)
    return "streaming HTTP file" in told or "support range requests" in told


def _hint(error: BaseException) -> str:
    if no_ranges(error):
        return "; its server answers no ranges, which Parquet and files in parts need: download it"
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "; free some space or choose another storage location"
        if error.errno == errno.EROFS:
            return "; the file system is read-only, choose another storage location"
    if isinstance(error, PermissionError) or "Forbidden" in str(error):
        return "; check the credentials and the permissions of this location"
    if "credential" in type(error).__name__.lower() or "credential" in str(error).lower():
        return "; pass storage_options or set the provider's environment variables"
    return ""
