"""Processes die: only what killed them ends Crashed, after its budget, and everything else completes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ..core.annotations import unmapped
from ..core.errors import TaskCrashed
from ..core.settings import settings_override
from ..core.tasks import task
from .faults import Death, TimingMap
from .scripts import run_script
from .suite import Suite
from .tally import Tally

_ITEMS = 16
_TOLD_AT = 12


@task(infra_retries=1)
def fragile(timing: TimingMap, item: int) -> int:
    return timing.act(item)


@task(infra_retries=0)
def preempted(timing: TimingMap, item: int) -> int:
    """One of the items has its process told to end, as a preempted machine is."""
    timing.act(item)
    if Tally(timing.folder).note("all") == _TOLD_AT:
        os.kill(os.getpid(), signal.SIGTERM)
    return item


class DeathsConformance(Suite):
    """Where ``capabilities.kills``, user code may crash its process; else it shares the driver's."""

    def test_culprits_end_crashed_and_all_others_complete(self, shared: Path) -> None:
        if not self.able.kills:
            self._die_with_the_driver(shared)
            return
        culprits = {2: Death.KILL, 7: Death.EXIT, 8: Death.SEGFAULT}
        timing = TimingMap(shared / "attempts", {k: [how] for k, how in culprits.items()})

        def body() -> Any:
            mapped = fragile.map(unmapped(timing), range(_ITEMS))
            mapped.wait()
            values = [future.result(raise_on_failure=False) for future in mapped]
            return values, [state.name for state in mapped.states]

        values, names = self.run(body)
        expected = ["Crashed" if k in culprits else "Completed" for k in range(_ITEMS)]
        assert names == expected
        assert timing.counts(list(culprits)) == [2, 2, 2], "infra_retries=1 is two attempts"
        assert isinstance(values[2], TaskCrashed)
        assert "SIGKILL" in str(values[2])
        assert "exit code 3" in str(values[7])
        assert "SIGSEGV" in str(values[8])

    def test_an_item_that_dies_once_completes(self, shared: Path) -> None:
        if not self.able.kills:
            pytest.skip("its process cannot be replaced: see the test above")
        timing = TimingMap(shared / "attempts", {1: [Death.KILL, 0.0]})

        def body() -> Any:
            return fragile.map(unmapped(timing), range(4)).result()

        assert self.run(body)[1] == 2
        assert timing.count(1) == 2

    def test_deaths_and_errors_have_budgets_of_their_own(self, shared: Path) -> None:
        if not self.able.kills:
            pytest.skip("its process cannot be replaced: see the first test")
        timing = TimingMap(shared / "attempts", {0: [-0.0, Death.EXIT, -0.0, 0.0]})

        def body() -> Any:
            return fragile.with_options(retries=2).submit(timing, 0).result()

        assert self.run(body) == 4

    def test_a_single_call_without_budget_crashes_at_once(self, shared: Path) -> None:
        if not self.able.kills:
            pytest.skip("its process cannot be replaced: see the first test")
        timing = TimingMap(shared / "attempts", {0: [Death.KILL]})

        def body() -> Any:
            crashed = fragile.with_options(infra_retries=0).submit(timing, 0)
            crashed.wait()
            return crashed.state.name, fragile.submit(timing, 1).result()

        assert self.run(body) == ("Crashed", 1)
        assert timing.count(0) == 1

    def test_a_process_that_is_told_to_end_keeps_what_it_has_finished(self, shared: Path) -> None:
        if not self.able.kills:
            pytest.skip("it is the driver that would be told")
        timing = TimingMap(shared / "attempts", {})

        def body() -> Any:
            return preempted.map(unmapped(timing), range(_ITEMS)).result()

        with settings_override(flush_seconds=30.0):  # what is not flushed then is lost
            assert self.run(body) == list(range(_ITEMS))
        assert timing.counts(list(range(_ITEMS))) == [1] * _ITEMS

    def _die_with_the_driver(self, shared: Path) -> None:
        """Documented: what cannot be killed runs in the driver's process, and takes it along."""
        done = run_script(_DYING, self.elsewhere(), shared, arguments=[str(shared / "attempts")])
        assert done.code == -signal.SIGKILL, done.told


_DYING = """
from pathlib import Path
from headrace import flow
from headrace.testing import Death, TimingMap
from headrace.testing.deaths import fragile

timing = TimingMap(Path(arguments[0]), {0: [Death.KILL]})

@flow(executor=executor)
def dying():
    return fragile.submit(timing, 0).result()

dying()
"""
