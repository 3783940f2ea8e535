"""Every block of Python in the documentation runs; a page's blocks are one script. The site builds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers.object_store import ObjectStore

import headrace

ROOT = Path(headrace.__file__).parent
DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def script_of(page: str) -> str:
    """The Python of a page, each line where it stands there, so that errors name the page's lines."""
    lines: list[str] = []
    inside = False
    for line in (DOCS / page).read_text().splitlines():
        if inside and line.startswith("```"):
            inside = False
        lines.append(line if inside else "")
        if line.startswith("```python"):
            inside = True
    return "\n".join(lines)


def run_page(page: str, folder: Path, **environment: str) -> str:
    """What a page's script prints."""
    script = folder / (page.replace("/", "_").removesuffix(".md") + ".py")
    script.write_text(script_of(page))
    done = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT.parent)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "page", [page for page in PAGES if script_of(page).strip() and "clouds" not in page]
)
def test_a_page_runs_and_prints_what_it_says(page: str, tmp_path: Path) -> None:
    printed = run_page(page, tmp_path).splitlines()
    promised = [
        found[1]
        for found in re.finditer(r"^\s*print\(.*\)\s+# (.+)$", script_of(page), re.MULTILINE)
    ]
    for line in promised:
        if not line.startswith(("on ", "the ", "one ")):
            assert any(line in told for told in printed), f"{line!r} is not among {printed}"


def test_the_page_about_clouds_runs_on_a_real_protocol(
    tmp_path: Path, s3_server: ObjectStore
) -> None:
    files = s3_server.filesystem()
    for bucket in ("crawl", "my-bucket"):
        files.mkdir(bucket)
    with files.open("crawl/2026/pages.parquet", "wb") as file:
        pq.write_table(pa.table({"text": ["short", "a line that is long enough"]}), file)
    run_page("how-to/clouds.md", tmp_path, **s3_server.environment)
    options = dict(s3_server.storage_options)
    written = headrace.open_dataset("s3://my-bucket/clean", storage_options=options)
    assert written.to_table()["text"].to_pylist() == ["a line that is long enough"]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = ("mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site"))
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "tutorial" / "index.html").is_file()
    page = (tmp_path / "site" / "reference" / "index.html").read_text()
    assert "infra_retries" in page
