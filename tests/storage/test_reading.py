"""Files in parts: cut at lines and row groups, left out by filters, told apart by folders."""

import csv
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import s3fs
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.object_store import ObjectStore
from storage.batches import commit

from headrace.core.errors import ConfigurationError, HeadraceError, NotFoundError, StorageError
from headrace.storage import decoding, reading, scanning
from headrace.storage.cutting import SpanFile, csv_spans, line_spans
from headrace.storage.datasets import Dataset, open_dataset
from headrace.storage.nodedata import PartPiece
from headrace.storage.sources import COMPRESSED
from headrace.storage.statistics import ColumnStatistics
from headrace.storage.store import ArrowRunStore, ArrowStore

CELLS = st.text(st.sampled_from('ab",\n\r '), max_size=6)


def rows_of(dataset: Dataset, **aim: Any) -> tuple[int, list[Any]]:
    parts = dataset.partitions(**aim)
    tables = [part.__headrace_load__(None) for part in parts]
    return len(parts), [row for table in tables for row in table.to_pylist()]


# ----------------------------------------------------------------------------------------- lines


@given(st.lists(st.tuples(CELLS, CELLS), max_size=12), st.integers(1, 40), st.booleans())
@settings(max_examples=150)
def test_csv_is_cut_where_no_row_is(rows: list[tuple[str, str]], step: int, quoted: bool):
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerows([("one", "two"), *rows])
    data = text.getvalue().encode()
    spans = csv_spans(io.BytesIO(data), len(data), step)
    assert [span.first for span in spans[1:]] == [span.stop for span in spans[:-1]]
    assert (spans[0].first, spans[-1].stop) == (0, len(data))
    read: list[Any] = []
    for span in spans:
        part = SpanFile(io.BytesIO(data), span).read().decode()
        head, *found = csv.reader(io.StringIO(part, newline=""))
        assert head == ["one", "two"]
        read.extend(found)
    assert read == [list(row) for row in rows]
    if step == 1:
        assert len(spans) == max(1, len(rows))


@given(st.lists(st.text(st.sampled_from("ab\r"), max_size=5), max_size=20), st.integers(1, 30))
def test_lines_are_cut_at_their_ends(lines: list[str], step: int):
    data = "".join(line + "\n" for line in lines).encode()
    spans = line_spans(io.BytesIO(data), len(data), step)
    assert b"".join(SpanFile(io.BytesIO(data), span).read() for span in spans) == data
    assert all(data[span.stop - 1 : span.stop] == b"\n" for span in spans if data)


def test_a_file_of_lines_becomes_many_partitions(store: ArrowStore):
    run = store.run("input")
    values = [{"n": i, "t": f'say "{i}",\nthen go' if i % 3 else "plain"} for i in range(500)]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["n", "t"])
    writer.writeheader()
    writer.writerows(values)
    run.write("c/x.csv", text.getvalue().encode())
    run.write("j/x.jsonl", "".join(json.dumps(row) + "\n" for row in values).encode())
    run.write("t/x.txt", b"".join(b"%d\r\n" % i for i in range(500)))
    run.write("z/x.jsonl.gz", gzip.compress(b'{"n": 1}\n' * 500))
    for name, wanted in [
        ("c", values),
        ("j", values),
        ("t", [{"text": str(i)} for i in range(500)]),
    ]:
        dataset = open_dataset(f"{run.url}/{name}", storage_options=store.storage_options)
        count, rows = rows_of(dataset, bytes=800)
        assert count == pytest.approx(dataset.bytes / 800, abs=3)
        assert rows == dataset.to_table().to_pylist() == wanted
        parts = dataset.partitions(bytes=800)
        assert len({part.fingerprint for part in parts}) == count
        assert parts[1].num_rows == parts[1].to_table().num_rows < 200
        assert parts[-1].to_table(columns=[dataset.schema.names[0]]).num_columns == 1
    packed = open_dataset(f"{run.url}/z", storage_options=store.storage_options)
    assert rows_of(packed, bytes=10) == (1, [{"n": 1}] * 500)


def test_types_are_those_of_the_whole_file(tmp_path: Path):
    (tmp_path / "x.csv").write_text("a,b\n" + "1.5,x\n" * 50 + "7,\n" * 50)
    dataset = open_dataset(tmp_path / "x.csv")
    last = dataset.partitions(bytes=60)[-1].to_table()
    assert last.schema.equals(dataset.schema)
    assert last.slice(0, 1).to_pydict() == {"a": [7.0], "b": [""]}


def test_csv_that_only_a_parser_understands_stays_whole(tmp_path: Path):
    (tmp_path / "x.csv").write_text("a,b\n" + '5" pipe,x\n' * 100)
    assert rows_of(open_dataset(tmp_path / "x.csv"), bytes=50) == (
        1,
        [{"a": '5" pipe', "b": "x"}] * 100,
    )


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "quoted.csv"])
def test_a_line_may_be_longer_than_what_is_read_at_a_time(tmp_path: Path, name: str):
    texts = ["a", "b\n" * 700_000 if name == "quoted.csv" else "b" * 1_400_000, "c", "d"]
    with (tmp_path / name).open("w", newline="") as file:
        if name.endswith(".csv"):
            csv.writer(file).writerows([["text"], *([text] for text in texts)])
        else:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    dataset = open_dataset(tmp_path / name)
    assert dataset.num_rows == 4
    assert dataset.to_table()["text"].to_pylist() == texts
    if name == "x.jsonl":
        assert dataset.to_arrow_dataset().to_table()["text"].to_pylist() == texts
    assert rows_of(dataset, bytes=500_000)[1] == [{"text": text} for text in texts]
    assert dataset.to_table(filter=[("text", "!=", "a")])["text"].to_pylist() == texts[1:]


@pytest.mark.parametrize(
    ("late", "field"), [({"b": 1}, "b"), ({"a": [{"c": 1, "d": 2}]}, "a.d"), ({"a": []}, "")]
)
def test_a_field_that_comes_late_is_told_and_not_left_out(
    tmp_path: Path, late: dict[str, Any], field: str
):
    first = {"a": [{"c": 1}], "text": "x" * 1000}
    lines = [json.dumps(row) + "\n" for row in (*[first] * 3000, {**first, **late})]
    (tmp_path / "x.jsonl").write_text("".join(lines))
    dataset = open_dataset(tmp_path / "x.jsonl")
    if field:
        for part in (dataset, dataset.partitions(bytes="1MB")[-1]):
            for read in (part.to_table, part.to_arrow_dataset):
                with pytest.raises(
                    ConfigurationError, match=rf"x.jsonl .*field '{field}' .*schema="
                ):
                    read()
    else:
        assert dataset.to_table().num_rows == 3001
    assert dataset.to_table(columns=["text"]).num_rows == 3001
    stated = open_dataset(tmp_path / "x.jsonl", schema=pa.schema([("text", pa.string())]))
    assert stated.to_arrow_dataset().count_rows() == dataset.num_rows == 3001
    assert rows_of(stated.select(["text"]), bytes="1MB")[1] == [{"text": "x" * 1000}] * 3001


def test_a_type_that_changes_late_is_told_with_what_to_do(tmp_path: Path):
    (tmp_path / "x.csv").write_text("n\n" + "123456\n" * 200_000 + "late\n")
    (tmp_path / "x.jsonl").write_text('{"n": 123456}\n' * 90_000 + '{"n": "late"}\n')
    for name in ("x.csv", "x.jsonl"):
        with pytest.raises(ConfigurationError, match=rf"{name} .*guessed .*schema="):
            open_dataset(tmp_path / name).to_table()


@pytest.mark.parametrize("ending", sorted(COMPRESSED))
def test_compressed_files_of_lines(make_run: Callable[[str], ArrowRunStore], ending: str):
    for scheme in ("local", "memory"):
        run = make_run(scheme)
        for name, data in (
            ("x.csv", b"n\n1\n2\n"),
            ("x.jsonl", b'{"n": 1}\n{"n": 2}\n'),
            ("x.txt", b"1\n2\n"),
        ):
            codec: Any = COMPRESSED[ending]
            sink = pa.BufferOutputStream()
            if codec == "xz":
                sink.write(lzma.compress(data))
            else:
                with pa.CompressedOutputStream(sink, codec) as stream:
                    stream.write(data)
            squeezed = sink.getvalue().to_pybytes()
            run.write(name + ending, squeezed)
            dataset = open_dataset(f"{run.url}/{name}{ending}")
            assert list(map(int, dataset.to_table().column(0).to_pylist())) == [1, 2]
            assert dataset.num_rows == dataset.to_arrow_dataset().count_rows() == 2
            run.write("cut-" + name + ending, squeezed[:-3])
            with pytest.raises(HeadraceError, match=f"cut-{name}{ending}"):
                open_dataset(f"{run.url}/cut-{name}{ending}").to_table()


def test_text_of_long_lines_comes_some_at_a_time(tmp_path: Path):
    (tmp_path / "x.txt").write_text("\n".join("x" * 300_000 for _ in range(20)))
    sizes = [batch.nbytes for batch in open_dataset(tmp_path / "x.txt").iter_batches()]
    assert len(sizes) > 4
    assert max(sizes) < 3 << 20


def test_a_part_of_a_file_that_has_changed_is_an_error_and_not_other_rows(store: ArrowStore):
    run = store.run("input")

    def write(first: int) -> None:
        rows = [{"n": first + n} for n in range(500)]
        lines = "".join(f"{row['n']}\n" for row in rows)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=100)
        run.write("p/x.parquet", sink.getvalue().to_pybytes())
        run.write("j/x.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        run.write("c/x.csv", f"n\n{lines}".encode())
        run.write("t/x.txt", lines.encode())

    write(1000)
    opened = [open_dataset(f"{run.url}/{name}", None, store.storage_options) for name in "pjct"]
    parts = [dataset.partitions(bytes=800)[2] for dataset in opened]
    write(2000)  # as long
    for part in parts:
        with pytest.raises(
            StorageError, match=r"changed since it was listed.*open the dataset again"
        ):
            part.to_table()
    for dataset in opened:  # nothing of what it is now is left out
        assert dataset.num_rows == dataset.to_table().num_rows == 500


# -------------------------------------------------------------------------------------------- http


class Ranged(SimpleHTTPRequestHandler):
    """Files of a folder, whole or in ranges, where the path asks for no others.

    Of ``/busy`` every other request is refused.
    """

    asked = 0

    def do_HEAD(self) -> None:
        if not self._is_busy():
            super().do_HEAD()

    def _is_busy(self) -> bool:
        Ranged.asked += 1
        busy = self.path.startswith("/busy") and Ranged.asked % 2 == 1
        if busy:
            self.send_error(503)
        return busy

    def do_GET(self) -> None:
        if self._is_busy():
            return
        asked = self.headers.get("Range")
        file = Path(self.translate_path(self.path))
        if asked is None or not file.is_file() or self.path.startswith("/whole"):
            super().do_GET()
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        data = file.read_bytes()
        part = data[int(first) : int(last or len(data)) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def send_response(self, code: int, message: str | None = None) -> None:
        super().send_response(code, message)
        if code == 200 and not self.path.endswith("/"):
            self.send_header("Accept-Ranges", "none" if self.path.startswith("/whole") else "bytes")

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranged, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_on_the_web(tmp_path: Path, web: str):
    lines = "".join(json.dumps({"n": n}) + "\n" for n in range(20_000))
    for folder in ("ranged", "whole"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text(lines)
    pq.write_table(pa.table({"n": range(300)}), tmp_path / "x.parquet", row_group_size=100)
    table = open_dataset(f"{web}/x.parquet?key=secret")
    assert table.files == [f"{web}/x.parquet"]
    assert "secret" not in repr(table) + table.partitions()[0].fingerprint
    assert rows_of(open_dataset(f"{web}/x.parquet"), bytes=1000)[1] == [
        {"n": n} for n in range(300)
    ]
    cut = open_dataset(f"{web}/ranged/*.jsonl")
    assert rows_of(cut, bytes="100kB") == (3, [{"n": n} for n in range(20_000)])
    os.utime(tmp_path / "ranged" / "x.jsonl", (1, 1))
    assert open_dataset(f"{web}/ranged/*.jsonl").fingerprint != cut.fingerprint
    whole = open_dataset(f"{web}/whole/x.jsonl")
    assert whole.num_rows == 20_000
    with pytest.raises(NotFoundError, match=r"nothing\.csv"):
        open_dataset(f"{web}/nothing.csv")
    with pytest.raises(StorageError, match=r"whole/x\.jsonl.*answers no ranges"):
        whole.partitions(bytes="100kB")


def test_a_busy_server_of_the_web_is_asked_again(tmp_path: Path, web: str):
    """fsspec calls what it refuses a file that is not there, or raises aiohttp's errors."""
    (tmp_path / "busy").mkdir()
    lines = "".join(json.dumps({"n": n}) + "\n" for n in range(20_000))
    (tmp_path / "busy" / "x.jsonl").write_text(lines)
    pq.write_table(pa.table({"n": range(300)}), tmp_path / "busy" / "x.parquet", row_group_size=100)
    for name, count, rows in (("x.jsonl", 3, 20_000), ("x.parquet", 3, 300)):
        dataset = open_dataset(f"{web}/busy/{name}")
        size = "100kB" if name == "x.jsonl" else 1000
        assert rows_of(dataset, bytes=size) == (count, [{"n": n} for n in range(rows)])
        assert dataset.to_table().num_rows == rows


def test_what_a_server_of_the_web_refuses_for_good_is_told_without_the_query(
    web: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Ranged, "_is_busy", lambda self: self.send_error(401) or True)
    with pytest.raises(StorageError, match=r"/x\.csv: ClientResponseError: 401") as told:
        open_dataset(f"{web}/x.csv?key=hush")
    assert "hush" not in str(told.value)


# ------------------------------------------------------------------------------ filters, statistics


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """year=2025 and year=2026, each two files of three row groups of ten rows."""
    for year in (2025, 2026):
        for month in (1, 2):
            folder = tmp_path / f"year={year}" / f"month={month}"
            folder.mkdir(parents=True)
            first = (year - 2025) * 60 + (month - 1) * 30
            table = pa.table({"n": range(first, first + 30), "day": [1] * 10 + [2] * 20})
            pq.write_table(table, folder / "x.parquet", row_group_size=10)
    return tmp_path


def test_partitions_know_their_statistics(tree: Path):
    part = open_dataset(tree).partitions(files=1)[3]
    assert part.statistics == {
        "n": ColumnStatistics(90, 119, 0),
        "day": ColumnStatistics(1, 2, 0),
        "year": ColumnStatistics("2026", "2026", 0),
        "month": ColumnStatistics("2", "2", 0),
    }
    pq.write_table(
        pa.table({"a": pa.array([None, None], pa.int8()), "b": [1, None], "c": [[1], [2]]}),
        tree / "other.parquet",
    )
    both = open_dataset([tree / "other.parquet", tree / "other.parquet"]).partitions()[0]
    assert both.statistics == {"a": ColumnStatistics(None, None, 4), "b": ColumnStatistics(1, 1, 2)}


def test_what_a_filter_rules_out_is_no_partition(tree: Path):
    def found(filter: Any, **aim: Any) -> list[list[int]]:
        parts = open_dataset(tree, filter=filter).partitions(**aim)
        return [part.to_table()["n"].to_pylist() for part in parts]

    assert found(pc.field("n") >= 109, bytes=1) == [[109], list(range(110, 120))]
    assert found([("year", "=", "2026"), ("n", "<", 61)], bytes=1) == [[60]]
    for aim in ({"files": 1}, {"rows": 30}, {"by": "month"}):
        assert found([("year", "=", "2026"), ("n", "<", 61)], **aim) == [[60], []]
    assert found([("n", ">", 1000)], bytes=1) == []


def test_partitions_by_the_values_of_a_column(tree: Path):
    dataset = open_dataset(tree, columns=["n"])
    months = dataset.partitions(by="month")
    assert [part.statistics["month"].min for part in months] == ["1", "2"]
    assert [part.to_table()["n"].to_pylist() for part in months] == [
        [*range(30), *range(60, 90)],
        [*range(30, 60), *range(90, 120)],
    ]
    assert [part.num_rows for part in dataset.partitions(by="day")] == [40, 80]
    with pytest.raises(ConfigurationError, match=r"x\.parquet is not known.*group_by\('n'\)"):
        dataset.partitions(by="n")
    with pytest.raises(ConfigurationError, match="no column 'z'"):
        dataset.partitions(by="z")
    with pytest.raises(ConfigurationError, match="one of rows="):
        dataset.partitions(by="day", files=1)


# ---------------------------------------------------------------------------- what streams, and ahead


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of a few rows are decoded as large ones are."""
    monkeypatch.setattr(decoding, "_LARGE_ROWS", 9)
    monkeypatch.setattr(decoding, "_BATCH_ROWS", 4)
    monkeypatch.setattr(scanning, "_LOOKED_AT", 0)


@pytest.mark.usefixtures("small_is_large")
def test_a_large_row_group_is_decoded_some_rows_at_a_time(tree: Path):
    dataset = open_dataset(tree)
    assert max(batch.num_rows for batch in dataset.iter_batches()) == 4
    assert dataset.to_table()["n"].to_pylist() == list(range(120))
    assert dataset.to_table()["year"].to_pylist() == ["2025"] * 60 + ["2026"] * 60
    found = dataset.to_table(columns=["month", "day"], filter=pc.field("n") >= 109)
    assert found.to_pydict() == {"month": ["2"] * 11, "day": [2] * 11}
    wide = pa.schema([("n", pa.float64()), ("more", pa.string()), ("year", pa.int16())])
    stated = open_dataset(tree, schema=wide, filter=[("year", "=", 2026)])
    assert stated.schema.equals(wide)
    assert stated.head(1).to_pylist() == [{"n": 60.0, "more": None, "year": 2026}]
    assert open_dataset(tree, columns=[]).to_table().num_rows == 120
    assert dataset.to_table(columns=["year"]).num_rows == 120


def test_a_stated_schema_is_that_of_all_files(tree: Path):
    (tree / "year=2027").mkdir()
    (tree / "year=2027" / "bad.parquet").write_bytes(b"its footer is not read")
    schema = pa.schema([("year", pa.int16()), ("n", pa.int64())])
    dataset = open_dataset(tree, schema=schema, filter=[("year", "<", 2027)])
    parts = dataset.partitions()
    assert [len(part.files) for part in parts] == [4]
    assert parts[0].to_table().slice(119).to_pylist() == [{"year": 2026, "n": 119}]
    with pytest.raises(ConfigurationError, match=r"year=2025.* does not fit the stated schema"):
        open_dataset(tree, schema=pa.schema([("year", pa.date32())]))


def test_many_small_files_are_read_in_order(store: ArrowStore):
    run = store.run("input")
    for number in range(40):
        run.write(f"d{number % 4}/{number:02d}.txt", b"%d" % number)
    dataset = open_dataset(run.url, "files", storage_options=store.storage_options)
    (part,) = dataset.partitions()
    wanted = [b"%d" % n for k in range(4) for n in range(k, 40, 4)]
    assert [bytes(row["content"]) for row in part.to_table().to_pylist()] == wanted
    assert len(set(part.to_table(columns=["path"])["path"].to_pylist())) == 40
    assert part.head(3)["content"].to_pylist() == wanted[:3]
    if store.location.scheme in ("s3", "gs"):
        etags = part.to_table(columns=["etag"])["etag"].to_pylist()
        assert len(set(etags)) == 40 and min(map(len, etags)) > 5


@pytest.mark.parametrize("small", [0, 8 << 20])
def test_files_and_partitions_of_a_store_are_read_ahead(
    small: int, make_run: Callable[[str], ArrowRunStore], monkeypatch: pytest.MonkeyPatch
):
    run = make_run("memory")
    monkeypatch.setattr(reading, "SMALL_BYTES", small)
    tables = [pa.table({"n": [number] * number}) for number in range(1, 29)]
    made = run.dataset(commit(run, tables, range(1, 28), inline_bytes=0))
    made.write(f"{run.url}/files", max_rows_per_file=7)
    files = open_dataset(f"{run.url}/files")
    for kind, dataset in ((PartPiece, made), (scanning.FilePiece, files)):
        number = {piece.fingerprint: n for n, piece in enumerate(dataset.pieces)}
        begun = [threading.Event() for _ in number]
        batches = kind.batches

        def after_the_next_began(
            piece: Any, scan: Any, number: Any = number, begun: Any = begun, batches: Any = batches
        ) -> Any:
            own = number[piece.fingerprint]
            begun[own].set()
            assert begun[min(own + 1, len(begun) - 1)].wait(20)
            yield from batches(piece, scan)

        monkeypatch.setattr(kind, "batches", after_the_next_began)
        assert dataset.to_table()["n"].to_pylist() == [n for n in range(1, 29) for _ in range(n)]


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet", "text", "files"])
def test_a_small_file_of_a_store_is_one_request(
    format: str, s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch
):
    url = s3_server.new_bucket()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"n": [1]}), sink)
    data = {"jsonl": b'{"n": 1}\n', "csv": b"n\n1\n", "parquet": sink.getvalue().to_pybytes()}
    system = s3_server.filesystem()
    for number in range(3):
        system.pipe_file(f"{url}/{number}", data.get(format, b"1"))
    asked: list[str] = []
    call = s3fs.S3FileSystem._call_s3

    def counted(self: Any, method: str, *args: Any, **more: Any) -> Any:
        asked.append(method)
        return call(self, method, *args, **more)

    dataset = open_dataset(url, format, s3_server.storage_options)
    schema = dataset.schema
    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    (part,) = Dataset(dataset.pieces, schema=schema, asked=1).partitions(bytes="1MB")
    assert part.to_table().num_rows == 3
    assert asked == ["get_object"] * 3


def test_a_lazy_frame_reads_what_its_query_asks_for(tree: Path):
    lazy = open_dataset(tree).partitions()[0].__headrace_load__(pl.LazyFrame)
    assert isinstance(lazy, pl.LazyFrame)
    assert lazy.collect_schema().names() == ["n", "day", "year", "month"]
    late = lazy.filter(pl.col("n") >= 109).select("day", pl.col("n") + 1)
    assert late.collect().rows() == [(2, n + 1) for n in range(109, 120)]
    assert late.collect(engine="streaming").height == 11
    assert lazy.select(pl.len()).collect().item() == lazy.collect().height == 120
    assert lazy.head(35).collect()["n"].to_list() == list(range(35))


def test_a_file_in_place_of_one_of_the_same_size_and_time_is_another(tmp_path: Path):
    file, other, link = tmp_path / "in" / "a.txt", tmp_path / "b.txt", tmp_path / "in" / "link.txt"
    file.parent.mkdir()
    other.write_text("old\n")
    file.write_text("old\n")
    link.symlink_to(other)

    def fingerprints() -> list[str]:
        return [piece.fingerprint for piece in open_dataset(file.parent).pieces]

    before = fingerprints()
    assert fingerprints() == before
    for path in (file, other):
        times = path.stat()
        fresh = path.with_suffix(".new")
        fresh.write_text("new\n")
        os.utime(fresh, ns=(times.st_atime_ns, times.st_mtime_ns))
        fresh.replace(path)
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (4, times.st_mtime_ns)
    assert not set(fingerprints()) & set(before)


# ------------------------------------------------------------------------------ read ahead


def _held_by_a_slow_reader(path: Path) -> int:
    """MB that Arrow holds at most while somebody reads, and pauses after every few batches."""
    script = (
        "import sys, time, pyarrow as pa, headrace\n"
        "data, most = headrace.open_dataset(sys.argv[1]), 0\n"
        "for number, batch in enumerate(data.iter_batches()):\n"
        "    most = max(most, pa.total_allocated_bytes())\n"
        "    if number in (2, 40):\n"
        "        time.sleep(0.7)\n"
        "print(most >> 20)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(path)], check=True, capture_output=True
    )
    return int(told.stdout)


def test_reading_parquet_runs_ahead_by_bytes_and_not_by_rows(tmp_path: Path):
    path, rows = tmp_path / "wide.parquet", 1 << 17
    columns: Any = {f"c{number}": np.zeros(rows) for number in range(20)}
    with pq.ParquetWriter(
        path, pa.table(columns).schema, compression="none", use_dictionary=False
    ) as writer:
        for _ in range(14):
            writer.write_table(pa.table(columns))
    assert path.stat().st_size > 250 << 20
    assert _held_by_a_slow_reader(path) < 160


def test_reading_json_lines_does_not_run_on_while_nobody_takes_them(tmp_path: Path):
    path = tmp_path / "long.jsonl"
    line = json.dumps({"number": 7, "text": "x" * 200}).encode() + b"\n"
    path.write_bytes(line * 800_000)
    assert _held_by_a_slow_reader(path) < 90


def test_lists_of_nothing_but_nulls_want_their_type_stated(tmp_path: Path):
    path = tmp_path / "lists.jsonl"
    path.write_text('{"n": 1, "list": []}\n{"n": 2, "list": [null, null]}\n')
    with pytest.raises(ConfigurationError, match=r"lists\.jsonl .*state it, schema="):
        open_dataset(path).to_table()
    schema = pa.schema([("n", pa.int64()), ("list", pa.list_(pa.float64()))])
    found = open_dataset(path, schema=schema).to_table()["list"]
    assert found.to_pylist() == [[], [None, None]]
