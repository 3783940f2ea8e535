"""What a partition's header tells of what made it: the code, and the files and partitions that were read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ..core.context import TASK_RUN
from ..core.interfaces import LISTED, Inputs, Origin

Put: TypeAlias = Callable[[str, bytes], None]
"""Writes an object of the run."""

LINEAGE_KEY = b"headrace.lineage"
"""Of the schema's metadata in files that `Dataset.write` has written."""
_MOST = 64
"""Longer lists are objects of their own: they would make each footer long."""
_put: set[str] = set()
"""URLs of such objects that this process has put. Of a static argument's files each batch has the same one,
and nothing else here outlives a batch: encoders are made for one, stores are unpickled with each. Names are
made of the content, so an object that is put once more is the same."""


class Made:
    """Whose code makes an encoder's values, and of what."""

    def __init__(self, put: Put, home: str, inputs: Inputs = Inputs(), code: str = "") -> None:
        self._write, self._home = put, home
        self._inputs, self._code = inputs, code

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
        url = f"{self._home}/{path}"
        if url not in _put:
            self._write(path, data)
            if len(_put) > 1000:
                _put.clear()
            _put.add(url)
        return [(url, LISTED)]


def written_by(origins: Sequence[Origin]) -> dict[bytes, bytes]:
    """Schema metadata of a file that the running task writes, or, where none runs, this process."""
    item = TASK_RUN.get()
    if item is None:
        told: dict[str, Any] = {"run": "", "key": "write", "code": "", "inputs": origins}
    else:
        store = item.store
        made = Made(store.write, store.url, Inputs(tuple(origins)), item.stage.code).lineage(())
        told = {"run": item.run_id, "key": item.stage.key, **made}
    return {LINEAGE_KEY: json.dumps(told).encode()}
