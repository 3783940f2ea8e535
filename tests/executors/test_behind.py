"""Batches that wait beside a slot, behind one that is about to end there."""

from __future__ import annotations

import signal

import pytest
from listening import Heard, launch_here
from standin import make_batch

from headrace.core.interfaces import Capabilities, Control, Outcome, Resources
from headrace.executors import host as hosts
from headrace.executors.capacity import Capacity
from headrace.executors.host import Host
from headrace.executors.pool import QueuePool


class Slots(Host):
    """Tells what it was sent, and behind what."""

    def __init__(self):
        super().__init__(launch_here())
        self.sent = []

    def run(self, batch, sink, behind=None):
        self.sent.append((batch.id, behind and behind[1]))
        super().run(batch, sink, behind)


class Bench:
    def __init__(self, slots):
        self.host, self.number = Slots(), 0
        self.pool = QueuePool("bench", lambda: Capacity(slots), self.host, Capabilities())

    def submit(self, *steps, **options):
        self.number += 1
        heard, batch = Heard(), make_batch(steps, self.number, **options)
        heard.key = batch.run_id, batch.id
        self.pool.submit(batch, heard)
        return heard

    def ending(self, path, *steps):
        """A batch that has told that it ends, and does when the path exists."""
        heard = self.submit(("pid",), ("ending",), ("wait", str(path)), *steps)
        assert heard.ending.wait(60)
        return heard


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(hosts, "_BEHIND_SECONDS", 60.0)


@pytest.fixture
def bench(request):
    bench = Bench(getattr(request, "param", 1))
    yield bench
    bench.pool.close()


two = pytest.mark.parametrize("bench", [2], indirect=True)


@pytest.mark.usefixtures("patient")
def test_the_next_batch_waits_at_the_slot_and_runs_in_the_same_child(bench, tmp_path):
    first = bench.ending(tmp_path / "go")
    second, third = bench.submit(("pid",)), bench.submit(("pid",))
    assert bench.pool.waiting == 1, "one waits at the slot, and no more"
    (tmp_path / "go").touch()
    assert [each.end().outcome for each in (first, second, third)] == [Outcome.DONE] * 3
    assert bench.host.sent == [(1, None), (2, 1), (3, None)]
    assert len({*first.said(), *second.said(), *third.said()}) == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("request_", "outcome"),
    [(Control.KILL, Outcome.KILLED), (Control.RECALL, Outcome.RECALLED)],
)
def test_what_waits_at_a_slot_is_withdrawn_and_no_child_dies(bench, tmp_path, request_, outcome):
    first = bench.ending(tmp_path / "go")
    second, third = bench.submit(("pid",)), bench.submit(("pid",))
    bench.pool.control(*second.key, request_)
    assert second.end().outcome is outcome
    assert not first.ended.is_set()
    assert len(second.reports) == 1
    (tmp_path / "go").touch()
    assert third.end().outcome is Outcome.DONE
    assert first.said() == third.said(), "it runs in the same child"


@pytest.mark.usefixtures("patient")
def test_a_death_is_no_matter_of_what_waits_behind(bench, tmp_path):
    first = bench.ending(tmp_path / "go", ("kill", signal.SIGKILL))
    second = bench.submit(("ok",), ("ok",))
    (tmp_path / "go").touch()
    assert first.end().outcome is Outcome.DIED
    assert second.end().outcome is Outcome.DONE
    assert bench.host.sent == [(1, None), (2, 1)]


@two
def test_what_waits_in_vain_goes_back_once(bench, tmp_path):
    first = bench.ending(tmp_path / "one")
    other = bench.submit(("pid",), ("wait", str(tmp_path / "two")))
    assert other.begun.wait(60)
    second, third = bench.submit(("ok",)), bench.submit(("pid",))
    end = second.end()
    assert (end.outcome, end.cause, end.suspects) == (Outcome.RECALLED, "", ())
    assert second.reports[-1].started == 0
    assert bench.pool.waiting == 1, "nothing more is sent behind what did not end"
    (tmp_path / "two").touch()
    assert third.end().outcome is other.end().outcome is Outcome.DONE
    assert third.said() == other.said()
    assert bench.host.sent == [(1, None), (2, None), (3, 1), (4, None)]
    (tmp_path / "one").touch()
    assert first.end().outcome is Outcome.DONE


@two
@pytest.mark.usefixtures("patient")
def test_only_what_asks_for_the_same_waits_behind(bench, tmp_path):
    first = bench.ending(tmp_path / "go")
    wide = bench.submit(("ok",), resources=Resources(cpus=2.0))
    assert bench.pool.waiting == 1
    (tmp_path / "go").touch()
    assert wide.end().outcome is first.end().outcome is Outcome.DONE
    assert bench.host.sent == [(1, None), (2, None)]


@two
def test_many_batches_all_end_and_every_place_is_free_again(bench):
    many = [bench.submit(("ending",), ("sleep", 0.003)) for _ in range(60)]
    for heard in many[::7]:
        bench.pool.control(*heard.key, Control.RECALL)
    assert {heard.end().outcome for heard in many} <= {Outcome.DONE, Outcome.RECALLED}
    assert any(behind for _, behind in bench.host.sent)
    whole = bench.submit(("ok",), resources=Resources(cpus=2.0))
    assert whole.end().outcome is Outcome.DONE


@pytest.mark.usefixtures("patient")
def test_what_waits_ends_when_the_pool_closes(bench, tmp_path):
    first = bench.ending(tmp_path / "go")
    second = bench.submit(("ok",))
    bench.pool.close()
    assert {first.end().outcome, second.end().outcome} == {Outcome.KILLED}


@pytest.mark.usefixtures("patient")
def test_what_waits_goes_back_when_its_slots_are_told_to_end(bench, tmp_path):
    bench.ending(tmp_path / "go")
    second = bench.submit(("ok",))
    bench.host.retire(0.2)
    assert second.end().outcome is Outcome.RECALLED
