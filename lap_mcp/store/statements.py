"""Statements that are built once, and run at little more than the driver's own price.

Building a statement costs SQLAlchemy about as much as running it, so what every turn runs is a
constant with named parameters.  On SQLite such a constant goes to the driver as the text that
SQLAlchemy compiled once: a tenth of the time, and a turn has thirty of them.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.engine import Dialect

_PLAIN = -1
"""In place of a size or an index: the value is not a list."""
_LONG = 32
"""Lists longer than this are rare, and each length would be a text of its own."""


def given(column: sa.Column[object]) -> sa.BindParameter[object]:
    """The parameter `given_COLUMN`, of that column's type."""
    return sa.bindparam(f"given_{column.name}", type_=column.type)


@functools.cache
def update_by_id(table: sa.Table, columns: tuple[str, ...]) -> sa.Update:
    """Set these columns, each from the parameter of its name after `new_`, where `id` is
    `given_id`."""
    new = {name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in columns}
    return table.update().where(table.c.id == given(table.c.id)).values(new)


class Rows(Protocol):
    """What a statement gave: the part of SQLAlchemy's result that queries here use."""

    @property
    def rowcount(self) -> int: ...

    def first(self) -> Any: ...

    def one(self) -> Any: ...

    def scalar(self) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


def run(
    connection: Connection,
    statement: sa.ClauseElement,
    values: Mapping[str, Any],
) -> Rows:
    """Run a constant statement."""
    prepared = _prepared_for(connection, statement, values)
    if prepared is None:
        return cast("Rows", connection.execute(cast("sa.Executable", statement), values))
    driver: Any = connection.connection.driver_connection
    return _Fetched(driver.execute(prepared.text, prepared.ordered(values)))


def run_each(
    connection: Connection, statement: sa.ClauseElement, values: Sequence[Mapping[str, Any]]
) -> None:
    """Run a constant statement once for each set of values; there is at least one."""
    prepared = _prepared_for(connection, statement, values[0])
    if prepared is None:
        connection.execute(cast("sa.Executable", statement), values)
        return
    driver: Any = connection.connection.driver_connection
    driver.executemany(prepared.text, [prepared.ordered(one) for one in values])


def _prepared_for(
    connection: Connection, statement: sa.ClauseElement, values: Mapping[str, Any]
) -> _Prepared | None:
    if connection.dialect.name != "sqlite":
        return None
    sizes = tuple(len(value) if isinstance(value, list) else _PLAIN for value in values.values())
    return _prepare(statement, tuple(values), sizes, connection.dialect)


@dataclass(frozen=True, slots=True)
class _Prepared:
    text: str
    places: Sequence[tuple[str, int]]
    """Of the parameters, in the order of their question marks: the name, and which of its values
    where it is a list."""
    fixed: Mapping[str, Any]
    """Values that are part of the statement."""

    def ordered(self, values: Mapping[str, Any]) -> list[Any]:
        return [self._value(values, name, index) for name, index in self.places]

    def _value(self, values: Mapping[str, Any], name: str, index: int) -> Any:
        value = values[name] if name in values else self.fixed[name]
        return value if index == _PLAIN else value[index]


@functools.lru_cache(maxsize=512)
def _prepare(
    statement: sa.ClauseElement, names: tuple[str, ...], sizes: tuple[int, ...], dialect: Dialect
) -> _Prepared | None:
    """`sizes`: of the values that are lists.  None: SQLAlchemy has to run the statement."""
    if max(sizes, default=0) > _LONG:
        return None
    columns = list(names) if isinstance(statement, sa.Insert) else None
    compiled: Any = statement.compile(dialect=dialect, column_keys=columns)
    fixed = dict(compiled.params)
    if not compiled.post_compile_params and not compiled.literal_execute_params:
        places = [(name, _PLAIN) for name in compiled.positiontup or ()]
        return _Prepared(str(compiled), places, fixed)
    lists = {name: [None] * size for name, size in zip(names, sizes, strict=True) if size != _PLAIN}
    expanded = compiled.construct_expanded_state({**fixed, **lists})
    origin = {
        part: (name, index)
        for name, parts in expanded.parameter_expansion.items()
        for index, part in enumerate(parts)
    }
    places = [origin.get(name, (name, _PLAIN)) for name in expanded.positiontup or ()]
    return _Prepared(expanded.statement, places, fixed)


@functools.cache
def _row_type(names: tuple[str, ...]) -> Any:
    return namedtuple("Row", names, rename=True)


class _Fetched:
    """Rows of a driver's cursor, all read: an `UPDATE … RETURNING` is over only then."""

    def __init__(self, cursor: Any) -> None:
        self.rowcount: int = cursor.rowcount
        self._rows: list[Any] = []
        if cursor.description is not None:
            make = _row_type(tuple(column[0] for column in cursor.description))
            self._rows = [make._make(row) for row in cursor.fetchall()]
        cursor.close()

    def first(self) -> Any:
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        (row,) = self._rows
        return row

    def scalar(self) -> Any:
        return self._rows[0][0] if self._rows else None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)
