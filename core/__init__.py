"""What a flow is and how it runs. Knows no engine, no file system, no web."""
