"""A minute of `benchmarks/chaos.py`: what is asserted is in there."""

import json
import subprocess
import sys
from pathlib import Path

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


def test_nothing_is_lost_when_all_goes_wrong():
    options = ["--executor", "processes", "--minutes", "0.6", "--items", "400"]
    done = subprocess.run(
        [sys.executable, CHAOS, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["wrong"] == []
    assert facts["worker_kills"]
    assert facts["driver_kills"]
