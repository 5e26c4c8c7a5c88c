"""Tables are made on Db2 with what columns may hold: to change that later needs a reorganisation, which commits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.dialects.db2.catalog import catalog_name, columns
from pipedag_airflow.backend.table.sql.dialects.db2.ddl import CreateTable, DropRelation, InsertQuery, LockTable
from pipedag_airflow.backend.table.sql.dialects.db2.unit import UnitOfWork
from pipedag_airflow.backend.table.sql.dialects.db2.words import first_words
from pipedag_airflow.backend.table.sql.names import marked
from pipedag_airflow.backend.table.sql.nullability import columns_without_null

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipedag_airflow.backend.metadata import Place
    from pipedag_airflow.core.containers import Table

__all__ = ["create_empty", "create_filled"]


def create_empty(
    connection: sa.Connection,
    verb: ddl.CreateTable,
    table: Table[Any],
    types: Mapping[str, sa.types.TypeEngine[Any]],
    *,
    lock: bool,
) -> None:
    """Create an empty table of columns.

    Args:
        connection: A connection within a transaction.
        verb: The table.
        table: What its maker says of it.
        types: The types of its columns, which take the place of those of the verb.
        lock: Whether to lock it as a whole while it is filled.

    Raises:
        NullabilityError: if ``nullable`` and ``non_nullable`` do not fit the table.
    """
    not_null = _not_null(connection, table, list(types))
    connection.execute(CreateTable((verb.schema, verb.name), types, not_null, verb.details))
    _prepare_filling(connection, (verb.schema, verb.name), lock)


def create_filled(connection: sa.Connection, verb: ddl.CreateTableAs, table: Table[Any], *, lock: bool) -> None:
    """Create a table with the columns and the rows of a query.

    Args:
        connection: A connection within a transaction.
        verb: The table and the query.
        table: What its maker says of it.
        lock: Whether to lock it as a whole while it is filled.

    Raises:
        NullabilityError: if ``nullable`` and ``non_nullable`` do not fit the table.
    """
    place = verb.schema, verb.name
    _define(connection, verb)
    _redefine(connection, verb, table)
    _prepare_filling(connection, place, lock)
    connection.execute(InsertQuery(place, verb.query))


def _prepare_filling(connection: sa.Connection, place: Place, lock: bool) -> None:
    if lock:
        connection.execute(LockTable(place))
    UnitOfWork.of(connection).written.append(place)


def _redefine(connection: sa.Connection, verb: ddl.CreateTableAs, table: Table[Any]) -> None:
    """Make an empty table anew, where its maker says what may be NULL, with the types that the catalog has of it."""
    place = verb.schema, verb.name
    says_which = table.nullable is not None or table.non_nullable is not None
    if not says_which and not table.primary_key:
        return
    described = columns(connection, *place)[verb.name]
    not_null = _not_null(connection, table, [column.name for column in described])
    if not says_which:
        not_null |= {column.name for column in described if not column.nullable}
    connection.execute(DropRelation("TABLE", place))
    types = {column.name: column.type for column in described}
    connection.execute(CreateTable(place, types, not_null, verb.details))


def _define(connection: sa.Connection, verb: ddl.CreateTableAs) -> None:
    """Create an empty table with the columns of a query; WITH cannot be in parentheses, but in a view."""
    if not _begins_with_with(connection, verb.query):
        connection.execute(verb)
        return
    view = verb.schema, marked(verb.name, connection.dialect.max_identifier_length)
    connection.execute(ddl.CreateViewAs(*view, verb.query))
    rows = sa.select(sa.text("*")).select_from(sa.table(view[1], schema=view[0]))
    connection.execute(ddl.CreateTableAs(verb.schema, verb.name, rows, verb.details))
    connection.execute(DropRelation("VIEW", view))


def _begins_with_with(connection: sa.Connection, query: sa.sql.ClauseElement) -> bool:
    return "WITH" in first_words(str(query.compile(dialect=connection.dialect)))


def _not_null(connection: sa.Connection, table: Table[Any], names: Sequence[str]) -> set[str]:
    """Return the columns that may not hold NULL: those of the primary key, and as the maker of the table says."""
    by_name = {catalog_name(connection, name): name for name in names}
    key = {by_name.get(catalog_name(connection, column), column) for column in table.primary_key or ()}
    return {*key, *columns_without_null(table, names, f"Table {table.name!r}")}
