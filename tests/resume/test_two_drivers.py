"""Two drivers on one run: the later one has it, whatever the earlier one was about to write."""

from pathlib import Path

import pytest

from headrace import flow, task
from headrace.core.errors import TakenOverError
from headrace.storage.failpoints import VARIABLE


@task
def double(number: int) -> int:
    return 2 * number


@flow(executor="threads")
def doubled() -> list[int]:
    return double.map(range(5)).result()


@pytest.mark.parametrize(
    "point", ["opened.before", "opened.within", "ended.before", "ended.within"]
)
def test_the_earlier_one_s_next_segment_is_refused(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    held = tmp_path / point
    held.write_text("wait 1")
    earlier = doubled.with_options(storage=tmp_path / "storage").start()
    while not held.with_name(f"{point}.passed").exists():
        assert not earlier.done()
    later = earlier.resume(force=True)
    assert later.result() == [0, 2, 4, 6, 8]
    held.unlink()
    with pytest.raises(TakenOverError, match="was taken over by process"):
        earlier.result()
    assert later.record().state == "Completed"
