"""Runs the steps on the connection that `history.schema` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes["metadata"],
    version_table=context.config.attributes["version_table"],
    # SQLite can change tables in a transaction; the one that holds the lock is open already.
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
