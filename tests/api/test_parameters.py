import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from headrace import flow, quote
from headrace.core.errors import ParameterError


class Source(BaseModel):
    url: str
    limit: int = 3


@flow
def prepare(source: Source, n: int = 2, *extra: float, where: Path = Path(), **more: int) -> Any:
    return source, n, extra, where, more


def test_arguments_are_coerced_as_pydantic_does():
    given: Any = {"url": "u", "limit": "7"}
    source, n, extra, where, more = prepare(given, "4", "1.5", where="/x", k="3")  # type: ignore[arg-type]
    assert (source, n, extra, where, more) == (
        Source(url="u", limit=7),
        4,
        (1.5,),
        Path("/x"),
        {"k": 3},
    )


def test_each_bad_parameter_is_one_line():
    with pytest.raises(ParameterError) as caught:
        prepare({"limit": "x"}, "many")  # type: ignore[arg-type]
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("flow 'prepare': parameter source['url']: field required")
    assert "parameter n: input should be a valid integer" in lines[2]
    assert lines[2].endswith("got 'many' (str)")


def test_arguments_that_do_not_fit_the_signature():
    with pytest.raises(ParameterError, match="missing a required argument: 'source'"):
        prepare()  # type: ignore[call-arg]


def test_validation_can_be_turned_off():
    loose = prepare.with_options(validate_parameters=False)
    assert loose(1, "x")[:2] == (1, "x")  # type: ignore[arg-type]


def test_quoted_arguments_pass_as_they_are():
    assert prepare(Source(url="u"), quote("many"))[1] == "many"  # type: ignore[arg-type]


def test_annotations_that_pydantic_cannot_use_accept_anything():
    @flow
    def odd(x: "NoSuchName", y: int, model_config: int = 1) -> Any:  # type: ignore[name-defined]  # noqa: F821
        return x, y, model_config

    assert odd(object, "3")[1] == 3  # type: ignore[arg-type]


def test_schema():
    schema = prepare.parameter_schema()
    assert schema["required"] == ["source"]
    assert schema["properties"]["n"] == {"default": 2, "title": "N", "type": "integer"}


def test_secrets_never_reach_what_is_stored():
    class Login(BaseModel):
        password: SecretStr

    @flow
    def secretive(token: SecretStr, login: Login, nested: dict[str, Any]) -> str:
        return token.get_secret_value()

    given: Any = ("open-sesame", {"password": "open-sesame"}, {"a": SecretStr("open-sesame")})
    run = secretive.start(*given)
    assert run.result() == "open-sesame"
    stored = run.record().parameters
    assert "sesame" not in stored
    assert json.loads(stored)["token"] == "*" * 10
    assert "sesame" not in repr(run.info.short_parameters)
    with pytest.raises(ParameterError) as caught:
        secretive(["open-sesame"], {"password": 3}, {})  # type: ignore[arg-type]
    assert "sesame" not in str(caught.value)


def test_long_values_are_stored_shortened():
    @flow
    def long(xs: list[int]) -> int:
        return len(xs)

    run = long.start(list(range(100_000)))
    assert run.result() == 100_000
    assert len(run.record().parameters) < 500


def test_flow_options_are_checked_where_they_are_written():
    with pytest.raises(TypeError, match="'executr'; did you mean 'executor'"):
        flow(executr="inline")(lambda: 1)  # type: ignore[call-arg]
