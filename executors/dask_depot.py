"""The worker's side of a batch on Dask: a depot in each worker, which a driver polls.

Dask carries two calls, `command` and `poll`, on the worker's event loop, and one long task per
thread, `lease`, by which its scheduler knows that the thread is taken. Batches are never Dask's own
tasks, so Dask never runs one twice. When the scheduler takes a lease back without being asked to,
the driver has vanished.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import pickle
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Any

from distributed import get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from ..core.errors import ExecutorError
from ..core.interfaces import ORPHAN_SECONDS, Batch, Control, Isolation, Report
from .host import Host
from .launch import Launch, here
from .supervisor import refused
from .wire import Setup, Versions, versions

POLL_SECONDS = 2.0
_LOOK_SECONDS = 0.5
_SILENCE_SECONDS = 15.0
_HEAR_SECONDS = 2.0
"""For which a worker that ends waits until the driver has heard its last words."""
_HELD_BYTES = 64 << 20
_REPLY_BYTES = 16 << 20
_DEPOTS = "_headrace_depots"


class Depot:
    """One driver's slots in one Dask worker."""

    def __init__(self, worker: Any, setup: Setup) -> None:
        self._worker = worker
        if worker.address.startswith("inproc://"):
            mine = replace(here(worker.name and str(worker.name)), body=setup.body)
        else:
            own = [entry for entry in sys.path if entry not in (setup.path or ())]
            path = [entry for entry in setup.path or () if os.path.exists(entry)] + own
            cwd = setup.cwd if setup.cwd and os.path.isdir(setup.cwd) else None
            mine = replace(setup, node=str(worker.name), path=tuple(path), cwd=cwd)
        self._host = Host(Launch(setup=mine), node=mine.node)
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._room = threading.Condition()
        self._outbox: deque[tuple[int, bytes]] = deque()
        self._held = self._count = 0
        self._leases: dict[str, contextvars.Context] = {}
        self._given_up = threading.Event()
        self._polled = time.monotonic()
        self._seen: set[tuple[str, int]] = set()
        self.closed = False
        self._watch = asyncio.ensure_future(self._look())

    # ------------------------------------------------------------------------- towards the driver

    def say(self, what: Any) -> None:
        """Queue something for the next poll; waits while too much is queued."""
        data = pickle.dumps(what, 5)
        with self._room:
            self._room.wait_for(lambda: self._held < _HELD_BYTES or self.closed)
            self._count += 1
            self._held += len(data)
            self._outbox.append((self._count, data))
        with contextlib.suppress(RuntimeError):  # the loop may be closed already
            self._loop.call_soon_threadsafe(self._news.set)

    async def poll(self, acknowledged: int) -> list[tuple[int, bytes]]:
        """What the driver has not acknowledged yet, as soon as there is something."""
        self._polled = time.monotonic()
        with self._room:
            while self._outbox and self._outbox[0][0] <= acknowledged:
                self._held -= len(self._outbox.popleft()[1])
            self._room.notify_all()
            if not self._outbox:
                self._news.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._news.wait(), POLL_SECONDS)
        reply: list[tuple[int, bytes]] = []
        size = 0
        with self._room:
            for entry in self._outbox:
                if reply and size + len(entry[1]) > _REPLY_BYTES:
                    break
                reply.append(entry)
                size += len(entry[1])
        return reply

    # --------------------------------------------------------------------------- from the driver

    def take(self, kind: str, *rest: Any) -> None:
        """Obey a command; returns at once."""
        if kind == "batch":
            run_id, number, payload = rest
            if (run_id, number) not in self._seen:  # the command may have been sent twice
                self._seen.add((run_id, number))
                self._start(self._run, run_id, number, payload)
        elif kind == "control":
            run_id, number, request, grace = rest
            self._host.control(run_id, number, Control(request), grace)
        elif kind == "release":
            self._given_up.set()
            self._given_up = threading.Event()
        elif kind == "close":
            self.close()

    def _start(self, function: Any, *arguments: Any) -> None:
        threading.Thread(
            target=function, args=arguments, name="headrace-depot", daemon=True
        ).start()

    def _run(self, run_id: str, number: int, payload: bytes) -> None:
        try:
            batch: Batch = pickle.loads(payload)
        except Exception as error:  # noqa: BLE001 - whatever a store's unpickling raises
            end = refused(ExecutorError(f"a Dask worker cannot read the batch: {error}"))
            self.say(Report(run_id, number, end=end))
            return
        leases = list(self._leases.values())
        if batch.isolation is Isolation.NONE and leases:
            leases[0].copy().run(self._host.run, batch, self.say)  # Dask's own API works inside
        else:
            self._host.run(batch, self.say)

    # ------------------------------------------------------------------------------------ leases

    def hold(self, name: str) -> None:
        """Keep a thread of the Dask worker until it is given up."""
        given_up = self._given_up
        self._leases[name] = contextvars.copy_context()
        self.say(("lease", name))
        given_up.wait()
        self._leases.pop(name, None)

    async def _look(self) -> None:
        """Close when the driver has vanished."""
        while not self.closed:
            await asyncio.sleep(_LOOK_SECONDS)
            tasks = self._worker.state.tasks
            for name in list(self._leases):
                task = tasks.get(name)
                if task is None or task.state in ("cancelled", "released", "forgotten"):
                    self.close()
            if not self._leases and time.monotonic() - self._polled > _SILENCE_SECONDS:
                self.close()

    def close(self) -> None:
        """End what runs, and the children. Returns at once."""
        if self.closed:
            return
        self.closed = True
        self._given_up.set()
        with self._room:
            self._room.notify_all()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._news.set)  # a poll under way ends
        self._start(self._host.close)

    async def retire(self) -> None:
        """End in order, as the worker is told to: what has finished is committed and told."""
        if not self.closed:
            self._watch.cancel()  # leases are taken back from a worker that ends
            await asyncio.to_thread(self._retire)
            self.close()

    def _retire(self) -> None:
        self.say(("leaving", ""))
        self._host.retire(ORPHAN_SECONDS)
        with self._room:
            self._room.wait_for(lambda: not self._outbox, _HEAR_SECONDS)

    async def close_and_wait(self) -> None:
        """As `close`, and wait for the children's end."""
        self.close()
        await asyncio.to_thread(self._host.close)


class DepotPlugin(WorkerPlugin):
    """Ends a depot with its worker: one that is told to end (preempted, retired) does so in order."""

    def __init__(self, pool: str) -> None:
        self.pool = pool

    async def teardown(self, worker: Any) -> None:
        depot: Depot | None = getattr(worker, _DEPOTS, {}).get(self.pool)
        if depot is not None:
            await depot.retire()
            await depot.close_and_wait()
            vars(worker)[_DEPOTS].pop(self.pool, None)


def _quiet(record: logging.LogRecord) -> bool:
    """Dask logs each call of a function, and we call a few times a second."""
    named = record.args[0] if isinstance(record.args, tuple) and record.args else ""
    return named not in ("poll", "command")


async def install(pool: str, setup: Setup, dask_worker: Any = None) -> Versions:
    """Open a depot in a worker; tells what must fit."""
    logging.getLogger("distributed.worker").addFilter(_quiet)  # the same function is added once
    depots = vars(dask_worker).setdefault(_DEPOTS, {})
    if pool not in depots or depots[pool].closed:
        await dask_worker.plugin_add(DepotPlugin(pool), name=f"headrace-{pool}")
        depots[pool] = Depot(dask_worker, setup)
    return versions(libraries=True)


async def poll(pool: str, acknowledged: int, dask_worker: Any = None) -> list[tuple[int, bytes]]:
    """Wait for news from a depot. KeyError: there is none (any more)."""
    return await _depot(dask_worker, pool).poll(acknowledged)


async def command(pool: str, commands: bytes, dask_worker: Any = None) -> None:
    """Give orders to a depot."""
    depot = _depot(dask_worker, pool)
    for order in pickle.loads(commands):
        depot.take(*order)


async def leave(pool: str, dask_worker: Any = None) -> None:
    """Close a depot and wait until its children have ended."""
    depot = vars(dask_worker).get(_DEPOTS, {}).get(pool)
    if depot is not None:
        depot.close()
    await dask_worker.plugin_remove(name=f"headrace-{pool}")


def lease(pool: str, name: str) -> None:
    """The Dask task that stands for a slot: it holds its thread."""
    worker: Any = get_worker()
    depot = getattr(worker, _DEPOTS, {}).get(pool)
    if depot is not None:
        depot.hold(name)


def _depot(worker: Any, pool: str) -> Depot:
    depot: Depot = getattr(worker, _DEPOTS, {})[pool]
    if depot.closed:
        raise KeyError(pool)
    return depot
