"""Runs that are deleted: by handle, half way, and while somebody would go on with them."""

import errno
import os
from pathlib import Path

import pytest

import headrace
from headrace import flow, task
from headrace.core.errors import RunError, RunNotFoundError, StorageError
from headrace.core.recorded import RecordedRun


@task
def double(number: int) -> int:
    return 2 * number


@flow(executor="threads")
def doubled(numbers: list[int]) -> list[int]:
    return double.map(numbers).result()


def test_a_handle_deletes_its_run(tmp_path: Path):
    for recorded in (False, True):
        run = doubled.with_options(storage=tmp_path).start([1, 2])
        run.wait()
        handle = RecordedRun(run.info.history, run.id) if recorded else run
        stored = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
        assert handle.delete() == stored
        assert not list(tmp_path.iterdir())
        with pytest.raises(RunNotFoundError):
            run.info.history.run(run.id)
        with pytest.raises(RunError, match="there is no run at"):
            headrace.resume(run.id, storage=tmp_path)


def test_one_that_dies_half_way_is_listed_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = doubled.with_options(storage=tmp_path).start([1, 2])
    run.wait()
    real = os.unlink

    def dying(name: str) -> None:
        if "/data/" in name:
            raise OSError(errno.EIO, "Input/output error")
        real(name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", dying)
        with pytest.raises(StorageError, match="cannot delete"):
            run.delete()
    assert headrace.attach(run.id).name == run.name
    with pytest.raises(RunError, match="there is no run at"):
        RecordedRun(run.info.history, run.id).resume()
    assert run.delete() > 0
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunNotFoundError):
        run.info.history.run(run.id)
