"""Statements that are built once.  Building one costs SQLAlchemy about as much as running it, so
what every turn runs is a constant with named parameters."""

from __future__ import annotations

import functools

import sqlalchemy as sa


def given(column: sa.Column[object]) -> sa.BindParameter[object]:
    """The parameter `given_COLUMN`, of that column's type."""
    return sa.bindparam(f"given_{column.name}", type_=column.type)


@functools.cache
def update_by_id(table: sa.Table, columns: tuple[str, ...]) -> sa.Update:
    """Set these columns, each from the parameter of its name after `new_`, where `id` is
    `given_id`."""
    new = {name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in columns}
    return table.update().where(table.c.id == given(table.c.id)).values(new)
