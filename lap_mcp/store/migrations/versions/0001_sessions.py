"""Sessions, turns, events, questions, commands, files, owners and the agent catalogue.

A migration is frozen once released: it repeats the tables as they were, it does not import them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.String(40)


def _session_id(*, key: bool = False) -> sa.Column[str]:
    return sa.Column(
        "session_id",
        _ID,
        sa.ForeignKey("sessions.id", ondelete="CASCADE"),
        primary_key=key,
        nullable=False,
    )


def upgrade() -> None:
    _sessions()
    _conversation()
    _around_it()
    op.create_table(
        "agents",
        sa.Column("name", sa.String(48), primary_key=True),
        sa.Column("runtime", sa.String(100), nullable=False),
        sa.Column("ref", sa.String(300), nullable=False),
        sa.Column("source", sa.String(20), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_index("agents_by_origin", "agents", ["runtime", "ref", "source"], unique=True)
    op.create_table(
        "counters",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )


def _sessions() -> None:
    op.create_table(
        "owners",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started", sa.String(64), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("principal", sa.String(200), nullable=False),
        sa.Column("agent", sa.String(48), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("ref", sa.Text, nullable=False, server_default="{}"),
        sa.Column("last_seq", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("turns", sa.Integer, nullable=False, server_default="0"),
        sa.Column("title", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("lease_owner", _ID),
        sa.Column("lease_until", sa.Double, nullable=False, server_default="0"),
        sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("sessions_by_principal", "sessions", ["principal", "created_at"])
    op.create_index("sessions_by_status", "sessions", ["status"])
    op.create_table(
        "turns",
        sa.Column("id", _ID, primary_key=True),
        _session_id(),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("input", sa.Text),
        sa.Column("files", sa.Text, nullable=False, server_default="[]"),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("starts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("cursor", sa.Text),
        sa.Column("first_seq", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("last_seq", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("error", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("ended_at", sa.Double),
    )
    op.create_index("turns_by_session", "turns", ["session_id", "number"], unique=True)
    op.create_index("turns_by_outcome", "turns", ["outcome"])


def _conversation() -> None:
    op.create_table(
        "events",
        _session_id(key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("turn_id", _ID, nullable=False),
        sa.Column("type", sa.String(40), nullable=False),
        sa.Column("native_id", sa.String(300)),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("events_by_native_id", "events", ["turn_id", "native_id"])
    op.create_table(
        "open_messages",
        _session_id(key=True),
        sa.Column("message_id", sa.String(300), primary_key=True),
        sa.Column("turn_id", _ID, nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_table(
        "questions",
        sa.Column("id", _ID, primary_key=True),
        _session_id(),
        sa.Column("turn_id", _ID, nullable=False),
        sa.Column("native_id", sa.String(300), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("start", sa.Integer, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("answered_by", sa.String(200), nullable=False, server_default=""),
        sa.Column("asked_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_index("questions_by_turn", "questions", ["turn_id", "status"])
    op.create_index("questions_by_session", "questions", ["session_id", "status"])


def _around_it() -> None:
    op.create_table(
        "commands",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        _session_id(),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("commands_by_session", "commands", ["session_id"])
    op.create_table(
        "files",
        _session_id(key=True),
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("media_type", sa.String(200), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("turn_id", _ID, nullable=False),
        sa.Column("origin", sa.String(10), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("files_by_blob", "files", ["sha256"])
