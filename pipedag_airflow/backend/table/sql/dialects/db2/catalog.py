"""What the catalog of Db2 says. A name that was not quoted is there in capitals, and here in small letters.

It is read WITH UR: else a task would wait for the rows of all tables that parallel tasks are just making, and they for
its own. The semantics that spare readers such waits, CUR_COMMIT, do not hold for the catalog.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.facts import Column, ObjectType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipedag_airflow.backend.metadata import Place

__all__ = [
    "base_of_alias",
    "catalog_name",
    "columns",
    "dependents_elsewhere",
    "has_schema",
    "identities",
    "object_type",
    "our_name",
    "parse_type",
    "relations",
    "routines_and_sequences",
    "schemas",
]

#: How SYSCAT calls what has columns, and how DROP does.
_KINDS = {"T": "TABLE", "S": "TABLE", "V": "VIEW", "A": "ALIAS", "N": "NICKNAME"}

_FIRST, _MICROSECOND = dt.datetime(1, 1, 1), dt.timedelta(microseconds=1)  # noqa: DTZ001 - Db2 has no zones

_SCHEMAS = sa.text("SELECT SCHEMANAME FROM SYSCAT.SCHEMATA WITH UR")
# This waits for whoever is just making the schema.
_SCHEMA = sa.text("SELECT COUNT(*) FROM SYSCAT.SCHEMATA WHERE SCHEMANAME = :schema")

_RELATIONS = sa.text("""
    SELECT TABSCHEMA, TABNAME, TYPE, CREATE_TIME
    FROM SYSCAT.TABLES
    WHERE TABSCHEMA IN :schemas AND TYPE IN ('T', 'S', 'V', 'A', 'N')
    ORDER BY CREATE_TIME, TABNAME
    WITH UR
""").bindparams(sa.bindparam("schemas", expanding=True))

# Of an alias, the catalog has no columns: they are those of what it stands for in the end.
_COLUMNS = """
    SELECT t.TABNAME, c.COLNAME, c.TYPENAME, c.LENGTH, c.SCALE, c.NULLS, c.CODEPAGE
    FROM SYSCAT.TABLES t
    JOIN SYSCAT.COLUMNS c
        ON c.TABSCHEMA = CASE WHEN t.TYPE = 'A' THEN TABLE_SCHEMA(t.TABNAME, t.TABSCHEMA) ELSE t.TABSCHEMA END
        AND c.TABNAME = CASE WHEN t.TYPE = 'A' THEN TABLE_NAME(t.TABNAME, t.TABSCHEMA) ELSE t.TABNAME END
    WHERE t.TABSCHEMA = :schema{of_one}
    ORDER BY t.TABNAME, c.COLNO
    WITH UR
"""

# What was marked as invalid finds its tables anew when it is used again.
_DEPENDENTS = sa.text("""
    SELECT DISTINCT d.TABSCHEMA, d.TABNAME
    FROM SYSCAT.TABDEP d
    JOIN SYSCAT.VIEWS v ON v.VIEWSCHEMA = d.TABSCHEMA AND v.VIEWNAME = d.TABNAME
    WHERE d.BSCHEMA = :schema AND d.TABSCHEMA <> :schema AND v.VALID = 'Y'
    ORDER BY d.TABSCHEMA, d.TABNAME
    WITH UR
""")

_BASE = sa.text("""
    SELECT BASE_TABSCHEMA, BASE_TABNAME
    FROM SYSCAT.TABLES
    WHERE TABSCHEMA = :schema AND TABNAME = :name AND TYPE = 'A'
    WITH UR
""")

_OTHERS = sa.text("""
    SELECT 'routine ' || ROUTINENAME FROM SYSCAT.ROUTINES WHERE ROUTINESCHEMA = :schema
    UNION ALL
    SELECT 'sequence ' || SEQNAME FROM SYSCAT.SEQUENCES WHERE SEQSCHEMA = :schema AND SEQTYPE = 'S'
    UNION ALL
    SELECT 'type ' || TYPENAME FROM SYSCAT.DATATYPES WHERE TYPESCHEMA = :schema
    ORDER BY 1
    WITH UR
""")


def catalog_name(connection: sa.Connection, name: str) -> str:
    """Return a name as the catalog has it."""
    dialect: Any = connection.dialect
    return str(dialect.denormalize_name(name))


def our_name(connection: sa.Connection, name: str) -> str:
    """Return a name of the catalog as it is here."""
    dialect: Any = connection.dialect
    return str(dialect.normalize_name(name.rstrip()))


def schemas(connection: sa.Connection) -> set[str]:
    """Return the names of the schemas of the database."""
    return {our_name(connection, name) for name in connection.scalars(_SCHEMAS)}


def has_schema(connection: sa.Connection, schema: str) -> bool:
    """Say whether a schema is there."""
    return bool(connection.execute(_SCHEMA, {"schema": catalog_name(connection, schema)}).scalar_one())


def _relations(connection: sa.Connection, wanted: Sequence[str]) -> list[tuple[Place, str, dt.datetime]]:
    asked = {catalog_name(connection, schema): schema for schema in wanted}
    if not asked:
        return []
    rows = connection.execute(_RELATIONS, {"schemas": list(asked)})
    return [
        ((asked[schema.rstrip()], our_name(connection, name)), _KINDS[kind], made) for schema, name, kind, made in rows
    ]


def relations(connection: sa.Connection, wanted: Sequence[str]) -> dict[Place, str]:
    """Return what the tables, views, aliases and nicknames of schemas are in the words of DROP, the oldest first."""
    return {place: kind for place, kind, _ in _relations(connection, wanted)}


def identities(connection: sa.Connection, schema: str) -> dict[Place, int]:
    """Return when each table, view, alias and nickname of a schema was made, in microseconds of the server's time."""
    return {place: (made - _FIRST) // _MICROSECOND for place, _, made in _relations(connection, [schema])}


def object_type(kind: str) -> ObjectType:
    """Return what something is to those who only read it: an alias is read like a view."""
    return ObjectType.TABLE if kind == "TABLE" else ObjectType.VIEW


def base_of_alias(connection: sa.Connection, place: Place) -> Place | None:
    """Return what the alias at a place stands for; None if there is no alias."""
    schema, name = (catalog_name(connection, part) for part in place)
    row = connection.execute(_BASE, {"schema": schema, "name": name}).one_or_none()
    return None if row is None else (our_name(connection, row[0]), our_name(connection, row[1]))


def dependents_elsewhere(connection: sa.Connection, schema: str) -> list[str]:
    """Return the views in other schemas that read what is in a schema."""
    found = connection.execute(_DEPENDENTS, {"schema": catalog_name(connection, schema)})
    return [".".join(our_name(connection, name) for name in row) for row in found]


def routines_and_sequences(connection: sa.Connection, schema: str) -> list[str]:
    """Return in words what is in a schema besides tables and views."""
    return list(connection.scalars(_OTHERS, {"schema": catalog_name(connection, schema)}))


def columns(connection: sa.Connection, schema: str, table: str | None) -> Mapping[str, tuple[Column, ...]]:
    """Return the columns of all tables, views, aliases and nicknames of a schema, or of one of them."""
    given = {"schema": catalog_name(connection, schema)}
    if table is not None:
        given["table"] = catalog_name(connection, table)
    query = sa.text(_COLUMNS.format(of_one="" if table is None else " AND t.TABNAME = :table"))
    found: dict[str, list[Column]] = {}
    for name, column, kind, length, scale, nulls, codepage in connection.execute(query, given):
        described = Column(our_name(connection, column), _type_text(kind, length, scale, codepage), nulls == "Y")
        found.setdefault(our_name(connection, name), []).append(described)
    return {name: tuple(described) for name, described in found.items()}


_WITH_LENGTH = {"BINARY", "BLOB", "CHARACTER", "CLOB", "DBCLOB", "GRAPHIC", "VARBINARY", "VARCHAR", "VARGRAPHIC"}
_FOR_BYTES = " FOR BIT DATA"


def _type_text(name: str, length: int, scale: int, codepage: int) -> str:
    """Return a type as CREATE TABLE takes it."""
    if name in _WITH_LENGTH:
        of_bytes = name in ("CHARACTER", "VARCHAR") and codepage == 0
        return f"{name}({length}){_FOR_BYTES if of_bytes else ''}"
    if name == "DECIMAL":
        return f"DECIMAL({length}, {scale})"
    if name == "DECFLOAT":
        return f"DECFLOAT({16 if length == 8 else 34})"
    return f"TIMESTAMP({scale})" if name == "TIMESTAMP" else name


_ARGUMENTS = re.compile(r"\((\d+)(?:, (\d+))?\)")
_TYPES: dict[str, Any] = {
    "BIGINT": sa.BigInteger,
    "BINARY": sa.LargeBinary,
    "BLOB": sa.LargeBinary,
    "BOOLEAN": sa.Boolean,
    "CHARACTER": sa.String,
    "CLOB": sa.Text,
    "DATE": sa.Date,
    "DBCLOB": sa.Text,
    "DECFLOAT": sa.Numeric,
    "DOUBLE": sa.Double,
    "GRAPHIC": sa.String,
    "INTEGER": sa.Integer,
    "REAL": sa.Float(24),
    "SMALLINT": sa.SmallInteger,
    "TIME": sa.Time,
    "TIMESTAMP": sa.DateTime,
    "VARBINARY": sa.LargeBinary,
    "VARCHAR": sa.String,
    "VARGRAPHIC": sa.String,
}


def parse_type(text: str) -> sa.types.TypeEngine[Any]:
    """Return the SQLAlchemy type for one of Db2's; unknown ones get no type."""
    plain, arguments = _ARGUMENTS.sub("", text), _ARGUMENTS.search(text)
    if plain == "DECIMAL" and arguments is not None:
        return sa.Numeric(int(arguments[1]), int(arguments[2] or 0))
    if plain.endswith(_FOR_BYTES):
        return sa.LargeBinary()
    return sa.types.to_instance(_TYPES.get(plain, sa.types.NullType))
