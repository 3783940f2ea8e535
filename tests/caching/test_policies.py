"""The algebra of policies, and what options make of them."""

import operator
import pickle
from datetime import timedelta
from typing import Any

import pytest

import headrace
from headrace import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    RUN_ID,
    TASK_SOURCE,
    CachePolicy,
    task,
)
from headrace.core.errors import ConfigurationError


def key(context: Any, parameters: dict[str, Any]) -> str:
    return "key"


def test_sums_are_sets_of_parts():
    assert INPUTS + TASK_SOURCE == TASK_SOURCE + INPUTS + INPUTS
    assert DEFAULT == INPUTS + TASK_SOURCE + RUN_ID
    assert INPUTS + FLOW_PARAMETERS != INPUTS


def test_nothing_is_the_neutral_element():
    assert NO_CACHE + INPUTS == INPUTS + NO_CACHE == INPUTS
    assert not NO_CACHE
    assert NO_CACHE - "a" == NO_CACHE
    assert INPUTS


def test_a_parameter_is_left_out_by_its_name():
    assert (INPUTS - "a") - "b" == (INPUTS - "b") - "a"
    assert (TASK_SOURCE + INPUTS) - "a" == TASK_SOURCE + (INPUTS - "a")
    assert (INPUTS - "a") + INPUTS == INPUTS, "as in Prefect: the second one has it"
    assert TASK_SOURCE - "a" == TASK_SOURCE + (INPUTS - "a"), "as in Prefect"


def test_they_tell_what_they_are_and_pickle():
    policy = INPUTS + TASK_SOURCE - "debug"
    assert repr(policy) == "INPUTS + TASK_SOURCE - 'debug'"
    assert repr(NO_CACHE) == "NO_CACHE"
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_other_things_are_refused():
    for other in (1, None, ["a"]):
        odd: Any = other
        for operation in (operator.sub, operator.add):
            with pytest.raises(ConfigurationError):
                operation(INPUTS, odd)


def test_options_resolve_to_one_policy():
    def body(x: int) -> int:
        return x

    day = timedelta(days=1)
    assert task(body).options.cache_policy == NO_CACHE
    assert task(body, cache_policy=INPUTS).options.cache_policy == INPUTS
    assert task(body).with_options(cache_policy=INPUTS).options.cache_policy == INPUTS
    assert task(body, cache_key_fn=key).options.cache_policy == CachePolicy.from_cache_key_fn(key)
    assert task(body, cache_expiration=day).options.cache_policy == DEFAULT
    assert task(body, cache_expiration=day, cache_policy=NO_CACHE).options.cache_policy == NO_CACHE


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"cache_policy": "inputs"}, "cache_policy"),
        ({"cache_policy": INPUTS, "cache_key_fn": key}, "from_cache_key_fn"),
        ({"cache_policy": INPUTS, "persist_result": False}, "persist_result"),
        ({"cache_expiration": 5}, "timedelta"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_written(given: Any, told: str):
    with pytest.raises(ConfigurationError, match=told):
        task(lambda x: x, **given)


def test_they_are_found_where_prefect_has_them():
    assert headrace.cache_policies.INPUTS is INPUTS
