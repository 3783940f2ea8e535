"""A column of more than 2**31 bytes of text, written and read as items and as files, in both formats.

python benchmarks/long_texts.py
python benchmarks/long_texts.py --s3    # one of them over HTTP, to the server of the tests
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

SIZE = 2_300_000_000


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--s3", action="store_true", help="over HTTP, and only texts of a MB")
    over_http = parser.parse_args().s3
    report.own_home()
    report.machine()
    if over_http:
        running: Any = import_module("servers.process").running
        s3_object_store: Any = import_module("servers.s3").s3_object_store
        with running("radosgw_server") as facts:
            server = s3_object_store(facts["endpoint"], facts["key"], facts["secret"])
            there_and_back(2200, "string", "parquet", server.new_bucket(), server.storage_options)
    else:
        for values, kind, layout in product(
            (2200, 20), ("string", "large_string"), ("parquet", "arrow")
        ):
            with tempfile.TemporaryDirectory() as folder:
                there_and_back(values, kind, layout, folder, {})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    report.figure("texts", "peak", peak, "GB")


def there_and_back(
    values: int, kind: str, layout: str, url: str, options: Mapping[str, Any]
) -> None:
    table = texts(values, kind)
    facts = {"values": values, "type": kind, "format": layout}
    for name, way in (("as a file", file), ("as an item", item)):
        took = report.timed(partial(way, table, layout, url, options))
        report.figure("texts", name, took, "s", **facts)


def texts(values: int, kind: str) -> Any:
    """A table with a column of texts of equal lengths, in as many chunks as its type needs."""
    import numpy as np
    import pyarrow as pa

    width = SIZE // values
    large = kind == "large_string"
    chunks: list[Any] = []
    for count in [values] if large else [values // 2] * 2:
        data = pa.py_buffer((b"abcdefghijklmnop" * (width // 16 + 1))[:width] * count)
        places: Any = pa.array(np.arange(count + 1, dtype="i8" if large else "i4") * width)
        array: Any = pa.LargeStringArray if large else pa.StringArray
        chunks.append(array.from_buffers(count, places.buffers()[1], data))
    columns: Any = {"n": range(values), "text": pa.chunked_array(chunks)}
    return pa.table(columns)


def file(table: Any, format: str, url: str, options: Mapping[str, Any]) -> None:
    from headrace.storage.datasets import dataset_of_table

    written = dataset_of_table(table).write(f"{url}/out", format, storage_options=options)
    same(written.to_table(), table)


def item(table: Any, format: str, url: str, options: Mapping[str, Any]) -> None:
    import pyarrow as pa

    from headrace.storage.encoding import ArrowEncoder
    from headrace.storage.itemtables import Header
    from headrace.storage.nodedata import PartPiece
    from headrace.storage.pieces import Scan
    from headrace.storage.store import ArrowStore

    run = ArrowStore(f"{url}/store", options, format=format).run("a-run")
    encoder = ArrowEncoder(
        run.objects, Header("a-run", 0, "make-0", 0, 1, "abc", "", 0), format=format
    )
    encoder.add(0, table, 0, 1)
    (receipt,) = encoder.flush()
    if receipt.part.format != format:
        raise RuntimeError(f"{receipt.part.format} came")
    piece = PartPiece(run, receipt.part, 0, table.num_rows)
    same(pa.Table.from_batches(piece.batches(Scan(table.schema))), table)


def same(found: Any, table: Any) -> None:
    """Raises `RuntimeError` where rows came back changed."""
    if found.schema.field("text").type != table.schema.field("text").type or found != table:
        raise RuntimeError("other rows came back")


if __name__ == "__main__":
    main()
