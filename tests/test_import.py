"""`import headrace` is light: what a run may not need is not imported for it."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "alembic", "aiohttp", "dask", "distributed", "fastapi", "flask", "gcsfs", "jupyter_client", "pandas",
    "polars", "ray", "s3fs", "sqlalchemy", "starlette", "tornado", "uvicorn",
}  # fmt: skip


@pytest.mark.smoke
def test_import_brings_no_engine_no_data_frames_no_database_and_no_web():
    program = "import json, sys, headrace; print(json.dumps(list(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout
    imported = {name.partition(".")[0] for name in json.loads(output)}
    assert "headrace" in imported
    assert imported & HEAVY == set()
