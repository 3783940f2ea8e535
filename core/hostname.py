"""The name of this machine: asked once per process, as some systems take a millisecond to tell."""

from __future__ import annotations

import functools
import socket


@functools.cache
def hostname() -> str:
    """`socket.gethostname`, as it was at the first call."""
    return socket.gethostname()
