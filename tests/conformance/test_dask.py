"""The Dask executor: our own cluster of two workers."""

import headrace
from headrace.testing import ExecutorConformance


class TestDask(ExecutorConformance):
    executor = headrace.DaskExecutor(n_workers=2)
    files_left = ("dask-scratch-space",)
