"""Kills workers and drivers at random while one store call in twenty fails, and checks what is left.

    python benchmarks/chaos.py --minutes 30 --executor dask
    python benchmarks/chaos.py --record --executor dask

Runs of `chaos_flow.job` go on for so long, one after another, or until the counts of the record in
`docs/reliability.md` are reached. Workers are killed every few seconds: the children of headrace, on
Dask also workers, nannies and by retirement, on Ray also actors and nodes. The driver is killed now and
then, and `headrace resume` goes on with its run. Calls of the store fail below headrace's retries
(`headrace.testing.faulty`), in all processes. Each run's dataset is held against the oracle, row for
row, each start of an item against the partitions in the store, and in the end nothing may be left.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import chaos_flow
import psutil
import report

import headrace
from headrace.storage.store import ArrowStore
from headrace.testing import faulty
from headrace.testing.leftovers import processes_with

HERE = Path(__file__).resolve().parent
MARK = "HEADRACE_CHAOS"
"""A variable by which all processes of a session are known."""
RATE = 0.05
JOURNAL_RATE = 0.2
"""Of a run's journal, which is put to once a second: more often, so that it comes to twenty faults."""
KILL_SECONDS = 1.5
"""Between two kills of workers, on average, and not before an item has begun after the last."""
DRIVER_SECONDS = 6.0
"""That a driver lives, on average, from its first item on."""
FLUSH_SECONDS = 0.1
"""Between two flushes of a child: often, so that many calls of the store can fail."""
ITEM_SECONDS = 0.4
"""The longest item."""
PUT_SECONDS = 1.0
"""That a flush may take which has to try again."""
TICK = 0.02
"""The clock of a file system is behind by up to a tick of the kernel's."""
SLOTS = 2
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Aims:
    """What must have happened before a session ends."""

    worker_kills: int = 1
    driver_kills: int = 1
    store_faults: int = 0
    journal_faults: int = 0


RECORD = Aims(100, 30, 300, 20)


class Engine(ABC):
    """What a driver runs on, and the ways in which its workers die."""

    name: str
    address = ""

    def __init__(self, folder: Path, environment: dict[str, str], draw: random.Random) -> None:
        self.folder, self.environment, self.draw = folder, environment, draw

    def ways(self) -> dict[str, tuple[float, Callable[[], bool]]]:
        """Ways to kill by name: how often, and what does it; False: there was nobody to kill."""
        return {"child": (1.0, lambda: self.kill(self.children()))}

    def children(self) -> list[psutil.Process]:
        """Children of headrace's own that have begun an item: of those that die before, headrace bears five."""
        starts = Path(self.environment["CHAOS_STARTS"])
        begun = (
            {line.split()[-1] for line in starts.read_text().splitlines()[-200:]}
            if starts.exists()
            else set[str]()
        )
        return [
            child for child in self.below("headrace.executors.child") if str(child.pid) in begun
        ]

    def below(self, words: str) -> list[psutil.Process]:
        """Processes below this one whose command has these words."""
        found: list[psutil.Process] = []
        for process in psutil.Process().children(recursive=True):
            try:
                if words in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:  # it has ended
                continue
        return found

    def kill(self, processes: list[psutil.Process]) -> bool:
        if processes:
            victim = self.draw.choice(processes)
            try:
                victim.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                return False
        return bool(processes)

    @abstractmethod
    def open(self) -> None:
        """Start what outlives drivers."""

    @abstractmethod
    def close(self) -> None:
        """End it."""


class Processes(Engine):
    """Children of the driver itself."""

    name = "processes"

    def open(self) -> None:
        """There is nothing that outlives a driver."""

    def close(self) -> None:
        """Nor is there anything to end."""


class Dask(Engine):
    """A scheduler, and workers under nannies."""

    name = "dask"

    def open(self) -> None:
        file = self.folder / "scheduler.json"
        self.nannies: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start(
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(file),
        )
        _until(lambda: file.exists() and file.read_text().endswith("}"))
        self.address = json.loads(file.read_text())["address"]
        for _ in range(SLOTS):
            self._add()

    def _start(self, kind: str, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self.folder / "dask.log", "ab") as log:
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments]
            return subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)

    def _add(self) -> None:
        quiet = ("--no-dashboard", "--memory-limit", "0", "--local-directory", str(self.folder))
        self.nannies.append(
            self._start("worker", self.address, "--nthreads", "1", "--nanny", *quiet)
        )

    def ways(self) -> dict[str, tuple[float, Callable[[], bool]]]:
        others = {
            "worker": (0.4, lambda: self.kill(self.below("multiprocessing.spawn"))),
            "nanny": (0.1, self._kill_nanny),
            "retired": (0.1, self._retire),
        }
        return super().ways() | others

    def _kill_nanny(self) -> bool:
        """It takes no worker along: Dask's workers end by themselves when their nanny is gone."""
        nanny = self.nannies.pop(self.draw.randrange(len(self.nannies)))
        nanny.kill()
        nanny.wait()
        self._add()
        return True

    def _retire(self) -> bool:
        from distributed import Client

        try:
            with Client(self.address, set_as_default=False, timeout=PATIENCE_SECONDS) as client:
                workers = list(client.scheduler_info(n_workers=-1)["workers"])
                if workers:
                    client.retire_workers([self.draw.choice(workers)], close_workers=True)
        except (OSError, TimeoutError):  # a worker that was killed just now does not answer
            return False
        for nanny in self.nannies:  # one whose worker was retired ends, too
            if nanny.poll() is not None:
                self.nannies.remove(nanny)
                self._add()
                break
        return bool(workers)

    def close(self) -> None:
        for process in (*self.nannies, self.scheduler):
            process.terminate()
        for process in (*self.nannies, self.scheduler):
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:  # Dask's own affair
                process.kill()
                process.wait()


class Ray(Engine):
    """A head without work of its own, and nodes with a slot each."""

    name = "ray"

    def open(self) -> None:
        os.environ.update(self.environment)  # what Ray's processes inherit
        from ray.cluster_utils import Cluster

        self.lean = {"object_store_memory": 80 << 20, "include_log_monitor": False}
        head = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True, **self.lean}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.address = self.cluster.address
        self.nodes = [self._add() for _ in range(SLOTS)]

    def _add(self) -> Any:
        while True:
            try:
                return self.cluster.add_node(num_cpus=1, **self.lean)
            except Exception as error:  # a bare one: it gives a node 30 s to start
                if "timed out during startup" not in str(error):
                    raise

    def ways(self) -> dict[str, tuple[float, Callable[[], bool]]]:
        others = {
            "actor": (0.5, lambda: self.kill(self.below("ray::SlotActor"))),
            "node": (0.05, self._kill_node),
        }
        return super().ways() | others

    def _kill_node(self) -> bool:
        node = self.nodes.pop(self.draw.randrange(len(self.nodes)))
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self._add())
        return True

    def close(self) -> None:
        self.cluster.shutdown()


ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (Processes, Dask, Ray)}


@dataclass
class Tally:
    """What was done to the runs, and what they did."""

    kills: Counter[str] = field(default_factory=Counter[str])
    drivers: int = 0
    items: int = 0
    repeated: int = 0
    repeated_seconds: float = 0.0
    wall: list[float] = field(default_factory=list[float])
    wrong: list[str] = field(default_factory=list[str])


class Chaos:
    """One session: an engine, runs on it, and what befalls them."""

    def __init__(self, engine: str, items: int, seed: int, aims: Aims) -> None:
        self.aims = aims
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-chaos-"))
        self.items, self.seed, self.draw = items, seed, random.Random(seed)
        self.mark = uuid4().hex
        self.notes = self.folder / "faults"
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        site = faulty.install(self.folder / "site")
        package = Path(headrace.__file__).parent.parent
        path = [str(site), str(package), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            MARK: self.mark,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "TMPDIR": str(self.temporary),
            "HEADRACE_HOME": str(self.folder / "home"),
            "HEADRACE_STORAGE": f"faulty://{self.folder}/storage",
            "HEADRACE_DISPLAY": "none",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_raylet_start_wait_time_s": "120",  # of its own accord half a minute
            "HEADRACE_FLUSH_SECONDS": str(FLUSH_SECONDS),
            "CHAOS_EXECUTOR": engine,
            "CHAOS_STARTS": str(self.folder / "starts"),
            faulty.VARIABLE: f"{RATE},{JOURNAL_RATE}:{self.notes}",
        }
        self.engine = ENGINES[engine](self.folder, self.environment, self.draw)
        self.store = ArrowStore(self.folder / "storage")
        self.tally = Tally()
        self.until = 0.0

    def over(self) -> bool:
        """The time is up, and what is aimed at has happened."""
        aims, tally = self.aims, self.tally
        if (
            time.monotonic() < self.until
            or tally.drivers < aims.driver_kills
            or tally.kills.total() < aims.worker_kills
        ):
            return False
        faults = self.faults()
        enough = len(faults) >= aims.store_faults
        return enough and len(of_journal(faults)) >= aims.journal_faults

    def faults(self) -> list[str]:
        """The calls of the store that failed."""
        return self.notes.read_text().splitlines()

    # ------------------------------------------------------------------------------- drivers

    def start(self, run: str = "") -> subprocess.Popen[str]:
        """A driver: of a new run, or one that goes on with a run."""
        target = str(self.folder / "dataset")
        new = [sys.executable, str(HERE / "chaos_flow.py"), str(self.items), target]
        again = [sys.executable, "-m", "headrace.cli.main", "resume", run]
        with open(self.folder / "drivers.log", "ab") as log:
            return subprocess.Popen(
                again if run else new,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**self.environment, "CHAOS_ADDRESS": self.engine.address},
                cwd=self.folder,
            )

    def undisturbed(self) -> float:
        """Wall seconds of a run to which nothing happens."""
        began = time.monotonic()
        driver = self.start()
        assert driver.stdout is not None
        run = driver.stdout.readline().strip()
        code = driver.wait()
        driver.stdout.close()
        took = time.monotonic() - began
        if code:
            raise RuntimeError(f"the undisturbed run failed: see {self.folder}/drivers.log")
        self.check(run)
        return took

    def disturbed(self) -> None:
        """One run, through all that happens to it, to its end."""
        began = time.monotonic()
        run = ""
        while True:
            driver = self.start(run)
            assert driver.stdout is not None
            if not run:
                run = driver.stdout.readline().strip()
            killed = self.disturb(driver)
            driver.stdout.close()
            if not killed:
                break
            self.tally.drivers += 1
            if not (self.folder / "storage" / run / "header.json").exists():
                run = ""  # nothing of it has begun
        self.tally.wall.append(time.monotonic() - began)
        if driver.returncode:
            self.tally.wrong.append(f"run {run}: a driver ended with exit code {driver.returncode}")
        else:
            self.check(run)

    def disturb(self, driver: subprocess.Popen[str]) -> bool:
        """Kill workers, and in the end the driver, unless it has ended before."""
        kill = time.monotonic() + self.draw.expovariate(1 / KILL_SECONDS)
        before, lives = self.size(), self.draw.expovariate(1 / DRIVER_SECONDS)
        seen = before
        dies = time.monotonic() + PATIENCE_SECONDS if self.draw.random() < 0.8 else 0.0
        if not dies:  # now and then before it came to run anything
            dies = time.monotonic() + self.draw.uniform(0.2, 3.0)
            before = -1
        while driver.poll() is None:
            now = time.monotonic()
            if before >= 0 and self.size() > before:
                before, dies = -1, now + lives
            if now >= dies and not self.over():
                driver.kill()
                driver.wait()
                return True
            if now >= kill and self.size() > seen and not self.over():
                self.kill_worker()
                seen = self.size()
                kill = time.monotonic() + self.draw.expovariate(1 / KILL_SECONDS)
            time.sleep(0.02)
        return False

    def size(self) -> int:
        """Bytes of the noted starts: grows with each."""
        starts = Path(self.environment["CHAOS_STARTS"])
        return starts.stat().st_size if starts.exists() else 0

    def kill_worker(self) -> None:
        ways = self.engine.ways()
        (name,) = self.draw.choices(list(ways), [often for often, _ in ways.values()])
        self.tally.kills[name] += ways[name][1]()

    # -------------------------------------------------------------------------------- checks

    def check(self, run: str) -> None:
        """Hold a run that has ended against what it must be; its notes are then used up."""
        wrong = self.tally.wrong
        target = self.folder / "dataset"
        rows = headrace.open_dataset(target).to_table().to_pylist()
        if rows != chaos_flow.oracle(self.items):
            wrong.append(f"run {run}: the dataset is not the oracle's ({len(rows)} rows)")
        shutil.rmtree(target)
        committed = {
            item: since for item, since in self.committed(run) if item[0] in chaos_flow.TASKS
        }
        if len(committed) != 2 * self.items:
            wrong.append(f"run {run}: {len(committed)} items have a partition")
        starts = Path(self.environment["CHAOS_STARTS"])
        times: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        for line in starts.read_text().splitlines():
            name, item, moment, _ = line.split()
            times[name, int(item)].append(float(moment))
        starts.unlink()
        for (name, item), began in times.items():
            late = [moment for moment in began if moment > committed[name, item] + TICK]
            if late:
                wrong.append(
                    f"run {run}: {name} {item} began {late[0] - committed[name, item]:.3f} s after its commit"
                )
            self.tally.repeated += len(began) - 1
            if name == "make":
                self.tally.repeated_seconds += (len(began) - 1) * chaos_flow.seconds(item)
        self.tally.items += 2 * self.items

    def committed(self, run: str) -> Iterator[tuple[tuple[str, int], float]]:
        """Items that have a partition, and since when."""
        found: dict[tuple[str, int], float] = {}
        for receipt in self.store.run(run).receipts(None):
            put = (self.folder / "storage" / run / receipt.part.path).stat().st_mtime
            name = receipt.key.partition("-")[0]
            for position in receipt.positions:
                found[name, position] = min(put, found.get((name, position), put))
        return iter(found.items())

    def left(self) -> list[str]:
        """What the session has left behind: processes, and files for the moment."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := processes_with(MARK, self.mark)) and time.monotonic() < deadline:
            time.sleep(0.2)
        files = [path.name for path in self.temporary.rglob("headrace*")]
        return [*found.values(), *files]

    # ------------------------------------------------------------------------------- session

    def run(self, seconds: float) -> dict[str, Any]:
        """Do it all; gives the facts."""
        self.engine.open()
        try:
            alone = self.undisturbed()
            self.tally = Tally(wrong=self.tally.wrong)
            self.notes.touch()  # from now on calls fail
            self.until = time.monotonic() + seconds
            while not self.over():
                self.disturbed()
        finally:
            self.engine.close()
        return self.facts(alone)

    def facts(self, alone: float) -> dict[str, Any]:
        tally, faults = self.tally, self.faults()
        lost = tally.kills.total() + SLOTS * tally.drivers
        window = lost * (FLUSH_SECONDS + ITEM_SECONDS + PUT_SECONDS)
        if tally.repeated_seconds > window:
            tally.wrong.append(
                f"{tally.repeated_seconds:.1f} s were done twice, of {window:.1f} s at most"
            )
        tally.wrong += [f"left behind: {what}" for what in self.left()]
        return {
            "executor": self.engine.name,
            "seed": self.seed,
            "runs": len(tally.wall),
            "worker_kills": tally.kills.total(),
            "by_kind": dict(tally.kills),
            "driver_kills": tally.drivers,
            "store_faults": len(faults),
            "journal_put_faults": len(of_journal(faults)),
            "fault_moments": dict(Counter(" ".join(line.split()[:2]) for line in faults)),
            "items": tally.items,
            "repeated_items": tally.repeated,
            "repeated_seconds": round(tally.repeated_seconds, 1),
            "window_seconds": round(window, 1),
            "undisturbed_seconds": round(alone, 1),
            "disturbed_seconds": round(sum(tally.wall) / len(tally.wall), 1),
            "times_undisturbed": round(sum(tally.wall) / len(tally.wall) / alone, 2),
            "wrong": tally.wrong,
        }


def of_journal(faults: list[str]) -> list[str]:
    """Those during a put of a run's journal."""
    return [line for line in faults if line.startswith("put") and "/journal/" in line]


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("an engine did not start")
        time.sleep(0.05)


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="at least")
    parser.add_argument("--record", action="store_true", help=f"not so long, but until {RECORD}")
    parser.add_argument("--executor", choices=list(ENGINES), default="processes")
    parser.add_argument("--items", type=int, default=2000, help="of each run")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    report.machine("dask", "ray")
    print(json.dumps({"benchmark": "chaos", "seed": options.seed}), flush=True)
    aims, minutes = (RECORD, 0.0) if options.record else (Aims(), options.minutes)
    chaos = Chaos(options.executor, options.items, options.seed, aims)
    facts = chaos.run(60 * minutes)
    print(json.dumps({"benchmark": "chaos", **facts}), flush=True)
    if facts["wrong"]:
        sys.exit(f"wrong; what is left of it is in {chaos.folder}")
    shutil.rmtree(chaos.folder)


if __name__ == "__main__":
    main()
