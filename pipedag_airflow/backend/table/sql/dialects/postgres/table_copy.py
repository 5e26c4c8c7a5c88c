"""A table of PostgreSQL that cannot be moved, because somebody reads it just now, is copied as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.dialects.postgres.ddl import CopyRows, CreateTableLike
from pipedag_airflow.errors import TableBusyError

if TYPE_CHECKING:
    from pipedag_airflow.backend.metadata import Place

__all__ = ["copy_table"]

_COLUMNS = sa.text("""
    SELECT a.attname AS name, a.attgenerated <> '' AS is_generated, c.relpersistence = 'u' AS unlogged,
        a.attidentity <> '' OR EXISTS (
            SELECT FROM pg_catalog.pg_depend d
            JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
            WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
                AND d.refobjid = c.oid AND d.refobjsubid = a.attnum
        ) AS counts
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relname = :name AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
""")


def copy_table(connection: sa.Connection, source: Place, target: Place) -> None:
    """Copy a table with its rows, keys and indexes.

    Raises:
        TableBusyError: if it has a column that counts: its sequence stays with the table that is read.
    """
    columns = connection.execute(_COLUMNS, {"schema": source[0], "name": source[1]}).all()
    counting = [column.name for column in columns if column.counts]
    if counting:
        raise TableBusyError(
            f"{'.'.join(source)} is read just now, and counts its column {', '.join(counting)}: it cannot be copied, "
            "because the copy would not go on counting."
        )
    connection.execute(CreateTableLike(target, source, unlogged=any(column.unlogged for column in columns)))
    connection.execute(CopyRows(target, source, [column.name for column in columns if not column.is_generated]))
