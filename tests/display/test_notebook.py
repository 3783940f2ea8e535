"""The notebook's display, in a real kernel, and which display a run gets."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import headrace
from headrace.core.errors import ConfigurationError
from headrace.display.choose import choose
from headrace.display.lines import LineDisplay
from headrace.display.terminal import TerminalDisplay

PATH = os.pathsep.join(
    [str(Path(headrace.__file__).parent.parent), str(Path(__file__).parent), *sys.path]
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_cells(*cells: str) -> list[dict[str, Any]]:
    """Run cells in a kernel of their own; their outputs as a saved notebook has them."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, timeout=120, kernel_name="python3")
    client.execute(env=os.environ | {"PYTHONPATH": PATH})
    return json.loads(nbformat.writes(notebook))["cells"]


def test_it_is_updated_in_place_from_a_thread_also_after_its_cell() -> None:
    first, second, third = run_cells(
        "import threading\n"
        "from views import a_node, a_view\n"
        "from headrace.display.choose import choose\n"
        "display = choose()\n"
        "begun, go_on = threading.Event(), threading.Event()\n"
        "def drive():\n"
        "    display.update(a_view(a_node(counts={'Completed': 1})))\n"
        "    begun.set(); go_on.wait(60)\n"
        "    display.update(a_view(a_node(counts={'Completed': 2})))\n"
        "    display.close(a_view(a_node(counts={'Completed': 2000}), state='Completed'))\n"
        "thread = threading.Thread(target=drive); thread.start()\n"
        "assert begun.wait(60)",
        "go_on.set(); thread.join()",
        "type(display).__name__",
    )
    assert second["outputs"] == []
    assert "".join(third["outputs"][0]["data"]["text/plain"]) == "'NotebookDisplay'"
    (output,) = first["outputs"]
    page = "".join(output["data"]["text/html"])
    assert "2,000/2,000" in page
    assert "Completed" in page
    assert "".join(output["data"]["text/plain"]) == (
        "prepare/brave-otter: Completed after 1 min 5 s, 2,000 items"
    )


FLOW = (
    "import threading, headrace\n"
    "go_on = threading.Event()\n"
    "@headrace.task\n"
    "def one(i): go_on.wait(60); return i\n"
    "@headrace.flow(executor='threads')\n"
    "def prepare(n): return one.map(range(n))\n"
)


def test_a_flow_that_is_started_is_shown_below_its_cell_once() -> None:
    first, _, third = run_cells(
        FLOW + "run = prepare.start(30)\nrun",
        "go_on.set(); run.wait()",
        "prepare(3);",
    )
    (called,) = third["outputs"]  # and no line on standard error that says the same
    assert "3/3" in "".join(called["data"]["text/html"])
    (output,) = first["outputs"]
    assert "30/30" in "".join(output["data"]["text/html"])
    assert "Completed" in "".join(output["data"]["text/plain"])


def test_a_run_that_is_a_later_cell_s_last_line_goes_on_there_and_then_stays() -> None:
    _, second, recorded, _, fourth = run_cells(
        FLOW + "run = prepare.start(30)",
        "run",
        "from headrace.core.recorded import RecordedRun\n"
        "while run.id not in {record.id for record in headrace.runs()}: pass\n"
        "other = RecordedRun(run.info.history, run.id)\nother",  # as another process has it
        "go_on.set(); run.wait(); other.watch()",
        "run",
    )
    assert len(fourth["outputs"]) == 1
    for cell in (second, recorded, fourth):
        (output,) = cell["outputs"]
        assert "30/30" in "".join(output["data"]["text/html"])
    assert "<FlowRun" in "".join(fourth["outputs"][0]["data"]["text/plain"])
    assert "items in" in "".join(fourth["outputs"][0]["data"]["text/html"])  # of the timeline


def test_what_looks_the_same_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.display import notebook

    from .views import a_node, a_view

    sent: list[str] = []

    class Handle:
        def update(self, obj: dict[str, str], *, raw: bool) -> None:
            assert raw
            sent.append(obj["text/html"])

    def show(_obj: object, *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        return Handle()

    monkeypatch.setattr("IPython.display.display", show)
    display = notebook.NotebookDisplay()
    display.update(a_view(a_node()))
    display.update(a_view(a_node()))
    assert len(sent) == 1
    display.close(a_view(a_node(), state="Completed"))
    assert len(sent) == 2


# -------------------------------------------------------------------------------------- which one


def test_nothing_is_shown_where_standard_error_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert choose("auto") is None
    monkeypatch.setattr(sys, "stderr", None)
    assert choose("auto") is None


def test_a_terminal_gets_the_terminal_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(choose("auto"), TerminalDisplay)
    assert isinstance(choose(), TerminalDisplay)
    assert choose("none") is None


def test_the_setting_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(choose("terminal"), TerminalDisplay)
    assert isinstance(choose("log"), LineDisplay)
    with pytest.raises(ConfigurationError, match=r"'fancy'.*'auto', 'terminal', 'notebook'"):
        choose("fancy")


def test_a_notebook_without_ipython_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.delitem(sys.modules, "IPython.display", raising=False)
    with pytest.raises(ConfigurationError, match=r'pip install "headrace\[notebook\]"'):
        choose("notebook")


def test_choosing_nothing_imports_neither_rich_nor_ipython() -> None:
    code = (
        "import sys; from headrace.display.choose import choose; assert choose() is None;"
        "print([m for m in ('rich', 'IPython', 'ipykernel') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": PATH},
    )
    assert found.stdout == "[]\n"
