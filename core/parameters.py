"""Parameters of flows: validated and coerced by pydantic, stored as JSON without secrets.

Imported on first use: pydantic takes a fifth of a second.
"""

from __future__ import annotations

import inspect
import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from inspect import Parameter
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import SchemaError, to_jsonable_python

from .annotations import quote
from .errors import ParameterError
from .hints import hints_of

_LONG = 10_000
"""Containers with more elements, and values with more characters of JSON, are stored shortened."""

_CONFIG = ConfigDict(
    arbitrary_types_allowed=True, protected_namespaces=(), validate_by_alias=True, extra="forbid"
)


@lru_cache(maxsize=256)
def model_of(fn: Any) -> type[BaseModel]:
    """A pydantic model with a field for each parameter, under the parameter's name as alias.

    An annotation that pydantic cannot use accepts anything.
    """
    hints = hints_of(fn, include_extras=True)
    fields: dict[str, Any] = {}
    for index, parameter in enumerate(inspect.signature(fn).parameters.values()):
        default = ... if parameter.default is Parameter.empty else parameter.default
        hint: Any = hints.get(parameter.name, Any)
        if parameter.kind is Parameter.VAR_POSITIONAL:
            hint, default = tuple[hint, ...], ()
        elif parameter.kind is Parameter.VAR_KEYWORD:
            hint, default = dict[str, hint], {}
        if not _usable(hint):
            hint = Any
        fields[f"p{index}"] = (hint, Field(default, alias=parameter.name))
    name = getattr(fn, "__name__", "Parameters")
    return create_model(name, __config__=_CONFIG, **fields)


def _usable(hint: Any) -> bool:
    try:
        create_model("Probe", __config__=_CONFIG, value=(hint, ...))
    except (
        PydanticSchemaGenerationError,
        PydanticUndefinedAnnotation,
        SchemaError,
        TypeError,
        NameError,
    ):
        return False
    return True


def validate(what: str, fn: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, coerced to their annotations. `quote`-d ones pass as they are.

    Raises
    ------
    ParameterError
        One line for each parameter that does not validate.
    """
    __tracebackhide__ = True
    model = model_of(fn)
    quoted = {name: value.value for name, value in given.items() if isinstance(value, quote)}
    checked = {name: value for name, value in given.items() if name not in quoted}
    aliases = {field.alias: name for name, field in model.model_fields.items()}
    try:
        if quoted:
            values = {
                name: _validate_one(model, aliases[name], name, value)
                for name, value in checked.items()
            }
        else:
            made = model.model_validate(checked)
            values = {name: getattr(made, aliases[name]) for name in checked}
    except ValidationError as error:
        raise ParameterError(_told(what, error, model)) from None
    return {name: quoted[name] if name in quoted else values[name] for name in given}


def _validate_one(model: type[BaseModel], field: str, name: str, value: Any) -> Any:
    hint: Any = model.model_fields[field].annotation
    single: Any = create_model("Single", __config__=_CONFIG, value=(hint, Field(..., alias=name)))
    return single.model_validate({name: value}).value


def _told(what: str, error: ValidationError, model: type[BaseModel]) -> str:
    secret = {
        field.alias for field in model.model_fields.values() if "Secret" in str(field.annotation)
    }
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        path = problem["loc"]
        name = str(path[0]) if path else "?"
        inner = "".join(f"[{part!r}]" for part in path[1:])
        given = "" if name in secret else f", got {reprlib.repr(problem['input'])}"
        kind = "" if name in secret else f" ({type(problem['input']).__name__})"
        message = problem["msg"][0].lower() + problem["msg"][1:]
        lines.append(f"{what}: parameter {name}{inner}: {message}{given}{kind}")
    return "\n".join(lines)


class _Lenient(GenerateJsonSchema):
    """Says nothing of types that JSON does not know, instead of refusing."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        del schema, error_info
        return {}


def schema_of(fn: Any) -> dict[str, Any]:
    """JSON schema of a flow's parameters."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a default that JSON does not know is left out, and told
        schema = model_of(fn).model_json_schema(by_alias=True, schema_generator=_Lenient)
    schema.setdefault("properties", {})
    return schema


def stored(parameters: Mapping[str, Any]) -> str:
    """Parameters as JSON for history: secrets masked, long and foreign values as short reprs."""
    return json.dumps({name: _jsonable(value) for name, value in parameters.items()})


def _jsonable(value: Any) -> Any:
    if isinstance(value, (list, tuple, set, frozenset, dict)) and len(value) > _LONG:
        return _short(value)
    if _read_once(value):
        return _short(value)
    try:
        plain = to_jsonable_python(value, fallback=_short, inf_nan_mode="strings")
        return plain if len(json.dumps(plain)) <= _LONG else _short(value)
    except Exception:  # noqa: BLE001 - a user's class may raise anything when it is looked at
        return f"<{type(value).__name__}>"


def _read_once(value: Any, depth: int = 3) -> bool:
    """Whether looking at a value would use it up: an iterator, or a container that holds one."""
    if isinstance(value, Iterator):
        return True
    if isinstance(value, dict):
        value = cast("dict[Any, Any]", value).values()
    elif not isinstance(value, (list, tuple)):
        return False
    return depth > 0 and any(_read_once(part, depth - 1) for part in cast("Iterable[Any]", value))


def _short(value: Any) -> str:
    if "Secret" in type(value).__name__:
        return "**********"
    try:
        return reprlib.repr(value)[:200]
    except Exception:  # noqa: BLE001 - a user's repr may raise anything
        return f"<{type(value).__name__}>"


def short(parameters: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Parameters as short reprs, for the run context on workers."""
    return tuple((name, _masked(value)) for name, value in parameters.items())


def _masked(value: Any) -> str:
    plain = _jsonable(value)
    return plain if isinstance(plain, str) and not isinstance(value, str) else reprlib.repr(plain)
