"""What the HTTP front doors for models remember: containers, files, responses, and code calls.

Ids are those of the front door's own API (`cntr_…`, `file-…`, `resp_…`), random, and looked up by
principal and id.  JSON is text, as everywhere in the store.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Index, Integer, String, Table, Text

from .tables import metadata

_ID = String(100)

containers = Table(
    "front_containers",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("principal", String(200), nullable=False),
    Column("name", String(300), nullable=False),
    Column("memory", String(10), nullable=False),
    Column("minutes", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("used_at", Double, nullable=False),
)
"""An environment as its user sees it.  The sandbox behind it may come and go."""
Index("front_containers_by_principal", containers.c.principal, containers.c.created_at)

files = Table(
    "front_files",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("principal", String(200), nullable=False),
    Column("container_id", _ID, ForeignKey("front_containers.id", ondelete="CASCADE")),
    Column("kind", String(10), nullable=False),
    Column("path", String(1100), nullable=False),
    Column("source", String(20), nullable=False),
    Column("purpose", String(40), nullable=False),
    Column("upload_id", _ID),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
)
"""`kind`: `upload` (of `/v1/files`, in no container), `file` (in `/mnt/data`, at `path`),
`picture` (displayed, in no folder).  The bytes are a blob."""
Index("front_files_by_container", files.c.container_id, files.c.path)
Index("front_files_by_principal", files.c.principal, files.c.created_at)
Index("front_files_by_blob", files.c.sha256)

responses = Table(
    "front_responses",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("principal", String(200), nullable=False),
    Column("container_id", _ID),
    Column("session_id", String(40)),
    Column("response", Text, nullable=False),
    Column("given", Text, nullable=False),
    Column("history", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("held_by", String(300)),
    Column("held_until", Double),
)
"""`given`: the items the client sent; `history`: the whole conversation in upstream form.  One that
still runs is held by the process that runs it, for as long as that says so."""
Index("front_responses_by_age", responses.c.created_at)

calls = Table(
    "front_calls",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("principal", String(200), primary_key=True),
    Column("data", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)
"""By the id that a client shows again: what stood upstream in place of a code call."""
Index("front_calls_by_age", calls.c.created_at)
