"""The command itself: help, executors, versions, examples, and how fast it starts."""

import json
import subprocess
import sys

import pytest

from headrace.cli.main import COMMANDS


def test_help_names_every_command_and_imports_none(headrace):
    shown = headrace("--help").output
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_help_is_light():
    code = (
        "import sys\n"
        "from headrace.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"pyarrow", "pydantic", "sqlalchemy", "numpy", "rich", "dask", "ray", "fsspec"}
    assert heavy.isdisjoint(done.stderr.split())


@pytest.mark.parametrize("command", [*COMMANDS, "runs list", "runs delete"])
def test_every_command_has_help(command, headrace):
    said = headrace(*command.split(), "--help")
    assert said.code == 0
    assert "Usage: headrace" in said.output


def test_executors(headrace):
    rows = [line.split() for line in headrace("executors").output.splitlines()[1:]]
    assert {"inline", "threads", "processes", "dask", "ray"} <= {row[0] for row in rows}
    own = [row for row in rows if row[0] in {"inline", "threads", "processes", "dask", "ray"}]
    assert all(row[1] == "yes" for row in own)  # another test's plugin may be installed meanwhile
    assert {each["name"] for each in json.loads(headrace("executors", "--json").output)} == {
        row[0] for row in rows
    }


def test_version(headrace):
    found = json.loads(headrace("version", "--json").output)
    assert {"headrace", "python", "pyarrow", "distributed", "ray"} == set(found)
    assert f"headrace     {found['headrace']}" in headrace("version").output


def test_examples_are_listed_and_near_misses_told(headrace):
    assert headrace("example").output.startswith("corpus")
    said = headrace("example", "corpse")
    assert said.code == 2
    assert "did you mean 'corpus'" in said.told


def test_an_example_runs_with_its_parameters_as_options(project, headrace):
    source = project / "source"
    source.mkdir()
    for k in range(3):
        (source / f"m{k}.py").write_text(f'"""Module {k}."""\n\n\ndef f{k}():\n    return {k}\n')
    options = ["--source", source, "--target=out", "--pack-bytes", "1000", "-e", "threads"]
    said = headrace("example", "corpus", *options)
    assert said.code == 0, said.told
    assert any((project / "out").rglob("*.parquet"))


@pytest.mark.parametrize("words", [["exampl"], ["run"], ["runs", "shw"], ["run", "x", "--nope"]])
def test_usage_errors_exit_with_2(words, headrace):
    said = headrace(*words)
    assert said.code == 2
    assert "Error: " in said.told
