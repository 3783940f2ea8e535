"""The threads executor: cooperative, in the driver's process."""

import headrace
from headrace.testing import ExecutorConformance


class TestThreads(ExecutorConformance):
    executor = headrace.ThreadsExecutor(max_workers=2)
