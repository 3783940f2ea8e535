"""How a run looks in a terminal and in Jupyter. This module imports nothing; see `choose`."""
