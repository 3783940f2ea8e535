"""Pools open, close and leave nothing behind."""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..core.interfaces import Executor, Pool
from .scripts import run_script
from .suite import Suite

_SCRIPT = """
import gc, json, os, tempfile, time
from pathlib import Path

folder = Path(arguments[0])
folder.mkdir()
tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
os.environ["HEADRACE_SUITE_MARK"] = mark = str(folder)

from headrace import flow
from headrace.core import pools, registry
from headrace.testing.leftovers import inventory, processes_with
from headrace.testing.results import square

@flow(executor=executor)
def squares(n):
    return square.map(range(n)).result()

@flow(executor="inline")
def warm_up():
    return square.submit(2).result()

def used():
    warm_up()
    assert squares(20) == [x * x for x in range(20)]
    assert pools.lease(executor) is pools.lease(executor), "one warm pool"
    pools.discard(executor)
    registry.close_histories()  # as many connections as were needed at once: the process's, no pool's
    gc.collect()
    return inventory(folder)

def settled(look):
    # What was told to end may need a moment to be gone.
    until = time.monotonic() + 10
    while (left := look()) and time.monotonic() < until:
        time.sleep(0.02)
    return left

first = used()
processes = settled(lambda: processes_with("HEADRACE_SUITE_MARK", mark))
used()
more = settled(lambda: inventory(folder).beyond(first))
print(json.dumps({"processes": list(processes.values()), "more": more, "files": first.files}))
"""


class ClosingConformance(Suite):
    """An executor is a frozen description; its pool is closed once, and then nothing is left."""

    files_left: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of files that the engine itself leaves in the temporary folder."""

    descriptors_left: ClassVar[tuple[str, ...]] = ()
    """Kinds of the descriptors that the engine itself leaves open each time, such as ``socket:``."""

    def test_it_is_an_executor(self) -> None:
        executor = self.described
        assert isinstance(executor, Executor)
        assert executor.name
        assert isinstance(self.pool, Pool)
        hash(executor.key())

    def test_it_travels(self) -> None:
        again = pickle.loads(pickle.dumps(self.elsewhere()))
        assert again.name == self.described.name
        assert again.key() == self.elsewhere().key()

    def test_nothing_is_left_when_its_pool_has_closed(self, shared: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="hr-") as short:  # paths of sockets have limits
            folder = f"{short}/t"
            done = run_script(_SCRIPT, self.described, shared, arguments=[folder])
        assert done.code == 0, done.told
        left: dict[str, Any] = json.loads(done.output.splitlines()[-1])
        assert left["processes"] == [], "processes outlive the pool"
        assert self._ours(left["files"]) == [], "temporary files outlive the pool"
        more: dict[str, list[str]] = left["more"]
        assert more.get("threads", []) == [], "each opening leaves more threads"
        # Those of files that the engine leaves are its own, too.
        opened = [name.removeprefix(f"{folder}/") for name in more.get("descriptors", [])]
        for name in self.descriptors_left:
            if name in opened:
                opened.remove(name)
        assert self._ours(opened) == [], "each opening leaves more descriptors"

    def _ours(self, names: Sequence[str]) -> list[str]:
        """Names that are not those of the engine's files."""
        return [name for name in names if not any(map(name.startswith, self.files_left))]
