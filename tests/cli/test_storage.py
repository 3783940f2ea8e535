"""`headrace storage`: what runs take, and what a sweep removes."""

import json
import os
import sqlite3
from contextlib import closing

import pytest

from headrace.core.process_marks import mark_of
from headrace.core.settings import forget_settings
from headrace.storage import housekeeping


@pytest.fixture
def two_runs(headrace):
    headrace("run", "pipeline:count", "--name", "first")
    headrace("run", "pipeline:count", "--name", "second", "--param", "n=5")


@pytest.mark.usefixtures("two_runs")
def test_usage(project, headrace):
    lines = headrace("storage", "usage").output.splitlines()
    assert lines[0].split() == ["id", "name", "flow", "size", "objects", "age"]
    assert {line.split()[1] for line in lines[1:3]} == {"first", "second"}
    assert lines[-1].endswith(f"in 2 runs of {project}/home/storage")
    uses = json.loads(headrace("storage", "usage", "--json").output)
    (flow,) = json.loads(headrace("storage", "usage", "--by-flow", "--json").output)
    assert (flow["flow"], flow["runs"]) == ("count", 2)
    assert flow["bytes"] == sum(use["bytes"] for use in uses)
    stored = sum(f.stat().st_size for f in (project / "home/storage").rglob("*") if f.is_file())
    assert flow["bytes"] == stored
    assert headrace("storage", "usage", "--by-flow").output.splitlines()[1].startswith("count ")
    other = str(project / "elsewhere")
    assert "no runs" in headrace("storage", "usage", "--storage", other).output


@pytest.mark.usefixtures("two_runs")
def test_sweep_says_what_goes_and_leaves_the_rest(project, headrace):
    (first,) = [
        use for use in json.loads(headrace("storage", "usage", "--json").output)
        if use["name"] == "first"
    ]  # fmt: skip
    stray = project / "home" / "storage" / first["run"] / "data" / "00000" / "00000099-stray"
    stray.write_bytes(b"x" * 10)
    assert headrace("storage", "sweep").output.startswith("0 bytes freed")
    said = headrace("storage", "sweep", "--grace", "0s", "--dry-run").output
    assert f"would remove 10 bytes in 1 objects of run {first['run']}: partitions that no" in said
    assert stray.exists()
    said = headrace("storage", "sweep", "--grace", "0s")
    assert said.output.splitlines()[-1].startswith("10 bytes freed in ")
    assert not stray.exists()
    assert headrace("storage", "sweep", "--grace", "0s").output.startswith("0 bytes freed")
    assert headrace("resume", "first").code == 0
    assert headrace("runs", "show", "first").code == 0


def test_what_somebody_goes_on_with_during_the_survey_stays(project, headrace, monkeypatch):
    headrace("run", "pipeline:count", "--name", "mine")
    (folder,) = (project / "home" / "storage").iterdir()
    survey = housekeeping.survey

    def slow(*arguments, **more):
        found = survey(*arguments, **more)
        if more.get("runs") is None:
            assert found
            (folder / "specs" / "another").write_bytes(b"x")
        return found

    monkeypatch.setattr(housekeeping, "survey", slow)
    said = headrace("storage", "sweep", "--grace", "0s", "--retention", "0s")
    assert said.output.startswith("0 bytes freed")
    assert (folder / "header.json").exists()


def test_a_run_that_a_living_one_has_called_stays(project, headrace):
    headrace("run", "pipeline:outer", "--name", "outer")
    with closing(sqlite3.connect(project / "home" / "history.db")) as history, history:
        living = os.getppid()
        history.execute("UPDATE runs SET state = 'Running', state_type = 'RUNNING', pid = ?, "
                        "process = ? WHERE name = 'outer'", (living, mark_of(living)))  # fmt: skip
    said = headrace("storage", "sweep", "--grace", "0s", "--retention", "0s")
    assert said.output.startswith("0 bytes freed")
    assert len(list((project / "home" / "storage").iterdir())) == 2


@pytest.mark.usefixtures("two_runs")
def test_retention_is_a_setting(project, headrace, monkeypatch):
    monkeypatch.setenv("HEADRACE_STORAGE_RETENTION", "30d")
    forget_settings()
    assert headrace("storage", "sweep").output.startswith("0 bytes freed")
    found = json.loads(
        headrace("storage", "sweep", "--grace", "0s", "--retention", "0s", "--json").output
    )
    assert {each["reason"] for each in found["found"]} == {"expired"}
    assert headrace("runs", "list").output == "no runs\n"
    assert not list((project / "home" / "storage").iterdir())
    monkeypatch.setenv("HEADRACE_STORAGE_RETENTION", "30")
    forget_settings()
    said = headrace("storage", "sweep")
    assert said.code == 2
    assert "storage_retention" in said.told
    assert "30d" in said.told
