"""Executors that are unknown, not installed, or out of reach."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import flows_at_fault as flows
import pytest

import headrace as hr
from headrace import errors
from headrace.executors import reach

FILE = Path(flows.__file__)
REACH_SECONDS = 30


def test_an_unknown_one(headrace):
    with pytest.raises(errors.ConfigurationError, match=r"unknown executor 'thread'.*'threads'"):
        flows.fine.with_options(executor="thread")()
    said = headrace("run", f"{FILE}:fine", "--executor", "thread")
    assert said.code == 2
    assert "unknown executor 'thread'" in said.error


@pytest.mark.parametrize("executor", [3, object(), dict], ids=["number", "object", "class"])
def test_what_is_none(executor):
    with pytest.raises(errors.ConfigurationError, match="expected a name, an executor"):
        flows.fine.with_options(executor=executor)()


@pytest.mark.parametrize(("name", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_one_that_is_not_installed(name, module, tmp_path):
    """In another process, where the module cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    code = (
        "import flows_at_fault as flows\n"
        "from headrace.cli.main import main\n"
        "from headrace import errors\n"
        "try:\n"
        f"    flows.fine.with_options(executor={name!r})()\n"
        "except errors.MissingExtraError as error:\n"
        "    print('typed:', error)\n"
        "try:\n"
        "    main(['executors'])\n"
        "except SystemExit:\n"
        "    pass\n"
        f"main(['run', {str(FILE)!r} + ':fine', '--executor', {name!r}])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    advice = f'pip install "headrace[{name}]"'
    typed, _, listed = done.stdout.partition("\n")
    assert typed.startswith("typed:"), done.stderr
    assert advice in typed
    assert any(line.split()[:2] == [name, "no"] and advice in line for line in listed.splitlines())
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert advice in error
    assert "Traceback" not in done.stderr


@pytest.fixture(params=["closed", "silent"])
def nobody(request):
    """An address where nobody listens, or somebody who never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listening.listen()
        yield "{}:{}".format(*listening.getsockname())


@pytest.mark.parametrize(
    ("kind", "scheme"), [(hr.DaskExecutor, "tcp://"), (hr.RayExecutor, "")], ids=["dask", "ray"]
)
def test_an_address_that_does_not_answer(kind, scheme, nobody, monkeypatch):
    assert reach._SECONDS < REACH_SECONDS
    monkeypatch.setattr(reach, "_SECONDS", 2.0)
    began = time.monotonic()
    with pytest.raises(errors.ExecutorError, match=nobody):
        flows.fine.with_options(executor=kind(address=scheme + nobody))()
    assert time.monotonic() - began < REACH_SECONDS / 2


HALF_STARTED = """
import gc, psutil
from headrace import RayExecutor, errors

# Ray starts the dashboard when some of its processes run already.
executor = RayExecutor(init_kwargs={"include_dashboard": True, "dashboard_host": "256.0.0.1"})
try:
    executor.open()
except errors.ExecutorError as error:
    print(error)
gc.collect()
print([process.name() for process in psutil.Process().children(recursive=True)])
"""


def test_a_ray_that_starts_by_half_leaves_no_process():
    """In another process, as this one may be in a Ray already."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HALF_STARTED],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    said, left = done.stdout.splitlines()
    assert said.startswith("Ray on this machine cannot be used"), done.stderr
    assert left == "[]"
    assert "ResourceWarning" not in done.stderr
