"""Options of tasks and flows as users write them, checked where they are written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, cast, get_args

from .cache_policies import DEFAULT, NO_CACHE, CachePolicy
from .calls import OnError, TaskOptions
from .errors import ConfigurationError
from .hooks import HOOKS, checked_hooks
from .interfaces import Isolation, Resources
from .nearmiss import near
from .sizes import bytes_of

if TYPE_CHECKING:
    from .interfaces import Executor, Store

Hooks = Callable[..., Any] | Sequence[Callable[..., Any]]
Intermediates: TypeAlias = Literal["keep", "until_run_ends", "drop"]


class ResourceKeywords(TypedDict, total=False):
    """``resources=`` as a mapping."""

    cpus: float
    gpus: float
    memory: int | str
    custom: Mapping[str, float]


class TaskKeywords(TypedDict, total=False):
    """Keywords of ``task(...)`` and ``Task.with_options(...)``; what is left out has its default."""

    name: str
    """Default: the function's name."""
    description: str | None
    """Default: the function's docstring."""
    tags: Iterable[str]
    version: str | None
    cache_policy: CachePolicy | None
    """What makes a call the same as an earlier one, whose value it then has: ``headrace.INPUTS``,
    ``TASK_SOURCE``, ``FLOW_PARAMETERS``, ``RUN_ID``, their sums, less parameters by name."""
    cache_key_fn: Callable[[Any, dict[str, Any]], str | None] | None
    """``(context, parameters) -> key``, on the driver, once per item; None: not cached."""
    cache_expiration: timedelta | None
    """How long a value may be taken from the cache."""
    refresh_cache: bool
    """Take nothing from the cache; what is computed takes the place of what is there."""
    task_run_name: str | Callable[..., str] | None
    retries: int
    """Further attempts after the task raised."""
    retry_delay_seconds: float | Sequence[float] | Callable[[int], Any]
    """Seconds before a retry; a list (the last one repeats), or a function of ``retries``."""
    retry_jitter_factor: float | None
    """A delay is drawn from up to ``1 + factor`` times its length."""
    retry_condition_fn: Callable[[Any, Any, Any], bool] | None
    """``(task, task run, state) -> retry?``"""
    infra_retries: int
    """Further attempts after the process died with the item, and nothing else ran in it."""
    persist_result: bool | None
    timeout_seconds: float | None
    """Seconds for one attempt of one item."""
    log_prints: bool | None
    """None: as the flow has it."""
    resources: Resources | ResourceKeywords
    """What one item needs while it runs; ``memory`` in bytes, or such as ``"4GB"``."""
    isolation: Isolation | Literal["child", "none"]
    on_error: OnError
    """``"raise"`` after the rest has finished, ``"fail_fast"``, ``"quarantine"``."""
    min_success_ratio: float | None
    """A mapped task completes if at least this share of its items did."""
    schema: Any
    """Arrow schema that every item's table or rows must satisfy."""
    setup: Callable[[], Any] | None
    """Its value is made once per worker process: ``headrace.context.setup``."""
    concurrency: int
    """Items of one batch that an ``async`` task runs at a time."""
    fuse: bool
    """Run an item's chained map in the same batch where possible."""
    backups: bool
    """Near the end, run an item that takes much longer than others a second time; the first wins."""
    on_running: Hooks | None
    on_completion: Hooks | None
    on_failure: Hooks | None
    on_crashed: Hooks | None
    on_cancellation: Hooks | None


class FlowKeywords(TypedDict, total=False):
    """Keywords of ``flow(...)`` and ``Flow.with_options(...)``; what is left out has its default."""

    name: str
    """Default: the function's name, with ``-`` for ``_``."""
    description: str | None
    version: str | None
    flow_run_name: str | Callable[..., str] | None
    """A template over the parameters, or a function."""
    retries: int
    """Further runs of the flow's function after it failed, in the same flow run."""
    retry_delay_seconds: float
    executor: str | Executor | type[Any] | None
    """Where tasks run: a name, an executor or its class. Default: the calling flow's, or the setting."""
    task_runner: str | Executor | type[Any] | None
    """Another name for ``executor``, as in Prefect."""
    storage: str | Store | None
    """Where values live: a URL or path. Default: the calling flow's, or the setting."""
    result_storage: str | Store | None
    """Another name for ``storage``, as in Prefect."""
    storage_options: Mapping[str, Any] | None
    """For the storage's fsspec file system; never stored or shown."""
    intermediates: Intermediates | None
    """What becomes of values that other tasks of the run have used. Default: the setting."""
    timeout_seconds: float | None
    """Seconds for the whole run. Waiting for tasks ends then; other code of the flow is let finish."""
    validate_parameters: bool
    log_prints: bool | None
    tags: Iterable[str]
    tag_limits: Mapping[str, int]
    """How many items with a tag may run at a time in this run."""
    max_concurrency_per_tag: Mapping[str, int]
    """Another name for ``tag_limits``."""
    persist_result: bool | None
    """As in Prefect; task values are always stored, so only True and None make sense."""
    on_running: Hooks | None
    on_completion: Hooks | None
    on_failure: Hooks | None
    on_crashed: Hooks | None
    on_cancellation: Hooks | None


ABSENT: Mapping[str, str] = {
    "result_serializer": "values are Arrow, or pickled where they cannot be",
    "result_storage_key": "values are found through their run",
    "cache_result_in_memory": "values are read from storage when they are asked for",
    "viz_return_value": "flow.graph() gives placeholders",
    "asset_deps": "there are no assets",
    "on_rollback": "there are no transactions",
    "on_commit": "there are no transactions",
    "persist_result": "values are always stored",
    "result_storage": "give the flow storage=...",
    "storage": "give the flow storage=...",
    "executor": "give the flow executor=...",
}
"""Parameters that Prefect or a guess would have, and why they are not there."""


@dataclass(frozen=True, slots=True, eq=False)
class FlowOptions:
    """All options of a flow, resolved. Times are seconds."""

    name: str
    description: str = ""
    version: str | None = None
    flow_run_name: str | Callable[..., str] | None = None
    retries: int = 0
    retry_delay_seconds: float = 0.0
    executor: Any = None
    storage: Any = None
    storage_options: Mapping[str, Any] | None = None
    intermediates: Intermediates | None = None
    timeout_seconds: float | None = None
    validate_parameters: bool = True
    log_prints: bool | None = None
    tags: frozenset[str] = frozenset()
    tag_limits: Mapping[str, int] = field(default_factory=dict[str, int])
    on_running: tuple[Callable[..., Any], ...] = ()
    on_completion: tuple[Callable[..., Any], ...] = ()
    on_failure: tuple[Callable[..., Any], ...] = ()
    on_crashed: tuple[Callable[..., Any], ...] = ()
    on_cancellation: tuple[Callable[..., Any], ...] = ()


# -------------------------------------------------------------------------------------- checks


_LARGEST = sys.float_info.max
"""Beyond it is infinity, or a whole number that no float can be."""


class _Checks:
    """Checks of one decoration; each failure is one line that names who and what."""

    def __init__(self, what: str, given: Mapping[str, Any]) -> None:
        self.what, self.given = what, given

    def wrong(self, name: str, expected: str) -> ConfigurationError:
        value = self.given[name]
        return ConfigurationError(
            f"{self.what}: {name} must be {expected}, got {value!r} ({type(value).__name__})"
        )

    def number(self, name: str, default: Any, *, least: float, above: bool = False) -> Any:
        value = self.given.get(name, default)
        if value is None and default is None:
            return None
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not least <= value <= _LARGEST
            or (above and value == least)
        ):
            raise self.wrong(name, f"a number {'above' if above else 'of at least'} {least:g}")
        return float(value)

    def integer(self, name: str, default: int, *, least: int) -> int:
        value = self.given.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.wrong(name, f"a whole number of at least {least}")
        return value

    def switch(self, name: str, default: bool | None) -> Any:
        value = self.given.get(name, default)
        if not isinstance(value, bool) and not (value is None and default is None):
            raise self.wrong(name, "True or False")
        return value

    def text(self, name: str, default: str | None) -> Any:
        value = self.given.get(name, default)
        if value is not None and (not isinstance(value, str) or (name == "name" and not value)):
            raise self.wrong(name, "a text")
        return value

    def function(self, name: str) -> Any:
        value = self.given.get(name)
        if value is not None and not callable(value):
            raise self.wrong(name, "a function")
        return value

    def texts(self, name: str) -> frozenset[str]:
        value = self.given.get(name) or ()
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise self.wrong(name, "a list of texts")
        found = list(cast("Iterable[Any]", value))
        if not all(isinstance(each, str) for each in found):
            raise self.wrong(name, "a list of texts")
        return frozenset(found)

    def schema(self, name: str) -> Any:
        value = self.given.get(name)
        if value is not None and not (hasattr(value, "serialize") and hasattr(value, "names")):
            raise self.wrong(name, "a pyarrow.Schema")
        return value

    def one_of(self, name: str, choices: Sequence[str], default: str) -> str:
        value = self.given.get(name, default)
        if value not in choices:
            raise self.wrong(name, "one of " + ", ".join(map(repr, choices)))
        return str(value)

    def hooks(self) -> dict[str, tuple[Callable[..., Any], ...]]:
        return {name: checked_hooks(self.what, name, self.given.get(name)) for name in HOOKS}

    def known(self, names: Iterable[str]) -> None:
        names = list(names)
        for name in self.given:
            if name not in names:
                why = f": {ABSENT[name]}" if name in ABSENT else near(name, names)
                raise TypeError(f"{self.what}: there is no parameter {name!r}{why}")


def task_options(what: str, fn: Callable[..., Any], given: Mapping[str, Any]) -> TaskOptions:
    """A task's options from the keywords of its decorator.

    Raises
    ------
    TypeError
        An unknown keyword; names the nearest known one.
    ConfigurationError
        A value that cannot be.
    """
    checks = _Checks(what, given)
    checks.known(TaskKeywords.__annotations__)
    ratio = checks.number("min_success_ratio", None, least=0)
    if ratio is not None and ratio > 1:
        raise checks.wrong("min_success_ratio", "a share between 0 and 1")
    jitter = given.get("retry_jitter_factor")
    return TaskOptions(
        name=checks.text("name", None) or _name_of(fn),
        description=checks.text("description", None) or _doc_of(fn),
        tags=checks.texts("tags"),
        retries=checks.integer("retries", 0, least=0),
        retry_delay_seconds=_delays(checks),
        retry_jitter_factor=0.0
        if jitter is None
        else checks.number("retry_jitter_factor", 0, least=0),
        retry_condition_fn=checks.function("retry_condition_fn"),
        infra_retries=checks.integer("infra_retries", 2, least=0),
        timeout_seconds=checks.number("timeout_seconds", None, least=0, above=True),
        resources=_resources(checks),
        isolation=Isolation(checks.one_of("isolation", [i.value for i in Isolation], "child")),
        on_error=cast(
            "OnError", checks.one_of("on_error", ("raise", "fail_fast", "quarantine"), "raise")
        ),
        min_success_ratio=ratio,
        log_prints=checks.switch("log_prints", None),
        persist_result=checks.switch("persist_result", None) is not False,
        schema=checks.schema("schema"),
        setup=checks.function("setup"),
        concurrency=checks.integer("concurrency", 100, least=1),
        fuse=checks.switch("fuse", True),
        backups=checks.switch("backups", False),
        task_run_name=_template(checks, "task_run_name"),
        cache_policy=_cache_policy(checks),
        cache_expiration=_duration(checks, "cache_expiration"),
        refresh_cache=bool(checks.switch("refresh_cache", None)),
        version=checks.text("version", None),
        **checks.hooks(),
    )


def flow_options(what: str, fn: Callable[..., Any], given: Mapping[str, Any]) -> FlowOptions:
    """A flow's options from the keywords of its decorator. Raises as `task_options` does."""
    checks = _Checks(what, given)
    checks.known(FlowKeywords.__annotations__)
    if given.get("persist_result") is False:
        raise ConfigurationError(
            f"{what}: persist_result=False cannot be honoured, task values are always stored; "
            "use task(persist_result=False) for intermediates of chained maps"
        )
    limits: Any = _alias(checks, "tag_limits", "max_concurrency_per_tag") or {}
    if not isinstance(limits, Mapping):
        raise ConfigurationError(f"{what}: tag_limits maps tags to whole numbers, got {limits!r}")
    limits = dict(cast("Mapping[Any, Any]", limits))
    for tag, limit in limits.items():
        if not isinstance(tag, str) or not isinstance(limit, int) or limit < 1:
            raise ConfigurationError(
                f"{what}: tag_limits maps tags to whole numbers of at least 1, got {tag!r}: {limit!r}"
            )
    return FlowOptions(
        name=checks.text("name", None) or _name_of(fn).replace("_", "-"),
        description=checks.text("description", None) or _doc_of(fn),
        version=checks.text("version", None),
        flow_run_name=_template(checks, "flow_run_name"),
        retries=checks.integer("retries", 0, least=0),
        retry_delay_seconds=checks.number("retry_delay_seconds", 0.0, least=0),
        executor=_alias(checks, "executor", "task_runner"),
        storage=_alias(checks, "storage", "result_storage"),
        storage_options=given.get("storage_options"),
        intermediates=_intermediates(checks),
        timeout_seconds=checks.number("timeout_seconds", None, least=0, above=True),
        validate_parameters=checks.switch("validate_parameters", True),
        log_prints=checks.switch("log_prints", None),
        tags=checks.texts("tags"),
        tag_limits=limits,
        **checks.hooks(),
    )


def _name_of(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__name__", None) or type(fn).__name__
    return "lambda" if name == "<lambda>" else name


def _doc_of(fn: Callable[..., Any]) -> str:
    import inspect

    return (inspect.getdoc(fn) or "") if hasattr(fn, "__name__") else ""


def _alias(checks: _Checks, name: str, other: str) -> Any:
    first, second = checks.given.get(name), checks.given.get(other)
    if first is not None and second is not None:
        raise ConfigurationError(
            f"{checks.what}: {name} and {other} are the same; give one of them"
        )
    return first if first is not None else second


def _delays(checks: _Checks) -> Any:
    name = "retry_delay_seconds"
    value = checks.given.get(name, 0.0)
    if value is None:
        return 0.0
    if callable(value):
        return value
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        delays = cast("Sequence[Any]", value)
        fits = all(isinstance(d, (int, float)) and d >= 0 for d in delays)
        if not fits or not delays:
            raise checks.wrong(name, "a list of seconds, not empty")
        return tuple(float(d) for d in delays)
    return checks.number(name, 0.0, least=0)


def _template(checks: _Checks, name: str) -> Any:
    value = checks.given.get(name)
    if value is not None and not isinstance(value, str) and not callable(value):
        raise checks.wrong(name, "a template or a function")
    return value


def _intermediates(checks: _Checks) -> Any:
    value = checks.given.get("intermediates")
    if value not in (None, *get_args(Intermediates)):
        raise checks.wrong("intermediates", " or ".join(map(repr, get_args(Intermediates))))
    return value


def _cache_policy(checks: _Checks) -> CachePolicy:
    policy, key_fn = checks.given.get("cache_policy"), checks.function("cache_key_fn")
    if policy is not None and not isinstance(policy, CachePolicy):
        raise checks.wrong("cache_policy", "a policy, such as headrace.INPUTS")
    if key_fn is not None:
        if policy:
            raise ConfigurationError(
                f"{checks.what}: cache_policy and cache_key_fn are both given; add them up: "
                "cache_policy=... + CachePolicy.from_cache_key_fn(...)"
            )
        policy = CachePolicy.from_cache_key_fn(key_fn)
    if policy is None:
        policy = NO_CACHE if checks.given.get("cache_expiration") is None else DEFAULT
    if policy and checks.given.get("persist_result") is False:
        raise ConfigurationError(
            f"{checks.what}: with persist_result=False there are no values to be cached; leave it or "
            "cache_policy out"
        )
    return policy


def _duration(checks: _Checks, name: str) -> timedelta | None:
    value = checks.given.get(name)
    if value is not None and not isinstance(value, timedelta):
        raise checks.wrong(name, "a timedelta")
    return value


def _resources(checks: _Checks) -> Resources:
    value = checks.given.get("resources")
    if value is None:
        return Resources()
    if isinstance(value, Resources):
        return value
    if not isinstance(value, Mapping):
        raise checks.wrong("resources", "Resources(...) or a mapping")
    given = cast("Mapping[str, Any]", value)
    inner = _Checks(f"{checks.what}: resources", given)
    inner.known(ResourceKeywords.__annotations__)
    try:
        memory = bytes_of(given.get("memory", 0))
    except ValueError as error:
        raise ConfigurationError(f"{checks.what}: resources: memory: {error}") from None
    custom = cast("Mapping[str, Any]", given.get("custom") or {})
    return Resources(
        inner.number("cpus", 1.0, least=0),
        inner.number("gpus", 0.0, least=0),
        memory,
        tuple(sorted((str(k), float(v)) for k, v in custom.items())),
    )
