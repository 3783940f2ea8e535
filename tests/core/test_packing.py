"""How arguments travel: futures at any depth become placeholders, and what cannot travel is named."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import cloudpickle
import pytest

from headrace.core.annotations import allow_failure, quote, unmapped
from headrace.core.errors import UnpicklableError
from headrace.core.futures import Future, MapFuture
from headrace.core.interfaces import Manifest, MapRef, Part, Raised, Ref, RefColumn
from headrace.core.packing import (
    Dependency,
    dependency_of,
    pack,
    pack_static,
    pack_values,
    unpack,
    unpack_static,
)


@dataclass(eq=False)
class FakeNode:
    id: int
    single: bool = True


class FakeEngine:
    run_id = "run"


class FakeStore:
    """Values by the path of their part; whole maps by node."""

    def load(self, column: RefColumn) -> list[Any]:
        return [f"value of {part.path}" for part in column.parts]

    def load_all(self, manifest: Manifest, annotation: Any = None) -> Any:
        return ("all", manifest.node, annotation)


STORE: Any = FakeStore()
ENGINE: Any = FakeEngine()


def future(number: int, position: int = 0) -> Future[Any]:
    return Future(ENGINE, FakeNode(number), position)  # type: ignore[arg-type]


def ref(name: str) -> Ref:
    return Ref(Part(name, "arrow", "int", 1, 1, 0), 0, 0, 1)


@dataclass
class Box:
    inside: Any


def test_futures_are_met_at_any_depth_and_in_order() -> None:
    value = {"a": [1, (future(1), {"b": Box(future(2, 5))})], "c": {3: future(1)}}
    packed = pack(value)
    assert [(d.node.id, d.position) for d in packed.dependencies] == [(1, 0), (2, 5), (1, 0)]
    upstream = tuple(ref(f"p{d.node.id}") for d in packed.dependencies)
    back = unpack(packed.data, upstream, (), STORE)
    assert back["a"][1][0] == back["c"][3] == "value of p1"
    assert back["a"][1][1]["b"] == Box("value of p2")


def test_a_map_future_is_one_dependency_on_all_its_items() -> None:
    packed = pack([MapFuture(ENGINE, FakeNode(4, single=False))])  # type: ignore[arg-type]
    (dependency,) = packed.dependencies
    assert (dependency.node.id, dependency.position) == (4, None)
    (value,) = unpack(packed.data, (MapRef(Manifest(4, "k", (), 0)),), (), STORE)
    assert value == ("all", 4, None)


def test_a_whole_map_as_an_argument_comes_as_its_annotation_says() -> None:
    packed = pack_static({"t": MapFuture(ENGINE, FakeNode(4, single=False)), "y": 2}, live=False)  # type: ignore[arg-type]
    upstream = (MapRef(Manifest(4, "k", (), 0)),)
    got = unpack_static(packed.data, upstream, (), STORE, {"t": "form"})
    assert got == {"t": ("all", 4, "form"), "y": 2}


def test_annotations_around_arguments_are_taken_off() -> None:
    packed = pack([unmapped([1]), quote({"x": 2}), allow_failure(3), allow_failure(future(7))])
    (dependency,) = packed.dependencies
    assert dependency.allow_failure
    error = ValueError("upstream's own")
    values = unpack(packed.data, (Raised(cloudpickle.dumps(error)),), (), STORE)
    assert values[:3] == [[1], {"x": 2}, 3]
    assert isinstance(values[3], ValueError) and values[3].args == error.args


def test_what_is_a_dependency() -> None:
    assert dependency_of(1) is None
    assert isinstance(dependency_of(future(1, 3)), Dependency)


def test_an_argument_that_cannot_travel_is_named_with_its_type() -> None:
    with pytest.raises(UnpicklableError, match=r"argument 'bad' of type _thread\.lock"):
        pack_static({"good": 1, "bad": threading.Lock()}, live=False)


def test_in_process_pools_pass_such_objects_as_themselves() -> None:
    lock = threading.Lock()
    packed = pack_static({"good": future(1), "bad": lock}, live=True)
    assert packed.live == (lock,)
    back = unpack_static(packed.data, (ref("p"),), packed.live, STORE, {})
    assert back == {"good": "value of p", "bad": lock}
    kept, objects = pack_values([1, lock, 2, lock], live=True, label=str, first=5)
    assert objects == [lock, lock] and (kept[0], kept[2]) == (1, 2)
    assert unpack(pack(kept).data, (), (None,) * 5 + tuple(objects), STORE) == [1, lock, 2, lock]


def test_what_is_resolved_does_not_outlive_the_unpickling() -> None:
    from headrace.core import packing

    packed = pack([future(1)])
    unpack(packed.data, (ref("p"),), (), STORE)
    with pytest.raises(IndexError):
        unpack(packed.data, (), (), STORE)
    assert packing._resolving.upstream == ()
