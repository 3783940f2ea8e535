"""The ``headrace`` command: parse, call, print. What it calls is imported when it is needed."""
