"""The server's side of ``process.py``: say where it listens, then live as long as the tests do."""

import json
import sys


def announce_and_wait(**facts: str) -> None:
    """Print the facts as one line of JSON; return when standard input ends."""
    print(json.dumps(facts), flush=True)
    sys.stdin.read()
