"""The page on datasets does what it shows."""

import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "datasets.md"


def test_its_code_runs_from_top_to_bottom(tmp_path: Path) -> None:
    blocks = [part.split("```")[0] for part in PAGE.read_text().split("```python")[1:]]
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks))
    subprocess.run([sys.executable, script], cwd=tmp_path, check=True)
