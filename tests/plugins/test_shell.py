"""An executor that headrace does not know passes the suite of those that it brings."""

import pytest

from headrace.testing import ExecutorConformance


@pytest.mark.usefixtures("site")
class TestShell(ExecutorConformance):
    executor = "shell"
    custom = "disk"
