"""What made a dataset: from its partitions back to the first files, by what their footers tell."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.errors import NotFoundError
from ..core.interfaces import LISTED, Origin
from ..core.settings import get_settings
from ..core.shown import Shown
from .itemtables import HEADER_KEY
from .locations import parse_location
from .nodedata import PartPiece
from .opening import root_path
from .origins import LINEAGE_KEY
from .pieces import Piece, origins_of
from .retrying import retrying
from .scanning import FilePiece
from .sources import Source

_READERS = 16
_OURS = re.compile(r"(/data/[0-9]{5}/[0-9]{8}-|-[0-9]{5}-)[^/]*\.(arrow|parquet)$")
"""Names that headrace gives: partitions of a run, and files of a folder that was written."""
_COLUMNS = ("output", "task", "run", "code", "inputs", "state")


@dataclass(frozen=True, slots=True)
class Step:
    """One file or partition, and what made it."""

    output: str
    """Its path or URL."""
    state: str
    """``"made"`` by headrace, ``"source"`` (it was there), ``"folder"`` (all partitions of a node), ``"gone"``."""
    task: str = ""
    """Key of the node; of several in a row ``a > b``, where b has taken a's values in the same batch."""
    run: str = ""
    code: str = ""
    """Fingerprint of the task's code, and of that of the maps that feed it."""
    inputs: tuple[str, ...] = ()
    stamp: str = ""
    """Of a source: its ETag or time, as the task that read it has seen it."""


class DatasetLineage(Shown):
    """Where a dataset is from. Made by `Dataset.lineage`; shows itself by task."""

    shown_as = "lineage"

    def __init__(self, steps: Mapping[str, Step], first: Sequence[str]) -> None:
        self.steps = steps
        """By output: everything that was met."""
        self.first = first
        """The dataset's own partitions or files."""

    @property
    def sources(self) -> list[str]:
        """The files that everything began with, in the order of their names."""
        return sorted(step.output for step in self.steps.values() if step.state == "source")

    def of(self, output: str) -> list[str]:
        """The source files that one partition or file was made of, in the order of their names."""
        todo, seen = [output], {output}
        for each in todo:
            more = [url for url in self.steps[each].inputs if url not in seen]
            seen.update(more)
            todo.extend(more)
        return sorted(each for each in seen if self.steps[each].state == "source")

    def to_table(self) -> Any:
        """A row per partition and file: output, task, run, code, inputs (a list), state."""
        rows = [{name: getattr(step, name) for name in _COLUMNS} for step in self.steps.values()]
        kinds = {"inputs": pa.list_(pa.string())}
        schema = pa.schema([(name, kinds.get(name, pa.string())) for name in _COLUMNS])
        return pa.Table.from_pylist(rows, schema)

    def by_task(self) -> list[tuple[str, str, str, int, str]]:
        """Task, run, code, number of outputs, and from how much of what; the last step first."""
        groups: dict[tuple[str, str, str], list[Step]] = {}
        for step in self.steps.values():
            if step.state == "made":
                groups.setdefault((step.task, step.run, step.code), []).append(step)
        told: list[tuple[str, str, str, int, str]] = []
        for (task, run, code), steps in groups.items():
            named = (self.steps[url] for url in {url for step in steps for url in step.inputs})
            inputs = Counter(
                step.task or ("files" if step.state == "source" else "gone")
                for step in {
                    each.output: each for one in named for each in self._within(one)
                }.values()
            )
            of = ", ".join(f"{count} of {name}" for name, count in inputs.items())
            told.append((task, run, code, len(steps), of))
        return told

    def _within(self, step: Step) -> list[Step]:
        """A step itself, or the steps of a folder's partitions."""
        return [self.steps[url] for url in step.inputs] if step.state == "folder" else [step]

    def __repr__(self) -> str:
        lines = [
            f"{task}: {outputs} made in run {run or '-'} by code {code[:8] or '-'}, from {of or 'no files'}"
            for task, run, code, outputs, of in self.by_task()
        ]
        gone = sum(step.state == "gone" for step in self.steps.values())
        lines.append(f"{len(self.sources)} source files" + (f", {gone} gone" if gone else ""))
        return "\n".join(lines)


def lineage_of(pieces: Sequence[Piece]) -> DatasetLineage:
    """See `Dataset.lineage`."""
    reader = _Reader(pieces)
    first = origins_of(pieces)
    steps: dict[str, Step] = {}
    todo = first
    with ThreadPoolExecutor(_READERS, "headrace-lineage") as pool:
        while todo:
            found = list(pool.map(reader.step, todo))
            steps.update((step.output, step) for step, _ in found)
            fresh = {origin[0]: origin for _, origins in found for origin in origins}
            todo = [origin for url, origin in fresh.items() if url not in steps]
    return DatasetLineage(steps, [url for url, _ in first])


class _Reader:
    """Reads footers, with the options that the dataset's own files are read with."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._options: dict[str, Mapping[str, Any]] = {}
        for piece in pieces:
            if isinstance(piece, FilePiece):
                self._options.setdefault(piece.source.location.scheme, piece.source.options)
            elif isinstance(piece, PartPiece):
                store = piece.run.store
                self._options.setdefault(store.location.scheme, store.storage_options)

    def step(self, origin: Origin) -> tuple[Step, list[Origin]]:
        """What made one, and of what."""
        url, stamp = origin
        if url.endswith("/"):
            names = self._list(url)
            state = "folder" if names else "gone"
            return Step(url, state, inputs=tuple(names)), [(name, "") for name in names]
        told = self._told(url) if _OURS.search(url) else {}
        if not told:
            return Step(url, "gone" if told is None else "source", stamp=stamp), []
        inputs = self._inputs(told["inputs"])
        task = " > ".join([*told.get("through", ()), told["key"]])
        names = tuple(name for name, _ in inputs)
        return Step(url, "made", task, told.get("run", ""), told.get("code", ""), names), inputs

    def _source(self, url: str) -> tuple[Source, str]:
        location = parse_location(url)
        options = self._options.get(location.scheme)
        if options is None:
            options = get_settings().plain_storage_options()
        source = Source(location, options)
        return source, root_path(location, source)

    def _told(self, url: str) -> dict[str, Any] | None:
        """What a file's footer tells; nothing: it is not of headrace's; None: it is gone."""
        source, path = self._source(url)

        def read() -> dict[bytes, bytes]:
            with source.arrow(mapped=url.endswith(".arrow")).open_input_file(path) as file:
                if url.endswith(".parquet"):
                    return pq.read_metadata(file).metadata or {}
                opened: Any = pa.ipc.open_file(file)
                return {**(opened.schema.metadata or {}), **(opened.metadata or {})}

        try:
            entries = retrying(read, operation="read", url=url)
        except NotFoundError:
            return None
        if HEADER_KEY in entries:
            header = json.loads(entries[HEADER_KEY])
            return {**header.get("lineage", {}), "key": header["key"], "run": header["run"]} | (
                {} if header.get("lineage") else {"inputs": []}
            )
        return json.loads(entries.get(LINEAGE_KEY, b"{}"))

    def _inputs(self, inputs: Sequence[Sequence[str]]) -> list[Origin]:
        if len(inputs) == 1 and inputs[0][1] == LISTED:
            source, path = self._source(inputs[0][0])
            data = retrying(
                lambda: source.filesystem.cat_file(path), operation="read", url=inputs[0][0]
            )
            inputs = json.loads(data)
        return [(url, stamp) for url, stamp in inputs]

    def _list(self, url: str) -> list[str]:
        source, path = self._source(url)
        found = retrying(lambda: source.filesystem.find(path), operation="list", url=url)
        return [source.show(name) for name in found if _OURS.search(name)]
