"""The inline executor: everything runs in the thread that waits."""

import headrace
from headrace.testing import ExecutorConformance


class TestInline(ExecutorConformance):
    executor = headrace.InlineExecutor()
