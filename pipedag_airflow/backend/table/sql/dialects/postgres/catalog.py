"""What PostgreSQL's catalog says: one statement a question, none through reflection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import REGCLASS

from pipedag_airflow.backend.table.sql.facts import Column, ObjectType

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "as_text",
    "columns",
    "content",
    "has_database",
    "has_schema",
    "indexes",
    "objects",
    "relations",
    "schemas",
    "sizes",
    "unlogged",
    "written_by_us",
]

_KINDS = {
    "r": ObjectType.TABLE,
    "p": ObjectType.TABLE,
    "f": ObjectType.TABLE,
    "v": ObjectType.VIEW,
    "m": ObjectType.MATERIALIZED_VIEW,
}


_CONTENT = sa.text("""
    SELECT found.type || ' ' || found.identity
    FROM pg_catalog.pg_namespace n
    JOIN pg_catalog.pg_depend d
        ON d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = n.oid AND d.deptype = 'n'
    CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, 0) AS found
    WHERE n.nspname = :schema
    ORDER BY 1
""")


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *map(sa.column, columns), schema="pg_catalog")


_CLASS = _table("pg_class", "oid", "relname", "relnamespace", "relkind", "relpersistence")
_NAMESPACE = _table("pg_namespace", "oid", "nspname")
_ATTRIBUTE = _table(
    "pg_attribute", "attrelid", "attname", "attnum", "attnotnull", "atttypid", "atttypmod", "attisdropped"
)
_INDEX = _table("pg_index", "indexrelid", "indrelid")
_DATABASE = _table("pg_database", "datname")
_IN_SCHEMA = sa.join(_CLASS, _NAMESPACE, _CLASS.c.relnamespace == _NAMESPACE.c.oid)


def as_text(statement: sa.sql.ClauseElement, dialect: sa.Dialect) -> str:
    """Return a statement without parameters as the server reads it: the drivers' dialects double every %."""
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True})).replace("%%", "%")


def has_database(connection: sa.Connection, name: str) -> bool:
    """Say whether the server has a database."""
    return connection.execute(sa.select(_DATABASE).where(_DATABASE.c.datname == name)).first() is not None


def has_schema(connection: sa.Connection, schema: str) -> bool:
    """Say whether there is a schema."""
    return connection.execute(sa.select(_NAMESPACE.c.oid).where(_NAMESPACE.c.nspname == schema)).first() is not None


def schemas(connection: sa.Connection) -> set[str]:
    """Return the names of all schemas."""
    return set(connection.scalars(sa.select(_NAMESPACE.c.nspname)))


def written_by_us(xmin: str) -> str:
    """Return a condition on the ``xmin`` of a row of the catalog: this transaction has written the row.

    What we can see, and is not committed, is ours; the same holds for what a savepoint or a block of PL/pgSQL has
    written, which has a number of its own. Two kinds of numbers are not asked about: of those before that of the
    transaction the server may not know any more what became of them, and those that the snapshot takes as not given
    out yet it may refuse. We see nothing of the latter but what is ours, and rows that are billions of transactions
    old, which have kept a number that comes again: to be told apart by what was there before.
    """
    ours = "pg_catalog.pg_current_xact_id()::text::bigint"
    later = f"(({xmin}::text::bigint - {ours}) & 4294967295)"
    asked = f"{ours} + {later} < pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint"
    status = f"pg_catalog.pg_xact_status(({ours} + {later})::text::xid8)"
    return f"CASE WHEN {later} >= 2147483648 THEN false WHEN {asked} THEN {status} = 'in progress' ELSE true END"


def objects(
    connection: sa.Connection, schemas: Sequence[str], *, own: bool = False
) -> dict[tuple[str, str], ObjectType]:
    """Return what the tables and views of schemas are by (schema, name), in the order in which they were made.

    Args:
        connection: An open connection.
        schemas: The schemas.
        own: Whether to return only what this transaction has made, or changed.
    """
    query = (
        sa.select(_NAMESPACE.c.nspname, _CLASS.c.relname, _CLASS.c.relkind)
        .select_from(_IN_SCHEMA)
        .where(_NAMESPACE.c.nspname.in_(schemas), _CLASS.c.relkind.in_(list(_KINDS)))
        .order_by(_CLASS.c.oid)
    )
    if own:
        query = query.where(sa.text(written_by_us("pg_catalog.pg_class.xmin").replace(":", r"\:")))
    return {(schema, name): _KINDS[_letter(kind)] for schema, name, kind in connection.execute(query)}


def relations(connection: sa.Connection, schema: str) -> list[tuple[int, str, ObjectType]]:
    """Return the object ids and the names of the tables and views of a schema, and what they are."""
    query = (
        sa.select(_CLASS.c.oid, _CLASS.c.relname, _CLASS.c.relkind)
        .select_from(_IN_SCHEMA)
        .where(_NAMESPACE.c.nspname == schema, _CLASS.c.relkind.in_(list(_KINDS)))
    )
    return [(oid, name, _KINDS[_letter(kind)]) for oid, name, kind in connection.execute(query)]


def _letter(value: str | bytes) -> str:
    """Return a value of the type "char", which psycopg gives as bytes in some versions."""
    return value.decode() if isinstance(value, bytes) else value


def unlogged(connection: sa.Connection, schemas: Sequence[str]) -> dict[tuple[str, str], bool]:
    """Return the unlogged tables of schemas by (schema, name), and whether they have rows."""
    size = sa.func.pg_relation_size(sa.cast(_CLASS.c.oid, REGCLASS))
    query = (
        sa.select(_NAMESPACE.c.nspname, _CLASS.c.relname, size > 0)
        .select_from(_IN_SCHEMA)
        .where(_NAMESPACE.c.nspname.in_(schemas), _CLASS.c.relkind == "r", _CLASS.c.relpersistence == "u")
    )
    return {(schema, name): has_rows for schema, name, has_rows in connection.execute(query)}


def content(connection: sa.Connection, schema: str) -> list[str]:
    """Return in words all that is in a schema."""
    return list(connection.scalars(_CONTENT, {"schema": schema}))


def sizes(connection: sa.Connection, schemas: Sequence[str]) -> dict[tuple[str, str], int]:
    """Return the bytes on disk of the tables of schemas by (schema, name), with their indexes and long values."""
    size = sa.func.pg_total_relation_size(sa.cast(_CLASS.c.oid, REGCLASS))
    query = (
        sa.select(_NAMESPACE.c.nspname, _CLASS.c.relname, size)
        .select_from(_IN_SCHEMA)
        .where(_NAMESPACE.c.nspname.in_(schemas), _CLASS.c.relkind == "r")
    )
    return {(schema, name): size for schema, name, size in connection.execute(query)}


def columns(connection: sa.Connection, schema: str, table: str | None = None) -> dict[str, tuple[Column, ...]]:
    """Return the columns of all tables and views of a schema, or of one of them, in their order."""
    query = (
        sa.select(
            _CLASS.c.relname,
            _ATTRIBUTE.c.attname,
            sa.func.format_type(_ATTRIBUTE.c.atttypid, _ATTRIBUTE.c.atttypmod),
            _ATTRIBUTE.c.attnotnull,
        )
        .select_from(_IN_SCHEMA.join(_ATTRIBUTE, _ATTRIBUTE.c.attrelid == _CLASS.c.oid))
        .where(
            _NAMESPACE.c.nspname == schema,
            _CLASS.c.relkind.in_(list(_KINDS)),
            _ATTRIBUTE.c.attnum > 0,
            _ATTRIBUTE.c.attisdropped.is_(sa.false()),
            sa.true() if table is None else _CLASS.c.relname == table,
        )
        .order_by(_CLASS.c.relname, _ATTRIBUTE.c.attnum)
    )
    found: dict[str, list[Column]] = {}
    for name, column, kind, required in connection.execute(query):
        found.setdefault(name, []).append(Column(column, kind, not required))
    return {name: tuple(columns) for name, columns in found.items()}


def indexes(connection: sa.Connection, schema: str, name: str) -> list[str]:
    """Return the names of the indexes of a table, those of its keys included."""
    of_table = _CLASS.alias("index_class")
    query = (
        sa.select(of_table.c.relname)
        .select_from(
            _IN_SCHEMA.join(_INDEX, _INDEX.c.indrelid == _CLASS.c.oid).join(
                of_table, of_table.c.oid == _INDEX.c.indexrelid
            )
        )
        .where(_NAMESPACE.c.nspname == schema, _CLASS.c.relname == name)
    )
    return list(connection.execute(query).scalars())
