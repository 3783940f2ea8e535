"""Flows that a user copies. Each also runs from a plain install: ``headrace example NAME``.

What is here imports ``headrace`` by its name, as a copy elsewhere would.
"""

from collections.abc import Mapping

EXAMPLES: Mapping[str, str] = {"corpus": "headrace.examples.corpus:corpus"}
"""Name on the command line -> ``module:flow``. A flow's parameters are plain keywords."""
