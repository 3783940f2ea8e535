"""The processes executor: children of the driver."""

import headrace
from headrace.testing import ExecutorConformance


class TestProcesses(ExecutorConformance):
    executor = headrace.ProcessesExecutor(max_workers=2, resources={"disk": 1})
    custom = "disk"
