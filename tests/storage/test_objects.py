"""Every scheme keeps the same promises about whole objects; the servers are real."""

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.utils import parse_timestamp
from racing import race
from servers.object_store import ObjectStore

from headrace.core.errors import (
    AlreadyExistsError,
    ConfigurationError,
    MissingExtraError,
    NotFoundError,
    StorageError,
)
from headrace.storage import filesystems
from headrace.storage.filesystems import open_filesystem, time_of
from headrace.storage.localfiles import LocalObjects
from headrace.storage.locations import parse_location
from headrace.storage.store import ArrowRunStore, ArrowStore

RACERS = 3


def test_what_is_written_can_be_read_listed_and_removed(store: ArrowStore):
    store.check()
    run = store.run("run-1")
    for path in ("header.json", "data/00000/00000001-a", "data/00000/00000012-b", "data/00001/x"):
        run.write(path, path.encode() * 1000)
    run.write("header.json", b"new")
    assert run.read("header.json") == b"new"
    assert [info.path for info in run.list("data/00000/00000001")] == ["data/00000/00000001-a"]
    assert [info.path for info in run.list("data/00000/")] == [
        "data/00000/00000001-a",
        "data/00000/00000012-b",
    ]
    (info,) = run.list("data/00001/")
    assert info.bytes == 12_000
    assert info.modified > 1e9
    assert run.list("nothing/here") == []
    run.delete(["data/00001/x", "data/00001/was-never-there"])
    with pytest.raises(NotFoundError, match="data/00001/x"):
        run.read("data/00001/x")
    assert store.runs() == ["run-1"]
    assert store.remove("run-1") == 3 + 21_000 + 21_000
    assert store.runs() == []
    assert store.remove("run-1") == 0


def test_ranges_are_read_from_either_end(run: ArrowRunStore):
    run.write("data/x", bytes(range(100)))
    assert run.objects.read("data/x", 10, 20) == bytes(range(10, 20))
    assert run.objects.read("data/x", 90, 100) == bytes(range(90, 100))


def test_if_absent_refuses_what_is_there_even_with_the_same_bytes(run: ArrowRunStore):
    run.write("claims/1", b"same", if_absent=True)
    with pytest.raises(AlreadyExistsError, match="claims/1"):
        run.write("claims/1", b"same", if_absent=True)
    assert run.read("claims/1") == b"same"


@pytest.mark.parametrize("scheme", ["local", "s3", "gs"])
def test_one_of_many_processes_wins_each_object(
    scheme: str, make_run: Callable[[str], ArrowRunStore]
):
    run = make_run(scheme)
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(RACERS), context.Queue()
    names = [f"claims/{number}" for number in range(12)]
    racers = [
        context.Process(target=race, args=(run, names, start, results)) for _ in range(RACERS)
    ]
    for racer in racers:
        racer.start()
    wins = [results.get(timeout=60) for _ in names]
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    assert sorted(wins) == sorted(names)
    assert results.empty()


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a\\b", "a\0b"],
)
def test_no_path_leads_out_of_the_run(local_run: ArrowRunStore, path: str):
    for call in (
        local_run.read,
        lambda p: local_run.write(p, b"x"),
        lambda p: local_run.delete([p]),
    ):
        with pytest.raises(ConfigurationError):
            call(path)


@pytest.mark.parametrize("run_id", ["", "..", ".hidden", "a/b", "a\\b", "x" * 200, "ä", "a b"])
def test_run_ids_are_plain_names(tmp_path: Path, run_id: str):
    with pytest.raises(ConfigurationError, match="run id"):
        ArrowStore(tmp_path).run(run_id)


@pytest.mark.parametrize("url", ["", "s3://", "s3:///", "gs://bucket/../other", "file://", "a\0b"])
def test_what_is_no_location_is_told(url: str):
    with pytest.raises(ConfigurationError):
        ArrowStore(url)


def test_an_unknown_scheme_is_told_at_once():
    with pytest.raises(ConfigurationError, match="unknown storage scheme 'nosuch://'"):
        ArrowStore("nosuch://bucket/x")
    with pytest.raises(ConfigurationError, match="unknown format 'xml'"):
        ArrowStore("/x", format="xml")


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(MissingExtraError, match=r'pip install "headrace\[s3\]"'):
        ArrowStore("s3://bucket/x").check()


def test_options_that_do_not_fit_are_told_without_their_values(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        ConfigurationError, match=r"storage options \(endpoint\) do not fit .*Session"
    ):
        ArrowStore("s3://b/x", {"endpoint": "http://127.0.0.1:9"}).check()

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise TypeError("unexpected keyword argument")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(ConfigurationError, match=r"storage options \(sekret\) do not fit") as told:
        ArrowStore("s3://b/x", {"sekret": "hush"}).check()
    assert "hush" not in str(told.value)


def test_stores_are_values_and_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    store = ArrowStore("here/../runs")
    assert store.url == str(tmp_path / "runs")
    assert store == ArrowStore(tmp_path / "runs") == ArrowStore(f"file://{tmp_path}/runs")
    assert hash(store) == hash(ArrowStore(tmp_path / "runs"))
    assert store != ArrowStore(tmp_path / "runs", trust=False)
    run = store.run("r")
    run.write("x", b"1")
    assert pickle.loads(pickle.dumps(run)) == run
    assert pickle.loads(pickle.dumps(run)).read("x") == b"1"


def test_no_secret_is_shown(tmp_path: Path):
    class Secret:
        def get_secret_value(self) -> str:
            return "hush"

    assert filesystems.reveal({"a": {"b": Secret()}, "c": 1}) == {"a": {"b": "hush"}, "c": 1}
    store = ArrowStore(
        "s3://key:hush@bucket/runs", {"secret": "hush", "client_kwargs": {"x": "hush"}}
    )
    run = store.run("r")
    for text in (repr(store), str(store), store.url, repr(run), run.url, repr(store.location)):
        assert "hush" not in text
        assert "bucket" in text
    assert ArrowStore("ftp://me:hush@host/x").url == "ftp://host/x"
    assert ArrowStore("https://host/x?signature=hush").url == "https://host/x"


def test_memory_is_known_to_be_of_one_process():
    assert ArrowStore("memory://x").run("r").in_process
    assert not ArrowStore("/x").run("r").in_process


# ------------------------------------------------------------------------------- local faults


def test_a_failed_write_leaves_neither_object_nor_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = ArrowStore(tmp_path).run("r")
    run.write("data/x", b"old")
    real = os.write

    def full(fd: int, data: memoryview) -> int:
        if len(data) > 4:
            return real(fd, data[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match=r"No space left.*free some space"):
        run.write("data/x", b"something new")
    monkeypatch.undo()
    assert run.read("data/x") == b"old"
    assert os.listdir(tmp_path / "r" / "data") == ["x"]


def test_a_vanished_folder_is_an_error_and_not_made_anew(tmp_path: Path):
    store = ArrowStore(tmp_path / "store")
    run = store.run("r")
    run.write("header.json", b"{}")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="has vanished"):
        run.write("data/00000/x", b"1")
    assert not (tmp_path / "store").exists()


def test_a_run_that_was_removed_on_purpose_can_be_written_again(tmp_path: Path):
    store = ArrowStore(tmp_path)
    store.run("r").write("header.json", b"{}")
    store.remove("r")
    store.run("r").write("header.json", b"{}")
    (tmp_path / ".not-a-run").mkdir()
    assert store.runs() == ["r"]


def test_a_file_in_the_place_of_the_store_is_told(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        ArrowStore(tmp_path / "file").check()


def test_files_being_written_are_not_listed(tmp_path: Path):
    run = ArrowStore(tmp_path).run("r")
    run.write("data/x", b"1")
    assert isinstance(run.objects, LocalObjects)
    Path(run.objects.temporary("data/y")).write_bytes(b"half")
    assert [info.path for info in run.list("")] == ["data/x"]


@pytest.mark.parametrize("wanted", ["true", True, "false", None])
def test_commits_are_synced_where_that_is_asked_for(
    wanted: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[str] = []
    real = os.fsync

    def noting(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", noting)
    run = ArrowStore(tmp_path / "store", {} if wanted is None else {"fsync": wanted}).run("r")
    run.write("data/x", b"1")
    run.write("journal/1", b"1", if_absent=True)
    spool = tmp_path / "spool"
    spool.write_bytes(b"1")
    run.objects.write_file("data/y", str(spool))
    if wanted not in ("true", True):
        assert not synced
        return
    root = f"{tmp_path}/store/r"
    assert {f"{root}/data", f"{root}/journal", root, f"{tmp_path}/store"} <= set(synced)
    assert sum("/.tmp-" in name for name in synced) == 2
    assert str(spool) in synced


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T21:44:29.120Z",
        "2026-11-22T21:44:29Z",
        "Sun, 22 Nov 2026 21:44:29 GMT",
        1763847869,
        "2026-11-22 21:44:29 Z",
    ],
)
def test_times_of_a_listing_are_read_as_botocore_reads_them(text: Any):
    assert time_of(text) == parse_timestamp(text)


def test_s3fs_reads_times_so(s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch):
    slow: list[Any] = []
    monkeypatch.setattr("botocore.parsers.DEFAULT_TIMESTAMP_PARSER", slow.append)
    url = s3_server.new_bucket()
    files = open_filesystem(parse_location(url), {**s3_server.storage_options})
    files.pipe_file(f"{url}/a", b"x")
    (found,) = files.ls(url, detail=True)
    assert found["LastModified"].tzinfo is not None
    assert not slow
