"""A disk that is full, becomes read-only, or is gone, while a run goes on: real ones, see `narrow.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NARROW = Path(__file__).with_name("narrow.py")
SIZE, BYTES = 24, 150_000
CAUSES = {
    "full": "No space left on device; free some space",
    "readonly": "Read-only file system",
    "gone": "has vanished",  # told by who writes to it, or by a worker that joins later
}


@pytest.mark.parametrize(
    ("trouble", "executor"),
    [("full", "processes"), ("readonly", "threads"), ("gone", "processes")],
)
def test_it_is_told_and_the_run_goes_on_once_there_is_room(
    trouble: str, executor: str, tmp_path: Path
):
    told = told_by(trouble, executor, tmp_path)
    assert told["state"] == "Failed"
    assert told["kinds"] == ["storage"]
    store = f"{tmp_path}/disk/store"
    for message in (told["message"], *told["failures"]):
        assert any(f"{verb} {store}" in message for verb in ("cannot write", "cannot see"))
        assert CAUSES[trouble] in message
    assert trouble == "readonly" or not told["half"], "nobody can remove one from a read-only disk"
    if trouble == "gone":
        assert not told["left"], "nobody has made it anew"
        assert "there is no run at" in told["refused"]
        return
    assert told["result"] == SIZE * BYTES
    assert sorted(told["again"] + told["committed"]) == list(range(SIZE))


def told_by(trouble: str, executor: str, folder: Path) -> dict[str, Any]:
    (folder / "disk").mkdir()
    own_mounts = ("unshare", "--map-root-user", "--mount")
    done = subprocess.run(
        [*own_mounts, sys.executable, NARROW, folder / "disk", trouble, executor],
        env={
            **os.environ,
            "HEADRACE_HOME": str(folder / "home"),
            "HEADRACE_DISPLAY": "none",
            "STARTS": str(folder / "starts"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is behind") <= 1, "told once"
    return json.loads(done.stdout.splitlines()[-1])
