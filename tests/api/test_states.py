import pickle

import pytest

from headrace.core import states
from headrace.core.errors import RunError, TaskCrashed, TaskFailed, UpstreamFailed
from headrace.core.states import State, StateType, state_of_return


@pytest.mark.parametrize(
    ("state", "name", "kind"),
    [
        (states.Completed(), "Completed", "COMPLETED"),
        (states.Cached(), "Cached", "COMPLETED"),
        (states.Failed(), "Failed", "FAILED"),
        (states.TimedOut(), "TimedOut", "FAILED"),
        (states.Crashed(), "Crashed", "CRASHED"),
        (states.Cancelled(), "Cancelled", "CANCELLED"),
        (states.Cancelling(), "Cancelling", "CANCELLING"),
        (states.Pending(), "Pending", "PENDING"),
        (states.Scheduled(), "Scheduled", "SCHEDULED"),
        (states.AwaitingRetry(), "AwaitingRetry", "SCHEDULED"),
        (states.Running(), "Running", "RUNNING"),
        (states.Retrying(), "Retrying", "RUNNING"),
        (states.Skipped(), "Skipped", "SKIPPED"),
        (states.Paused(), "Paused", "PAUSED"),
    ],
)
def test_names_and_types(state: State[object], name: str, kind: str):
    assert (state.name, state.type) == (name, kind)
    assert states.type_of_name(name) == kind
    predicate = f"is_{kind.lower()}"
    assert getattr(state, predicate)()
    assert state.is_final() == (state.type in states.FINAL_TYPES)


def test_result_of_final_states():
    error = KeyError("x")
    assert states.Completed(data=3).result() == 3
    assert states.Failed(data=error).result(raise_on_failure=False) is error
    with pytest.raises(KeyError):
        states.Failed(data=error).result()
    with pytest.raises(TaskFailed, match="why"):
        states.Failed("why").result()
    with pytest.raises(TaskFailed, match="text"):
        states.Failed(data="text").result()
    with pytest.raises(TaskCrashed):
        states.Crashed().result()
    with pytest.raises(UpstreamFailed):
        states.Skipped().result()


def test_result_of_a_state_that_is_not_final():
    with pytest.raises(RunError, match="Running"):
        states.Running().result()


def test_data_is_loaded_once_and_late():
    loads: list[int] = []

    def load() -> int:
        loads.append(1)
        return 7

    state = State(StateType.COMPLETED, loader=load)
    assert loads == []
    assert (state.result(), state.result(), loads) == (7, 7, [1])


def test_states_pickle_with_their_loaded_data():
    state = State(StateType.COMPLETED, message="m", loader=lambda: 7, run="r/k/0")
    copy = pickle.loads(pickle.dumps(state))
    assert (copy.type, copy.name, copy.message, copy.result(), copy.run, copy.timestamp) == (
        state.type,
        "Completed",
        "m",
        7,
        "r/k/0",
        state.timestamp,
    )


def of_run(state: State[object]) -> State[object]:
    state.run = "run/key/0"
    return state


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (3, "COMPLETED", ""),
        (None, "COMPLETED", ""),
        ([], "COMPLETED", ""),
        ([1, states.Failed()], "COMPLETED", ""),
        ({"a": states.Failed()}, "COMPLETED", ""),
        (states.Failed("by hand"), "FAILED", "by hand"),
        (of_run(states.Completed()), "COMPLETED", "All states completed."),
        (of_run(states.Failed()), "FAILED", "1/1 states failed."),
        ([states.Completed(), states.Cached()], "COMPLETED", "All states completed."),
        ([states.Completed(), states.Crashed()], "FAILED", "1/2 states failed."),
        ((states.Failed(), states.Cancelled()), "CANCELLED", "1/2 states cancelled."),
        ((states.Failed(), states.Paused()), "PAUSED", "1/2 states paused."),
        ([states.Completed(), states.Running()], "FAILED", "1/2 states are not final."),
        ([states.Completed(), states.Skipped()], "FAILED", "Given states: 1 completed, 1 skipped."),
    ],
)
def test_what_a_flow_returns_decides_its_state(value: object, kind: str, message: str):
    state = state_of_return(value)
    assert (state.type, state.message) == (kind, message)


def test_a_manual_state_is_taken_as_it_is_and_generators_become_lists():
    manual = states.Completed("hello", data=1)
    assert state_of_return(manual) is manual
    assert state_of_return(x for x in "ab").result() == ["a", "b"]


def test_the_exception_of_several_states_is_the_first_ones():
    first, second = ValueError(1), ValueError(2)
    whole = state_of_return(
        [states.Completed(), states.Failed(data=first), states.Failed(data=second)]
    )
    assert whole.exception() is first
