"""What happened: the tables, one writer per driver, the queries; in SQLite or PostgreSQL.

This module imports nothing, so that looking at the package costs nothing; `sql.SqlHistory` is the
implementation of `core.interfaces.History`.
"""
