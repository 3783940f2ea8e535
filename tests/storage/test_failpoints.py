"""Failpoints: off by default; each put passes its points, in every store."""

from pathlib import Path

import pytest

from headrace.core.errors import StorageError
from headrace.storage.failpoints import VARIABLE
from headrace.storage.store import ArrowStore


def passed(folder: Path) -> set[str]:
    return {file.name.removesuffix(".passed") for file in folder.glob("*.passed")}


def test_without_the_variable_there_are_none(tmp_path: Path):
    objects = ArrowStore(tmp_path / "storage").run("a").objects
    assert "write" not in vars(objects)


def test_a_point_raises_once_and_only_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "spec.before").write_text("raise 2")
    run = ArrowStore(tmp_path / "storage").run("a")
    run.write("specs/1", b"1")
    with pytest.raises(StorageError, match=r"the failpoint spec\.before has failed"):
        run.write("specs/2", b"2")
    run.write("specs/3", b"3")
    run.write("header.json", b"{}")
    assert [info.path for info in run.list("specs/")] == ["specs/1", "specs/3"]
    assert passed(tmp_path) >= {"spec.before", "spec.within", "spec.after", "header.within"}
    assert len((tmp_path / "spec.before.passed").read_text().split()) == 3


def test_a_segment_passes_a_point_for_each_kind_of_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    journal = ArrowStore("memory://failpoints").run("a").journal()
    journal.take()
    assert passed(tmp_path) == {"takeover.before", "takeover.after"}
    journal.append([{"type": "receipt"}, {"type": "node"}, {"type": "receipt"}])
    assert passed(tmp_path) >= {"receipt.before", "receipt.after", "node.before", "node.after"}
    assert len((tmp_path / "receipt.after.passed").read_text().split()) == 1


def test_what_a_point_does_must_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "spec.before").write_text("explode 1")
    with pytest.raises(ValueError, match="unknown action 'explode'"):
        ArrowStore(tmp_path / "storage").run("a").write("specs/1", b"1")
