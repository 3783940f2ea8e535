"""What the README shows is what happens."""

import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds

ROOT = Path(__file__).resolve().parents[1]


def test_the_first_screen_runs_as_a_script(tmp_path: Path) -> None:
    readme = ROOT / "README.md"
    code = readme.read_text().split("```python")[1].split("```")[0]
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in range(3):
        lines = [f"{number} is a line that is long enough to be kept", "short"] * 50
        (logs / f"{number}.txt").write_text("\n".join(lines))
    script = tmp_path / "readme.py"
    script.write_text(code)
    subprocess.run([sys.executable, script], cwd=tmp_path, check=True)
    for target in ("clean", "clean-on-dask"):
        table = ds.dataset(
            tmp_path / target, format="parquet", exclude_invalid_files=True
        ).to_table()
        assert table.num_rows == 150
        assert table["text"][0].as_py().startswith("0 is a line")
