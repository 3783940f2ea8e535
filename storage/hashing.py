"""Hashes of rows, by their content or by their place: the same on every machine and in every version.

They decide where rows go and in which order they come, so no library's own hash, which may change,
has a part in them. They are mixed well but are not proof against malice, and equality is never
decided by one hash alone: see `key_columns`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..core.errors import ConfigurationError
from .tables import is_bytes

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_NULL = np.uint64(0x6E756C6C6E756C6C)
_HEAD = 64
"""Words of 8 bytes of a long text that count, from its beginning; beyond it a few dozen do."""
_STEPS = 32


def mixed(values: Any) -> Any:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014) over a uint64 array."""
    out = values + _GOLDEN
    out ^= out >> np.uint64(30)
    out *= _FIRST
    out ^= out >> np.uint64(27)
    out *= _SECOND
    out ^= out >> np.uint64(31)
    return out


def place_hashes(places: Any, seed: int) -> Any:
    """A uint64 for each row's place in its dataset (int64), other ones for each seed."""
    return mixed(mixed(places.astype(np.uint64)) ^ mixed(_word(seed)))


def row_hashes(table: Any, seed: int = 0) -> Any:
    """A uint64 for each row of a table, by the values of all its columns.

    0.0 and -0.0 are equal, and so are all NaNs, and nulls.

    Raises
    ------
    ConfigurationError
        A column's type has no hash.
    """
    out = np.full(table.num_rows, mixed(_word(seed))[0])
    for name in table.column_names:
        out = mixed(out ^ _column(table.column(name)))
    return out


def key_columns(table: Any) -> Any:
    """The table's columns so that Arrow can group by them, with the same rows equal as for a hash.

    Columns of types that Arrow cannot group by (lists, structs) are stood for by 128 bits of hash.
    """
    columns: dict[str, Any] = {}
    for number, column in enumerate(table.columns):
        kind = column.type
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type  # noqa: PLW2901
        if pa.types.is_null(kind):
            continue
        if pa.types.is_floating(kind):
            columns[str(number)] = pa.chunked_array([_bits(_whole(column))])
        elif pa.types.is_primitive(kind) or is_bytes(kind) or pa.types.is_decimal128(kind):
            columns[str(number)] = column
        else:
            alone = table.select([number])
            columns[f"{number}a"] = row_hashes(alone)
            columns[f"{number}b"] = row_hashes(alone, 1)
    if not columns:
        columns["0"] = np.zeros(table.num_rows, np.int8)
    return pa.table(columns)


def _word(seed: int) -> Any:
    return np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64)


def _whole(column: Any) -> Any:
    """One array of a column's chunks."""
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    combined: Any = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):  # too long for one array's offsets
        raise ConfigurationError(f"a column of type {column.type} is too large at a time")
    return combined


def _column(column: Any) -> Any:
    """Chunk by chunk, so that texts need not be copied together."""
    if isinstance(column, pa.Array):
        return _array(column)
    parts = [_array(chunk) for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def _array(array: Any) -> Any:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _array(array.storage)
    if pa.types.is_dictionary(kind):
        return _array(array.dictionary_decode())
    if pa.types.is_null(kind):
        return np.full(len(array), _NULL)
    hashes = _values(array, kind)
    if array.null_count:
        hashes = np.where(array.is_null().to_numpy(zero_copy_only=False), _NULL, hashes)
    return hashes


def _values(array: Any, kind: Any) -> Any:
    """Hashes of an array's values; what stands for a null does not matter."""
    if pa.types.is_boolean(kind):
        return mixed(array.fill_null(False).cast(pa.uint8()).to_numpy().astype(np.uint64))
    if pa.types.is_floating(kind):
        return mixed(_bits(array).fill_null(0).to_numpy().astype(np.uint64))
    if pa.types.is_struct(kind):
        out = np.full(len(array), _GOLDEN)
        for child in array.flatten():
            out = mixed(out ^ _array(child))
        return out
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        return _lists(array)
    if pa.types.is_fixed_size_list(kind):
        return _lists(array.cast(pa.large_list(kind.value_type)))
    if str(kind) in ("string_view", "binary_view"):
        return _texts(array.cast(pa.large_string() if "string" in str(kind) else pa.large_binary()))
    if is_bytes(kind) and not pa.types.is_fixed_size_binary(kind):
        return _texts(array)
    try:
        width = kind.byte_width
    except ValueError:
        raise ConfigurationError(f"columns of type {kind} have no hash") from None
    return _fixed(array, width)


def _bits(array: Any) -> Any:
    """Floats as the integers of their bits, with one zero and one NaN; nulls stay."""
    width = array.type.bit_width // 8
    values = array.fill_null(0).to_numpy(zero_copy_only=False) + array.type.to_pandas_dtype()(0)
    values[np.isnan(values)] = np.nan
    bits = pa.array(values.view(f"u{width}"))
    return pc.if_else(array.is_valid(), bits, None) if array.null_count else bits


def _fixed(array: Any, width: int) -> Any:
    """Values of a fixed number of bytes."""
    buffer = array.buffers()[1]
    count = len(array)
    if buffer is None or not count:
        return np.zeros(count, np.uint64)
    raw = np.frombuffer(buffer, np.uint8, count * width, array.offset * width)
    if width in (1, 2, 4, 8):
        return mixed(raw.view(f"<u{width}").astype(np.uint64))
    padded = np.zeros((count, -(-width // 8) * 8), np.uint8)
    padded[:, :width] = raw.reshape(count, width)
    out = np.full(count, _GOLDEN)
    for word in padded.view("<u8").T:
        out = mixed(out ^ word)
    return out


def _offsets(array: Any, wide: bool) -> Any:
    """Where each value begins, and the last one ends."""
    kind, width = (np.int64, 8) if wide else (np.int32, 4)
    found = np.frombuffer(array.buffers()[1], kind, len(array) + 1, array.offset * width)
    return found.astype(np.int64)


def _lists(array: Any) -> Any:
    """The elements' hashes, each mixed with its place, summed, and mixed with their number."""
    if not len(array):
        return np.empty(0, np.uint64)
    offsets = _offsets(array, pa.types.is_large_list(array.type))
    first, last = int(offsets[0]), int(offsets[-1])
    lengths = np.diff(offsets)
    values = array.values if not pa.types.is_map(array.type) else _entries(array)
    inner = _array(values.slice(first, last - first))
    place = np.arange(first, last) - np.repeat(offsets[:-1], lengths)
    sums = np.zeros(last - first + 1, np.uint64)
    np.cumsum(mixed(inner ^ mixed(place.astype(np.uint64))), out=sums[1:])
    total = sums[offsets[1:] - first] - sums[offsets[:-1] - first]
    return mixed(total ^ lengths.astype(np.uint64))


def _entries(array: Any) -> Any:
    return pa.StructArray.from_arrays([array.keys, array.items], ["key", "value"])


def _texts(array: Any) -> Any:
    """Texts and bytes, 8 bytes at a time, the longer ones at some places only."""
    count = len(array)
    if not count:
        return np.empty(0, np.uint64)
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    offsets = _offsets(array, wide)
    starts, lengths = offsets[:-1], np.diff(offsets)
    out = mixed(lengths.astype(np.uint64))
    buffer = array.buffers()[2]
    first, last = int(offsets[0]), int(offsets[-1])
    if buffer is None or first == last:
        return out
    data = np.zeros(last - first + 8, np.uint8)  # so that 8 bytes can be read from anywhere
    data[:-8] = np.frombuffer(buffer, np.uint8, last - first, first)
    words = np.ndarray((last - first + 1,), "<u8", data, strides=(1,))
    starts = starts - first
    where = np.flatnonzero(lengths)
    for step in range(_HEAD):
        where = where[lengths[where] > 8 * step]
        if not len(where):
            return out
        left = np.minimum(lengths[where] - 8 * step, 8)
        word = words[starts[where] + 8 * step] & _MASKS[left]
        out[where] = mixed(out[where] ^ word)
    where = where[lengths[where] > 8 * _HEAD]
    rest = lengths[where] - 8 * _HEAD
    for step in range(_STEPS):  # the last one is that of the end
        at = starts[where] + 8 * _HEAD - 8 + rest * (step + 1) // _STEPS
        out[where] = mixed(out[where] ^ words[at])
    return out


_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)
