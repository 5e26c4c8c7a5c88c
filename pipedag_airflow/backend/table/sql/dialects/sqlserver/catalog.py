"""What SQL Server's catalog says of schemas, tables and columns.

While a task loads a table, what the catalog has of it is locked, and whoever asked for all tables of the schema would
wait for it: two tasks would wait for each other. So it is asked with NOLOCK, and without OBJECT_ID and its like, which
wait nevertheless. (The documentation says that this works, but guarantees nothing.) What is not committed yet is seen,
too; nothing here does harm by that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.dialects.sqlserver.types import catalog_type
from pipedag_airflow.backend.table.sql.facts import Column, ObjectType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipedag_airflow.backend.metadata import Place

__all__ = ["collations", "columns", "has_schema", "holders", "modules", "relations", "schemas", "sizes"]

_SCHEMAS = sa.text("SELECT s.name FROM sys.schemas AS s WITH (NOLOCK)")

_HAS_SCHEMA = sa.text("SELECT COUNT(*) FROM sys.schemas AS s WHERE s.name = :schema")

_RELATIONS = sa.text("""
    SELECT s.name AS schema_name, o.name, o.type, o.object_id
    FROM sys.objects AS o WITH (NOLOCK)
    JOIN sys.schemas AS s WITH (NOLOCK) ON s.schema_id = o.schema_id
    WHERE s.name IN :schemas AND o.type IN ('U', 'V')
    ORDER BY o.create_date, o.object_id
""").bindparams(sa.bindparam("schemas", expanding=True))

_MODULES = sa.text("""
    SELECT o.name, o.type FROM sys.objects AS o WITH (NOLOCK)
    JOIN sys.schemas AS s WITH (NOLOCK) ON s.schema_id = o.schema_id
    WHERE s.name = :schema AND o.parent_object_id = 0 AND o.type NOT IN ('U', 'V')
    UNION ALL
    SELECT t.name, 'T' FROM sys.types AS t WITH (NOLOCK)
    JOIN sys.schemas AS s WITH (NOLOCK) ON s.schema_id = t.schema_id
    WHERE s.name = :schema AND t.is_user_defined = 1
    ORDER BY 2, 1
""")

#: A type that somebody has made is called by the one beneath it.
_COLUMNS = """
    SELECT o.name AS table_name, c.name, COALESCE(base.name, declared.name) AS type_name,
        c.max_length, c.precision, c.scale, c.is_nullable, c.collation_name
    FROM sys.objects AS o WITH (NOLOCK)
    JOIN sys.schemas AS s WITH (NOLOCK) ON s.schema_id = o.schema_id
    JOIN sys.columns AS c WITH (NOLOCK) ON c.object_id = o.object_id
    JOIN sys.types AS declared WITH (NOLOCK) ON declared.user_type_id = c.user_type_id
    LEFT JOIN sys.types AS base WITH (NOLOCK) ON base.user_type_id = c.system_type_id
    WHERE s.name = :schema AND o.type IN ('U', 'V')
"""

_SIZES = sa.text("""
    SELECT s.name AS schema_name, o.name, SUM(a.total_pages) * 8192 AS bytes
    FROM sys.objects AS o WITH (NOLOCK)
    JOIN sys.schemas AS s WITH (NOLOCK) ON s.schema_id = o.schema_id
    JOIN sys.partitions AS p WITH (NOLOCK) ON p.object_id = o.object_id
    JOIN sys.allocation_units AS a WITH (NOLOCK) ON a.container_id = p.partition_id
    WHERE s.name IN :schemas AND o.type = 'U'
    GROUP BY s.name, o.name
""").bindparams(sa.bindparam("schemas", expanding=True))

_MAY_SEE_OTHERS = sa.text("SELECT HAS_PERMS_BY_NAME(NULL, NULL, 'VIEW SERVER STATE')")

_HOLDERS = sa.text("""
    SELECT TOP 5 e.session_id, e.login_name, e.program_name, e.host_name, MIN(s.name + '.' + o.name) AS held
    FROM sys.dm_tran_locks AS l
    JOIN sys.dm_exec_sessions AS e ON e.session_id = l.request_session_id
    JOIN sys.objects AS o WITH (NOLOCK) ON o.object_id = l.resource_associated_entity_id
    JOIN sys.schemas AS s WITH (NOLOCK) ON s.schema_id = o.schema_id
    WHERE l.resource_type = 'OBJECT' AND l.resource_database_id = DB_ID() AND l.request_status = 'GRANT'
        AND s.name IN :schemas AND l.request_session_id <> @@SPID
    GROUP BY e.session_id, e.login_name, e.program_name, e.host_name
""").bindparams(sa.bindparam("schemas", expanding=True))

_KINDS = {"U": ObjectType.TABLE, "V": ObjectType.VIEW}

#: In the words of DROP, in an order in which nothing is dropped that a later one needs; sys.objects pads its types.
_MODULE_KINDS = {
    "SN": "SYNONYM",
    "P": "PROCEDURE",
    "PC": "PROCEDURE",
    "FN": "FUNCTION",
    "IF": "FUNCTION",
    "TF": "FUNCTION",
    "FS": "FUNCTION",
    "FT": "FUNCTION",
    "AF": "AGGREGATE",
    "SO": "SEQUENCE",
    "T": "TYPE",
}


def schemas(connection: sa.Connection) -> set[str]:
    """Return the names of the schemas of the database."""
    return set(connection.scalars(_SCHEMAS))


def has_schema(connection: sa.Connection, schema: str) -> bool:
    """Say whether a schema is there for good."""
    return bool(connection.execute(_HAS_SCHEMA, {"schema": schema}).scalar_one())


def relations(connection: sa.Connection, wanted: Sequence[str]) -> list[tuple[Place, ObjectType, int]]:
    """Return the tables and views of schemas with their object ids, the oldest first."""
    if not wanted:
        return []
    rows = connection.execute(_RELATIONS, {"schemas": list(wanted)})
    return [((row.schema_name, row.name), _KINDS[row.type.strip()], row.object_id) for row in rows]


def modules(connection: sa.Connection, schema: str) -> list[tuple[str, str]]:
    """Return what else is in a schema: what DROP calls it, and its name, in an order in which it can be dropped."""
    found = [(row.type.strip(), row.name) for row in connection.execute(_MODULES, {"schema": schema})]
    order = list(_MODULE_KINDS)
    known = sorted((order.index(kind), name) for kind, name in found if kind in _MODULE_KINDS)
    return [(_MODULE_KINDS[order[index]], name) for index, name in known]


def _column_rows(connection: sa.Connection, schema: str, table: str | None) -> Sequence[sa.Row[Any]]:
    one = "" if table is None else " AND o.name = :table"
    given = {"schema": schema} if table is None else {"schema": schema, "table": table}
    return connection.execute(sa.text(f"{_COLUMNS}{one} ORDER BY o.name, c.column_id"), given).all()


def columns(connection: sa.Connection, schema: str, table: str | None) -> Mapping[str, tuple[Column, ...]]:
    """Return the columns of all tables and views of a schema, or of one of them, in their order."""
    found: dict[str, list[Column]] = {}
    for row in _column_rows(connection, schema, table):
        kind = catalog_type(row.type_name, row.max_length, row.precision, row.scale)
        found.setdefault(row.table_name, []).append(Column(row.name, kind, bool(row.is_nullable)))
    return {name: tuple(listed) for name, listed in found.items()}


def collations(connection: sa.Connection, schema: str, table: str) -> dict[str, str]:
    """Return the collations of the columns of a table that are texts."""
    rows = _column_rows(connection, schema, table)
    return {row.name: row.collation_name for row in rows if row.collation_name is not None}


def sizes(connection: sa.Connection, wanted: Sequence[str]) -> dict[Place, int]:
    """Return the bytes on disk of the tables of schemas, with their indexes and long values."""
    rows = connection.execute(_SIZES, {"schemas": list(wanted)}) if wanted else ()
    return {(row.schema_name, row.name): int(row.bytes) for row in rows}


def holders(connection: sa.Connection, wanted: Sequence[str]) -> list[str]:
    """Return who holds locks on the tables and views of schemas, in words; five at most."""
    if not connection.execute(_MAY_SEE_OTHERS).scalar_one():
        return ["sessions that our user may not see (grant it VIEW SERVER STATE to learn whose they are)"]
    return [
        f"session {row.session_id} of {row.login_name} ({row.program_name or 'no program name'}, "
        f"{row.host_name or 'no host name'}) holds {row.held}"
        for row in connection.execute(_HOLDERS, {"schemas": list(wanted)})
    ]
