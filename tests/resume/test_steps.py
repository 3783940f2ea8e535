"""The driver is killed at every step of the commit protocol, and its run goes on in another process."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import steps

from headrace.core.records import receipts_in, receipts_of
from headrace.storage.failpoints import VARIABLE, points
from headrace.storage.partitions import checksum_of, path_checksum
from headrace.storage.store import ArrowRunStore, ArrowStore
from headrace.testing import faulty

DRIVERS = Path(__file__).with_name("drivers.py")
KILLED = signal.SIGKILL.value
LATER = {"partition": 3, "receipt": 2}
"""Which of several such puts it is."""
RESUMES = ("takeover", "driver")
"""Kinds of puts that a driver which goes on with a run begins with."""
DROPS = ("dropped", "removal")
TICK = 0.02
"""The clock of a file system is behind by up to a tick of the kernel's."""
DELICATE = ("partition", "takeover", "receipt", "removal")


class Drivers:
    """Starts drivers, and knows what they have left in the store."""

    def __init__(self, folder: Path, process: subprocess.Popen[str], scheme: str = "") -> None:
        self.folder, self.process = folder, process
        self.points = folder / "points"
        self.points.mkdir()
        storage = f"{scheme}{folder}/storage"
        self.environment = {
            "HEADRACE_STORAGE": storage,
            "STARTS": str(folder / "starts"),
            VARIABLE: str(self.points),
        }
        self.store = ArrowStore(folder / "storage")
        self.told = folder / "told"

    def arm(self, point: str, action: str, number: int = 1) -> None:
        """Say what happens at a point."""
        (self.points / point).write_text(f"{action} {number}")

    def drive(
        self, flow: str = "keeping", resumes: str | None = None, executor: str = "threads"
    ) -> int:
        """Run a driver to its end: 0, or the signal that killed it."""
        order = {
            "environment": self.environment,
            "flow": flow,
            "resumes": resumes,
            "executor": executor,
            "told": str(self.told),
        }
        self.told.unlink(missing_ok=True)
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    @property
    def outcome(self) -> Any:
        """What the last driver told."""
        return json.loads(self.told.read_text())

    @property
    def run(self) -> ArrowRunStore | None:
        """The one run in the store: a driver that was killed before it put a header left none."""
        runs = map(self.store.run, self.store.runs())
        return next((run for run in runs if run.list("header.json")), None)

    def starts(self) -> Counter[str]:
        """How often each item has started."""
        return Counter(name for name, _ in self.noted())

    def last_start(self, name: str) -> float:
        """When an item has started last."""
        return max(float(time) for started, time in self.noted() if started == name)

    def noted(self) -> list[tuple[str, str]]:
        """Starts of items: name and time."""
        file = self.folder / "starts"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(name, time) for name, _, time in (line.rpartition(" ") for line in lines)]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    home = tmp_path_factory.mktemp("home")
    site = faulty.install(home / "site")
    path = os.pathsep.join(filter(None, [str(site), *sys.path]))
    environment = {
        **os.environ,
        "HEADRACE_HOME": str(home),
        "HEADRACE_DISPLAY": "none",
        "PYTHONPATH": path,
    }
    with subprocess.Popen(
        [sys.executable, DRIVERS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def drivers(process: subprocess.Popen[str], tmp_path: Path) -> Drivers:
    return Drivers(tmp_path, process)


def committed(run: ArrowRunStore) -> set[str]:
    """Items that have a partition, as their starts are noted."""
    return {
        f"{receipt.key} {position}"
        for receipt in run.receipts(None)
        for position in receipt.positions
    }


class Reader(threading.Thread):
    """Reads the store over and over while drivers come and go, and complains in the end."""

    def __init__(self, drivers: Drivers) -> None:
        super().__init__(name="reader")
        self.drivers, self.over, self.seen = drivers, threading.Event(), list[str]()

    def run(self) -> None:
        while not self.over.wait(0.01):
            if (run := self.drivers.run) is not None:
                self.look(run)

    def look(self, run: ArrowRunStore) -> None:
        """Every partition is whole, and no item has two in the journal."""
        for info in run.list("data/"):
            try:
                data = run.read(info.path)
            except FileNotFoundError:  # dropped since
                continue
            expected = path_checksum(info.path)
            if expected is not None and checksum_of(data) != expected[0]:
                self.seen.append(f"{info.path} is not whole")
        counts = Counter(
            (receipt.node, position)
            for receipt in receipts_in(run.journal().records())
            for position in receipt.positions
        )
        self.seen += [f"item {where} is there {n} times" for where, n in counts.items() if n > 1]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()
        assert not self.seen


def check(drivers: Drivers, flow: str, before: Counter[str], had: set[str]) -> None:
    """What a driver that came to the run's end has left: the oracle's result, each item once."""
    assert drivers.outcome == {"state": "Completed", "result": steps.oracle(flow, steps.SIZE)}
    again = drivers.starts() - before
    assert not [name for name, count in again.items() if count > 1]
    assert not had & again.keys(), "an item started again after its partition existed"
    assert drivers.run is not None
    records = drivers.run.journal().records()
    held = [sorted(p for r in receipts_of(records, node) for p in r.positions) for node in range(3)]
    every = list(range(steps.SIZE))
    assert held == ([every, every, [0]] if flow == "keeping" else [[], every, []])


def kill_and_resume(drivers: Drivers, point: str) -> None:
    kind = point.partition(".")[0]
    flow = "dropping" if kind in DROPS else "keeping"
    with Reader(drivers):
        first = None
        if kind in RESUMES:
            drivers.arm("receipt.after", "kill")
            assert drivers.drive(flow) == KILLED
            assert drivers.run is not None
            first = drivers.run.run_id
        drivers.arm(point, "kill", LATER.get(kind, 1))
        assert drivers.drive(flow, first) == KILLED, f"{point} was not reached"
        had, before = set[str](), drivers.starts()
        run = drivers.run
        if run is not None:
            had = committed(run)
            assert drivers.drive(flow, run.run_id) == 0
        else:
            assert not before
            assert drivers.drive(flow) == 0
    check(drivers, flow, before, had)


@pytest.mark.parametrize("point", points())
def test_a_driver_is_killed_at_every_step(drivers: Drivers, point: str):
    kill_and_resume(drivers, point)


@pytest.mark.parametrize(
    "point", [f"{kind}.{moment}" for kind in DELICATE for moment in ("before", "after")]
)
def test_a_driver_is_killed_at_every_delicate_step_of_a_remote_store(
    process: subprocess.Popen[str], tmp_path: Path, point: str
):
    kill_and_resume(Drivers(tmp_path, process, "faulty://"), point)


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_a_child_is_killed_at_every_step(drivers: Drivers, moment: str):
    drivers.arm(f"partition.{moment}", "kill", 3)
    with Reader(drivers):
        assert drivers.drive(executor="processes") == 0
    check(drivers, "keeping", drivers.starts(), set())
    assert drivers.run is not None
    for receipt in drivers.run.receipts(None):
        put = (drivers.folder / "storage" / drivers.run.run_id / receipt.part.path).stat().st_mtime
        for position in receipt.positions:
            assert drivers.last_start(f"{receipt.key} {position}") < put + TICK
    assert moment == "after" or max(drivers.starts().values()) == 2, "what was not put ran again"


def test_all_points_are_known(drivers: Drivers):
    """A new kind of put has to be added to `failpoints.PUTS`, and is tested from then on."""
    drivers.arm("receipt.after", "kill")
    assert drivers.drive("dropping") == KILLED
    assert drivers.run is not None
    assert drivers.drive("dropping", drivers.run.run_id) == 0
    passed = {file.name.removesuffix(".passed") for file in drivers.points.glob("*.passed")}
    assert passed == set(points())
