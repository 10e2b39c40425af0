"""The tables, for both databases.  Migrations make them; queries are beside, one subject a file.

Times are seconds since the epoch.  JSON is kept as text: the same bytes in both databases, read
and written only by the files beside this one.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

_ID = String(40)
_AUTO = BigInteger().with_variant(Integer, "sqlite")

owners = Table(
    "owners",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("host", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", String(64), nullable=False),
    Column("since", Double, nullable=False),
)
"""Processes that may hold leases.  A row outlives its process; `lap_mcp.store.owners` tells."""

sessions = Table(
    "sessions",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("principal", String(200), nullable=False),
    Column("agent", String(48), nullable=False),
    Column("status", String(20), nullable=False),
    Column("ref", Text, nullable=False, server_default="{}"),
    Column("last_seq", BigInteger, nullable=False, server_default="0"),
    Column("turns", Integer, nullable=False, server_default="0"),
    Column("title", Text, nullable=False, server_default=""),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("lease_owner", _ID),
    Column("lease_until", Double, nullable=False, server_default="0"),
    Column("fence", BigInteger, nullable=False, server_default="0"),
)
Index("sessions_by_principal", sessions.c.principal, sessions.c.created_at)
Index("sessions_by_status", sessions.c.status)

turns = Table(
    "turns",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("session_id", _ID, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("prompt", Text, nullable=False),
    Column("input", Text),
    Column("files", Text, nullable=False, server_default="[]"),
    Column("digest", String(64), nullable=False),
    Column("origin", Text, nullable=False),
    Column("starts", Integer, nullable=False, server_default="0"),
    Column("phase", Integer, nullable=False),
    Column("cursor", Text),
    Column("first_seq", BigInteger, nullable=False, server_default="0"),
    Column("last_seq", BigInteger, nullable=False, server_default="0"),
    Column("error", Text),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
)
Index("turns_by_session", turns.c.session_id, turns.c.number, unique=True)
Index("turns_by_outcome", turns.c.outcome)

events = Table(
    "events",
    metadata,
    Column("session_id", _ID, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("turn_id", _ID, nullable=False),
    Column("type", String(40), nullable=False),
    Column("native_id", String(300)),
    Column("payload", Text, nullable=False),
    Column("at", Double, nullable=False),
)
Index("events_by_native_id", events.c.turn_id, events.c.native_id)

open_messages = Table(
    "open_messages",
    metadata,
    Column("session_id", _ID, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("message_id", String(300), primary_key=True),
    Column("turn_id", _ID, nullable=False),
    Column("kind", String(10), nullable=False),
    Column("text", Text, nullable=False),
)
"""Checkpoints of messages that are still being written, for followers in other processes."""

questions = Table(
    "questions",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("session_id", _ID, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("turn_id", _ID, nullable=False),
    Column("native_id", String(300), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("text", Text, nullable=False),
    Column("status", String(20), nullable=False),
    Column("start", Integer, nullable=False),
    Column("detail", Text, nullable=False),
    Column("answer", Text),
    Column("answered_by", String(200), nullable=False, server_default=""),
    Column("asked_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
)
Index("questions_by_turn", questions.c.turn_id, questions.c.status)
Index("questions_by_session", questions.c.session_id, questions.c.status)

commands = Table(
    "commands",
    metadata,
    Column("id", _AUTO, primary_key=True, autoincrement=True),
    Column("session_id", _ID, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("payload", Text, nullable=False),
    Column("at", Double, nullable=False),
)
"""What another process wants of the one that holds a session's lease; deleted when taken."""
Index("commands_by_session", commands.c.session_id)

files = Table(
    "files",
    metadata,
    Column("session_id", _ID, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("media_type", String(200), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("turn_id", _ID, nullable=False),
    Column("origin", String(10), nullable=False),
    Column("at", Double, nullable=False),
)
Index("files_by_blob", files.c.sha256)

agents = Table(
    "agents",
    metadata,
    Column("name", String(48), primary_key=True),
    Column("runtime", String(100), nullable=False),
    Column("ref", String(300), nullable=False),
    Column("source", String(20), nullable=False),
    Column("data", Text, nullable=False),
)
"""The stored catalogue: agents added by command and discovered ones; what `data` holds is the
registry's."""
Index("agents_by_origin", agents.c.runtime, agents.c.ref, agents.c.source, unique=True)

counters = Table(
    "counters",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
"""`catalogue`: raised by each change of `agents`."""

sandboxes = Table(
    "sandboxes",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("principal", String(200), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("used_at", Double, nullable=False),
    Column("executions", Integer, nullable=False, server_default="0"),
    Column("lease_owner", _ID),
    Column("lease_until", Double, nullable=False, server_default="0"),
    Column("fence", BigInteger, nullable=False, server_default="0"),
)
"""Sandboxes that can be opened again; the lease names the process that has one open now."""
Index("sandboxes_by_principal", sandboxes.c.principal, sandboxes.c.used_at)
Index("sandboxes_by_use", sandboxes.c.used_at)

cells = Table(
    "cells",
    metadata,
    Column("sandbox_id", _ID, ForeignKey("sandboxes.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("code", Text, nullable=False),
    Column("status", String(20), nullable=False),
    Column("repeats", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("result", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("at", Double, nullable=False),
)
"""Executions as they were: what a replay runs again (`repeats`), what a notebook shows."""

cell_outputs = Table(
    "cell_outputs",
    metadata,
    Column("sandbox_id", _ID, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    ForeignKeyConstraint(
        ["sandbox_id", "number"], ["cells.sandbox_id", "cells.number"], ondelete="CASCADE"
    ),
)
"""Rich outputs of a cell that are too large for its row: `place` in its `outputs`."""
Index("cell_outputs_by_blob", cell_outputs.c.sha256)

sandbox_files = Table(
    "sandbox_files",
    metadata,
    Column("sandbox_id", _ID, ForeignKey("sandboxes.id", ondelete="CASCADE"), primary_key=True),
    Column("path", String(1024), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("modified", Double, nullable=False),
    Column("origin", String(10), nullable=False),
    Column("at", Double, nullable=False),
)
"""Files of `/mnt/data` whose bytes are blobs: what a sandbox is opened again with."""
Index("sandbox_files_by_blob", sandbox_files.c.sha256)
