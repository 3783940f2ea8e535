"""What a flow is given or does: a typed exception, and one line with a non-zero exit."""

from pathlib import Path

import flows_at_fault as flows
import pytest

import headrace as hr
from headrace import errors

FILE = Path(flows.__file__)
PROCESSES = hr.ProcessesExecutor(max_workers=1)

CASES = [
    ("unequal", errors.MappingError, "add.*differ in length.*x: 3, y: 2"),
    ("unequal_and_lazy", errors.MappingError, "add.*unequal lengths"),
    ("nothing_to_map", errors.MappingError, "add.*nothing to map over"),
    ("lambda_with_a_lock", errors.UnpicklableError, "'guarded'.*lock"),
    ("lock_as_an_argument", errors.UnpicklableError, "'x'.*'inc'.*lock|'inc'.*'x'.*lock|'x'.*lock"),
    ("lock_as_a_result", errors.UnstorableError, "lock"),
    ("too_much", errors.ResourceError, "gpus=64.*processes"),
]


@pytest.mark.parametrize(("name", "kind", "words"), CASES, ids=[case[0] for case in CASES])
def test_flows_at_fault(name, kind, words, headrace):
    with pytest.raises(kind, match=words) as caught:
        getattr(flows, name).with_options(executor=PROCESSES)()
    assert "\n" not in str(caught.value)

    said = headrace("run", f"{FILE}:{name}", "--executor", "processes")
    assert said.code == 1
    assert str(caught.value)[:40] in said.error


def test_a_bad_parameter(headrace):
    with pytest.raises(errors.ParameterError, match=r"fine.*parameter n.*'many'"):
        flows.fine(n="many")
    said = headrace("run", f"{FILE}:fine", "--param", "n=many")
    assert said.code == 2
    assert "parameter n" in said.error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--param", "m=1"], "no parameter 'm'"),
        (["--param", "n"], "name=value"),
        (["--params", "no-such-file.json"], "no-such-file.json"),
    ],
)
def test_bad_ways_to_give_parameters(arguments, words, headrace):
    said = headrace("run", f"{FILE}:fine", *arguments)
    assert said.code == 2
    assert words in said.error


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("no_such_module:flow", "no module 'no_such_module'"),
        ("no_such_file.py:flow", "no file"),
        (f"{FILE}:fin", "did you mean 'fine'"),
        (f"{FILE}:inc", "'inc' is no flow"),
        (str(FILE), "say which of"),
    ],
)
def test_flows_that_are_not_there(place, words, headrace):
    said = headrace("run", place)
    assert said.code == 2
    assert words in said.error
