"""What a partition tells of its items, packed: positions, rows, start times, durations, ids.

A partition carries two entries in its footer. ``headrace`` is a small JSON object: format version,
run, node, node key, batch, attempt, nonce, kind, number of items, and what the kind needs to decode.
``headrace.items`` is the packed table of items: zstd over the arrays below, in base64, so that readers
that want text in their metadata accept it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ..core.errors import DamagedPartitionError
from ..core.identity import SIZE
from ..core.items import runs_of

VERSION = 1
HEADER_KEY = b"headrace"
ITEMS_KEY = b"headrace.items"


@dataclass(slots=True)
class ItemTable:
    """The items of a partition, in position order. All arrays have one element per item."""

    positions: Any
    """int64, ascending."""
    started_ns: Any
    """int64 epoch nanoseconds."""
    seconds: Any
    """float32 durations."""
    rows: int | Any
    """Rows of each item: one number, or an int64 array."""
    ids: bytes | None = None
    """`core.identity`: 16 bytes for each item."""
    row_shapes: Any = None
    """Of kinds ``row`` and ``rows``: index of each row's shape (int32), or None."""

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def total_rows(self) -> int:
        return self.rows * len(self) if isinstance(self.rows, int) else int(self.rows.sum())

    @staticmethod
    def of(
        positions: Any,
        started_ns: Any,
        ended_ns: Any,
        rows: int | Any,
        ids: bytes | None = None,
        row_shapes: Any = None,
    ) -> ItemTable:
        """From epoch nanoseconds of start and end."""
        seconds = ((ended_ns - started_ns) / 1e9).astype(np.float32)
        return ItemTable(positions, started_ns, seconds, rows, ids, row_shapes)


@dataclass(frozen=True, slots=True)
class Header:
    """The small part of a partition's description of itself."""

    run: str
    node: int
    key: str
    batch: int
    attempt: int
    nonce: str
    kind: str
    items: int
    restores: tuple[str, ...] = ()
    """Per column: how its elements become values (`storage.forms`)."""
    shapes: tuple[tuple[str, ...], ...] = ()
    extra: str = ""
    firsts: tuple[int, ...] = ()
    """Per shape: the first position that has it. It fixes the order of a dataset's columns."""
    version: int = VERSION
    lineage: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    @staticmethod
    def from_json(text: bytes | str, where: str) -> Header:
        """Raises `DamagedPartitionError` where it is no header, or a newer version's."""
        try:
            raw = json.loads(text)
            version = int(raw["version"])
            if version > VERSION:
                raise DamagedPartitionError(
                    f"{where} was written by a newer headrace (partition format {version}, this one "
                    f"reads up to {VERSION}): upgrade headrace"
                )
            raw["restores"] = tuple(raw["restores"])
            raw["shapes"] = tuple(tuple(keys) for keys in raw["shapes"])
            raw["firsts"] = tuple(raw["firsts"])
            return Header(**{name: raw[name] for name in Header.__slots__ if name in raw})
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedPartitionError(
                f"{where} has no readable headrace header: {error}"
            ) from error


# -------------------------------------------------------------------------------------- the blob


def as_ids(ids: bytes) -> Any:
    """Packed ids as an array with an element for each."""
    return np.frombuffer(ids, f"V{SIZE}")


def pack_items(items: ItemTable) -> str:
    """The items as base64 text."""
    arrays: dict[str, Any] = {
        "runs": np.array(runs_of(items.positions), np.int64).reshape(-1),
        "first": items.started_ns[:1],
        "gaps": _narrow(np.diff(items.started_ns)),
        "seconds": items.seconds.astype("<f4"),
    }
    if not isinstance(items.rows, int):
        arrays["rows"] = _narrow(items.rows)
    if items.row_shapes is not None:
        arrays["row_shapes"] = _narrow(items.row_shapes)
    if items.ids is not None:
        arrays["ids"] = as_ids(items.ids)
    head: dict[str, Any] = {
        "n": len(items),
        "rows": items.rows if isinstance(items.rows, int) else None,
        "arrays": [(name, a.dtype.str, len(a)) for name, a in arrays.items()],
    }
    text = json.dumps(head).encode()
    raw = b"".join([len(text).to_bytes(4, "little"), text, *map(_shuffled, arrays.values())])
    body = pa.compress(raw, codec="zstd", asbytes=True)
    return base64.b64encode(len(raw).to_bytes(8, "little") + body).decode()


def unpack_items(text: bytes, where: str) -> ItemTable:
    """The inverse. Raises `DamagedPartitionError`."""
    try:
        data = base64.b64decode(text)
        raw = pa.decompress(data[8:], int.from_bytes(data[:8], "little"), "zstd", asbytes=True)
        length = int.from_bytes(raw[:4], "little")
        head = json.loads(raw[4 : 4 + length])
        arrays = _split(raw[4 + length :], head["arrays"])
    except (ValueError, KeyError, pa.ArrowException) as error:
        raise DamagedPartitionError(f"{where} has no readable table of items: {error}") from error
    runs = arrays["runs"].reshape(-1, 2)
    spans = [np.arange(a, b, dtype=np.int64) for a, b in runs.tolist()]
    positions = np.concatenate(spans) if spans else np.empty(0, np.int64)
    started = np.concatenate((arrays["first"], arrays["gaps"])).astype(np.int64).cumsum()
    rows: int | Any = head["rows"]
    if rows is None:
        rows = arrays["rows"].astype(np.int64)
    return ItemTable(
        positions,
        started,
        arrays["seconds"],
        rows,
        arrays["ids"].tobytes() if "ids" in arrays else None,
        arrays.get("row_shapes"),
    )


def _narrow(values: Any) -> Any:
    """The same integers in as few bytes as hold them all."""
    if len(values):
        low, high = int(values.min()), int(values.max())
        for dtype in (np.int8, np.int16, np.int32):
            info = np.iinfo(dtype)
            if info.min <= low and high <= info.max:
                return values.astype(dtype)
    return values.astype(np.int64)


def _shuffled(values: Any) -> bytes:
    """The bytes of an array, first all first bytes, then all second ones: they compress better."""
    plain = np.ascontiguousarray(values)
    return (
        plain.view(np.uint8).reshape(len(plain), plain.itemsize).T.tobytes() if len(plain) else b""
    )


def _split(raw: bytes, arrays: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    at = 0
    for name, dtype_text, length in arrays:
        dtype = np.dtype(dtype_text)
        size = length * dtype.itemsize
        block = np.frombuffer(raw[at : at + size], np.uint8)
        if len(block) != size:
            raise ValueError(f"{name} is cut off")
        at += size
        out[name] = (
            np.ascontiguousarray(block.reshape(dtype.itemsize, length).T).view(dtype).reshape(-1)
        )
    return out
