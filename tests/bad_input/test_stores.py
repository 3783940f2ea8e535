"""Stores that are unknown, cannot be written, or cannot be seen by the workers."""

import stat
from pathlib import Path

import flows_at_fault as flows
import pytest
from shell_executor import ShellExecutor

from headrace import errors

FILE = Path(flows.__file__)

_ELSEWHERE = """#!/bin/sh
# Runs a line of shell where {store} is another, empty folder, as on another machine.
exec unshare --map-root-user --mount sh -c 'mount -t tmpfs none "{store}" && exec sh -c "$1"' sh "$1"
"""


def test_an_unknown_scheme(headrace):
    with pytest.raises(errors.ConfigurationError, match="nope://"):
        flows.fine.with_options(storage="nope://bucket/prefix")()
    said = headrace("run", f"{FILE}:fine", "--storage", "nope://bucket/prefix")
    assert said.code == 2
    assert "nope" in said.error


@pytest.mark.parametrize("place", ["file", "proc"])
def test_one_that_cannot_be_written(place, tmp_path, headrace):
    (tmp_path / "file").write_text("not a folder")
    store = str(tmp_path / "file" / "store") if place == "file" else "/proc/headrace"
    with pytest.raises(errors.StorageError, match=store):
        flows.fine.with_options(storage=store)()
    said = headrace("run", f"{FILE}:fine", "--storage", store)
    assert said.code == 1
    assert store in said.error


def test_one_that_only_the_driver_sees(tmp_path):
    """A local folder, and workers on what looks like another machine."""
    store = tmp_path / "store"
    store.mkdir()
    script = tmp_path / "elsewhere"
    script.write_text(_ELSEWHERE.format(store=store))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    executor = ShellExecutor(slots=1, shell=(str(script),))
    with pytest.raises(errors.UnreachableStoreError, match=str(store)) as caught:
        flows.fine.with_options(storage=str(store), executor=executor)()
    assert "\n" not in str(caught.value)
    assert "storage=" in str(caught.value), "says what to do"


def test_one_that_is_only_in_this_process(headrace):
    said = headrace("run", f"{FILE}:fine", "--storage", "memory://x", "--executor", "processes")
    assert said.code == 1
    assert "memory://" in said.error
    assert flows.fine.with_options(storage="memory://x", executor="threads")() == [1, 2, 3]
