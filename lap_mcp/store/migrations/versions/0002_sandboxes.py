"""Sandboxes that outlive their container: whose they are, their cells, their files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ID = sa.String(40)


def _sandbox_id() -> sa.Column[str]:
    return sa.Column(
        "sandbox_id",
        _ID,
        sa.ForeignKey("sandboxes.id", ondelete="CASCADE"),
        primary_key=True,
        nullable=False,
    )


def upgrade() -> None:
    op.create_table(
        "sandboxes",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("principal", sa.String(200), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double, nullable=False),
        sa.Column("executions", sa.Integer, nullable=False, server_default="0"),
        sa.Column("lease_owner", _ID),
        sa.Column("lease_until", sa.Double, nullable=False, server_default="0"),
        sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("sandboxes_by_principal", "sandboxes", ["principal", "used_at"])
    op.create_index("sandboxes_by_use", "sandboxes", ["used_at"])
    op.create_table(
        "cells",
        _sandbox_id(),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("repeats", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_table(
        "cell_outputs",
        sa.Column("sandbox_id", _ID, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["sandbox_id", "number"], ["cells.sandbox_id", "cells.number"], ondelete="CASCADE"
        ),
    )
    op.create_index("cell_outputs_by_blob", "cell_outputs", ["sha256"])
    op.create_table(
        "sandbox_files",
        _sandbox_id(),
        sa.Column("path", sa.String(1024), primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("modified", sa.Double, nullable=False),
        sa.Column("origin", sa.String(10), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("sandbox_files_by_blob", "sandbox_files", ["sha256"])
