"""Batches on a Dask cluster: a depot in each worker, and child processes of headrace's own."""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core import forks
from ..core.errors import ConfigurationError, ExecutorError, MissingExtraError
from ..core.interfaces import Capabilities
from ..core.shown import Shown
from .capacity import cores, memory
from .pool import QueuePool
from .reach import probe, refuse_fork, users
from .wire import versions

_REACH_SECONDS = 20
_QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
}
"""For a cluster of our own, which would look at itself 250 times a second: at threads that only hold
leases, at an event loop that only carries reports. That took a twelfth of a core from the tasks."""


@dataclass(frozen=True)
class DaskExecutor(Shown):
    """Runs batches on Dask.

    Parameters
    ----------
    address
        Of a running scheduler. Default: a cluster within this process, whose workers supervise
        child processes as all others do; it ends with the pool.
    cluster
        A cluster object (``LocalCluster``, ``KubeCluster``, ...); it is used, and not closed.
    n_workers
        Workers of our own cluster, one thread each. Default: one worker, a thread per core.
    adapt
        ``dict(minimum=..., maximum=...)``: scale our own cluster, or the cluster object, by need.
    client_kwargs
        More arguments of ``distributed.Client``, such as ``security``.
    idle_seconds
        After so long without work, the workers' threads are given back to others.
    """

    shown_as = "executor"

    address: str | None = None
    cluster: Any = None
    n_workers: int | None = None
    adapt: Mapping[str, int] | None = None
    client_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    idle_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.address is not None and self.cluster is not None:
            raise ConfigurationError("give DaskExecutor an address or a cluster, not both")
        if self.address is not None and (self.adapt or self.n_workers):
            raise ConfigurationError(
                "n_workers and adapt are for a cluster that is not at an address"
            )

    @property
    def name(self) -> str:
        return "dask"

    def key(self) -> Hashable:
        adapt = tuple(sorted((self.adapt or {}).items()))
        return (
            "dask",
            self.address,
            id(self.cluster),
            self.n_workers,
            adapt,
            repr(self.client_kwargs),
        )

    def open(self) -> QueuePool:
        try:
            from distributed import Client
        except ImportError as error:
            raise MissingExtraError(
                'the dask executor needs Dask: pip install "headrace[dask]"'
            ) from error
        from .dask_slots import DaskRunner

        refuse_fork("Dask")
        if self.address is not None and self.address.startswith(("tcp://", "tls://")):
            probe("Dask", self.address, speaks=self.address.startswith("tcp://"))
        with contextlib.ExitStack() as undo:
            cluster = self._cluster(undo)
            target = self.address if cluster is None else cluster
            options: dict[str, Any] = {
                "set_as_default": False,
                "timeout": _REACH_SECONDS,
                **self.client_kwargs,
            }
            try:
                client = Client(target, **options)
            except (OSError, TimeoutError, ValueError) as error:
                where = self.address or "its cluster object"
                raise ExecutorError(f"no Dask scheduler answers at {where}: {error}") from error
            undo.callback(_close_client, client)
            ending = undo.pop_all()
        try:
            mine = versions(libraries=True)
            runner = DaskRunner(client, mine, self.idle_seconds, ending.close, self._memory())
        except BaseException:
            ending.close()
            raise
        pool = QueuePool(self.name, runner.capacity, runner, Capabilities(), runner.fits)
        runner.on_change(pool.refresh)
        return pool

    def _memory(self) -> int:
        """What each worker of a cluster of our own may take: all of them share this machine."""
        if self.address is not None or self.cluster is not None:
            return 0
        workers = (self.adapt or {}).get("maximum") or self.n_workers or 1
        return memory() // int(workers)

    def _cluster(self, undo: contextlib.ExitStack) -> Any:
        if self.address is not None:
            return None
        cluster: Any = self.cluster
        if cluster is None:
            from dask import config
            from distributed import LocalCluster

            adaptive = self.adapt is not None
            local: Any = LocalCluster
            with config.set(_quiet(config)):
                cluster = local(
                    n_workers=0 if adaptive else self.n_workers or 1,
                    threads_per_worker=1 if adaptive or self.n_workers else cores(),
                    processes=False,
                    dashboard_address=":0",
                    memory_limit=0,
                )
            undo.callback(cluster.close)
        else:
            _ask(cluster)
        if self.adapt is not None:
            cluster.adapt(**self.adapt)
        return cluster


def _quiet(config: Any) -> dict[str, Any]:
    """`_QUIET`, but for what the user has set himself: in a file, a variable, or to other than the default."""
    given, defaults = config.collect(), config.merge(*config.defaults)
    return {
        name: value
        for name, value in _QUIET.items()
        if config.get(name, None, config=given) is None
        and config.get(name) == config.get(name, None, config=defaults)
    }


def _ask(cluster: Any) -> None:
    """Dask would wait for ever where the cluster object's event loop is the parent's of this fork."""
    answered = threading.Event()
    cluster.loop.add_callback(answered.set)
    if not answered.wait(_REACH_SECONDS):
        raise ExecutorError(
            "the event loop of DaskExecutor's cluster object does not answer. If another process made the"
            " object, of which this one is a fork, give the scheduler's address instead"
        )


@forks.in_child
def _leave_to_parent() -> None:
    """Dask would wait for the parent's clusters when this process exits."""
    if "Dask" in users:
        atexit.unregister(sys.modules["distributed.deploy.spec"].close_clusters)


def _close_client(client: Any) -> None:
    with contextlib.suppress(OSError, TimeoutError):  # the scheduler may be gone already
        client.close(timeout=5)
