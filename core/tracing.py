"""The graph of a flow before it runs: its function is called, and task calls give placeholders.

That works as long as the flow passes values on without looking at them. A placeholder that is
looked at says so in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast
from uuid import uuid4

from .annotations import Annotation, quote
from .calls import Call
from .context import FlowRunContext, flow_run_scope
from .errors import RunError
from .futures import Future, MapFuture
from .graph import Graph, GraphEdge, GraphNode
from .mapping import length
from .runs import FlowRun, RunInfo
from .states import Completed, State
from .waiting import run_aside

if TYPE_CHECKING:
    from .flows import Flow


@dataclass(slots=True, eq=False)
class _Node:
    """A task call that is only noted down."""

    id: int
    key: str
    call: Call
    total: int | None
    ended: bool = True
    cut: bool = False

    def counts(self) -> dict[str, int]:
        return {"Pending": self.total or 0}

    def item_done(self, position: int) -> bool:
        del position
        return True


class Placeholder(Future[Any]):
    """Stands for a value that only a run would give: it can be passed on, and nothing else."""

    __slots__ = ()

    def _looked(self, *_: Any, **__: Any) -> NoReturn:
        engine = cast("_Tracer", self.engine)
        raise RunError(
            f"the graph of flow {engine.flow_name!r} depends on the value of {self.node.key!r}, so it "
            "is known only as it runs: run the flow, and see run.graph"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._looked()

    __bool__ = __len__ = __iter__ = __getitem__ = __contains__ = __call__ = _looked
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _looked
    __rtruediv__ = __floordiv__ = __mod__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = _looked
    __int__ = __float__ = __index__ = __str__ = _looked


class _Tracer:
    """An engine that runs nothing. Implements `EngineAPI`."""

    caller_runs = False

    def __init__(self, flow_name: str) -> None:
        self.flow_name = flow_name
        self.run_id = f"graph-{uuid4()}"
        self.nodes: list[_Node] = []
        self.edges: dict[tuple[int, int], GraphEdge] = {}
        self.ordinals: dict[str, int] = {}

    def add(self, call: Call) -> _Node:
        number = len(self.nodes)
        ordinal = self.ordinals.get(call.options.name, 0)
        self.ordinals[call.options.name] = ordinal + 1
        node = _Node(number, call.name or f"{call.options.name}-{ordinal}", call, _total(call))
        self.nodes.append(node)
        for upstream in call.wait_for:
            self._edges(number, upstream, "wait_for")
        for value in (*call.static.values(), *call.mapped.values()):
            self._edges(number, value, "data")
        return node

    def _edges(self, target: int, value: Any, kind: Any) -> None:
        for source in _futures_in(value):
            if source.engine is cast("Any", self):
                self.edges[source.node.id, target] = GraphEdge(source.node.id, target, kind)

    def placeholder(self, node: Any) -> Placeholder:
        return Placeholder(cast("Any", self), node, 0)

    def block(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        del timeout
        if done():
            return True
        raise RunError(
            f"the graph of flow {self.flow_name!r} depends on how many items an iterable gives, so it "
            "is known only as it runs: run the flow, and see run.graph"
        )

    def watch(self, node: Any, position: int | None, done: Callable[[], None]) -> None:
        del node, position
        done()

    def state(self, node: Any, position: int | None) -> State[Any]:
        return Completed(data=Placeholder(cast("Any", self), node, position or 0))

    def value(self, node: Any, position: int) -> Any:
        return Placeholder(cast("Any", self), node, position)

    def values(self, node: Any) -> Any:
        return self.placeholder(node)

    def dataset(self, node: Any, *, keep: bool = True) -> Any:
        return self.placeholder(node)

    def manifest(self, node: Any) -> Any:
        return self.placeholder(node)

    def failures(self, node: Any = None) -> Any:
        return self.placeholder(node or self.nodes[-1])

    def explain(self, node: Any, position: int) -> Any:
        raise RunError("no task runs while a graph is made")

    def cancel(self, node: Any = None, position: int | None = None, **_: Any) -> None:
        del node, position

    def log(self, level: int, logger: str, message: str, *, time: float | None = None) -> None:
        del level, logger, message, time

    def graph(self) -> Graph:
        nodes = tuple(
            GraphNode(n.id, n.key, mapped=not n.call.single, total=n.total) for n in self.nodes
        )
        return Graph(nodes, tuple(self.edges.values()), self.flow_name)


def _total(call: Call) -> int | None:
    if call.single:
        return 1
    return next((n for value in call.mapped.values() if (n := _length(value)) is not None), None)


def _length(value: Any) -> int | None:
    return None if isinstance(value, Placeholder) else length(value)


def _futures_in(value: Any) -> Iterator[Future[Any] | MapFuture[Any]]:
    if isinstance(value, (Future, MapFuture)):
        yield cast("Future[Any] | MapFuture[Any]", value)
    elif isinstance(value, State):
        yield from _futures_in(cast("Any", value).origin)
        yield from _futures_in(cast("Any", value).data)
    elif isinstance(value, Annotation) and not isinstance(value, quote):
        yield from _futures_in(cast("Any", value).value)
    elif isinstance(value, Mapping):
        for part in cast("Mapping[Any, Any]", value).values():
            yield from _futures_in(part)
    elif isinstance(value, (list, tuple, set)):
        for part in cast("list[Any]", value):
            yield from _futures_in(part)


def trace(flow: Flow[..., Any], arguments: Mapping[str, Any]) -> Graph:
    """Call a flow's function and note down which tasks it would run.

    Raises
    ------
    RunError
        The flow looks at a value.
    """
    engine = _Tracer(flow.name)
    info = RunInfo(
        id=uuid4(),
        name=f"graph of {flow.name}",
        flow=flow,
        flow_name=flow.name,
        version=flow.version,
        entrypoint=None,
        tags=flow.options.tags,
        executor=cast("Any", None),
        store=cast("Any", None),
        history=cast("Any", None),
        settings=cast("Any", None),
        parameters=arguments,
        stored_parameters="{}",
        short_parameters=(),
    )
    run = FlowRun[Any](info)
    context = FlowRunContext(flow, info, run, cast("Any", engine), placeholder=engine.placeholder)
    args, kwargs = flow.shape.spread(arguments)
    with flow_run_scope(context):
        if flow.isasync:
            run_aside(flow.fn(*args, **kwargs))
        else:
            flow.fn(*args, **kwargs)
    return engine.graph()
