"""How long `import headrace` takes: the median of N fresh interpreters, as one line of JSON.

    python benchmarks/import_time.py [N]

Seconds are cumulative as ``-X importtime`` counts them, so they leave the interpreter's own start out.
"""

import json
import platform
import statistics
import subprocess
import sys


def import_seconds() -> float:
    """Time one import in a new interpreter."""
    command = [sys.executable, "-X", "importtime", "-c", "import headrace"]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    for line in reversed(report.splitlines()):
        _, cumulative, module = line.removeprefix("import time:").split("|")
        if module.strip() == "headrace":
            return int(cumulative) / 1e6
    raise RuntimeError(f"no line for headrace in:\n{report}")


if __name__ == "__main__":
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    times = [import_seconds() for _ in range(runs)]
    print(
        json.dumps(
            {
                "benchmark": "import_time",
                "median_seconds": round(statistics.median(times), 4),
                "least_seconds": round(min(times), 4),
                "runs": runs,
                "python": platform.python_version(),
            }
        )
    )
