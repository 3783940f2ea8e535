"""What tells a run's driver from other processes of the same host name and number."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what is unknown is empty."""
    op.add_column("runs", sa.Column("process", sa.Text, nullable=False, server_default=""))
