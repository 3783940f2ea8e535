"""What a process holds, without the files that it maps."""

import mmap
import sys
from pathlib import Path

import pytest

from headrace.core.resident import ResidentMemory

LARGE = 200 << 20
LITTLE = LARGE // 4

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="others tell a lifelong peak only")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(bytes(LARGE))
    return path


def mapped(path: Path) -> mmap.mmap:
    """The file in memory, all of its pages looked at."""
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert sum(pages[at] for at in range(0, len(pages), mmap.PAGESIZE)) == 0
    return pages


def test_what_was_held_and_let_go_counts():
    memory = ResidentMemory()
    held = bytearray(LARGE)
    del held
    before, most = memory.told()
    assert LARGE - LITTLE < most - before < LARGE + LITTLE


def test_a_mapped_file_does_not_count(large: Path):
    memory = ResidentMemory()
    pages = mapped(large)
    before, most = memory.told()
    pages.close()
    assert most - before < LITTLE


def test_a_file_that_was_mapped_before_and_is_let_go_meanwhile_does_not_count(large: Path):
    own = ResidentMemory().before
    pages = mapped(large)
    memory = ResidentMemory()
    pages.close()
    before, most = memory.told()
    assert before - own < LITTLE
    assert most - before < LITTLE
