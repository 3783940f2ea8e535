"""Children do not pay for pandas until somebody asks for it, and then pyarrow knows it."""

import subprocess
import sys

SCRIPT = """
import sys
from headrace.executors import pandas_later
pandas_later.defer()
import pyarrow as pa
pa.array([1, 2]); pa.table({"a": [1]})
assert "pandas" not in sys.modules
import pandas as pd
series = pa.array(pd.Series([1.0, float("nan")]))
assert series.null_count == 1, "a Series' nan is null, as ever"
assert pa.table({"a": [1]}).to_pandas().equals(pd.DataFrame({"a": [1]}))
pandas_later.defer()
"""

FIRST_USE_BY_PYARROW = """
import sys
from headrace.executors import pandas_later
pandas_later.defer()
import pyarrow as pa
frame = pa.table({"a": [1]}).to_pandas()
assert type(frame).__module__.startswith("pandas")
assert pa.array(frame["a"] * float("nan")).null_count == 1
"""


def run(script: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True)


def test_pandas_comes_when_it_is_imported() -> None:
    run(SCRIPT)


def test_pandas_comes_when_pyarrow_needs_it() -> None:
    run(FIRST_USE_BY_PYARROW)
