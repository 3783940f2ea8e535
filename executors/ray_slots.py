"""The two sides of a batch on Ray: the runner in the driver, and the actor that is a slot."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError

from ..core.errors import ExecutorError, HeadraceError, VersionMismatchError
from ..core.interfaces import (
    ORPHAN_SECONDS,
    Batch,
    Control,
    End,
    Outcome,
    Report,
    Resources,
    Sink,
)
from .capacity import Capacity
from .host import Host
from .launch import Launch, here
from .pool import QueuePool
from .supervisor import refused
from .wire import Setup, Versions, differences, misfit, versions

_LOOK_SECONDS = 1.0
_FORCE_SECONDS = 3.0
"""Beyond a kill's grace, before the actor itself is killed."""
_ROOM_SECONDS = 10.0
"""For which an actor waits for its resources before idle ones of other shapes make room."""
_SURE_SECONDS = 1.0
"""An actor that was idle for longer is asked first whether it is still there."""
_ANSWER_SECONDS = 0.5
_PACKAGE = __name__.partition(".")[0]
_STRIPPED = ("RAY_", "PYTHONBREAKPOINT")


class SlotActor:
    """In a Ray worker: supervises one child, and streams its reports."""

    def __init__(self, driver: Setup) -> None:
        # The driver's folders first, where they exist here, too.
        own = [entry for entry in sys.path if entry not in (driver.path or ())]
        sys.path[:] = [entry for entry in driver.path or () if os.path.exists(entry)] + own
        with contextlib.suppress(OSError):
            os.chdir(driver.cwd or ".")
        node = ray.get_runtime_context().get_node_id()
        setup = replace(here(node), body=driver.body)
        self._host = Host(Launch(setup=setup, without=_STRIPPED), node=node)
        self._leaving = False
        self._end = signal.signal(
            signal.SIGTERM, self._retire
        )  # actors are made in the main thread

    def _retire(self, number: int, frame: Any) -> None:
        """Told to end (preempted): what has finished is committed and told, then Ray's way of it."""
        if self._leaving:
            if callable(self._end):
                self._end(number, frame)
            return
        self._leaving = True
        threading.Thread(target=self._end_in_order, name="headrace-leaving", daemon=True).start()

    def _end_in_order(self) -> None:
        self._host.retire(ORPHAN_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    def hello(self) -> Versions:
        """What must fit between this worker and the driver."""
        return versions(libraries=True)

    def run(self, run_id: str, number: int, payload: bytes) -> Iterator[bytes]:
        """Run a pickled batch; yields pickles of lists of reports and of whether the actor is leaving."""
        said: queue.SimpleQueue[Report] = queue.SimpleQueue()
        try:
            batch: Batch = pickle.loads(payload)
        except Exception as error:  # noqa: BLE001 - whatever a store's unpickling raises
            end = refused(ExecutorError(f"a Ray worker cannot read the batch: {error}"))
            yield pickle.dumps(([Report(run_id, number, end=end)], self._leaving))
            return
        thread = threading.Thread(
            target=self._host.run, args=(batch, said.put), name="headrace-slot", daemon=True
        )
        thread.start()
        ended = False
        while not ended:
            reports = [said.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    reports.append(said.get_nowait())
            ended = reports[-1].end is not None
            yield pickle.dumps((reports, self._leaving), 5)
        thread.join()

    def control(self, run_id: str, batch: int, request: str, grace: float) -> None:
        """Ask something of the running batch, or of one that comes soon."""
        self._host.control(run_id, batch, Control(request), grace)

    def close(self) -> None:
        """End the child."""
        self._host.close()


@dataclass
class _Actor:
    """An actor as the driver holds it."""

    handle: Any
    shape: Resources
    idle_since: float = 0.0
    greeted: bool = False
    leaving: bool = False
    """It has been told to end, and takes nothing more."""


class RayRunner:
    """Runs batches on actors, each made for the resources that a task asks for, and kept warm.

    Thread rule: every method from any thread.
    """

    def __init__(
        self,
        mine: Versions,
        idle_seconds: float,
        release: Callable[[], None],
    ) -> None:
        self._mine, self._idle_seconds, self._leave = mine, idle_seconds, release
        self._lock = threading.Lock()
        self._idle: list[_Actor] = []
        self._running: dict[tuple[str, int], _Actor] = {}
        self._asked: dict[tuple[str, int], tuple[Control, float]] = {}
        self._timers: dict[tuple[str, int], threading.Timer] = {}
        self._warned = False
        self._closing = threading.Event()
        self._watcher: threading.Thread | None = None
        self._capacity = _cluster()

    def capacity(self) -> Capacity:
        """What the cluster has, as of the last look."""
        return self._capacity

    def watch(self, pool: QueuePool) -> None:
        """Follow the cluster as it grows and shrinks, and give back what lies idle."""
        self._watcher = threading.Thread(
            target=self._look, args=(pool,), name="headrace-ray-watch", daemon=True
        )
        self._watcher.start()

    def _look(self, pool: QueuePool) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            with contextlib.suppress(RayError, ConnectionError):
                self._capacity = _cluster()
            pool.refresh()
            old = time.monotonic() - self._idle_seconds
            with self._lock:
                stale = [actor for actor in self._idle if actor.idle_since < old]
                self._idle = [actor for actor in self._idle if actor.idle_since >= old]
            for actor in stale:
                self._discard(actor)

    # --------------------------------------------------------------------------------- running

    def run(self, batch: Batch, sink: Sink) -> None:
        """Run a batch to its end on an actor; blocks. Never raises."""
        key = batch.run_id, batch.id
        last: Report | None = None
        actor: _Actor | None = None
        try:
            payload = pickle.dumps(batch, 5)
            actor = self._take(batch)
            actor, up = self._greet(actor, key)
            if up:
                for report in self._stream(actor, key, payload):
                    if report.end is None:
                        sink(report)
                    else:
                        last = report
            else:
                outcome = Outcome.KILLED if self._was(Control.KILL, key) else Outcome.RECALLED
                last = Report(*key, end=End(outcome))
        except HeadraceError as error:
            last = Report(*key, end=refused(error))
        except RayError as error:
            last = Report(*key, end=self._lost(error, key))
            self._discard(actor)
            actor = None
        except Exception as error:  # noqa: BLE001 - a batch must end whatever happens here
            last = Report(*key, end=End(Outcome.LOST, f"{type(error).__name__}: {error}"))
            self._discard(actor)
            actor = None
        with self._lock:
            self._running.pop(key, None)
            self._asked.pop(key, None)
            timer = self._timers.pop(key, None)
            if timer is not None:
                timer.cancel()
            if actor is not None and not actor.leaving:
                actor.idle_since = time.monotonic()
                self._idle.append(actor)
        sink(last or Report(*key, end=End(Outcome.LOST, "the actor's stream ended without an end")))

    def _stream(self, actor: _Actor, key: tuple[str, int], payload: bytes) -> Iterator[Report]:
        stream = actor.handle.run.options(num_returns="streaming").remote(*key, payload)
        with self._lock:
            self._running[key] = actor
            asked = self._asked.get(key)
        if asked is not None:
            self._tell(actor, key, *asked)
        for reference in stream:
            reports, actor.leaving = pickle.loads(ray.get(reference))
            yield from reports
            if reports[-1].end is not None:  # the stream's own end comes some milliseconds later
                return

    def _lost(self, error: RayError, key: tuple[str, int]) -> End:
        if self._was(Control.KILL, key):
            return End(Outcome.KILLED, "killed on request, by force")
        words = " ".join(str(error).split())
        return End(Outcome.LOST, f"the Ray worker that held it is gone: {words[:300]}")

    def _was(self, request: Control, key: tuple[str, int]) -> bool:
        with self._lock:
            return self._closing.is_set() or self._asked.get(key, (None,))[0] is request

    def control(self, run_id: str, batch: int, request: Control, grace: float) -> None:
        """Ask something of a batch that runs, or soon will. Returns at once."""
        key = run_id, batch
        with self._lock:
            self._asked[key] = request, grace
            actor = self._running.get(key)
        if actor is not None:
            self._tell(actor, key, request, grace)
        if request is Control.KILL:
            timer = threading.Timer(grace + _FORCE_SECONDS, self._force, (key,))
            timer.name, timer.daemon = "headrace-ray-force", True
            with self._lock:
                self._timers[key] = timer
            timer.start()

    def _force(self, key: tuple[str, int]) -> None:
        """Neither the child nor its supervisor obeys (``isolation="none"``): end the actor."""
        with self._lock:
            actor = self._running.get(key)
        self._discard(actor)

    def _tell(self, actor: _Actor, key: tuple[str, int], request: Control, grace: float) -> None:
        with contextlib.suppress(RayError):
            control = actor.handle.control.options(concurrency_group="control")
            control.remote(*key, request.value, grace)

    # ---------------------------------------------------------------------------------- actors

    def _take(self, batch: Batch) -> _Actor:
        """An idle actor of the right shape, or a new one; others make room for it."""
        shape = batch.resources
        while (fit := self._fitting(shape)) is not None:
            if self._is_there(fit):
                return fit
            self._discard(fit)
        if ray.available_resources().get("CPU", 0.0) < shape.cpus:
            self._make_room()
        options = {
            "num_cpus": shape.cpus,
            "num_gpus": shape.gpus,
            "memory": shape.memory or None,
            "resources": dict(shape.custom),
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        remote: Any = ray.remote
        made: Any = remote(concurrency_groups={"control": 2})(SlotActor)
        return _Actor(made.options(**options).remote(here()), shape)

    def _fitting(self, shape: Resources, *, up: bool = False) -> _Actor | None:
        """An idle actor of this shape, which is the caller's from now on; ``up``: one that is."""
        with self._lock:
            fit = [a for a in self._idle if a.shape == shape and (a.greeted or not up)]
            if fit:
                self._idle.remove(fit[-1])
            return fit[-1] if fit else None

    @staticmethod
    def _is_there(actor: _Actor) -> bool:
        """Has an idle actor not died? A batch that it took along would be looked for among orphans."""
        if not actor.greeted or time.monotonic() - actor.idle_since < _SURE_SECONDS:
            return True
        hello = actor.handle.hello.remote()
        if not ray.wait([hello], timeout=_ANSWER_SECONDS)[0]:
            return True  # its node may be busy
        with contextlib.suppress(RayError):
            ray.get(hello)
            return True
        return False

    def _make_room(self) -> None:
        with self._lock:
            others, self._idle = self._idle, []
        for actor in others:
            self._discard(actor)

    def _greet(self, actor: _Actor, key: tuple[str, int]) -> tuple[_Actor, bool]:
        """Wait until the actor is up, however long the cluster takes; False: withdrawn.

        One that falls idle meanwhile takes its place: where a node is lost, it may hold what the
        other waits for.
        """
        hello = None if actor.greeted else actor.handle.hello.remote()
        room = time.monotonic() + _ROOM_SECONDS
        while hello is not None:
            with self._lock:
                if self._closing.is_set() or key in self._asked:
                    return actor, False
            ready, _ = ray.wait([hello], timeout=0.25)
            if ready:
                self._check(_told(hello))
                actor.greeted = True
                hello = None
            elif (other := self._fitting(actor.shape, up=True)) is not None:
                self._discard(actor)
                return other, True
            elif time.monotonic() > room:
                self._make_room()
        return actor, True

    def _check(self, theirs: Versions) -> None:
        why = misfit(self._mine, theirs)
        if why:
            raise VersionMismatchError(f"a Ray worker cannot be used: {why}")
        found = differences(self._mine, theirs)
        if found and not self._warned:
            self._warned = True
            warnings.warn(f"Ray workers have other libraries: {', '.join(found)}", stacklevel=2)

    def _discard(self, actor: _Actor | None) -> None:
        """End an actor; its child ends with its input."""
        if actor is not None:
            with contextlib.suppress(Exception):  # Ray may be down already
                ray.kill(actor.handle)

    def close(self) -> None:
        """Kill what runs, end the actors, and Ray itself if it was started here. Idempotent."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
            actors = [*self._idle, *self._running.values()]
            self._idle = []
        closing = []
        for actor in actors:
            with contextlib.suppress(Exception):  # dead ones are what we want
                closing.append(actor.handle.close.options(concurrency_group="control").remote())
        with contextlib.suppress(Exception):
            ray.wait(closing, num_returns=len(closing), timeout=3.0) if closing else None
        for actor in actors:
            self._discard(actor)
        if self._watcher is not None:
            self._watcher.join()
        self._leave()


def _told(hello: Any) -> Versions:
    try:
        return ray.get(hello)
    except RayError as error:
        if f"No module named '{_PACKAGE}" in str(error):
            raise VersionMismatchError(
                "a Ray worker has no headrace: install the driver's version on every node"
            ) from error
        raise


def _cluster() -> Capacity:
    there: dict[str, float] = dict(ray.cluster_resources())
    cpus, gpus = there.pop("CPU", 0.0), there.pop("GPU", 0.0)
    memory = int(there.pop("memory", 0))
    there.pop("object_store_memory", None)
    return Capacity(cpus, gpus, memory, there)


__all__ = ["RayRunner", "SlotActor"]
