"""Alembic's entry: runs on the connection that `lap_mcp.store.database` hands over."""

from __future__ import annotations

from alembic import context

from lap_mcp.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
