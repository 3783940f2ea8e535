"""Batches on a Ray cluster: one actor per slot, which keeps a child process of headrace's own."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from ..core import forks
from ..core.errors import ExecutorError, MissingExtraError, VersionMismatchError
from ..core.interfaces import Capabilities
from ..core.shown import Shown
from .capacity import cores
from .launch import path_to_package
from .pool import QueuePool
from .reach import probe, refuse_fork, users
from .wire import versions

_STORE_BYTES = 256 << 20
_ATTEMPTS = 3


@dataclass(frozen=True)
class RayExecutor(Shown):
    """Runs batches on Ray.

    A process can be in one Ray only, and all its pools share it: what asks for another one than there
    is, by ``num_cpus`` or ``init_kwargs``, is refused.

    Parameters
    ----------
    address
        Of a running cluster (``"host:port"``, ``"ray://host:port"``, or ``"auto"``: the one that
        ``RAY_ADDRESS`` names or that runs on this machine). Default: start a Ray on this machine,
        whatever else runs there, and end it with the pool.
    num_cpus
        Of a Ray that is started here. Default: the cores that this process may use.
    init_kwargs
        More arguments of ``ray.init``.
    idle_seconds
        An actor that had nothing to do for so long gives its resources back.
    """

    shown_as = "executor"

    address: str | None = None
    num_cpus: int | None = None
    init_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    idle_seconds: float = 60.0

    @property
    def name(self) -> str:
        return "ray"

    def key(self) -> Hashable:
        return "ray", self.address, self.num_cpus, repr(sorted(self.init_kwargs.items()))

    def open(self) -> QueuePool:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if self.address is None:  # a cluster that others started has its own mode
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        try:
            import ray  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ImportError as error:
            raise MissingExtraError(
                'the ray executor needs Ray: pip install "headrace[ray]"'
            ) from error
        from .ray_slots import RayRunner

        refuse_fork("Ray")
        if self.address not in (None, "auto", "local"):
            probe("Ray", self.address, speaks=os.environ.get("RAY_USE_TLS", "0") == "0")
            _same_cluster(self.address)
        _keeper.acquire(self._options(), self.address or "this machine", self._asked())
        try:
            runner = RayRunner(versions(libraries=True), self.idle_seconds, _keeper.release)
        except BaseException:
            _keeper.release()
            raise
        pool = QueuePool(self.name, runner.capacity, runner, Capabilities())
        runner.watch(pool)
        return pool

    def _options(self) -> dict[str, Any]:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address is not None:
            return {**quiet, "address": self.address, **self.init_kwargs}
        return {
            **quiet,
            "address": "local",  # without it ray.init joins whatever runs here, or RAY_ADDRESS names
            "include_dashboard": False,
            "num_cpus": self.num_cpus or cores(),
            "object_store_memory": _STORE_BYTES,
            **self.init_kwargs,
        }

    def _asked(self) -> list[str]:
        """Names of what it asks of a Ray, beside where it is."""
        cpus = ["num_cpus"] if self.address is None and self.num_cpus is not None else []
        return [*cpus, *self.init_kwargs]


def _same_cluster(address: str) -> None:
    """Refuse a second cluster: a process can be in one only, and would quietly use the first."""
    import ray

    if not ray.is_initialized():
        return
    there = str(ray.get_runtime_context().gcs_address)
    if there.rpartition(":")[2] != address.rpartition(":")[2]:
        raise ExecutorError(
            f"this process is in the Ray cluster at {there} already, and cannot join {address!r}:"
            " ray.shutdown() or close the pool that started it"
        )


class _Keeper:
    """Starts Ray for the pools of this process, and ends it with the last of them.

    Ray's processes end when the thread that started them does, so a thread is kept for that.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._options: dict[str, Any] = {}
        """With which Ray was started here."""
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def acquire(self, options: dict[str, Any], where: str, asked: list[str]) -> None:
        """Start Ray, unless it runs in this process already.

        Raises
        ------
        ExecutorError
            It cannot be started, or the one that runs was started without what is ``asked``.
        """
        import ray

        with self._lock:
            if not ray.is_initialized():
                self._start(options, where)
                self._options = options
            elif asked and options != self._options:
                raise ExecutorError(
                    "this process has a Ray already, which was not started with this RayExecutor's"
                    f" {', '.join(asked)}; it can be in one only. Give all flows of a process the same"
                    " RayExecutor, or run this one in another process"
                )
            self._users += 1

    def release(self) -> None:
        """End Ray if it was started here and nobody uses it any more."""
        with self._lock:
            self._users -= 1
            if self._users or self._thread is None:
                return
            self._over.set()
            self._thread.join()
            self._thread, self._options = None, {}

    def _start(self, options: dict[str, Any], where: str) -> None:
        started: SimpleQueue[Exception | None] = SimpleQueue()
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=_keep, args=(options, started, self._over), name="headrace-ray", daemon=True
        )
        self._thread.start()
        error = started.get()
        if error is None:
            return
        self._thread.join()
        self._thread = None
        words = " ".join(str(error).split())
        if "ersion mismatch" in words:
            raise VersionMismatchError(f"the Ray on {where} does not fit: {words}") from error
        raise ExecutorError(
            f"Ray on {where} cannot be used: {words} (A cluster with token authentication needs"
            " RAY_AUTH_MODE=token on every side.)"
        ) from error


def _keep(
    options: dict[str, Any], started: SimpleQueue[Exception | None], over: threading.Event
) -> None:
    import ray

    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = path_to_package(path or "")  # for the workers it starts
    try:
        _init(options)
    except Exception as error:  # noqa: BLE001 - many kinds, some of them bare; told over there
        started.put(error)
        return
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
    started.put(None)
    over.wait()
    ray.shutdown()


def _init(options: dict[str, Any]) -> None:
    """Start Ray; it gives its own processes 30 seconds, which a busy machine may exceed."""
    import ray

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init(**options)
        except Exception as error:
            _end_half_started(error)
            ray.shutdown()
            if attempt == _ATTEMPTS or "timed out during startup" not in str(error):
                raise
        else:
            return


def _end_half_started(error: Exception) -> None:
    """End the processes of a start that failed: Ray forgets them, and they would slow the next one down."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if node is not None and hasattr(node, "kill_all_processes"):
            node.kill_all_processes(check_alive=False, wait=True)


_keeper = _Keeper()


@forks.in_child
def _leave_to_parent() -> None:
    """Ray takes a fork for the process that is in it, which would end with the fork."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        users.setdefault("Ray", os.getppid())
        atexit.unregister(ray.shutdown)
