from typing import Any

import pytest

from headrace import Resources, exponential_backoff, task
from headrace.core.errors import ConfigurationError
from headrace.core.interfaces import Isolation
from headrace.core.sizes import bytes_of


def work(x: int) -> int:
    """Do it."""
    return x


def test_defaults():
    options = task(work).options
    assert (options.name, options.description, options.retries) == ("work", "Do it.", 0)
    assert (options.infra_retries, options.persist_result, options.log_prints) == (2, True, None)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"retries": -1}, "retries must be a whole number of at least 0, got -1"),
        ({"retries": 1.5}, "retries must be a whole number"),
        ({"timeout_seconds": 0}, "timeout_seconds must be a number above 0"),
        ({"timeout_seconds": "1"}, "got '1' (str)"),
        ({"retry_delay_seconds": []}, "retry_delay_seconds must be a list of seconds"),
        ({"retry_jitter_factor": -1}, "retry_jitter_factor must be a number of at least 0"),
        ({"retry_condition_fn": 3}, "retry_condition_fn must be a function"),
        ({"on_error": "explode"}, "on_error must be one of 'raise', 'fail_fast', 'quarantine'"),
        ({"min_success_ratio": 2}, "min_success_ratio must be a share between 0 and 1"),
        ({"isolation": "jail"}, "isolation must be one of 'child', 'none'"),
        ({"tags": "tag"}, "tags must be a list of texts"),
        ({"tags": True}, "tags must be a list of texts"),
        ({"retry_delay_seconds": 10**400}, "retry_delay_seconds must be a number of at least 0"),
        ({"schema": True}, "schema must be a pyarrow.Schema, got True"),
        ({"resources": {"memory": "4 cows"}}, "'4 cows' is not a size"),
        ({"resources": 4}, "resources must be Resources(...) or a mapping"),
        ({"on_failure": 3}, "on_failure"),
        ({"name": ""}, "name must be a text"),
    ],
)
def test_a_bad_option_is_one_line_that_names_task_and_option(given: Any, told: str):
    with pytest.raises((ConfigurationError, TypeError)) as caught:
        task(work, **given)
    message = str(caught.value)
    assert "\n" not in message
    assert told in message
    assert message.startswith("task 'work'" if given.get("name") is None else "task")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("retires", "did you mean 'retries'?"),
        ("result_serializer", "Arrow"),
        ("storage", "give the flow"),
    ],
)
def test_unknown_keywords_name_what_is_near_or_why_they_are_absent(name: str, told: str):
    options: Any = {name: 1}
    with pytest.raises(TypeError, match=name) as caught:
        task(work, **options)
    assert told in str(caught.value)
    with pytest.raises(TypeError, match="cpu"):
        task(work, resources={"cpu": 1})  # type: ignore[typeddict-unknown-key]


def test_resources_from_a_mapping():
    options = task(work, resources={"cpus": 2, "memory": "4GB", "custom": {"b": 1, "a": 2}}).options
    assert options.resources == Resources(2.0, 0.0, 4_000_000_000, (("a", 2.0), ("b", 1.0)))
    assert task(work, isolation="none").options.isolation is Isolation.NONE


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("1.5 KiB", 1536),
        ("12", 12),
        (7, 7),
        ("2m", 2 * 10**6),
        ("1GiB", 1 << 30),
    ],
)
def test_sizes(text: str | int, size: int):
    assert bytes_of(text) == size


def test_with_options_changes_what_is_named_and_keeps_the_rest():
    first = task(work, retries=2, tags=["a"])
    second = first.with_options(retries=3, name="other")
    assert (second.options.retries, second.options.tags, second.name) == (3, {"a"}, "other")
    assert (first.options.retries, first.name) == (2, "work")


def test_reserved_parameter_names():
    def waits(wait_for: int) -> None: ...

    with pytest.raises(ConfigurationError, match="'wait_for' is a keyword of every call"):
        task(waits)


def test_exponential_backoff():
    assert exponential_backoff(3)(4) == [3, 6, 12, 24]
    assert len(exponential_backoff(1)(1000)) == 50


def test_hooks_by_decorator():
    made = task(work)

    @made.on_failure
    def told(task: Any, run: Any, state: Any) -> None: ...

    assert made.options.on_failure == (told,)
    assert made.with_options(retries=1).options.on_failure == (told,)
