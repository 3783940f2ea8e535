"""`headrace run`: flows by place, parameters by schema, exit codes, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest


@pytest.mark.parametrize("place", ["pipeline:count", "pipeline.py:count"])
def test_a_flow_runs_and_its_result_is_printed(place, headrace):
    said = headrace("run", place, "--param", "n=2", "--name", "a {name}")
    assert said.code == 0
    assert json.loads(said.output) == [1, 2]
    assert "run a {name} (" in said.told


def test_an_async_flow_runs_on_the_executor_that_is_asked_for(headrace):
    assert json.loads(headrace("run", "pipeline:later", "-p", "n=4", "-e", "threads").output) == 5
    assert "threads" in headrace("runs", "list").output


@pytest.mark.parametrize(
    ("pairs", "name", "value"),
    [
        (["text=5"], "text", "5"),
        (["text=null"], "text", "null"),
        (['text="quoted"'], "text", "quoted"),
        (["text=a=b"], "text", "a=b"),
        (["number=5"], "number", 5.0),
        (["maybe=null"], "maybe", None),
        (["maybe=7"], "maybe", 7),
        (['many=["a", "b"]'], "many", ["a", "b"]),
        (['rules={"least": 3}'], "least", 3),
        (["flag=true"], "flag", True),
        (["flag=yes"], "flag", True),
        (["any=word"], "any", "word"),
        (["any=[1]"], "any", [1]),
        (["number=1", "number=2"], "number", 2.0),
    ],
)
def test_the_schema_decides_what_a_value_is(pairs, name, value, headrace):
    options = [word for pair in pairs for word in ("--param", pair)]
    assert json.loads(headrace("run", "pipeline:echo", *options).output)[name] == value


def test_parameters_come_from_a_file_and_pairs_win(project, headrace):
    (project / "given.json").write_text('{"text": "file", "number": 1}')
    said = headrace("run", "pipeline:echo", "--params", "given.json", "-p", "number=2")
    found = json.loads(said.output)
    assert (found["text"], found["number"]) == ("file", 2.0)


def test_json_is_for_machines(headrace):
    found = json.loads(headrace("run", "pipeline:count", "--json").output)
    assert found["state"] == "Completed"
    assert found["result"] == [1, 2, 3]
    said = headrace("run", "pipeline:failing", "--json")
    assert said.code == 1
    assert json.loads(said.output)["state"] == "Failed"


def test_values_go_to_the_storage_that_is_asked_for(project, headrace):
    run = json.loads(headrace("run", "pipeline:count", "--storage", "values", "--json").output)
    assert (project / "values" / run["id"] / "header.json").is_file()


def test_a_failed_run_is_one_line_and_debug_shows_where(headrace):
    said = headrace("run", "pipeline:failing")
    assert said.code == 1
    assert said.told.splitlines()[-1].endswith("Failed: ValueError: two is too much")
    assert "Traceback" not in said.told


def test_debug_shows_the_traceback(project):
    done = command("--debug", "run", "pipeline:failing", folder=project).communicate(timeout=60)
    assert "Traceback" in done[1]
    assert "two is too much" in done[1]


def test_ctrl_c_cancels_in_order(project):
    process = command(
        "run", "pipeline:lingering", "-p", "began=began", "-e", "processes", folder=project
    )
    deadline = time.monotonic() + 60
    while not (project / "began").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Error: interrupted: the run was cancelled" in told
    assert "Traceback" not in told
    listed = command("runs", "list", "--json", folder=project).communicate(timeout=60)[0]
    assert [run["state"] for run in json.loads(listed)] == ["Cancelled"]


def command(*arguments, folder):
    """The command as another process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-m", "headrace.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
    )
