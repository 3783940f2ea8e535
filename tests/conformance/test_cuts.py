"""However values are cut into batches, `result` and `dataset` give the same."""

import itertools
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headrace
from headrace.core import sizing
from headrace.core.settings import settings_override


@dataclass(frozen=True)
class Custom:
    """A value that is not Arrow's."""

    x: int


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
)
ROWS = st.dictionaries(st.sampled_from("abc"), SCALARS, min_size=1, max_size=3)
ANYTHING = st.one_of(
    SCALARS,
    ROWS,
    st.lists(ROWS, max_size=3),
    st.tuples(SCALARS, SCALARS),
    st.builds(Custom, st.integers()),
    st.lists(st.integers(), max_size=3),
)
ALIKE = st.one_of(
    st.lists(st.integers(-(2**60), 2**60), min_size=1, max_size=12),
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=12),
    st.lists(st.text(max_size=5), min_size=1, max_size=12),
    st.lists(
        st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.text(max_size=3) | st.none()}),
        min_size=1,
        max_size=12,
    ),
)
_NEVER = 1 << 32
"""Items that no test has."""
CUTS = st.lists(st.integers(1, 5), min_size=1, max_size=6)
"""Sizes of the batches, over and over."""


@headrace.task
def keep(value):
    return value


@contextmanager
def cut_by(cut):
    """Batches of these sizes, in turn."""
    sizes = itertools.cycle(cut)

    def next_size(_sizer, _slots, _remaining, waiting):
        if waiting > _NEVER:  # asked how much to pull, not how much to hand out
            return 8
        return min(next(sizes), waiting)

    with mock.patch.object(sizing.Sizer, "next", next_size):
        yield


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with settings_override(
        home=folder,
        storage=str(folder / "storage"),
        history=f"sqlite:///{folder / 'history.db'}",
        display="none",
        log_level="CRITICAL",
    ):
        yield


def kept(values, cut, executor, *, dataset):
    """The values one by one as a run gives them back, its dataset, and how many batches it took."""

    @headrace.flow(executor=executor)
    def keeping():
        mapped = keep.map(values)
        mapped.wait()
        each = [future.result() for future in mapped]
        table = mapped.dataset().to_table() if dataset else None
        return {"each": each, "all": mapped.result(), "table": table}

    with cut_by(cut):
        return keeping()


def exactly(value):
    """A value with its types, all the way down, for comparison."""
    if isinstance(value, (list, tuple)):
        return type(value), [exactly(each) for each in value]
    if isinstance(value, dict):
        return dict, [(key, exactly(each)) for key, each in value.items()]
    return type(value), repr(value)


EXECUTORS = [headrace.InlineExecutor(), headrace.ThreadsExecutor(max_workers=2)]


@pytest.mark.parametrize("executor", EXECUTORS, ids=lambda e: e.name)
@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(values=st.lists(ANYTHING, min_size=1, max_size=12), first=CUTS, second=CUTS)
def test_values_do_not_depend_on_the_cut(executor, values, first, second):
    for cut in (first, second):
        found = kept(values, cut, executor, dataset=False)
        assert exactly(found["each"]) == exactly(values)
        assert exactly(found["all"]) == exactly(values)


@pytest.mark.parametrize("executor", EXECUTORS, ids=lambda e: e.name)
@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(values=ALIKE, first=CUTS, second=CUTS)
def test_datasets_do_not_depend_on_the_cut(executor, values, first, second):
    one, other = (kept(values, cut, executor, dataset=True)["table"] for cut in (first, second))
    assert isinstance(one, pa.Table)
    assert one.schema == other.schema
    assert one.to_pylist() == other.to_pylist()
    assert one.num_rows == len(values)


def test_the_cut_is_what_the_test_says():
    """Or the tests above would show nothing."""

    @headrace.flow(executor="inline")
    def counted():
        keep.map(range(12)).wait()

    with cut_by([1, 2, 3]):
        run = counted.start()
        run.wait()
    batches = run.info.history.batches(run.id)
    assert [batch.items for batch in sorted(batches, key=lambda b: b.batch)] == [1, 2, 3, 1, 2, 3]
