"""Open Managed Agents on loopback: `server.py PORT`, with its database in the working folder.

Its tables are made here, which its own migrations do for PostgreSQL.  Without WAL and a timeout
SQLite answers some of its requests with "database is locked"."""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from app.db.engine import get_engine
from app.db.models import Base
from app.main import app
from sqlalchemy import text


async def prepare() -> None:
    async with get_engine().begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with get_engine().connect() as connection:
        await connection.execute(text("PRAGMA journal_mode=wal"))


if __name__ == "__main__":
    asyncio.run(prepare())
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="info")
