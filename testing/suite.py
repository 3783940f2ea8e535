"""What all parts of the executor suite share: the executor, its warm pool, a home, a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ..core.flows import Flow, flow
from ..core.interfaces import Capabilities, Executor, Pool, Resources
from ..core.pools import lease
from ..core.registry import resolve_executor
from ..core.runs import FlowRun
from ..core.settings import settings_override

PATIENCE_SECONDS = 60.0
"""A run of the suite's that takes longer hangs: it is given up."""
GRACE_SECONDS = 0.5
"""``grace_seconds`` while the suite runs: what does not stop by itself is killed after it."""


class Suite:
    """The executor under test.

    Its pool is opened once and stays warm for all tests of the process. Tests take milliseconds of
    work each, so that a whole suite runs in seconds on two cores.
    """

    executor: ClassVar[Executor | type[Any] | str]
    """What users would write for ``flow(executor=...)``. It should have at least two slots."""

    custom: ClassVar[str | None] = None
    """Name of a custom resource of which the executor offers exactly 1, or None if it offers none."""

    @property
    def described(self) -> Executor:
        """The executor as an object."""
        return resolve_executor(type(self).executor)

    @property
    def pool(self) -> Pool:
        """The warm pool."""
        return lease(self.described)

    @property
    def able(self) -> Capabilities:
        """What the pool can do."""
        return self.pool.capabilities

    def slots(self, need: Resources | None = None) -> int:
        """Batches that run at a time."""
        return self.pool.slots(need or Resources())

    def elsewhere(self) -> Executor:
        """The executor for scripts that the suite starts; it is pickled.

        Give one that connects to what runs already where starting the engine takes long.
        """
        return self.described

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _home(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        """Runs of the suite go to a folder of their own, and are not shown."""
        home = tmp_path_factory.mktemp("home")
        with settings_override(
            home=home,
            storage=str(home / "storage"),
            history=f"sqlite:///{home / 'history.db'}",
            storage_options={},
            display="none",
            log_level="INFO",
            grace_seconds=GRACE_SECONDS,
        ):
            yield home

    @pytest.fixture
    def shared(self, tmp_path: Path) -> Path:
        """A folder that the test and all workers see. Override it where ``tmp_path`` is not."""
        return tmp_path

    def flow(self, body: Callable[..., Any], **options: Any) -> Flow[..., Any]:
        """A function as a flow on the executor; one that hangs is ended."""
        options.setdefault("timeout_seconds", PATIENCE_SECONDS)
        return flow(executor=self.described, **options)(body)

    def run(self, body: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What a flow on the executor returns."""
        return self.flow(body, **options)(*args)

    def start(self, body: Callable[..., Any], *args: Any, **options: Any) -> FlowRun[Any]:
        """A run of a flow on the executor, begun beside the test."""
        return self.flow(body, **options).start(*args)

    def watched(self, body: Callable[..., Any], *args: Any, **options: Any) -> FlowRun[Any]:
        """A run of a flow on the executor that has ended, whatever became of it."""
        run = self.start(body, *args, **options)
        run.wait(PATIENCE_SECONDS)
        assert run.done(), f"{run} goes on after {PATIENCE_SECONDS:g} s"
        return run
