"""The notebooks run from a clean kernel, and what is saved of them can be read on a code host."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import headrace

ROOT = Path(headrace.__file__).parent
NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
MOST_BYTES = 1_000_000


def test_there_are_notebooks() -> None:
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_a_clean_kernel(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=170,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    search = os.pathsep.join([str(ROOT.parent), *sys.path])
    own = {"HEADRACE_HOME": str(tmp_path / "home"), "IPYTHONDIR": str(tmp_path / "ipython")}
    client.execute(env=os.environ | own | {"PYTHONPATH": search})  # raises where a cell does
    meant = [cell for cell in notebook.cells if "raises-exception" in cell.metadata.get("tags", [])]
    for cell in meant:
        assert any(output.output_type == "error" for output in cell.outputs), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_saved_with_its_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < MOST_BYTES
    shown = [
        output.data["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    assert any("Completed" in page for page in shown)
    assert not any("Running" in page for page in shown), "saved while a run went on"
    assert "/tmp/" not in path.read_text(), "a path of the machine that saved it"
