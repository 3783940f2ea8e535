"""Third parties register by entry point; nothing here knows their names."""

import subprocess
import sys

import pytest

import headrace
from headrace.core import registry
from headrace.core.errors import ConfigurationError
from headrace.core.interfaces import Executor

pytestmark = pytest.mark.usefixtures("site")


@headrace.task
def double(x):
    return 2 * x


def test_it_is_found_by_name():
    executor = registry.resolve_executor("shell")
    assert isinstance(executor, Executor)
    assert executor.name == "shell"
    assert {"shell", "threads", "ray"} <= set(registry.names(registry.EXECUTORS))


def test_a_flow_runs_on_it_by_name():
    @headrace.flow(executor="shell")
    def doubled():
        return double.map(range(5)).result()

    assert doubled() == [0, 2, 4, 6, 8]


def test_one_that_does_not_load_is_told():
    with pytest.raises(ConfigurationError, match=r"'broken'.*headrace_shell:NoSuchExecutor"):
        registry.resolve_executor("broken")


def test_a_near_miss_is_told():
    with pytest.raises(ConfigurationError, match=r"unknown executor 'shel'.*shell"):
        registry.resolve_executor("shel")


def test_the_command_line_knows_it(site):
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); from headrace.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "executors"], capture_output=True, text=True, check=True
    )
    assert "shell" in done.stdout
