"""`headrace runs` and `headrace cancel`: what history tells."""

import json
import time

import pytest


@pytest.fixture
def failed(headrace):
    """A run that failed, and one that did not."""
    headrace("run", "pipeline:count", "--name", "good")
    headrace("run", "pipeline:failing", "--name", "bad")


@pytest.mark.usefixtures("failed")
def test_list(headrace):
    lines = headrace("runs", "list").output.splitlines()
    assert lines[0].split() == ["id", "name", "flow", "state", "executor", "created", "took"]
    assert [line.split()[1:5] for line in lines[1:]] == [
        ["bad", "failing", "Failed", "inline"],
        ["good", "count", "Completed", "inline"],
    ]
    found = json.loads(headrace("runs", "list", "--json", "--state", "Failed").output)
    assert [run["name"] for run in found] == ["bad"]
    assert len(json.loads(headrace("runs", "list", "--json", "--limit", "1").output)) == 1
    assert headrace("runs", "ls", "--flow", "other").output == "no runs\n"


@pytest.mark.usefixtures("failed")
def test_show(headrace):
    shown = headrace("runs", "show", "bad").output
    assert "Failed" in shown
    assert "3 Completed" in shown
    assert "1 Failed" in shown
    found = json.loads(headrace("runs", "show", "good", "--json").output)
    assert found["nodes"][0]["counts"]["Completed"] == 3
    assert headrace("runs", "inspect", found["id"][:8]).code == 0


@pytest.mark.usefixtures("failed")
def test_logs(headrace):
    lines = headrace("runs", "logs", "good").output.splitlines()
    assert sum("inc-0[" in line and "inc " in line for line in lines) == 3
    assert "Finished" not in headrace("runs", "logs", "good", "--level", "error").output
    assert len(json.loads(headrace("runs", "logs", "good", "--json").output)) == len(lines)


@pytest.mark.usefixtures("failed")
def test_failures(headrace):
    assert "picky-0[2]" in headrace("runs", "failures", "bad").output
    assert "ValueError: two is too much" in headrace("runs", "failures", "bad").output
    (failure,) = json.loads(headrace("runs", "failures", "bad", "--json").output)
    assert (failure["item"], failure["exception"]) == (2, "ValueError")
    assert "Traceback" in headrace("runs", "failures", "bad", "--tracebacks").output
    assert headrace("runs", "failures", "good").output == "no item failed\n"


@pytest.mark.usefixtures("failed")
def test_delete(project, headrace):
    (run,) = json.loads(headrace("runs", "list", "--json", "--flow", "count").output)
    values = project / "home" / "storage" / run["id"]
    assert values.is_dir()
    assert "deleted good" in headrace("runs", "delete", "good", "--yes").output
    assert not values.exists()
    assert headrace("runs", "show", "good").code == 1


@pytest.mark.usefixtures("failed")
def test_delete_by_state_and_age(headrace):
    def names():
        return {run["name"] for run in json.loads(headrace("runs", "list", "--json").output)}

    assert headrace("runs", "delete", "--older-than", "1d", "--yes").output == "no runs\n"
    assert headrace("runs", "delete", "--state", "Running", "--yes").output == "no runs\n"
    assert headrace("runs", "delete", "--yes").code == 2
    assert headrace("runs", "delete", "good", "--state", "Failed", "--yes").code == 2
    assert "not a span of time" in headrace("runs", "delete", "--older-than", "30").told
    assert names() == {"good", "bad"}
    said = headrace("runs", "delete", "--older-than", "0s", "--state", "Failed", "--yes")
    assert said.output.startswith("deleted bad, ")
    assert names() == {"good"}


@pytest.mark.usefixtures("failed")
def test_what_has_ended_cannot_be_cancelled(headrace):
    said = headrace("cancel", "good")
    assert said.code == 2
    assert "has ended already" in said.told


@pytest.mark.parametrize("words", [("cancel",), ("runs", "cancel")])
def test_cancel_reaches_a_running_driver(words, project, headrace):
    from headrace.cli.finding import find_flow

    run = (
        find_flow("pipeline:lingering")
        .with_options(executor="threads")
        .start(str(project / "began"))
    )
    deadline = time.monotonic() + 30
    while not (project / "began").exists() or run.name not in headrace("runs", "list").output:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    refused = headrace("runs", "delete", run.name, "--yes")
    assert refused.code == 1
    assert "its driver seems to be alive" in refused.told
    assert "asked for the end" in headrace(*words, run.name).output
    run.wait(30)
    assert run.state.name == "Cancelled"


def test_a_live_run_is_deleted_by_force_and_its_driver_stops(project, headrace):
    from headrace.cli.finding import find_flow

    began = project / "began"
    run = find_flow("pipeline:lingering").with_options(executor="threads").start(str(began))
    deadline = time.monotonic() + 30
    while not began.exists() or run.name not in headrace("runs", "list").output:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert headrace("runs", "delete", run.name, "--yes", "--force").code == 0
    assert run.name not in headrace("runs", "list").output
    run.wait(60)
    assert run.state.name == "Crashed"
    assert "was taken over by" in run.state.message
    assert run.name not in headrace("runs", "list").output
    folder = project / "home" / "storage" / str(run.id)
    assert not (folder / "header.json").exists()
    swept = headrace("storage", "sweep", "--grace", "0s")
    assert "of no known run" in swept.output
    assert not folder.exists()


def test_no_such_run(headrace):
    said = headrace("runs", "show", "nobody")
    assert said.code == 1
    assert "nobody" in said.told


@pytest.mark.usefixtures("failed")
def test_replay_runs_one_item_here(headrace):
    said = headrace("replay", "bad", "picky-0", 2)
    assert said.code == 1
    assert "in picky" in said.told
    assert "Error: picky-0[2]: ValueError: two is too much" in said.told
    assert headrace("replay", "bad", "picky-1").code == 1
    assert "no node 'picky-1'" in headrace("replay", "bad", "picky-1").told
