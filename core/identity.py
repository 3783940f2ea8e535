"""Who is an item? 16 bytes from its input, by which a later driver knows what is finished.

The position serves as long as a run lives; it says nothing once the inputs have moved, so each
partition keeps the ids of its items beside their positions. On a fresh run the worker makes them,
a column at a time, before an item can change its input: the driver pays nothing. Where futures are
among the arguments the driver makes them, for it knows which commit each value comes from.

Small numbers are their own ids, texts and flat containers are hashed in one go, everything else by
`core.fingerprint`. What has no fingerprint has the id `NOBODY`, which equals nothing: such an item
runs again rather than being mistaken for another.
"""

from __future__ import annotations

import marshal
import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain, repeat
from typing import Any

import numpy as np

SIZE = 16
"""Bytes of an id, and of a fingerprint."""
NOBODY = bytes(SIZE)
"""The id of an item that cannot be known again."""

_INT, _FLOAT = b"headrace", b"float64\0"
_TEXT, _BYTES, _FLAT = b"text", b"byte", b"flat"
_NUMBER, _DOUBLE = struct.Struct("<8sq"), struct.Struct("<8sd")
_NAN = struct.unpack("<q", struct.pack("<d", float("nan")))[0]
_PLAIN = frozenset({int, float, str, bytes, bool, type(None)})
_CONTAINERS = frozenset({tuple, list, dict})
_MARSHAL_VERSION = 2
"""Of `marshal`'s formats the last one without back references: equal values give equal bytes."""


def item_ids(columns: Sequence[Sequence[Any]]) -> bytes:
    """Ids of the items whose arguments stand in columns of equal length, 16 bytes each."""
    if len(columns) != 1:
        return b"".join(map(item_id, zip(*columns, strict=True)))
    (column,) = columns
    kinds = set(map(type, column))
    if kinds == {int}:
        try:
            return _numbers(_INT, np.array(column, np.int64))
        except OverflowError:
            pass
    elif kinds == {float}:
        values = np.array(column, np.float64)
        return _numbers(_FLOAT, np.where(np.isnan(values), _NAN, values.view(np.int64)))
    elif kinds == {str}:
        return _hashes(_TEXT, [text.encode("utf-8", "surrogatepass") for text in column])
    elif kinds == {dict} and _all_plain(column):
        return _hashes(_FLAT, map(marshal.dumps, column, repeat(_MARSHAL_VERSION)))
    return b"".join(map(item_id, column))


def _all_plain(rows: Sequence[dict[Any, Any]]) -> bool:
    """Whether dicts hold plain values alone, found column-wise at C's speed."""
    keys = set(map(type, chain.from_iterable(rows)))
    return _PLAIN.issuperset(keys) and _PLAIN.issuperset(
        map(type, chain.from_iterable(map(dict.values, rows)))
    )


def item_id(value: Any) -> bytes:
    """The id of an item with this input; of several arguments, with the tuple of them."""
    kind = type(value)
    if kind is str:
        return _hash(_TEXT + value.encode("utf-8", "surrogatepass"))
    if kind is bytes:
        return _hash(_BYTES + value)
    if kind is int and -(1 << 63) <= value < 1 << 63:
        return _NUMBER.pack(_INT, value)
    if kind is float:
        return _DOUBLE.pack(_FLOAT, value) if value == value else _NUMBER.pack(_FLOAT, _NAN)  # noqa: PLR0124
    if kind in _CONTAINERS and _is_flat(value):
        return _hash(_FLAT + marshal.dumps(value, _MARSHAL_VERSION))
    from .fingerprint import fingerprint  # for the few: a child starts faster without it

    try:
        return fingerprint(value)
    except Exception:  # noqa: BLE001 - what users' classes raise: it only means that it has none
        return NOBODY


def _is_flat(value: Any) -> bool:
    """Plain values alone: `marshal` would take any buffer for its bytes, whatever its type."""
    if type(value) is dict:
        return _PLAIN.issuperset(map(type, value.values())) and _PLAIN.issuperset(map(type, value))
    return _PLAIN.issuperset(map(type, value))


def _hash(data: bytes) -> bytes:
    return _hashes(b"", (data,))


def _hashes(tag: bytes, pieces: Iterable[bytes]) -> bytes:
    """The hash of each piece behind the tag."""
    fresh = blake2b(tag, digest_size=SIZE).copy  # cheaper than a new one
    hashes: list[bytes] = []
    for piece in pieces:
        digest = fresh()
        digest.update(piece)
        hashes.append(digest.digest())
    return b"".join(hashes)


def _numbers(tag: bytes, values: Any) -> bytes:
    ids = np.empty((len(values), 2), "<i8")
    ids[:, 0] = int.from_bytes(tag, "little", signed=True)
    ids[:, 1] = values
    return ids.tobytes()


def key_ids(keys: Sequence[Any]) -> bytes:
    """Ids of items that the user has named by ``map(key=...)``."""
    return b"".join([item_id(("key", key)) for key in keys])


def split_ids(ids: bytes) -> list[bytes]:
    """Packed ids one by one."""
    return [ids[i : i + SIZE] for i in range(0, len(ids), SIZE)]


def salted(ids: bytes, salt: bytes) -> bytes:
    """The ids of items that stand on something more, which the salt stands for."""
    if not salt:
        return ids
    own = split_ids(ids)
    hashes = _hashes(salt, own)
    if NOBODY not in own:
        return hashes
    return b"".join(
        [NOBODY if i == NOBODY else h for i, h in zip(own, split_ids(hashes), strict=True)]
    )
