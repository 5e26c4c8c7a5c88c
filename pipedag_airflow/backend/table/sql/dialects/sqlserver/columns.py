"""Columns of new tables are altered: whether they hold NULL, and into types that keys can have.

SQL Server wants to be told the whole type again, and gives a text the collation of the database if it is not told one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.backend.table.sql.dialects.sqlserver import catalog
from pipedag_airflow.backend.table.sql.dialects.sqlserver.ddl import AlterColumn
from pipedag_airflow.backend.table.sql.dialects.sqlserver.types import key_type

if TYPE_CHECKING:
    from collections.abc import Collection

    import sqlalchemy as sa

    from pipedag_airflow.backend.table.sql.facts import Column

__all__ = ["prepare_keys", "set_nullability"]


def set_nullability(connection: sa.Connection, schema: str, name: str, without_null: Collection[str]) -> None:
    """Let some columns hold no NULL, and the others hold it: SELECT INTO takes over what its sources say."""
    columns = catalog.columns(connection, schema, name)[name]
    wanted = {column: (column.type, column.name not in without_null) for column in columns}
    _alter(connection, schema, name, wanted)


def prepare_keys(
    connection: sa.Connection, schema: str, name: str, primary_key: Collection[str], indexed: Collection[str]
) -> None:
    """Give the columns of a primary key and of indexes a length, and let the former hold no NULL."""
    wanted = {}
    for column in catalog.columns(connection, schema, name).get(name, ()):
        primary = column.name in primary_key
        if primary or column.name in indexed:
            wanted[column] = key_type(column.type, primary=primary), column.nullable and not primary
    _alter(connection, schema, name, wanted)


def _alter(connection: sa.Connection, schema: str, name: str, wanted: dict[Column, tuple[str, bool]]) -> None:
    changed = {column.name: new for column, new in wanted.items() if new != (column.type, column.nullable)}
    collations = catalog.collations(connection, schema, name) if changed else {}
    for column, (kind, nullable) in changed.items():
        said = f"{kind} COLLATE {collations[column]}" if column in collations else kind
        connection.execute(AlterColumn(schema, name, column, said, nullable=nullable))
