"""What a partition's header tells of what made it: the code, and the files and partitions that were read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ..core.context import TASK_RUN
from ..core.interfaces import LISTED, Inputs, Origin

Put: TypeAlias = Callable[[str, bytes], str]
"""Writes an object of the run; gives its URL."""

LINEAGE_KEY = b"headrace.lineage"
"""Of the schema's metadata in files that `Dataset.write` has written."""
_MOST = 64
"""Longer lists are objects of their own: they would make each footer long."""


class Made:
    """Whose code makes an encoder's values, and of what."""

    def __init__(self, put: Put, inputs: Inputs = Inputs(), code: str = "") -> None:
        self._put, self._inputs, self._code = put, inputs, code
        self._written: dict[str, str] = {}

    def lineage(self, positions: Any) -> dict[str, Any]:
        """Of the items at some positions, as JSON has it."""
        found = dict.fromkeys(self._inputs.common)
        if self._inputs.items:
            for position in positions.tolist():
                found.update(dict.fromkeys(self._inputs.items.get(position, ())))
        told = {"code": self._code, "inputs": self._told(list(found))}
        return told | ({"through": self._inputs.through} if self._inputs.through else {})

    def _told(self, origins: Sequence[Origin]) -> Sequence[Origin]:
        if len(origins) <= _MOST:
            return origins
        data = json.dumps(origins).encode()
        path = f"lineage/{hashlib.blake2b(data, digest_size=16).hexdigest()}.json"
        if path not in self._written:
            self._written[path] = self._put(path, data)
        return [(self._written[path], LISTED)]


def written_by(origins: Sequence[Origin]) -> dict[bytes, bytes]:
    """Schema metadata of a file that the running task writes, or, where none runs, this process."""
    item = TASK_RUN.get()
    if item is None:
        told: dict[str, Any] = {"run": "", "key": "write", "code": "", "inputs": origins}
    else:
        store = item.store

        def put(path: str, data: bytes) -> str:
            store.write(path, data)
            return f"{store.url}/{path}"

        made = Made(put, Inputs(tuple(origins)), item.stage.code).lineage(())
        told = {"run": item.run_id, "key": item.stage.key, **made}
    return {LINEAGE_KEY: json.dumps(told).encode()}
