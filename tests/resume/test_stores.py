"""Runs on object stores and in the caller's thread: resumed, and through an outage of the store."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.gate import Gate
from servers.object_store import ObjectStore

from headrace import flow, task
from headrace.core.recorded import RecordedRun
from headrace.core.removal import delete_run
from headrace.storage.store import ArrowStore

starts: Counter[int] = Counter()
broken: set[int] = set()
SIZE = 8


@pytest.fixture(autouse=True)
def fresh() -> None:
    starts.clear()
    broken.clear()


@task
def double(number: int) -> int:
    starts[number] += 1
    if number in broken:
        raise ValueError(f"{number} is broken")
    return 2 * number


@flow
def doubled() -> list[int]:
    return double.map(range(SIZE)).result()


EXPECTED = [2 * number for number in range(SIZE)]


@pytest.mark.parametrize(
    ("scheme", "executor"), [("file", "inline"), ("s3", "inline"), ("gs", "threads")]
)
def test_what_is_committed_does_not_run_again(
    scheme: str, executor: str, request: pytest.FixtureRequest, tmp_path: Path
):
    place: Any = tmp_path
    if scheme != "file":
        server = request.getfixturevalue({"s3": "s3_server", "gs": "gcs_server"}[scheme])
        place = ArrowStore(f"{server.new_bucket()}/runs", server.storage_options)
    broken.add(5)
    run = doubled.with_options(storage=place, executor=executor).start()
    run.wait()
    assert run.state.name == "Failed"
    broken.clear()
    starts.clear()
    assert run.resume(verify=True).result() == EXPECTED
    assert starts == {5: 1}
    freed = delete_run(run.info.history, run.id, run.info.store)
    assert freed > 0
    assert not run.info.store.runs()


@pytest.fixture
def gate(s3_server: ObjectStore) -> Iterator[Gate]:
    gate = Gate(s3_server.storage_options["endpoint_url"])
    yield gate
    gate.close()


def test_a_store_that_goes_away_fails_items_and_leaves_a_run_to_go_on_with(
    gate: Gate, s3_server: ObjectStore, tmp_path: Path
):
    url = f"{s3_server.new_bucket()}/runs"
    direct = ArrowStore(url, s3_server.storage_options)
    gated = {**s3_server.storage_options, "endpoint_url": gate.endpoint}
    gated["config_kwargs"] = {"retries": {"max_attempts": 1}, "connect_timeout": 2}
    met, noted = tmp_path / "met", tmp_path / "noted"

    @task
    def slow(number: int) -> int:
        import time

        with noted.open("ab", buffering=0) as file:
            file.write(f"{number}\n".encode())
        while number == 4 and not met.exists():
            time.sleep(0.01)
        return 2 * number

    @flow(executor="processes", storage=ArrowStore(url, gated, patience=0.5))
    def through_the_gate() -> list[int]:
        made = slow.map(range(SIZE))
        for before in made[:3]:
            before.result()
        if not met.exists():
            gate.shut()
            met.touch()
        return made.result()

    run = through_the_gate.start()
    run.wait()
    assert run.state.name == "Failed"
    assert "cannot write s3://" in run.state.message
    assert {row["kind"] for row in run.failures().to_pylist()} == {"storage"}
    (run_id,) = direct.runs()
    committed = {p for receipt in direct.run(run_id).receipts(None) for p in receipt.positions}
    assert committed
    before = noted.read_text().split()
    gate.open()
    assert run.resume().result() == EXPECTED
    again = Counter(map(int, noted.read_text().split()[len(before) :]))
    assert again == Counter(set(range(SIZE)) - committed)
    assert RecordedRun(run.info.history, run.id).state.is_completed()
