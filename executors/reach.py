"""Does anybody answer at an address? Asked first, as engines wait for minutes and leave threads."""

from __future__ import annotations

import os
import socket

from ..core.errors import ExecutorError

_SECONDS = 20.0


def probe(engine: str, address: str, *, speaks: bool = True) -> None:
    """Connect to ``[scheme://]host:port``, wait for the first byte, and close again.

    Parameters
    ----------
    speaks
        The server speaks first, as those of Dask and Ray do. With TLS it waits for its client.

    Raises
    ------
    ExecutorError
        Nobody answers within 20 seconds; names the address.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _SECONDS) as connection:
            if speaks and not connection.recv(1):
                raise ConnectionError("it hung up")
    except (OSError, ValueError) as error:
        raise ExecutorError(f"no {engine} cluster answers at {address!r}: {error}") from error


users: dict[str, int] = {}
"""Which process uses an engine: this one, or one that it is a fork of."""


def refuse_fork(engine: str) -> None:
    """Note that this process uses an engine.

    Raises
    ------
    ExecutorError
        It is a fork of one that does: the engine's threads and sockets are there.
    """
    user = users.setdefault(engine, os.getpid())
    if user != os.getpid():
        raise ExecutorError(
            f"{engine} cannot be used here: this process is a fork of process {user}, which uses it."
            ' Start it afresh (multiprocessing.get_context("spawn")), or give the flow another executor'
        )
