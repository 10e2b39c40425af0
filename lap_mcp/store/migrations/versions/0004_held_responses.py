"""Which process runs a response in the background, and until when it is sure to.

A migration is frozen once released: it repeats the tables as they were, it does not import them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("front_responses", sa.Column("held_by", sa.String(300)))
    op.add_column("front_responses", sa.Column("held_until", sa.Double))
