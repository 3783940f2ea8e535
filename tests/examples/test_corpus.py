"""The corpus job: every kind of bad file is told apart, and every executor writes the same bytes."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from pydantic import Secret
from servers.object_store import ObjectStore

from headrace.examples import corpus as job
from headrace.examples.python_text import Rules, decode, examine, normalise

RULES = Rules(max_bytes=20_000)
SMALL: dict[str, Any] = {"pack_bytes": 2_000, "file_bytes": 2_000, "rules": RULES}
HELLO = 'def hello():\n    """Greet."""\n    return "hello"\n'
FILES: dict[str, bytes] = {
    "a/hello.py": HELLO.encode(),
    "b/crlf.py": b"\xef\xbb\xbf" + HELLO.replace("\n", "  \r\n").encode(),
    "B/mac.py": HELLO.replace("\n", "\r").encode(),
    "nfc.py": "été = 'caf\u00e9 au lait'\n".encode(),
    "nfd.py": "e\u0301te\u0301 = 'cafe\u0301 au lait'\n\n\n".encode(),
    "latin.py": "# -*- coding: latin-1 -*-\nname = 'Amélie'\n".encode("latin-1"),
    "koi.py": "#!/usr/bin/env python\n# vim: set fileencoding=koi8-r :\nname = 'Анна'\n".encode(
        "koi8-r"
    ),
    "ünï/日本.py": "title = '日本語のテキスト'\n".encode(),
    "/".join(["deep" * 10] * 8) + "/x.py": b"value = 'a long way down'\n",
    # quarantined
    "bad/utf8.py": b"x = '\xff\xfe'\n",
    "bad/late.py": b"x = 1\n" * 30 + b"y = '\xe9'\n",
    "bad/cookie.py": b"# coding: klingon\nx = 1\n",
    "bad/ascii.py": "# coding: ascii\nx = 'é'\n".encode(),
    "bad/mark.py": b"\xef\xbb\xbf# coding: latin-1\nx = 1\n",
    "bad/hex.py": b"# coding: hex\nx = 1\n",
    "bad/halves.py": b"# coding: raw_unicode_escape\nx = '\\ud800'\n",
    "bad/binary.py": bytes(range(128)) * 4,
    # filtered
    "thin/empty.py": b"",
    "thin/blank.py": b"\xef\xbb\xbf \r\n\t\r\n",
    "thin/two.py": b"print 'hello from Python 2'\n",
    "thin/long.py": b"x = '" + b"a" * 2_000 + b"'\n",
    "thin/wide.py": b"".join(b"x%d = '%s'\n" % (i, b"a" * 150) for i in range(5)),
    "thin/dots.py": b"(\n" + b"".join(b"-" * i + b"1,\n" for i in range(1, 60)) + b")\n",
    "thin/same.py": b"x = 1\n" * 50,
    "thin/large.py": b"y = 'not looked at'\n" * 2_000,
    # not listed
    "notes.txt": b"not a program\n",
}
FILES |= {
    f"gen/m{i:02}.py": f"def f{i}(x):\n    return x + {i}\n\n\nname = 'm{i}'\n".encode()
    for i in range(60)
}
ODD_NAME = b"odd/caf\xe9.py"

QUARANTINED = {
    "not utf-8": 3,
    "binary": 1,
    "FileNotFoundError": 1,
    "not ascii": 1,
    "not hex": 1,
    "not raw_unicode_escape": 1,
    "unknown encoding": 1,
}
FILTERED = {
    "empty": 2,
    "a line too long": 1,
    "does not parse": 1,
    "lines too long": 1,
    "too few letters and digits": 1,
    "too large": 1,
    "too many repeated lines": 1,
}
WRITTEN = 60 + 9 - 3 + 1
"""The generated, the good, without three doubles, and the one with the odd name."""


def write_tree(root: Path) -> Path:
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    odd = os.path.join(os.fsencode(root), ODD_NAME)
    os.makedirs(os.path.dirname(odd))
    with open(odd, "wb") as file:
        file.write(b"where = 'behind a name that is no text'\n")
    (root / "gone.py").symlink_to(root / "nowhere.py")
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def inline(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What the job writes, item after item in this process, and its report."""
    target = tmp_path_factory.mktemp("inline")
    return target, job.corpus.with_options(executor="inline")(str(tree), str(target), **SMALL)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder by the hash of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    parts = sorted((folder / split).glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_each_kind_of_file_is_counted(inline: tuple[Path, dict[str, Any]]) -> None:
    steps = inline[1]["steps"]
    assert steps["listed"] == len(FILES) - 1 + 2
    assert steps["quarantined"] == QUARANTINED
    assert steps["filtered"] == FILTERED
    assert steps["duplicates"] == 3
    assert steps["kept"] == WRITTEN + 3
    assert steps["written"] == WRITTEN
    splits = inline[1]["splits"]
    assert sum(splits[name]["rows"] for name in job.SPLITS) == WRITTEN
    assert splits["quarantine"]["rows"] == sum(QUARANTINED.values())


def test_the_smallest_path_of_duplicates_survives(inline: tuple[Path, dict[str, Any]]) -> None:
    written = {row["path"]: row for split in job.SPLITS for row in rows(inline[0], split)}
    assert "B/mac.py" in written
    assert not {"a/hello.py", "b/crlf.py", "nfd.py"} & set(written)
    assert written["B/mac.py"]["text"] == HELLO
    assert written["latin.py"]["text"].endswith("'Amélie'\n")
    assert written["koi.py"]["text"].endswith("'Анна'\n")
    assert "odd/caf\\xe9.py" in written


def test_what_does_not_decode_is_kept_with_its_reason(inline: tuple[Path, dict[str, Any]]) -> None:
    found = {row["path"]: row for row in rows(inline[0], "quarantine")}
    assert found["bad/utf8.py"]["raw"] == FILES["bad/utf8.py"]
    assert found["bad/utf8.py"]["reason"] == "not utf-8"
    assert found["bad/cookie.py"]["detail"].endswith("klingon")
    assert found["gone.py"]["raw"] is None


def test_files_are_cut_by_text_and_rows_are_in_path_order(
    inline: tuple[Path, dict[str, Any]],
) -> None:
    manifest = json.loads((inline[0] / "manifest.json").read_text())
    parts = [line for line in manifest["files"] if line["split"] == "train"]
    assert len(parts) > 1
    assert all(line["text_bytes"] <= 2_000 + 100 for line in parts)
    paths = [row["path"] for row in rows(inline[0], "train")]
    assert paths == sorted(paths)
    for line in manifest["files"]:
        data = (inline[0] / line["path"]).read_bytes()
        assert len(data) == line["bytes"]
        assert hashlib.blake2b(data, digest_size=16).hexdigest() == line["blake2b"]


@pytest.mark.parametrize("executor", ["threads", "processes", "dask", "ray"])
def test_every_executor_writes_the_same_bytes(
    executor: str, tree: Path, inline: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    report = job.corpus.with_options(executor=executor)(str(tree), str(tmp_path), **SMALL)
    assert contents(tmp_path) == contents(inline[0])
    assert report == inline[1]


def test_neither_packs_nor_an_earlier_run_show_in_the_output(
    tree: Path, inline: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    flow = job.corpus.with_options(executor="threads")
    flow(str(tree), str(tmp_path), rules=RULES, file_bytes=500)
    assert len(contents(tmp_path)) > len(contents(inline[0]))
    flow(str(tree), str(tmp_path), **SMALL | {"pack_bytes": 100_000})
    assert contents(tmp_path) == contents(inline[0])


def test_an_empty_source_gives_an_empty_corpus(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    report = job.corpus.with_options(executor="threads")(
        str(tmp_path / "in"), str(tmp_path / "out")
    )
    assert report["steps"]["listed"] == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["files"] == []


def test_the_interpreters_own_files_are_the_default(tmp_path: Path) -> None:
    report = job.corpus.with_options(executor="threads")(target=str(tmp_path), limit=30)
    assert report["steps"]["listed"] == 30


def test_from_memory_to_memory(inline: tuple[Path, dict[str, Any]]) -> None:
    memory = fsspec.filesystem("memory")
    plain = {name: data for name, data in FILES.items() if not name.startswith("bad/")}
    for name, data in plain.items():
        memory.pipe_file(f"/corpus-in/{name}", data)
    try:
        report = job.corpus.with_options(executor="threads")(
            "memory://corpus-in", "memory://corpus-out", **SMALL
        )
        assert report["steps"]["filtered"] == FILTERED
        assert report["steps"]["written"] == WRITTEN - 1
        assert memory.exists("/corpus-out/train/part-00000.parquet")
    finally:
        memory.rm("/corpus-in", recursive=True)
        memory.rm("/corpus-out", recursive=True)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize("executor", ["processes", "dask", "ray"])
def test_end_to_end_on_an_object_store(
    executor: str, scheme: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Source, results and target are far away; what comes is what comes of local files."""
    server: ObjectStore = request.getfixturevalue({"s3": "s3_server", "gs": "gcs_server"}[scheme])
    local, url = tmp_path / "in", server.new_bucket()
    for name, content in FILES.items():
        if name.startswith(("gen/", "deep")):
            continue
        if scheme == "gs" and content.endswith(b"\r"):  # which the emulator loses
            content = content[:-1] + b"\n"  # noqa: PLW2901
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(content)
    job.corpus.with_options(executor="threads")(str(local), str(tmp_path / "out"), **SMALL)
    remote, bucket = server.filesystem(), url.partition("://")[2]
    remote.put(f"{local}/", f"{bucket}/in/", recursive=True)
    options = dict(server.storage_options)
    flow = job.corpus.with_options(
        executor=executor, storage=f"{url}/runs", storage_options=options
    )
    flow(f"{url}/in", f"{url}/out", storage_options=Secret(options), **SMALL)
    assert remote.find(f"{bucket}/runs")
    remote.get(f"{bucket}/out/", f"{tmp_path}/back/", recursive=True)
    assert contents(tmp_path / "back") == contents(tmp_path / "out")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\xef\xbb\xbfx\n", "x\n"),
        (b"x  \r\n\x0c\ry", "x\n\ny\n"),
        ("e\u0301\n".encode(), "\u00e9\n"),
        (b"\n\n  x", "  x\n"),
        (b"", ""),
    ],
)
def test_normalising(raw: bytes, text: str) -> None:
    assert normalise(decode(raw)) == text
    assert normalise(text) == text


def test_features_of_a_small_file() -> None:
    text = '"""Doc."""\n# SPDX-License-Identifier: MIT\n\nclass TestIt:\n    def test_x(self):\n        pass\n        pass\n'
    found = examine(text.encode(), Rules())
    assert found["outcome"] == "kept"
    assert (found["lines"], found["definitions"], found["tests"]) == (7, 2, 2)
    assert found["licence"]
    assert found["parses"]
    assert found["repeats"] == pytest.approx(1 / 6)
    assert found["comments"] == pytest.approx(len("# SPDX-License-Identifier: MIT") / len(text))
    assert found["docstrings"] == pytest.approx(4 / len(text))
    assert 0 <= found["draw"] < 1
