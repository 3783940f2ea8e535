"""The face: what ``import headrace`` offers, and nothing else."""

import importlib.util
import subprocess
import sys

import headrace

EXPECTED = {
    "CachePolicy", "DEFAULT", "DaskExecutor", "Dataset", "FLOW_PARAMETERS", "INPUTS", "NO_CACHE",
    "RUN_ID", "TASK_SOURCE", "cache_policies", "Flow", "FlowRun", "Future", "InlineExecutor", "MapFuture",
    "ProcessesExecutor", "RayExecutor", "Resources", "State", "Task", "ThreadsExecutor",
    "__version__", "allow_failure", "as_completed", "attach", "context", "errors",
    "exponential_backoff", "flow", "get_run_context", "get_run_logger", "open_dataset", "quote",
    "resume", "runs", "states", "tags", "task", "unmapped", "wait",
}  # fmt: skip


def test_the_public_names_are_these():
    assert set(headrace.__all__) == EXPECTED
    assert len(headrace.__all__) == len(EXPECTED)  # ruff holds their order


def test_each_of_them_is_there():
    for name in headrace.__all__:
        assert getattr(headrace, name) is not None
    assert set(headrace.__all__) <= set(dir(headrace))


def test_using_the_decorators_imports_nothing_heavy():
    program = (
        "import sys; from headrace import flow, task, unmapped, Future, State\n"
        "task(lambda: 1); flow(lambda: 1)\n"
        "heavy = {'pydantic', 'pyarrow', 'numpy', 'sqlalchemy', 'fsspec', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_windows_is_refused_in_one_line():
    program = (
        "import sys, runpy; sys.platform = 'win32'\n"
        f"runpy.run_path({importlib.util.find_spec('headrace').origin!r})"  # type: ignore[union-attr]
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert ended.returncode != 0
    assert (
        ended.stderr.strip()
        .splitlines()[-1]
        .startswith("ImportError: headrace does not run on Windows")
    )
