"""Code travels: by value from ``__main__`` and notebooks, with the user's modules, never stale."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ..core.context import context
from ..core.errors import ResourceError, UnpicklableError
from ..core.interfaces import Resources
from ..core.tasks import task
from .scripts import Script, environment
from .suite import Suite
from .tally import Tally

_HELPER = "headrace_suite_helper"

_SCRIPT = """
from dataclasses import dataclass
from headrace import flow, task

print("main ran", flush=True)

@dataclass
class Pair:
    x: int
    y: int

def helper(x):
    return x + OFFSET

OFFSET = 10
made_by_closure = (lambda factor: lambda x: factor * helper(x))(2)

@task
def pair(x):
    return Pair(x, made_by_closure(x))

@task
def spread(p):
    return p.y - p.x

@flow(executor=executor)
def main(n):
    pairs = pair.map(range(n))
    assert type(pairs[0].result()) is Pair, type(pairs[0].result())
    return spread.map(pairs).result()

"""
_CALL = 'print("result", main(5), flush=True)\n'
_EXPECTED = ["main ran", f"result {[2 * (x + 10) - x for x in range(5)]}"]


@task
def call(function: Callable[[int], Any], x: int) -> Any:
    return function(x)


@task
def threads() -> list[str]:
    """What the numeric libraries of this process go by; Arrow has made up its mind already."""
    import pyarrow as pa

    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
    return [*(os.environ[name] for name in names), str(pa.cpu_count())]


@task
def tooled(item: int) -> tuple[int, Any]:
    return os.getpid(), context.setup


class CodeConformance(Suite):
    """Whatever form the user's code has, it runs, and as it is now."""

    def test_lambdas_closures_and_local_classes_travel(self) -> None:
        offset = 7

        class Local:
            def __init__(self, value: int) -> None:
                self.value = value

        @task
        def wrap(x: int) -> Local:
            return Local(x + offset)

        @task
        def unwrap(local: Local) -> int:
            return local.value

        doubled = task(lambda x: 2 * x)

        def body() -> Any:
            wrapped = wrap.map(range(3))
            function = call.submit(lambda x: x * offset, 6).result()
            return unwrap.map(wrapped).result(), doubled.map([1, 2]).result(), function

        assert self.run(body) == ([7, 8, 9], [2, 4], 42)

    def test_code_that_cannot_travel_is_told(self, shared: Path) -> None:
        with (shared / "open").open("w") as file:

            @task
            def tied(x: int) -> str:
                return f"{x} {file.name}"

            def body() -> Any:
                return tied.map(range(2)).result()

            if self.able.in_process:
                assert self.run(body) == [f"{x} {file.name}" for x in range(2)], (
                    "it passes as it is"
                )
                return
            with pytest.raises(UnpicklableError, match=r"'tied'.*TextIOWrapper"):
                self.run(body)

    def test_setup_is_made_once_per_process(self, shared: Path) -> None:
        tally = Tally(shared / "tally")

        def tool() -> str:
            tally.note("made")
            return "tool"

        def body() -> Any:
            return tooled.with_options(setup=tool).map(range(60)).result()

        results = self.run(body)
        assert {tool for _, tool in results} == {"tool"}
        makers = [note.pid for note in tally.notes("made")]
        assert sorted(makers) == sorted({pid for pid, _ in results})

    def test_numeric_libraries_get_the_threads_of_their_slot(self) -> None:
        if self.able.in_process:
            return  # they are the driver's own
        widths = [1]
        with suppress(ResourceError):  # no worker may have two cpus
            widths += [2] * bool(self.slots(Resources(cpus=2)))

        def body() -> Any:
            wide = [threads.with_options(resources={"cpus": cpus}) for cpus in widths]
            return [task.submit().result() for task in wide]

        for cpus, told in zip(widths, self.run(body), strict=True):
            assert set(told) == {str(max(1, int(cpus * self.able.threads_per_cpu)))}

    def test_an_edited_module_never_runs_stale(self, module: Path) -> None:
        for version in (1, 2, 3):
            module.write_text(f"def version(x):\n    return {version} * x\n")
            importlib.invalidate_caches()
            helper = importlib.import_module(_HELPER)
            os.utime(module, ns=(version * 10**9, version * 10**9))
            importlib.reload(helper)

            @task
            def through(x: int) -> int:
                import headrace_suite_helper  # pyright: ignore[reportMissingImports]

                return headrace_suite_helper.version(x)

            def body() -> Any:
                return through.map([1, 10]).result(), call.submit(helper.version, 100).result()  # noqa: B023 - run at once

            assert self.run(body) == ([version, 10 * version], 100 * version)

    @pytest.fixture
    def module(self, shared: Path) -> Iterator[Path]:
        """A module of the user's own, in a folder of the path."""
        folder = shared / "own"
        folder.mkdir()
        sys.path.insert(0, str(folder))
        yield folder / f"{_HELPER}.py"
        sys.path.remove(str(folder))
        sys.modules.pop(_HELPER, None)

    def test_scripts_work_in_every_form(self, shared: Path) -> None:
        """As a file with and without a guard, from ``-c``, from standard input; all at a time."""
        executor = self.elsewhere()
        guarded = _SCRIPT + 'if __name__ == "__main__":\n    ' + _CALL
        running = {
            "guarded": Script(guarded, executor, shared / "guarded"),
            "bare": Script(_SCRIPT + _CALL, executor, shared / "bare"),
            "-c": Script(_SCRIPT + _CALL, executor, shared / "c", form="-c"),
            "stdin": Script(_SCRIPT + _CALL, executor, shared / "stdin", form="stdin"),
        }
        for name, script in running.items():
            done = script.end()
            assert done.code == 0, f"{name}: {done.told}"
            assert done.output.splitlines() == _EXPECTED, f"{name}: {done.told}"

    def test_a_notebook_works(self, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import nbclient
        import nbformat

        (shared / "given.pickle").write_bytes(pickle.dumps((self.elsewhere(), [])))
        for name, value in environment().items():
            monkeypatch.setenv(name, value)
        prelude = f"import pickle\nexecutor, _ = pickle.load(open({str(shared / 'given.pickle')!r}, 'rb'))\n"
        cells = [prelude, _SCRIPT, _CALL, "OFFSET = 100\nprint(main(1))"]
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        client = nbclient.NotebookClient(
            book,
            timeout=120,
            kernel_name="python3",
            resources={"metadata": {"path": str(shared)}},
        )
        client.execute()
        said = "".join(
            output.text
            for cell in book.cells
            for output in cell.outputs
            if output.output_type == "stream" and output.name == "stdout"
        )
        assert said.splitlines() == [*_EXPECTED, "[200]"]
