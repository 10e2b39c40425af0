"""Containers, files, responses and code calls of the front doors for models.

A migration is frozen once released: it repeats the tables as they were, it does not import them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ID = sa.String(100)


def upgrade() -> None:
    op.create_table(
        "front_containers",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("principal", sa.String(200), nullable=False),
        sa.Column("name", sa.String(300), nullable=False),
        sa.Column("memory", sa.String(10), nullable=False),
        sa.Column("minutes", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double, nullable=False),
    )
    op.create_index(
        "front_containers_by_principal", "front_containers", ["principal", "created_at"]
    )
    _files()
    op.create_table(
        "front_responses",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("principal", sa.String(200), nullable=False),
        sa.Column("container_id", _ID),
        sa.Column("session_id", sa.String(40)),
        sa.Column("response", sa.Text, nullable=False),
        sa.Column("given", sa.Text, nullable=False),
        sa.Column("history", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("front_responses_by_age", "front_responses", ["created_at"])
    op.create_table(
        "front_calls",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("principal", sa.String(200), primary_key=True),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("front_calls_by_age", "front_calls", ["created_at"])


def _files() -> None:
    op.create_table(
        "front_files",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("principal", sa.String(200), nullable=False),
        sa.Column("container_id", _ID, sa.ForeignKey("front_containers.id", ondelete="CASCADE")),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("path", sa.String(1100), nullable=False),
        sa.Column("source", sa.String(20), nullable=False),
        sa.Column("purpose", sa.String(40), nullable=False),
        sa.Column("upload_id", _ID),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
    )
    op.create_index("front_files_by_container", "front_files", ["container_id", "path"])
    op.create_index("front_files_by_principal", "front_files", ["principal", "created_at"])
    op.create_index("front_files_by_blob", "front_files", ["sha256"])
