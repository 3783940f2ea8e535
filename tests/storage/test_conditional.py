"""Stores that put on condition, and stores that do not: found out by trying it."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from servers.object_store import ObjectStore
from servers.process import running
from servers.s3 import s3_object_store

from headrace.core.errors import AlreadyExistsError, StorageError, TakenOverError
from headrace.storage import journal, localfiles
from headrace.storage.objects import RemoteObjects
from headrace.storage.store import ArrowRunStore, ArrowStore
from headrace.testing import faulty


@pytest.fixture(scope="module")
def unconditional_server() -> Iterator[ObjectStore]:
    with running("unconditional_server") as facts:
        yield s3_object_store(facts["endpoint"], "test-key", "test-secret")


def test_a_store_that_puts_on_condition_is_found_to(
    store: ArrowStore, caplog: pytest.LogCaptureFixture
):
    run = store.run("run-1")
    assert run.objects.one_winner()
    run.journal().take()
    assert not caplog.records
    assert [info.path for info in run.list("")] == ["journal/00000001.jsonl"]
    assert not run.unfinished()


@pytest.mark.parametrize("bucket", ["overlooking", "refusing"])
def test_one_that_does_not_is_accepted_for_one_driver(
    bucket: str, unconditional_server: ObjectStore, caplog: pytest.LogCaptureFixture
):
    unconditional_server.filesystem().mkdir(f"{bucket}-bucket")
    store = ArrowStore(f"s3://{bucket}-bucket/runs", unconditional_server.storage_options)
    run = store.run("run-1")
    one_driver(run, caplog)
    other = store.run("run-2").journal()
    other.begin()
    other.append([{"n": 1}])
    assert len(caplog.records) == 1, "told once per store"


def one_driver(run: ArrowRunStore, caplog: pytest.LogCaptureFixture) -> None:
    """The journal works, and notices another driver that is not at it in the same moment."""
    assert not run.objects.one_winner()
    first, second = run.journal(), run.journal()
    with caplog.at_level(logging.WARNING, "headrace.storage"):
        first.begin()
        first.append([{"n": 1}])
        first.append([{"n": 2}])
    (told,) = caplog.records
    assert "good for one driver per run" in told.message
    assert run.store.url in told.message
    assert [record["n"] for record in second.take()] == [1, 2]
    with pytest.raises(TakenOverError):
        first.append([{"n": 3}])
    with pytest.raises(AlreadyExistsError):
        run.write("journal/00000001.jsonl", b"", if_absent=True)
    assert len(run.list("")) == 3


def test_a_disk_without_links_is_accepted_for_one_driver(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run = ArrowStore(tmp_path).run("run-1")
    one_driver(run, caplog)
    assert not run.unfinished()
    localfiles._links.clear()
    journal._warned.clear()


def test_an_outage_tells_nothing_of_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection drops for conditional puts, until the store gives up; others land already."""
    fsspec.register_implementation(faulty.SCHEME, faulty.FaultyFileSystem, clobber=True)
    run = ArrowStore(f"faulty://{tmp_path}", patience=0.01).run("run-1")
    assert isinstance(run.objects, RemoteObjects)
    filesystem = run.objects.filesystem
    real = filesystem.pipe_file

    def dropping(path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        if mode == "create":
            raise ConnectionResetError(path)
        real(path, value, mode=mode, **more)

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "pipe_file", dropping)
        with pytest.raises(StorageError, match="ConnectionResetError"):
            run.write("header.json", b"{}", if_absent=True)
    assert run.objects.one_winner()
