"""A flow's parameters from the command line: text, which the flow's schema gives a meaning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import ParameterError
from ..core.flows import Flow
from ..core.nearmiss import near

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def read_parameters(
    flow: Flow[..., Any], pairs: Sequence[str], file: str | None = None
) -> dict[str, Any]:
    """Parameters from ``name=value`` pairs and a JSON file; pairs win over the file.

    A value is read as JSON where the parameter can take what that gives, else as text: for a
    parameter ``name: str``, ``name=5`` is the text ``"5"``; for ``n: int`` it is a number.

    Raises
    ------
    ParameterError
        A pair without ``=``, a name that the flow does not have, a file that is no JSON object.
    """
    found = _from_file(Path(file)) if file else {}
    schema = flow.parameter_schema()
    properties: Mapping[str, Any] = schema.get("properties", {})
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ParameterError(f"a parameter is given as name=value, not {pair!r}")
        if name not in properties and flow.shape.var_keyword is None:
            known = ", ".join(properties) or "it has none"
            raise ParameterError(
                f"flow {flow.name!r} has no parameter {name!r} ({known}){near(name, properties)}"
            )
        found[name] = _value(text, properties.get(name, {}), schema)
    return found


def _from_file(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise ParameterError(f"{path} holds no JSON object, but a {type(found).__name__}")
    return found


def _value(text: str, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    try:
        parsed = json.loads(text)
    except ValueError:
        return text
    if _takes(schema, parsed, root) or not _takes(schema, text, root):
        return parsed
    return text


def _takes(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any]) -> bool:
    """May a value of this JSON type stand where the schema is?"""
    if "$ref" in schema:
        place: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            place = place.get(part, {})
        return _takes(place, value, root)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return any(_takes(each, value, root) for each in schema[several])
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kind = schema.get("type")
    if kind is None:
        return True
    if isinstance(value, bool) and kind != "boolean":
        return False
    return isinstance(value, _TYPES.get(kind, (object,)))
