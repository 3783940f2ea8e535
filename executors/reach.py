"""Does anybody listen at an address? Asked first, as engines wait for minutes and leave threads."""

from __future__ import annotations

import socket

from ..core.errors import ExecutorError

_SECONDS = 20.0


def probe(engine: str, address: str) -> None:
    """Connect to ``[scheme://]host:port``, and close again.

    Raises
    ------
    ExecutorError
        Nobody answers within 20 seconds; names the address.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
    except (OSError, ValueError) as error:
        raise ExecutorError(f"no {engine} cluster answers at {address!r}: {error}") from error
