"""Odd names, values, URLs and broken files: typed errors only, never a hang, nothing outside the store.

What hypothesis makes up is the same each time (``derandomize``), so a failure here is one everywhere.
"""

import contextlib
import faulthandler
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headrace
from headrace import errors, flow, task
from headrace.core.registry import close_histories, open_history, open_store
from headrace.core.settings import settings_override

HANG_SECONDS = 60


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


odd_text = st.one_of(
    st.sampled_from(
        [
            "", ".", "..", "../..", "../outside", "/etc/x", "a/b", "a\\b", "C:\\x", "\0", "a\0b",
            "\ud800", "x" * 5_000, "ü\u202e\U0001f600", "{", "{}", "{0}", "{nope}", "%s", "a\nb", " ",
            "-", "~", "$HOME", "#", "?x=1", "item", "headrace", "data", "NUL", "x" * 255,
        ]
    ),
    st.text(st.characters(exclude_categories=[]), max_size=40),
)  # fmt: skip
odd_value = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), odd_text, st.binary(max_size=20),
    st.lists(st.integers(), max_size=3), st.dictionaries(odd_text, st.integers(), max_size=2),
    st.sampled_from([object(), Ellipsis, float("nan"), 10**400, -1, 0, {1}, b"\xff"]),
)  # fmt: skip


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which a store and a history are, and nothing else may come to be."""
    root = tmp_path / "deep" / "er"
    root.mkdir(parents=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root))
    inside = {"storage": str(root / "store"), "history": f"sqlite:///{root}/history/runs.db"}
    with settings_override(home=root / "home", executor="inline", display="none", **inside):
        yield root
    close_histories()
    left = {path.relative_to(tmp_path).parts[:3] for path in tmp_path.rglob("*") if path.is_file()}
    stray = {each for each in left if each[:2] != ("deep", "er")}
    assert {each[2] for each in left if len(each) > 2} <= {"store", "history", "home"}
    assert not stray


@contextlib.contextmanager
def only_typed_errors(*also: type[BaseException]) -> Iterator[None]:
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    try:
        yield
    except (errors.HeadraceError, *also):
        pass
    finally:
        faulthandler.cancel_dump_traceback_later()


def same(value: Any) -> Any:
    return value


@given(
    task_name=odd_text, flow_name=odd_text, run_name=odd_text, node=odd_text, tag=odd_text, value=odd_value
)  # fmt: skip
@fuzz(25)
def names(task_name: str, flow_name: str, run_name: str, node: str, tag: str, value: Any) -> None:
    with only_typed_errors():
        odd = task(same, name=task_name, tags=[tag], on_error="quarantine")

        @flow(name=flow_name, flow_run_name=run_name)
        def body(given: Any) -> Any:
            mapped = odd.map([given, 1], name=node)
            mapped.wait()
            return mapped[1].result()

        assert body(value) == 1
        run = headrace.attach(headrace.runs(limit=1)[0].id)
        assert run.item(node, 1).output == 1
        repr(run), str(run.item(node, 1)), run.failures(), run.logs(), run.graph


def test_odd_names(sandbox: Path) -> None:
    names()


OPTIONS = (
    "name", "retries", "retry_delay_seconds", "retry_jitter_factor", "timeout_seconds", "tags",
    "infra_retries", "resources", "isolation", "on_error", "min_success_ratio", "log_prints",
    "schema", "setup", "concurrency", "fuse", "task_run_name", "cache_expiration", "version",
    "on_failure", "retry_condition_fn", "persist_result", "description",
)  # fmt: skip
FLOW_OPTIONS = (
    "name", "executor", "storage", "retries", "retry_delay_seconds", "timeout_seconds", "tags",
    "flow_run_name", "log_prints", "version", "tag_limits", "intermediates", "storage_options",
    "validate_parameters", "on_failure", "description",
)  # fmt: skip


@given(name=st.sampled_from(OPTIONS), value=odd_value, call=st.sampled_from(["submit", "map"]))
@fuzz(60)
def task_options(name: str, value: Any, call: str) -> None:
    with only_typed_errors():
        odd = task(same, **{name: value})

        @flow
        def body() -> Any:
            future = odd.submit(1) if call == "submit" else odd.map([1, 2])
            future.wait(20)
            return 1

        body()


@given(name=st.sampled_from(FLOW_OPTIONS), value=odd_value)
@fuzz(60)
def flow_options(name: str, value: Any) -> None:
    if name == "storage" and isinstance(value, str):
        return  # a store that is named is one, wherever it is: see `urls`
    with only_typed_errors():
        flow(lambda: 1, **{"name": "odd", name: value})()


def test_odd_options_of_tasks(sandbox: Path) -> None:
    task_options()


def test_odd_options_of_flows(sandbox: Path) -> None:
    flow_options()


odd_url = st.one_of(
    odd_text,
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["file://", "memory://", "s3://", "nope://", "sqlite:///", "http://[", "://"]),
        st.sampled_from(["", "..", "/../..", "user:secret@", "b/../c", "\0", "%00", "%2e%2e/"]),
        odd_text,
    ),
)  # fmt: skip


@given(url=odd_url, which=st.sampled_from(["store", "run", "attach", "resume", "dataset"]))
@fuzz(120)
def urls(url: str, which: str) -> None:
    with only_typed_errors():
        if which == "store":
            open_store(url)
        elif which == "run":
            open_store("store").run(url).list("")
        elif which == "attach":
            headrace.attach(url)
        elif which == "resume":
            headrace.resume(url)
        elif not url.startswith(("s3:", "http")):
            headrace.open_dataset(url)


def test_odd_urls_and_ids(sandbox: Path) -> None:
    urls()


@task(on_error="quarantine")
def halve(value: int) -> dict[str, Any]:
    if value == 3:
        raise ValueError(f"not {value}")
    return {"half": value / 2, "odd": {"more": [value]}}


@flow(executor="inline")
def made() -> int:
    mapped = halve.map(range(6))
    mapped.wait()
    return len(mapped)


def look(folder: Path, run_id: str) -> None:
    """Everything that a user may ask of a run."""
    run = headrace.attach(run_id)
    asks: list[Any] = [
        run.failures,
        run.logs,
        lambda: run.item("halve-0", 2).output,
        lambda: run.item("halve-0", 3).input,
        lambda: run.item("halve-0", 3).replay(),
        lambda: headrace.open_dataset(str(folder / "store" / run_id / "data" / "00000")).to_table(),
        lambda: open_store(str(folder / "store")).run(run_id).journal().records(),
        lambda: run.resume(force=True).result(timeout=30),
    ]
    for ask in asks:
        with only_typed_errors(ValueError if ask is asks[4] else errors.HeadraceError):
            ask()


@pytest.mark.parametrize("kind", ["cut", "flip", "empty", "other", "folder", "gone"])
def test_broken_files(sandbox: Path, kind: str) -> None:
    assert made() == 6
    close_histories()
    run_id = next(path.name for path in (sandbox / "store").iterdir())
    kept = sandbox / "home" / "kept"
    shutil.copytree(sandbox, kept, ignore=shutil.ignore_patterns("home"))
    whole = [path.relative_to(kept) for path in kept.rglob("*") if path.is_file()]
    groups = {path.parts[:3]: path for path in sorted(whole)}
    assert {parts[-1].split(".")[0] for parts in groups} >= {
        "header", "launch", "journal", "data", "given", "specs", "runs",
    }  # fmt: skip
    for path in groups.values():
        for folder in ("store", "history"):
            shutil.rmtree(sandbox / folder, ignore_errors=True)
            shutil.copytree(kept / folder, sandbox / folder)
        damage(sandbox / path, kind)
        with only_typed_errors():
            look(sandbox, run_id)
        close_histories()


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    if kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "flip":
        for at in range(0, len(data), max(1, len(data) // 7)):
            data = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        path.write_bytes(data)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "other":
        path.write_bytes(os.urandom(200) if path.suffix != ".json" else b"[1, null]")
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()


def test_a_broken_history_is_told(sandbox: Path) -> None:
    (sandbox / "history").mkdir()
    (sandbox / "history" / "bad.db").write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(errors.HeadraceError):
        open_history(f"sqlite:///{sandbox}/history/bad.db")
