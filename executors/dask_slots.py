"""The driver's side of batches on Dask: which worker takes which, and what the depots report."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import platform
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from typing import Any

from distributed import Client

from ..core.errors import HeadraceError, VersionMismatchError
from ..core.interfaces import Batch, Control, End, Outcome, Report, Resources, Sink
from . import dask_depot
from .capacity import Capacity
from .dask_workers import Flight, Worker
from .launch import here
from .supervisor import refused
from .wire import Versions, differences, misfit

_LOOK_SECONDS = 0.5
_RETRIES = 3
_PACKAGE = __name__.partition(".")[0]


class DaskRunner:
    """Runs batches in the workers of a Dask cluster.

    Thread rule: public methods from any thread; the coroutines run on the client's loop.
    """

    def __init__(
        self,
        client: Client,
        mine: Versions,
        idle_seconds: float,
        shut_down: Callable[[], None],
        memory: int = 0,
    ) -> None:
        self._client: Any = client
        self._mine, self._idle_seconds, self._shut_down = mine, idle_seconds, shut_down
        self._memory = memory
        self._pool = uuid.uuid4().hex
        self._setup = here()
        self._lock = threading.Condition()
        self._workers: dict[str, Worker] = {}
        self._asked: dict[tuple[str, int], tuple[Control, float]] = {}
        self._error: HeadraceError | None = None
        self._used = time.monotonic()
        self._waiting = 0
        self._summons: Any = None
        self._warned = self._closing = False
        self._changed: Callable[[], None] = lambda: None
        self._loop: asyncio.AbstractEventLoop = self._client.loop.asyncio_loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._call(self._look_once())
        self._watch = asyncio.run_coroutine_threadsafe(self._look(), self._loop)

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call this whenever there is more, or less, to run on."""
        self._changed = changed

    def capacity(self) -> Capacity:
        """All workers together."""
        with self._lock:
            workers = self._capacities()
        custom: dict[str, float] = {}
        for one in workers:
            for name, amount in one.custom.items():
                custom[name] = custom.get(name, 0.0) + amount
        return Capacity(
            sum(one.cpus for one in workers) or 1,
            sum(one.gpus for one in workers),
            sum(one.memory for one in workers),
            custom,
        )

    def _capacities(self) -> list[Capacity]:
        return [worker.capacity for worker in self._workers.values() if not worker.leaving]

    def fits(self, need: Resources) -> int:
        """Batches with this need that the workers, as they are now, can run at a time."""
        with self._lock:
            workers = self._capacities()
        if not workers:
            return 1  # something must be handed over before a cluster grows from nothing
        count = 0
        for one in workers:
            with contextlib.suppress(HeadraceError):
                count += one.fits(need, "dask")
        if not count:
            if self._error is not None:
                raise self._error
            max(workers, key=lambda one: one.cpus).fits(need, "dask")  # says why
        return count

    # --------------------------------------------------------------------------------- running

    def run(self, batch: Batch, sink: Sink) -> None:
        """Run a batch to its end on a worker; blocks. Never raises."""
        flight = Flight(batch, sink)
        worker: Worker | None = None
        try:
            payload = pickle.dumps(batch, 5)
            worker = self._place(flight, batch)
            if worker is not None:
                self._order(worker, "batch", *flight.key, payload)
                with self._lock:
                    asked = self._asked.get(flight.key)
                if asked is not None:
                    self._order(worker, "control", *flight.key, asked[0].value, asked[1])
                flight.done.wait()
        except HeadraceError as error:
            flight.finish(refused(error))
        except Exception as error:  # noqa: BLE001 - a batch must end whatever happens here
            flight.finish(End(Outcome.LOST, f"{type(error).__name__}: {error}"))
        with self._lock:
            self._asked.pop(flight.key, None)
            self._used = time.monotonic()
            if worker is not None:
                worker.ledger.give(batch.resources)
                worker.flights.pop(flight.key, None)
            self._lock.notify_all()
        assert flight.last is not None
        sink(flight.last)

    def _place(self, flight: Flight, batch: Batch) -> Worker | None:
        """Wait for a worker with room; None when the batch was withdrawn meanwhile."""
        with self._lock:
            self._waiting += 1
            self._used = time.monotonic()
            try:
                while True:
                    request, _ = self._asked.get(flight.key, (None, 0.0))
                    if self._closing:
                        flight.finish(End(Outcome.KILLED, "the pool was closed"))
                        return None
                    if request is not None:
                        killed = request is Control.KILL
                        flight.finish(End(Outcome.KILLED if killed else Outcome.RECALLED))
                        return None
                    for worker in self._workers.values():
                        if worker.ledger.take(batch.resources, worker.now()):
                            worker.flights[flight.key] = flight
                            return worker
                    if self._error is not None and not any(
                        worker.ready for worker in self._workers.values()
                    ):
                        raise self._error
                    self._loop.call_soon_threadsafe(self._lease_all)
                    self._lock.wait(1.0)
            finally:
                self._waiting -= 1

    def control(self, run_id: str, batch: int, request: Control, grace: float) -> None:
        """Ask something of a batch that runs, or soon will. Returns at once."""
        key = run_id, batch
        with self._lock:
            self._asked[key] = request, grace
            holder = next((w for w in self._workers.values() if key in w.flights), None)
            self._lock.notify_all()
        if holder is not None:
            self._order(holder, "control", *key, request.value, grace)

    # -------------------------------------------------------------------- orders, on the loop

    def _order(self, worker: Worker, *order: Any) -> None:
        with self._lock:
            worker.orders.append(order)
            if worker.sending:
                return
            worker.sending = True
        asyncio.run_coroutine_threadsafe(self._send(worker), self._loop)

    async def _send(self, worker: Worker) -> None:
        """Send what has gathered, in order, until nothing is left."""
        while True:
            with self._lock:
                orders, worker.orders = worker.orders, []
                if not orders:
                    worker.sending = False
                    return
            with contextlib.suppress(Exception):  # a dead worker is seen by its poll
                await self._on(worker, dask_depot.command, pickle.dumps(orders, 5))

    async def _on(self, worker: Worker, function: Any, *arguments: Any) -> Any:
        """Call a depot function in a worker, through the scheduler."""
        answers = await self._client._run(
            function, self._pool, *arguments, workers=[worker.address]
        )
        return answers[worker.address]

    # ---------------------------------------------------------------- following the cluster

    async def _look(self) -> None:
        while not self._closing:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self._look_once()
            except (OSError, ValueError):  # the scheduler is gone, or not there for now
                if self._client.status == "closed":
                    self._lose_all("the Dask scheduler is gone")
            idle = time.monotonic() - self._used > self._idle_seconds
            if idle and not self._waiting:
                self._release_idle()

    async def _look_once(self) -> None:
        info = await self._client.scheduler.identity(n_workers=-1)
        there: dict[str, Any] = info["workers"]
        for address in set(there) - set(self._workers):
            worker = Worker(address, there[address], self._memory)
            with self._lock:
                self._workers[address] = worker
            task = asyncio.ensure_future(self._serve(worker))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for address in set(self._workers) - set(there):
            self._lose(self._workers[address], "it left the cluster")
            self._error = None
        if self._waiting and not there and self._summons is None:
            # A pending task makes an adaptive cluster grow from nothing.
            self._summons = self._client.submit(
                platform.node, pure=False, key=f"headrace-{uuid.uuid4()}"
            )
        elif there and self._summons is not None:
            self._summons = None

    async def _serve(self, worker: Worker) -> None:
        """Open a depot in a worker and listen to it for as long as it lives."""
        try:
            await self._greet(worker)
        except HeadraceError as error:
            with self._lock:
                self._error, worker.capacity = error, Capacity(0.0)
                self._lock.notify_all()
            return
        except Exception as error:  # noqa: BLE001 - it left, or does not answer: looked at again
            self._lose(worker, str(error))
            return
        worker.ready = True
        if self._waiting:
            self._lease(worker)
        self._changed()
        failures = 0
        while not self._closing and self._workers.get(worker.address) is worker:
            try:
                news = await self._on(worker, dask_depot.poll, worker.acknowledged)
                failures = 0
            except KeyError:  # it closed, believing us dead
                self._lose(worker, "its depot was closed")
                return
            except Exception as error:  # noqa: BLE001 - whatever a broken connection raises
                failures += 1
                if failures >= _RETRIES or worker.address not in await self._addresses():
                    self._lose(worker, f"{type(error).__name__}: {error}")
                    return
                await asyncio.sleep(0.2)
                continue
            for number, data in news:
                if number > worker.acknowledged:
                    worker.acknowledged = number
                    self._hear(worker, pickle.loads(data))

    async def _addresses(self) -> set[str]:
        try:
            return set((await self._client.scheduler.identity(n_workers=-1))["workers"])
        except (OSError, ValueError):
            return set()

    async def _greet(self, worker: Worker) -> None:
        """Check a new worker's versions, and open a depot in it."""
        where = f"the Dask worker {worker.address} cannot be used: "
        answers = await self._client._run(platform.python_version, workers=[worker.address])
        python = str(answers[worker.address])
        if python.split(".")[:2] != self._mine.python.split(".")[:2]:
            raise VersionMismatchError(
                f"{where}it runs Python {python}, the driver {self._mine.python}"
            )
        try:
            theirs: Versions = await self._on(worker, dask_depot.install, self._setup)
        except Exception as error:
            if f"No module named '{_PACKAGE}" not in str(error):  # it comes as text in any kind
                raise
            raise VersionMismatchError(
                f"{where}it has no headrace. Install the driver's version on every worker"
            ) from error
        why = misfit(self._mine, theirs)
        if why:
            raise VersionMismatchError(where + why)
        found = differences(self._mine, theirs)
        if found and not self._warned:
            self._warned = True
            warnings.warn(f"{where[:-16]}has other libraries: {', '.join(found)}", stacklevel=2)

    def _hear(self, worker: Worker, said: Any) -> None:
        if isinstance(said, Report):
            flight = worker.flights.get((said.run_id, said.batch))
            if flight is not None:
                flight.hear(said)
            return
        what, name = said
        with self._lock:
            if what == "leaving":
                worker.leave()
            elif name in worker.leases:
                worker.held.add(name)
            self._lock.notify_all()

    def _lose(self, worker: Worker, why: str) -> None:
        """A worker is gone, and with it whatever it ran."""
        with self._lock:
            if self._workers.get(worker.address) is worker:
                del self._workers[worker.address]
            flights = list(worker.flights.values())
            worker.held.clear()
            worker.leases.clear()  # without a holder the scheduler forgets them
            self._lock.notify_all()
        for flight in flights:
            why = " ".join(why.split())[:300]
            flight.finish(End(Outcome.LOST, f"the Dask worker {worker.address} is gone: {why}"))
        if not self._closing:
            self._changed()

    def _lose_all(self, why: str) -> None:
        for worker in list(self._workers.values()):
            self._lose(worker, why)

    # ------------------------------------------------------------------------ leases, on the loop

    def _lease_all(self) -> None:
        for worker in list(self._workers.values()):
            if worker.ready and not (worker.leases or worker.leaving):
                self._lease(worker)

    def _lease(self, worker: Worker) -> None:
        """Ask the scheduler for all threads of a worker."""
        for _ in range(int(worker.capacity.cpus)):
            name = f"headrace-lease-{uuid.uuid4()}"
            with self._lock:
                worker.leases[name] = None
            future = self._client.submit(
                dask_depot.lease,
                *(self._pool, name),
                key=name,
                workers=[worker.address],
                pure=False,
                retries=0,
            )
            with self._lock:
                if name in worker.leases:
                    worker.leases[name] = future

    def _release_idle(self) -> None:
        """Give the threads back to others; the children stay."""
        with self._lock:
            idle = [w for w in self._workers.values() if w.leases and not w.flights]
            for worker in idle:
                worker.held.clear()
                worker.leases.clear()
        for worker in idle:
            self._order(worker, "release")

    # -------------------------------------------------------------------------------- the end

    def close(self) -> None:
        """Kill what runs, close the depots, and what was started for this pool. Idempotent."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            workers = list(self._workers.values())
            flights = [flight for worker in workers for flight in worker.flights.values()]
            self._lock.notify_all()
        with contextlib.suppress(Exception):  # the cluster may be gone already
            asyncio.run_coroutine_threadsafe(self._leave(workers), self._loop).result(15)
        for flight in flights:
            flight.finish(End(Outcome.KILLED, "the pool was closed"))
        self._shut_down()

    async def _leave(self, workers: list[Worker]) -> None:
        leaving = [asyncio.ensure_future(self._on(w, dask_depot.leave)) for w in workers if w.ready]
        if leaving:
            await asyncio.wait(leaving, timeout=10)
        tasks = list(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=3)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in workers:
            worker.leases.clear()
