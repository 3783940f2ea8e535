"""Runs that are deleted: by handle, half way, and while somebody would go on with them."""

import errno
import os
import shutil
from pathlib import Path

import pytest

import headrace
from headrace import flow, task
from headrace.core.errors import RunError, RunNotFoundError, StorageError
from headrace.core.recorded import RecordedRun
from headrace.core.registry import open_store
from headrace.core.removal import delete_run


@task
def double(number: int) -> int:
    return 2 * number


@task(cache_policy=headrace.INPUTS)
def kept(number: int) -> int:
    return 3 * number


@flow(executor="threads")
def tripled(numbers: list[int]) -> list[int]:
    return kept.map(numbers).result()


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


def begun(storage: Path, *numbers: int) -> headrace.FlowRun[list[int]]:
    run = tripled.with_options(storage=str(storage)).start(list(numbers))
    run.wait()
    return run


def test_a_run_whose_values_others_have_from_the_cache_goes_only_by_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    first, second = begun(tmp_path, 1, 2, 3), begun(tmp_path, 1, 2, 4)
    with pytest.raises(RunError, match=r"^2 items of 1 other runs have their values from run"):
        first.delete()
    assert second.result() == [3, 6, 12], "nothing is gone"
    second.delete()
    first.delete()  # nobody has values of it any more
    third, _fourth = begun(tmp_path, 5), begun(tmp_path, 5)
    assert third.delete(force=True) > 0
    assert "1 items of 1 other runs" in caplog.text


def test_a_copy_s_end_leaves_history_s_row_of_the_original(tmp_path: Path):
    run = begun(tmp_path / "original", 1, 2)
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    copy = open_store(str(tmp_path / "copy"), {})
    assert delete_run(run.info.history, run.id, copy) > 0
    assert not copy.runs()
    assert headrace.attach(run.id).name == run.name
    shutil.move(tmp_path / "original", tmp_path / "moved")
    delete_run(run.info.history, run.id, open_store(str(tmp_path / "moved"), {}))
    with pytest.raises(RunNotFoundError):
        run.info.history.run(run.id)
