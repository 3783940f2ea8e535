"""Every interface between rooms, and the records that cross them. The docstrings are the contracts.

Two sides speak through these: the *driver* (the process in which the flow runs) and the *workers*
(where batches run). ``core`` implements neither an executor, nor a store, nor a history: it
declares here what it needs, and finds implementations through entry points.

Units: times are seconds since the epoch as ``float`` unless a name ends in ``_ns``; sizes are
bytes; positions count a node's items from 0. Records are frozen, picklable and hold no live
resources, so that they may cross a process, a cluster, or (later) HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any, Protocol, TypeAlias, runtime_checkable
from uuid import UUID

from .shown import Shown

# ------------------------------------------------------------------------------ what is asked


@dataclass(frozen=True, slots=True)
class Resources:
    """What one item of a task needs while it runs.

    ``cpus`` and ``gpus`` are counts (fractions allowed where the executor allows them), ``memory``
    is in bytes (0: not stated), ``custom`` names cluster resources and their amounts. A pool that
    cannot honour a need says so in `Pool.slots`, before anything runs.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0
    custom: tuple[tuple[str, float], ...] = ()


class Isolation(StrEnum):
    """Where a task's code runs: in a child process of headrace's own, or in the engine's worker."""

    CHILD = "child"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class StageSpec:
    """All that a worker must know of a task. Written once to the store, read once per worker.

    It is stored as a pickle of this record at ``spec_path(digest of the pickle)`` below the run's
    prefix, so a batch carries only the path, and nodes that call the same task alike share it. A
    worker that cannot read it cannot reach the store: that is how an unreachable store is found,
    before any item has run.
    """

    task_name: str
    function: bytes
    """`core.shipping.pickle_function` of the plain function."""
    modules: str | None
    """Path in the run's prefix of the user's own modules to ship (see `core.shipping`), or None."""
    mapped: tuple[str, ...]
    """Names of the parameters that a batch's columns feed, in column order."""
    static: bytes
    """`core.packing` of the mapping of the other arguments; upstream values are in `Stage.upstream`."""
    var_positional: str | None = None
    """Name of the function's ``*args`` parameter, whose value (a tuple) is spread."""
    var_keyword: str | None = None
    """Name of the function's ``**kwargs`` parameter, whose value (a mapping) is spread."""
    positional: tuple[str, ...] = ()
    """Parameters passed by position, in this order; the others go by name."""
    adapt: tuple[tuple[str, str], ...] = ()
    """(parameter, annotation) pairs whose annotation decides the form in which Arrow data comes, as
    `core.hints.plain` has it."""
    models: tuple[tuple[str, bytes], ...] = ()
    """(parameter, `core.shipping.pickle_function` of the pydantic model that annotates it): Arrow data
    is taken row by row."""
    gives: tuple[bytes, ...] = ()
    """With ``models``: pickles of the models that the function's return annotation names."""
    is_async: bool = False
    is_generator: bool = False
    concurrency: int = 1
    """Items of one batch that an ``async`` task may run at a time."""
    log_prints: bool = False
    log_level: int = 20
    schema: bytes | None = None
    """Serialised Arrow schema that every item's table or rows must satisfy, or None."""
    setup: bytes | None = None
    """`core.shipping.pickle_function` of a function whose value is built once per child, or None."""
    flow_name: str = ""
    run_name: str = ""
    tags: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    """Flow parameters as short reprs, for the run context on the worker."""


@dataclass(frozen=True, slots=True)
class Raised:
    """An upstream's failure, passed on where the caller said `allow_failure`."""

    exception: bytes


Upstream: TypeAlias = "Ref | MapRef | Raised"
"""What stands in for a future when arguments travel: resolved while they are unpickled."""


Origin: TypeAlias = tuple[str, str]
"""A file or partition that was read: its URL, and what changes with it (an ETag, a time), or "".

A URL that ends with ``/`` is a folder: all partitions of a node."""

LISTED = "listed"
"""In place of a stamp: the object has the list of origins, as JSON."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a batch's items are made of, as far as that is in files and partitions."""

    common: tuple[Origin, ...] = ()
    """Of all items, or nobody can tell of which."""
    items: Mapping[int, tuple[Origin, ...]] = field(default_factory=dict[int, Any])
    """By position: what only that item reads."""
    through: tuple[str, ...] = ()
    """Keys of the nodes that the items went through before, in the same batch."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a batch: which node, which code, and which attempt of its items (from 1)."""

    node: int
    key: str
    """Node key: the task's name and ordinal, or the caller's ``name=``."""
    spec: str
    """Path of the `StageSpec` in the run's prefix."""
    attempt: int = 1
    timeout_seconds: float | None = None
    persist: bool = True
    """False: values pass to the next stage and are not committed; the last one's always are."""
    upstream: tuple[Upstream, ...] = ()
    """Values of the futures among the spec's static arguments, by number."""
    salt: bytes = b""
    """What these values add to the id that an item has in the stage before; b"": nothing."""
    code: str = ""
    """Fingerprint of the code that makes its values (`core.lineage`)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The items that travel to a worker together. Immutable; ``id`` is unique within the run.

    With more than one stage the value of stage s feeds stage s+1 of the same item on the same
    worker (a fused chain): the second stage's only mapped parameter takes it. ``positions`` are the
    item positions, equal in all stages, ascending.
    """

    run_id: str
    id: int
    store: RunStore
    stages: tuple[Stage, ...]
    positions: Positions
    payload: bytes
    """`core.packing` of the list of columns for stage 0, one per mapped parameter, each as long as
    ``positions``: a list of values, or a `RefColumn`."""
    upstream: tuple[Upstream, ...] = ()
    """Values of the futures inside the payload, by number."""
    ids: bytes | None = None
    """Ids of the items (`core.identity`), where the driver makes them; None: the worker does."""
    live: tuple[Any, ...] = ()
    """In-process pools only: objects of the arguments that cannot be pickled, by number."""
    resources: Resources = Resources()
    isolation: Isolation = Isolation.CHILD
    claim: bool = False
    """True: put ``claims/<id>`` if absent before running; on loss end as DUPLICATE."""
    inline_bytes: int = 4 << 20
    """A partition of at most this many bytes rides along with its receipt; 0: none does."""
    flush_seconds: float = 1.0
    flush_bytes: int = 64 << 20
    grace_seconds: float = 5.0
    threads: int = 1
    """Threads that each child's numeric libraries may use."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Ascending item positions as runs: ``((start, stop), ...)``, half open, not empty."""

    runs: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return sum([stop - start for start, stop in self.runs])  # a list: half a generator's time

    def __iter__(self) -> Iterator[int]:
        for start, stop in self.runs:
            yield from range(start, stop)

    @staticmethod
    def of(values: Iterable[int]) -> Positions:
        """Pack ascending positions into runs."""
        runs: list[tuple[int, int]] = []
        first = last = -2
        for value in values:
            if value != last + 1:
                if last >= 0:
                    runs.append((first, last + 1))
                first = value
            last = value
        if last >= 0:
            runs.append((first, last + 1))
        return Positions(tuple(runs))

    @staticmethod
    def span(start: int, stop: int) -> Positions:
        """Positions of ``range(start, stop)``."""
        return Positions(((start, stop),) if stop > start else ())


# ------------------------------------------------------------------- what comes back from workers


@dataclass(frozen=True, slots=True)
class Part:
    """Where a committed partition is, and what a reader must know to open it."""

    path: str
    """Relative to the run's prefix."""
    format: str
    """``"arrow"`` (IPC file) or ``"parquet"``."""
    kind: str
    """Item kind: ``int``, ``float``, ``bool``, ``str``, ``bytes``, ``none``, ``row``, ``table`` ..."""
    bytes: int
    rows: int
    checksum: int
    """CRC-32 of the whole object."""
    run: str = ""
    """Of a value that the cache gave: the run of the same store that holds it, whose paths these are."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The small record of one committed partition: what the driver keeps instead of values."""

    node: int
    batch: int
    attempt: int
    part: Part
    positions: Positions
    rows: int | tuple[int, ...]
    """Rows of each item: one number when all are equal, else one per item."""
    started: float
    """Start of the earliest item."""
    ended: float
    """End of the latest item."""
    busy_seconds: float
    """Sum of the items' own durations."""
    inline: bytes | None = None
    """The object's bytes, when small enough to ride along."""
    places: tuple[int, ...] | None = None
    """Index in the partition of each position's item; None: they are the partition's, in order.

    Set where a later driver took a partition over whose items stand at other positions by now."""
    ids: bytes = b""
    """Ids of the partition's items (`core.identity`), where they are few or were read from it."""
    key: str = field(default="", compare=False)
    """Key of the node, where the partition itself was asked."""
    code: str = field(default="", compare=False)
    """Fingerprint of the code that made it. With ``inputs`` it goes on to history, and is not kept."""
    inputs: tuple[Origin, ...] = field(default=(), compare=False)
    """What it was made of."""


class FailureKind(StrEnum):
    """Why an item's attempt did not complete."""

    ERROR = "error"
    """The task raised."""
    TIMEOUT = "timeout"
    """``timeout_seconds`` ended it."""
    UNSTORABLE = "unstorable"
    """It returned what cannot be stored."""
    ARGUMENT = "argument"
    """An argument could not be pickled, loaded or adapted."""
    CRASH = "crash"
    """The process that ran it died, and it was the sole suspect."""
    STORAGE = "storage"
    """Its value could not be written after all retries."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt of one item. User errors travel as this record, never as engine errors."""

    node: int
    position: int
    attempt: int
    kind: FailureKind
    type_name: str
    """Qualified name of the exception's class."""
    message: str
    traceback: str
    """Formatted, the user's own frames; headrace's are left out."""
    exception: bytes | None
    """cloudpickle of the exception, checked on the worker to unpickle; None if it does not."""
    started: float
    ended: float

    def __reduce__(self) -> Any:  # a frozen record with slots is pickled field by field, in Python
        return Failure, (
            self.node,
            self.position,
            self.attempt,
            self.kind,
            self.type_name,
            self.message,
            self.traceback,
            self.exception,
            self.started,
            self.ended,
        )


@dataclass(frozen=True, slots=True)
class LogLine:
    """One log record of user code."""

    node: int
    position: int
    """-1: not of an item."""
    attempt: int
    time: float
    level: int
    logger: str
    message: str


class Outcome(StrEnum):
    """How a batch ended. Every submitted batch ends exactly once."""

    DONE = "done"
    """Every item has a receipt or a failure."""
    RECALLED = "recalled"
    """Stopped between items on request; what has neither receipt nor failure did not start."""
    KILLED = "killed"
    """Ended on request while items ran."""
    TIMEOUT = "timeout"
    """Its child was killed because the running item passed its time limit."""
    DIED = "died"
    """The child process died: see ``cause``; ``suspects`` had started and were not flushed."""
    LOST = "lost"
    """The worker or node that held it is gone: nobody's fault. Its child may live `ORPHAN_SECONDS`."""
    DUPLICATE = "duplicate"
    """The engine ran it a second time; another execution holds the claim."""
    REFUSED = "refused"
    """It could not begin: the store is out of reach, the versions break, the code does not load."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of a batch."""

    outcome: Outcome
    cause: str = ""
    """One sentence: signal, exit code, out of memory, or the error that refused it."""
    suspects: tuple[int, ...] = ()
    """Positions that had started and have neither receipt nor failure."""
    running: tuple[int, int] | None = None
    """(stage index, position) that the child's own mark names, if it could be read."""
    out_of_memory: bool = False
    error: bytes | None = None
    """cloudpickle of a typed `HeadraceError`, with REFUSED."""
    seconds: float = 0.0
    """Wall time of the batch on its worker, from its arguments' unpickling to its last commit."""


ORPHAN_SECONDS = 5.0
"""A child whose supervisor is gone ends within this time, its running item with it if need be."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Who runs a batch."""

    id: str
    """Unique per child process (or thread slot)."""
    host: str
    pid: int
    node: str = ""
    """The engine's name for the machine or worker that holds it."""
    process: str = ""
    """What tells it from others of this host name and pid (`core.process_marks`)."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a batch tells the driver, as often as there is something to tell (at least each second).

    Order within a batch is kept. Everything is a hint except the receipts, which storage backs: a
    batch whose last reports were lost is reconciled by listing its partitions.
    """

    run_id: str
    batch: int
    worker: WorkerInfo | None = None
    """Present in a batch's first report: it was accepted and has begun."""
    receipts: tuple[Receipt, ...] = ()
    failures: tuple[Failure, ...] = ()
    logs: tuple[LogLine, ...] = ()
    returned: Positions = Positions(())
    """Handed back on recall: these will not start here, and may go elsewhere at once."""
    passed: tuple[tuple[int, Positions], ...] = ()
    """(node, positions) that completed without being committed (``persist=False`` in a chain)."""
    started: int = 0
    """Items of the batch that have started so far, in batch order (async: how many in all)."""
    base_memory: int = 0
    """Resident bytes of the child's own when the batch began; with ``end``, 0 if not known (it died)."""
    peak_memory: int = 0
    """Most resident bytes of its own since then; with ``end``, 0 if not known. Of a child that died: in
    all its life, mapped files included, as the system tells it."""
    end: End | None = None


Sink: TypeAlias = Callable[[Report], None]
"""Takes reports. May be called from any thread, returns at once, and never raises."""


class Mark(IntEnum):
    """Words of a slot's marks: a writable ``memoryview`` of format ``q`` with ``len(Mark)`` words.

    The body (`core.worker`) writes all but ``CONTROL``; the supervisor writes ``CONTROL`` and reads
    the rest, also after the child's death. Shared memory where both are on one machine.
    """

    CONTROL = 0
    """0: run on. 1: recall, stop before the next item. 2: cancel, stop as soon as possible."""
    RUNNING = 1
    """Index into the batch of the item that runs, or -1."""
    STAGE = 2
    """Index of the stage that runs."""
    SINCE_NS = 3
    """`time.monotonic_ns` at which the running item's stage started; of batches with time limits.
    0: no limit is due, as that stage is over and others that run at the same time began earlier."""
    STARTED = 4
    """Items started so far. Where they run one by one it is set in the end; until then ``RUNNING``
    plus one tells it."""


# ------------------------------------------------------------------------------------- executors


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a pool can do. The engine asks; it never looks at a pool's type."""

    in_process: bool = False
    """Batches run in the driver's own process: ``memory://`` works, live objects may pass."""
    caller_runs: bool = False
    """Batches run in the thread that waits, inside `Pool.work`."""
    kills: bool = True
    """``control(KILL)`` ends code that does not cooperate."""
    may_rerun: bool = False
    """The engine below may run a batch twice: batches must claim."""
    threads_per_cpu: float = 1.0
    """Threads that a batch's numeric libraries may use for each cpu that it asked for."""
    prefetch: int = 1
    """Batches to keep queued per slot beyond the one that runs, so that no slot waits."""


class Control(StrEnum):
    """What the driver may ask of a submitted batch."""

    RECALL = "recall"
    """Start no further item: hand back at once what has not started, and end as RECALLED when the
    running one ends."""
    KILL = "kill"
    """End now (as KILLED): cooperatively for the grace where it can, then by force."""


@runtime_checkable
class Pool(Protocol):
    """A live place where batches run. Opened by an executor, shared by runs, closed once.

    Thread rule: every method may be called from any thread at any time.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    def slots(self, need: Resources) -> int:
        """Batches with this need that can run at a time, now. It may change as a cluster scales.

        Raises
        ------
        ResourceError
            If the need can never be honoured: says which resource, how much there is.
        """
        ...

    def submit(self, batch: Batch, sink: Sink) -> None:
        """Hand over a batch; returns at once. It queues when no slot is free, in order.

        The sink gets the batch's reports, the last with ``end`` set. Every batch ends, exactly
        once, whatever dies. An exception here means that nothing was handed over.
        """
        ...

    def control(
        self, run_id: str, batch: int, request: Control, grace: float | None = None
    ) -> None:
        """Ask something of a batch; returns at once; unknown or ended batches are ignored.

        ``grace`` are the seconds that a KILL leaves it, from now on; None: the batch's own. It may
        be asked again with less.
        """
        ...

    def work(self, timeout: float) -> bool:
        """With ``caller_runs``: run one queued batch in this thread; False if there was none in time."""
        ...

    def close(self) -> None:
        """End everything that the pool started and wait for it. Idempotent. Running batches end."""
        ...


@runtime_checkable
class Executor(Protocol):
    """The frozen description that a user writes. Opening it twice gives two pools."""

    @property
    def name(self) -> str:
        """The short name under which it is registered."""
        ...

    def key(self) -> Hashable:
        """Executors with equal keys may share a warm pool."""
        ...

    def open(self) -> Pool:
        """Start or connect.

        Raises
        ------
        MissingExtraError
            The engine is not installed; names the extra.
        ExecutorError
            It cannot be started or reached (within 30 s); names the address.
        """
        ...


# ---------------------------------------------------------------------------------------- stores


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object."""

    path: str
    bytes: int
    modified: float


@dataclass(frozen=True, slots=True)
class Ref:
    """A committed value: item ``index`` of a partition (the index counts the partition's items)."""

    part: Part
    index: int
    first_row: int
    rows: int
    inline: bytes | None = None
    run: RunStore | None = None
    """The run that holds it, when that is not the batch's own."""


@dataclass(frozen=True, slots=True)
class RefColumn:
    """A column of committed values: for each item a part number and its place in the part."""

    parts: tuple[Part, ...]
    part: Any
    """These four: one int per item, a sequence or an array."""
    index: Any
    first_row: Any
    rows: Any
    inline: tuple[bytes | None, ...]
    """Per part."""

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, i: slice) -> RefColumn:
        used = sorted(set(self.part[i]))
        renumber = {old: new for new, old in enumerate(used)}
        return RefColumn(
            tuple(self.parts[p] for p in used),
            [renumber[p] for p in self.part[i]],
            list(self.index[i]),
            list(self.first_row[i]),
            list(self.rows[i]),
            tuple(self.inline[p] for p in used),
        )


@dataclass(frozen=True, slots=True)
class MapRef:
    """All values of a finished node, in item order: the list of them, or as its annotation says."""

    manifest: Manifest
    run: RunStore | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A node's committed partitions and which item has which rows. Item order is position order."""

    node: int
    key: str
    receipts: tuple[Receipt, ...]
    total: int
    lost: Positions = Positions(())
    """Positions without a value (failed, skipped, cancelled)."""
    winners: tuple[Positions, ...] = ()
    """Per receipt the positions whose value it gives; empty: all of each receipt's."""
    schema: bytes | None = None
    """The task's stated Arrow schema, serialised: its dataset has it also when there are no items."""


@runtime_checkable
class Loadable(Protocol):
    """An argument that is a handle to data, resolved on the worker: a partition, a dataset."""

    def __headrace_load__(self, annotation: Any) -> Any:
        """The value in the form that the parameter's annotation asks for."""
        ...


class Encoder(Protocol):
    """Collects one stage's finished items on a worker and commits them as partitions.

    Thread rule: one thread adds; another may flush at the same time. An encoder's value is a
    function of one item, never of its neighbours.
    """

    @property
    def pending_bytes(self) -> int:
        """Estimate of the bytes added and not flushed."""
        ...

    def add(self, position: int, value: Any, started_ns: int, ended_ns: int) -> None:
        """Take a snapshot of a finished item's value (the caller may change the object afterwards).

        ``started_ns``/``ended_ns`` are epoch nanoseconds. A generator's value is an iterator: it is
        consumed here, and spills to disk rather than to memory.

        Raises
        ------
        UnstorableError
            The value is neither Arrow data nor picklable; names its type.
        """
        ...

    def add_plain(
        self, positions: Any, values: list[Any], kinds: set[type], started_ns: Any, ended_ns: Any
    ) -> None:
        """Take many finished items at once, in any order.

        All values are of exact type int, float, bool, str, bytes or ``None``, or dicts of such
        values by names of exact type str, and belong to the encoder from now on; ``kinds`` are
        their types; the others are int64 arrays as long. The thread that flushes calls this.
        """
        ...

    def flush(self) -> tuple[Receipt, ...]:
        """Commit what was added so far: one partition per exact type. The commit point is the put.

        When it raises, what was added and has no receipt is still pending: flush again later.
        """
        ...


class RunStore(Protocol):
    """One run's prefix in a store. Picklable: it opens its connection anew in each process.

    Paths are relative, with ``/``; names are made by headrace and need no escaping. Every call
    retries throttling, 5xx, timeouts and dropped connections with backoff, then raises
    `StorageError` with the cause. Layout::

        header.json                  written before the first batch
        specs/<digest>               a pickled StageSpec
        modules/<digest>             shipped modules
        journal/<segment>.jsonl      numbered from 1, each made by put-if-absent
        data/<node>/<batch>-<nonce>-<n>-<crc32>.<arrow|parquet>
        given/<nonce>                what failed items were given, packed (`core.given`)
        lineage/<digest>.json        what partitions are made of, where that is a long list
        quarantine/<node>/...        rows that were set aside; named as the partition, and put before it
        claims/<batch>
        checkpoints/<node key's hash>/<item id>-<position>
        logs/<node>/<batch>-<n>.arrow
        users/<run>                  how many values that run has from this one (`core.removal`)
    """

    @property
    def run_id(self) -> str: ...

    @property
    def url(self) -> str:
        """The run's prefix as a URL, without secrets."""
        ...

    @property
    def in_process(self) -> bool:
        """True for ``memory://``: no other process can see it."""
        ...

    def write(self, path: str, data: bytes, *, if_absent: bool = False) -> None:
        """Put an object whole: it is visible complete or not at all.

        Raises
        ------
        AlreadyExistsError
            With ``if_absent``, when the object is there. Exactly one of many writers wins.
        """
        ...

    def read(self, path: str) -> bytes:
        """The object's bytes. Raises `NotFoundError`."""
        ...

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Objects below a prefix (a folder, or the beginning of a name), sorted by path."""
        ...

    def unfinished(self) -> list[ObjectInfo]:
        """What a writer that died has left half written, and `list` does not show."""
        ...

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; what is absent already is no error."""
        ...

    def encoder(
        self,
        spec: StageSpec,
        batch: Batch,
        stage: int,
        ids: bytes | None = None,
        inputs: Inputs = Inputs(),
    ) -> Encoder:
        """An encoder for one stage of one batch execution; draws the attempt's nonce.

        ``ids`` are those of the batch's items, in their order; partitions keep them, and what of
        ``inputs`` is theirs.
        """
        ...

    def ids(self, parts: Sequence[Part], inline: Sequence[bytes | None] = ()) -> list[bytes]:
        """Per partition the ids of its items, in its own order; b"" where it has none or is damaged.

        ``inline`` are the partitions' bytes, where they are at hand.

        Raises
        ------
        StorageError
            One cannot be read.
        """
        ...

    def damaged(self, parts: Sequence[Part], *, thorough: bool = False) -> set[str]:
        """Paths of those whose bytes do not fit their checksums, among those that are in doubt.

        In doubt is at least what a reader has met damaged, in whatever process; with ``thorough``
        everything is.

        Raises
        ------
        StorageError
            One cannot be read.
        """
        ...

    def load(self, column: RefColumn) -> list[Any]:
        """The values of a column of references, each with its own type; partitions open once."""
        ...

    def load_all(self, manifest: Manifest, annotation: Any = None) -> Any:
        """A node's values in item order: a list, or in the form that the annotation asks for."""
        ...

    def adapt(self, value: Any, annotation: Any) -> Any:
        """Arrow data in the form that a parameter's annotation asks for; other values unchanged.

        Where it asks for rows one by one: an object whose ``__headrace_rows__(call, models)`` gives
        the item's value, for which it calls the task once for each row; ``models`` are those that
        the task says it returns.
        """
        ...

    def receipts(
        self, node: int | None, batch: int | None = None, *, known: Collection[str] = ()
    ) -> list[Receipt]:
        """Receipts as the partitions themselves tell them: of all nodes, of one, or of one batch.

        Partitions whose paths are ``known`` are left out.

        Only whole partitions count: one with a bad checksum is reported as `DamagedPartitionError`
        by `load`, and left out here.
        """
        ...

    def item(self, receipt: Receipt, position: int) -> Mapping[str, Any]:
        """What a partition tells of one item: ``started``, ``ended``, ``attempt``, ``id``."""
        ...

    def journal(self) -> Journal: ...

    def dataset(self, manifest: Manifest) -> Any:
        """The lazily read dataset (`storage.datasets.Dataset`) of a node."""
        ...

    def quarantined(self, receipts: Sequence[Receipt]) -> Any:
        """Dataset of the rows that were set aside when the partitions of these receipts were made."""
        ...


class Journal(Protocol):
    """A run's index and lock: numbered segments, each made by put-if-absent. One driver writes."""

    def take(self) -> list[Mapping[str, Any]]:
        """Become the writer: read all records so far and append a takeover segment."""
        ...

    def begin(self) -> None:
        """Become the writer of a run that is new; its first append fails if somebody else was."""
        ...

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append one segment of JSON-able records.

        Raises
        ------
        TakenOverError
            Another driver has taken the run over; this one must stop.
        """
        ...

    def records(self, *, strict: bool = False) -> list[Mapping[str, Any]]:
        """All records so far, in order; reading needs no lock.

        What is missing or damaged is passed over: the partitions tell of themselves. With ``strict``
        it raises `StorageError`, for those who want to know what the journal does *not* list.
        """
        ...


@runtime_checkable
class Store(Protocol):
    """A location for runs (an fsspec URL and its options). Frozen and picklable."""

    @property
    def url(self) -> str:
        """Without secrets."""
        ...

    def run(self, run_id: str) -> RunStore:
        """The run's prefix; nothing is created until something is written."""
        ...

    def check(self) -> None:
        """Raise `StorageError` unless objects can be written, read and removed here."""
        ...

    def runs(self) -> list[str]:
        """Ids of the runs that have a prefix here."""
        ...

    def remove(self, run_id: str) -> int:
        """Delete a run's whole prefix, the header first; returns the bytes freed.

        So a removal that dies half way leaves what is no run to anybody. Done again, it goes on.
        """
        ...

    def shared(self) -> RunStore:
        """A prefix beside those of the runs, for what belongs to none (`core.cache_index`)."""
        ...


# --------------------------------------------------------------------------------------- history


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A flow run as history knows it. ``parameters`` is JSON; secrets never reach it."""

    id: UUID
    flow: str
    name: str
    state: str
    """State name, e.g. ``Running``, ``Completed``, ``TimedOut``."""
    state_type: str
    message: str
    executor: str
    storage: str
    parameters: str
    tags: tuple[str, ...]
    parent: UUID | None
    version: str
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    heartbeat: datetime | None = None
    host: str = ""
    pid: int = 0
    process: str = ""
    """What tells the driver from others of this host name and pid (`core.process_marks`)."""
    workspace: str = "default"


@dataclass(frozen=True, slots=True)
class StateRecord:
    """One transition of a run's (``node`` None) or a node's state."""

    run: UUID
    node: int | None
    name: str
    type: str
    message: str
    time: datetime


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node and its counts; written when it changes, at most a few times a second."""

    run: UUID
    node: int
    key: str
    task: str
    mapped: bool
    state: str
    total: int | None
    counts: Mapping[str, int]
    """Items by state name; what is not listed is 0."""
    upstream: tuple[tuple[int, str], ...] = ()
    """Edges: (node, "data" or "wait_for")."""
    bytes: int = 0
    busy_seconds: float = 0.0
    started: datetime | None = None
    ended: datetime | None = None
    states: bytes | None = None
    """zlib of one byte per item (`core.items.ItemState`), when the node has ended."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch: where and when it ran, and how it ended."""

    run: UUID
    batch: int
    node: int
    """Node of its first stage."""
    attempt: int
    items: int
    first: int
    """Its lowest position."""
    last: int
    worker: str
    host: str
    pid: int
    started: datetime | None
    ended: datetime | None
    outcome: str
    cause: str = ""
    peak_memory: int = 0


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """One item with something to tell: an attempt that failed, was retried, crashed or timed out."""

    run: UUID
    node: int
    position: int
    attempt: int
    state: str
    """State after this attempt: ``AwaitingRetry``, ``Failed``, ``TimedOut``, ``Crashed`` ..."""
    kind: str
    type_name: str
    message: str
    traceback: str
    worker: str
    host: str
    started: datetime
    ended: datetime
    input: str = ""
    """A short repr of the item's input."""


@dataclass(frozen=True, slots=True)
class PartitionRecord:
    """A partition that was written, and what it was made of, as its footer has it, too.

    It stays when the partition is dropped; only with its run it goes. A list of many inputs, which is an
    object of its own (`LISTED`), has a record like a partition's, of no node (-1).
    """

    run: UUID
    node: int
    path: str
    """Relative to the run's prefix."""
    code: str
    """Fingerprint of the task's code (`core.lineage`)."""
    inputs: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A log line in history."""

    run: UUID
    node: int
    """-1: of the flow itself."""
    position: int
    time: datetime
    level: int
    logger: str
    message: str


HistoryEvent: TypeAlias = (
    RunRecord | StateRecord | NodeRecord | BatchRecord | ItemRecord | PartitionRecord | LogRecord
)


@dataclass(frozen=True, slots=True)
class Request:
    """A command to a driver, left in history by another process."""

    id: int
    run: UUID
    kind: str
    """``"cancel"``, ``"pause"``, ``"resume"``."""
    time: datetime


class History(Protocol):
    """What happened. The driver alone writes; anybody reads, also while the run goes on.

    Thread rule: all methods from any thread. A record with the key of an earlier one replaces it
    (runs by id, nodes by run and number, batches by run and number), but a run's heartbeat never
    goes back, and of a partition the first record stays. States, items and logs are added. Times are
    aware; they come back in UTC. Lists of a run that history does not know are empty.
    """

    @property
    def url(self) -> str:
        """Without secrets."""
        ...

    def append(self, run: UUID, seq: int, events: Sequence[HistoryEvent], *, driver: str) -> None:
        """Write events in order, in one transaction, durable when it returns.

        ``driver`` names one driver of the run: drawn anew (``uuid4().hex``) by the first one and by
        each that resumes it, in the same process too. ``seq`` ascends from 0 over that driver's
        appends, which come one after another; one that is not above the driver's last is ignored,
        so a caller whose answer was lost may send it again.

        The first append of a run holds its `RunRecord`.

        Raises
        ------
        RunNotFoundError
            History does not know the run (it may have been deleted) and no `RunRecord` comes along.
        HistoryError
            Nothing of it was written, or it is not known whether: send it again.
        """
        ...

    def beat(self, run: UUID, time: datetime) -> None:
        """Move the run's heartbeat; it never goes back. Raises `RunNotFoundError`."""
        ...

    def lapse(
        self, now: datetime, after_seconds: float, gone: Callable[[RunRecord], bool]
    ) -> list[UUID]:
        """Mark as ``Crashed`` the unfinished runs whose heartbeat is older than this; their ids.

        So are those of which ``gone`` says that their driver is no more. A run that never beat, or is
        ``Scheduled`` or ``Suspended``, has no driver and is left alone.
        A driver that was only asleep sets things right with its next `RunRecord`.
        """
        ...

    def ask(self, run: UUID, kind: str) -> None:
        """Leave a request for the run's driver. Raises `RunNotFoundError`."""
        ...

    def requests(self, run: UUID, after: int = 0) -> list[Request]:
        """Requests with an id above ``after``, oldest first."""
        ...

    def runs(
        self,
        *,
        flow: str | None = None,
        state: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> list[RunRecord]:
        """Newest first."""
        ...

    def run(self, run: UUID | str) -> RunRecord:
        """One run by id, by an unambiguous beginning of its id, or by name (the newest).

        Raises
        ------
        RunNotFoundError
        """
        ...

    def states(self, run: UUID) -> list[StateRecord]: ...

    def nodes(self, run: UUID) -> list[NodeRecord]: ...

    def batches(
        self, run: UUID, node: int | None = None, *, limit: int = 1000, offset: int = 0
    ) -> list[BatchRecord]: ...

    def items(
        self,
        run: UUID,
        node: int | None = None,
        *,
        state: str | None = None,
        position: int | None = None,
        limit: int | None = None,
    ) -> list[ItemRecord]: ...

    def partitions(self, run: UUID, node: int | None = None) -> list[PartitionRecord]:
        """Partitions by node and path, those that were dropped, too."""
        ...

    def made_from(self, urls: Collection[str]) -> list[PartitionRecord]:
        """Partitions of all runs that were made of one of these, with those of their inputs."""
        ...

    def logs(
        self,
        run: UUID,
        node: int | None = None,
        *,
        position: int | None = None,
        level: int = 0,
        after: int = 0,
        limit: int = 10_000,
    ) -> list[tuple[int, LogRecord]]:
        """(sequence, record) pairs in order, from behind sequence ``after`` on."""
        ...

    def delete(self, run: UUID) -> None:
        """Remove a run and all its records."""
        ...

    def close(self) -> None:
        """Wait for what is under way and release the connections."""
        ...


# -------------------------------------------------------------------------------------- displays


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as a display shows it."""

    node: int
    name: str
    state: str
    mapped: bool
    total: int | None
    counts: Mapping[str, int]
    rate: float
    """Items finished per second, over the last few seconds."""
    eta_seconds: float | None
    bytes: int
    upstream: tuple[int, ...] = ()
    failures: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many items failed by signature: the first such failure's exception type and message."""
    elapsed_seconds: float = 0.0
    """Since it was called, until it ended."""


@dataclass(frozen=True, slots=True)
class RunView(Shown):
    """A run as a display shows it: a snapshot, cheap to make a few times a second."""

    shown_as = "view"

    id: str
    name: str
    flow: str
    executor: str
    state: str
    message: str
    elapsed_seconds: float
    slots: int
    busy: int
    nodes: tuple[NodeView, ...]
    busy_past: tuple[tuple[float, int], ...] = ()
    """Slots that were busy over time: (seconds since the run began, slots), at most `BUSY_POINTS`."""


BUSY_POINTS = 120


class Display(Protocol):
    """Shows a run while it goes on. Called from one thread of headrace's own."""

    def update(self, view: RunView) -> None:
        """Show a newer snapshot (a few times a second)."""
        ...

    def close(self, view: RunView) -> None:
        """Show the last one; what stays must make sense without a program behind it."""
        ...


GENERATION = 1_000_000_000
"""Batches of the n-th driver of a run are numbered from here times n: no two share a number."""


def spec_path(digest: str) -> str:
    """Path of a `StageSpec` below the run's prefix."""
    return f"specs/{digest}"


def data_prefix(node: int | None, batch: int | None = None) -> str:
    """Beginning of the paths of all partitions, of a node's, or of one batch's executions."""
    if node is None:
        return "data/"
    return f"data/{node:05d}/" + ("" if batch is None else f"{batch:08d}-")
