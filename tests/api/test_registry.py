"""Executors by name: built in, from an installed distribution, by class and object; warm pools."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headrace.core import pools, registry
from headrace.core.errors import ConfigurationError
from headrace.core.interfaces import Executor, Pool

TOY = """
class Toy:
    name = "toy"
    def key(self): return ()
    def open(self): raise NotImplementedError
def broken(): ...
"""


@pytest.fixture
def toy_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As pip leaves a third party's package: a module, and metadata with its entry points."""
    (tmp_path / "toy_engine.py").write_text(TOY)
    info = tmp_path / "toy_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[headrace.executors]\ntoy = toy_engine:Toy\ngone = toy_engine:Absent\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.forget()
    yield
    registry.forget()
    sys.modules.pop("toy_engine", None)


@pytest.mark.usefixtures("toy_distribution")
def test_a_third_partys_executor_is_found_by_its_name():
    assert registry.resolve_executor("toy").name == "toy"
    assert "toy" in registry.names(registry.EXECUTORS)
    with pytest.raises(ConfigurationError, match="'gone' is registered as 'toy_engine:Absent'"):
        registry.resolve_executor("gone")


def test_by_name_class_and_object():
    inline = registry.resolve_executor("inline")
    assert registry.resolve_executor(type(inline)).name == "inline"
    assert registry.resolve_executor(inline) is inline
    assert registry.resolve_executor(None).name == "inline"
    given: Any = 3
    with pytest.raises(
        ConfigurationError, match="expected a name, an executor or an executor class"
    ):
        registry.resolve_executor(given)


def test_unknown_names_list_the_known_ones_and_the_nearest():
    with pytest.raises(ConfigurationError, match=r"'procesess' \(known: .*'processes'"):
        registry.resolve_executor("procesess")


class CountedPool:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@dataclass(frozen=True)
class Counted:
    opened: list[Any]
    tag: str = "a"
    name: str = "counted"

    def key(self) -> str:
        return self.tag

    def open(self) -> Any:
        self.opened.append(CountedPool())
        return self.opened[-1]


def lease(executor: Any) -> Pool:
    made: Executor = executor
    return pools.lease(made)


def test_pools_stay_warm_by_key_and_close_once():
    opened: list[Any] = []
    first, other = Counted(opened), Counted(opened, "b")
    assert lease(first) is lease(Counted(opened))
    assert lease(other) is not lease(first)
    given: Any = first
    pools.discard(given)
    pools.discard(given)
    assert opened[0].closed == 1
    with pools.opened(given) as pool:
        assert lease(first) is pool
    assert len(opened) == 3
    assert opened[2].closed == 1
    pools.discard(other)


def test_a_forked_child_has_no_pools_and_closes_none():
    opened: list[Any] = []
    lease(Counted(opened))
    child = os.fork()
    if child == 0:
        lease(Counted(opened))
        pools.close_all()
        os._exit(0 if len(opened) == 2 and opened[0].closed == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    given: Any = Counted(opened)
    pools.discard(given)
