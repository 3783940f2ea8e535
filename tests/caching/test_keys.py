"""Cache keys: equal for equal calls and for no others, in every process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caching import pairs


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[list[tuple[str, str]]]:
    """The keys of all pairs, by processes with other seeds and in another folder each."""
    folder = tmp_path_factory.mktemp("pairs")
    pq.write_table(pa.table({"a": [1]}), folder / "a.parquet")
    pq.write_table(pa.table({"a": [1]}), folder / "b.parquet")
    (folder / "helper_a.py").write_text("def g(x):\n    return 1\n")
    (folder / "helper_b.py").write_text("def g(x):\n    return 2\n")
    program = [sys.executable, pairs.__file__, str(folder)]
    running = [
        subprocess.Popen(
            program,
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=tmp_path_factory.mktemp("cwd"),
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "4711")
    ]
    return [json.loads(process.communicate()[0]) for process in running]


def test_there_are_enough_of_them():
    assert len(pairs.PAIRS) >= 60


@pytest.mark.parametrize("number", range(len(pairs.PAIRS)))
def test_equal_values_have_equal_keys_and_others_have_not(
    told: list[list[tuple[str, str]]], number: int
):
    same = pairs.PAIRS[number][0]
    (left, right), (again_left, again_right) = (process[number] for process in told)
    assert (left, right) == (again_left, again_right), "another process, another seed"
    assert (left == right) is same


def test_no_two_values_of_different_pairs_share_a_key(told: list[list[tuple[str, str]]]):
    """But those that stand in several pairs on purpose."""
    seen: dict[str, str] = {}
    shown = Path(pairs.__file__).read_text()
    assert shown.count("SAME, ") + shown.count("DIFFERENT, ") >= len(pairs.PAIRS)
    for (same, *_), (left, right) in zip(pairs.PAIRS, told[0], strict=True):
        if not same:
            assert seen.get(left) != right
            seen[left] = right
