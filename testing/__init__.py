"""What a third party needs to test its executor or store: ours are tested by the same suites.

For an executor::

    from headrace.testing import ExecutorConformance

    class TestMine(ExecutorConformance):
        executor = MyExecutor(slots=2)

and for a store::

    from headrace.testing import StoreConformance

    class TestMine(StoreConformance):
        @pytest.fixture
        def store(self, tmp_path):
            return MyStore(tmp_path)

Needs pytest. `TimingMap` injects faults that mean the same in every process, `Tally` lets workers
tell a test what happened and when.
"""

from __future__ import annotations

import pytest

_SUITES = (
    "results",
    "errors",
    "deaths",
    "checkpointing",
    "limits",
    "cancelling",
    "interrupting",
    "telling",
    "code",
    "closing",
)
for _suite in (*_SUITES, "stores"):
    pytest.register_assert_rewrite(f"{__name__}.{_suite}")

from .executors import ExecutorConformance
from .faults import Death, InjectedFault, TimingMap
from .stores import StoreConformance
from .tally import Tally

__all__ = [
    "Death",
    "ExecutorConformance",
    "InjectedFault",
    "StoreConformance",
    "Tally",
    "TimingMap",
]
