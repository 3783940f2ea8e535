"""What happened: the tables, one writer per driver, the queries. SQLite by default, PostgreSQL by URL.

This module imports nothing, so that looking at the package costs nothing; `sql.SqlHistory` is the
implementation of `core.interfaces.History`.
"""
