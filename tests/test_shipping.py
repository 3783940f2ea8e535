"""Code that travels: what is bundled, how functions pickle, and what a worker then runs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap

import pytest

from headrace.core import shipping
from headrace.core.errors import UnpicklableError
from headrace.executors.launch import path_to_package

WORKER = """
import pickle, sys, traceback
from headrace.core import shipping
for name in {modules!r}:
    shipping.install(open(name, "rb").read())
function = pickle.load(open({function!r}, "rb"))
try:
    print(function(*{arguments!r}))
except Exception:
    traceback.print_exc(file=sys.stdout)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder of the user's own modules, on the driver's path only."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)

    def write(**files):
        for name, text in files.items():
            file = folder / (name.replace("__", "/").replace("/package", "/__init__") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        return folder

    yield write
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "tool":
            del sys.modules[name]


def elsewhere(tmp_path, function, bundles, *arguments):
    """Run a pickled function in a process that cannot see the project."""
    names = []
    for number, modules in enumerate(bundles):
        (tmp_path / f"modules{number}").write_bytes(modules.data)
        names.append(str(tmp_path / f"modules{number}"))
    (tmp_path / "function").write_bytes(function)
    code = WORKER.format(modules=names, function=str(tmp_path / "function"), arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path_to_package("")},
        cwd="/",
        check=False,
    )
    return (done.stdout + done.stderr).strip()


def test_modules_are_found_through_globals_imports_and_parents(project):
    project(
        tool__package="",
        tool__a="from . import b\nimport json\ndef f(x):\n    from tool.lazy import g\n    return b.h(g(x))",
        tool__b="import numpy\ndef h(x): return x + 1",
        tool__lazy="def g(x): return x * 10",
        unused="",
    )
    from tool.a import f

    for target in (f, lambda x: f(x) + 1):
        modules = shipping.bundle(target)
        found = set(modules.sources) - {__name__}  # a lambda's own module comes along
        assert found == {"tool", "tool.a", "tool.b", "tool.lazy"}
        assert modules.sources["tool"].is_package
        assert not modules.sources["tool.b"].is_package


def test_what_is_not_the_user_s_own_stays(project):
    import numpy as np

    assert shipping.bundle(len) is None
    assert shipping.bundle(np.mean) is None
    assert shipping.bundle(shipping.bundle) is None


def test_a_shipped_function_runs_where_its_modules_are_not(project, tmp_path):
    project(
        tool__package="",
        tool__a="from .b import h\ndef f(x):\n    return h(x)",
        tool__b="def h(x):\n    return 10 / x  # the line at fault",
    )
    from tool.a import f

    pickled, modules = shipping.pickle_function(f), shipping.bundle(f)
    assert elsewhere(tmp_path, pickled, [modules], 5) == "2.0"
    story = elsewhere(tmp_path, pickled, [modules], 0)
    assert "# the line at fault" in story, "tracebacks show shipped lines"
    assert "No module named" in elsewhere(tmp_path, pickled, [])


def test_a_decorated_name_still_gives_the_plain_function(project, tmp_path):
    project(
        tool="""
        class Task:
            def __init__(self, fn): self.fn = fn
            def __call__(self): raise AssertionError("the task was called")
        @Task
        def f(x): return x + 1
        """
    )
    from tool import f

    pickled = shipping.pickle_function(f.fn)
    assert b"cloudpickle" not in pickled, "by reference"
    assert pickle.loads(pickled) is f.fn
    assert elsewhere(tmp_path, pickled, [shipping.bundle(f.fn)], 1) == "2"


def test_lambdas_and_nested_functions_go_by_value(project, tmp_path):
    project(tool="K = 7\ndef make(n):\n    def f(x): return x + n + K\n    return f")
    from tool import make

    function = make(1)
    assert (
        elsewhere(tmp_path, shipping.pickle_function(function), [shipping.bundle(function)], 1)
        == "9"
    )
    assert elsewhere(tmp_path, shipping.pickle_function(lambda x: -x), [], 3) == "-3"


def test_an_edited_file_is_read_again_and_shipped_ahead_of_the_disk(project, tmp_path):
    folder = project(tool="def f(x): return 'old'")
    from tool import f

    old = shipping.bundle(f)
    (folder / "tool.py").write_text("def f(x): return 'newer'")
    new = shipping.bundle(f)
    assert old.digest != new.digest
    assert shipping.bundle(f).digest == new.digest
    pickled = shipping.pickle_function(f)
    assert elsewhere(tmp_path, pickled, [old], 1) == "old"
    assert elsewhere(tmp_path, pickled, [new], 1) == "newer"
    assert elsewhere(tmp_path, pickled, [old, new], 1) == "newer", "nothing was imported yet"


def test_digests_do_not_depend_on_the_folder(tmp_path):
    source = shipping.Source(False, "x = 1", "/a/m.py")
    same = shipping.Modules({"m": source}).digest
    assert shipping.Modules({"m": source._replace(origin="/b/m.py")}).digest == same
    assert shipping.Modules({"m": source._replace(text="x = 2")}).digest != same
    assert shipping.Modules({"n": source}).digest != same


def test_another_version_of_an_imported_module_is_stale(project):
    project(tool="VERSION = 1")
    import tool

    other = shipping.Modules({"tool": shipping.Source(False, "VERSION = 2", "")})
    with pytest.raises(shipping.StaleCodeError, match="tool"):
        shipping.install(other.data)
    assert tool.VERSION == 1
    assert "tool" not in shipping._shipped.sources


def test_installing_what_this_process_bundled_changes_nothing(project):
    folder = project(tool="def f(): return 1")
    from tool import f

    modules = shipping.bundle(f)
    (folder / "tool.py").write_text("def f(): return 22")
    before = list(sys.meta_path)
    shipping.install(modules.data)
    assert sys.meta_path == before


@pytest.mark.parametrize("where", ["closure", "global"])
def test_what_does_not_pickle_is_named(where):
    import threading

    lock = threading.Lock()
    if where == "closure":

        def f(x):
            with lock:
                return x

    else:
        space = {"guard": lock}
        exec("def f(x):\n    with guard: return x", space)
        f = space["f"]
    with pytest.raises(UnpicklableError, match=r"'clean'.*(lock|guard).*_thread\.lock"):
        shipping.pickle_function(f, "clean")
