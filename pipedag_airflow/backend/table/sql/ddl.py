"""Each DDL verb as an SQLAlchemy element, compiled per dialect.

All names go through the dialect's preparer. A dialect that says something differently registers its own compilation
with ``@compiles(Verb, "name")``. SQL as text stands here and in the dialects, which ask their catalogs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from pipedag_airflow.backend.table.sql.literals import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.sql.compiler import DDLCompiler, GenericTypeCompiler

    from pipedag_airflow.backend.metadata import Place
    from pipedag_airflow.backend.table.sql.facts import ObjectType

__all__ = [
    "AddPrimaryKey",
    "Analyze",
    "CopyFrom",
    "CreateDatabase",
    "CreateIndex",
    "CreateSchema",
    "CreateTable",
    "CreateTableAs",
    "CreateTemporaryTable",
    "CreateView",
    "CreateViewAs",
    "DropObject",
    "DropSchema",
    "Grant",
    "InsertByName",
    "RevokeAll",
    "SetNotNull",
    "Verb",
    "grantee",
    "option",
    "qualified",
    "struct",
]


class Verb(sa.schema.ExecutableDDLElement):
    """What a statement does, for which SQLAlchemy has no construct."""

    inherit_cache = False


def qualified(compiler: DDLCompiler, schema: str, name: str) -> str:
    """Return ``schema.name`` quoted by the rules of the dialect; a dot within either is part of the name."""
    preparer = compiler.preparer
    return f"{preparer.quote(schema)}.{preparer.quote(name)}"


def grantee(compiler: DDLCompiler, role: str | None) -> str:
    """Return a role quoted by the rules of the dialect; None is everybody."""
    return "PUBLIC" if role is None else compiler.preparer.quote(role)


def option(grantable: bool) -> str:
    """Return what stands behind a privilege that may be passed on."""
    return " WITH GRANT OPTION" if grantable else ""


def struct(compiler: GenericTypeCompiler, fields: dict[str, sa.types.TypeEngine[Any]]) -> str:
    """Return ``STRUCT(name type, …)``."""
    quote = compiler.dialect.identifier_preparer.quote
    return f"STRUCT({', '.join(f'{quote(name)} {compiler.process(kind)}' for name, kind in fields.items())})"


def _columns(compiler: DDLCompiler, columns: Sequence[str]) -> str:
    return ", ".join(compiler.preparer.quote(column) for column in columns)


def _typed(compiler: DDLCompiler, columns: dict[str, sa.types.TypeEngine[Any]]) -> str:
    types = compiler.dialect.type_compiler_instance
    return ", ".join(f"{compiler.preparer.quote(name)} {types.process(kind)}" for name, kind in columns.items())


def _create(verb: CreateTable | CreateTableAs) -> str:
    return "CREATE UNLOGGED TABLE" if verb.details.get("unlogged") else "CREATE TABLE"


def _literal_sql(compiler: DDLCompiler, query: sa.sql.ClauseElement) -> str:
    return str(compiler.sql_compiler.process(printable(query), literal_binds=True))


class CreateDatabase(Verb):
    """``CREATE DATABASE name``; outside of any transaction."""

    def __init__(self, name: str) -> None:
        self.name = name


@compiles(CreateDatabase)
def _create_database(verb: CreateDatabase, compiler: DDLCompiler, **_: Any) -> str:
    return f"CREATE DATABASE {compiler.preparer.quote(verb.name)}"


class CreateSchema(Verb):
    """``CREATE SCHEMA IF NOT EXISTS schema``, for another role where one is given."""

    def __init__(self, schema: str, owner: str | None = None) -> None:
        self.schema, self.owner = schema, owner


@compiles(CreateSchema)
def _create_schema(verb: CreateSchema, compiler: DDLCompiler, **_: Any) -> str:
    owner = "" if verb.owner is None else f" AUTHORIZATION {compiler.preparer.quote(verb.owner)}"
    return f"CREATE SCHEMA IF NOT EXISTS {compiler.preparer.quote(verb.schema)}{owner}"


class DropSchema(Verb):
    """``DROP SCHEMA IF EXISTS schema``; ``CASCADE`` also drops what is in it."""

    def __init__(self, schema: str, *, cascade: bool = False) -> None:
        self.schema, self.cascade = schema, cascade


@compiles(DropSchema)
def _drop_schema(verb: DropSchema, compiler: DDLCompiler, **_: Any) -> str:
    return f"DROP SCHEMA IF EXISTS {compiler.preparer.quote(verb.schema)}{' CASCADE' if verb.cascade else ''}"


class CreateTable(Verb):
    """``CREATE TABLE schema.name (column type, …)``."""

    def __init__(
        self, schema: str, name: str, columns: dict[str, sa.types.TypeEngine[Any]], details: Mapping[str, Any]
    ) -> None:
        self.schema, self.name, self.columns, self.details = schema, name, columns, details


@compiles(CreateTable)
def _create_table(verb: CreateTable, compiler: DDLCompiler, **_: Any) -> str:
    return f"{_create(verb)} {qualified(compiler, verb.schema, verb.name)} ({_typed(compiler, verb.columns)})"


class CreateTableAs(Verb):
    """``CREATE TABLE schema.name AS query``."""

    def __init__(self, schema: str, name: str, query: sa.sql.ClauseElement, details: Mapping[str, Any]) -> None:
        self.schema, self.name, self.query, self.details = schema, name, query, details


@compiles(CreateTableAs)
def _create_table_as(verb: CreateTableAs, compiler: DDLCompiler, **_: Any) -> str:
    target = qualified(compiler, verb.schema, verb.name)
    return f"{_create(verb)} {target} AS\n{_literal_sql(compiler, verb.query)}"


class CreateViewAs(Verb):
    """``CREATE VIEW schema.name AS query``."""

    def __init__(self, schema: str, name: str, query: sa.sql.ClauseElement) -> None:
        self.schema, self.name, self.query = schema, name, query


@compiles(CreateViewAs)
def _create_view_as(verb: CreateViewAs, compiler: DDLCompiler, **_: Any) -> str:
    view = qualified(compiler, verb.schema, verb.name)
    return f"CREATE VIEW {view} AS\n{_literal_sql(compiler, verb.query)}"


class InsertByName(Verb):
    """``INSERT INTO schema.name SELECT`` the columns, cast to their types, from a relation that the driver knows."""

    def __init__(self, schema: str, name: str, columns: dict[str, sa.types.TypeEngine[Any]], source: str) -> None:
        self.schema, self.name, self.columns, self.source = schema, name, columns, source


@compiles(InsertByName)
def _insert_by_name(verb: InsertByName, compiler: DDLCompiler, **_: Any) -> str:
    casts = ", ".join(
        f"CAST({compiler.preparer.quote(name)} AS {compiler.dialect.type_compiler_instance.process(kind)})"
        for name, kind in verb.columns.items()
    )
    target = qualified(compiler, verb.schema, verb.name)
    source = compiler.preparer.quote(verb.source)
    return f"INSERT INTO {target} ({_columns(compiler, list(verb.columns))}) SELECT {casts} FROM {source}"


class AddPrimaryKey(Verb):
    """``ALTER TABLE schema.name ADD PRIMARY KEY (columns)``."""

    def __init__(self, schema: str, name: str, columns: Sequence[str]) -> None:
        self.schema, self.name, self.columns = schema, name, columns


@compiles(AddPrimaryKey)
def _add_primary_key(verb: AddPrimaryKey, compiler: DDLCompiler, **_: Any) -> str:
    target = qualified(compiler, verb.schema, verb.name)
    return f"ALTER TABLE {target} ADD PRIMARY KEY ({_columns(compiler, verb.columns)})"


class SetNotNull(Verb):
    """``ALTER TABLE schema.name ALTER COLUMN column SET NOT NULL``."""

    def __init__(self, schema: str, name: str, column: str) -> None:
        self.schema, self.name, self.column = schema, name, column


@compiles(SetNotNull)
def _set_not_null(verb: SetNotNull, compiler: DDLCompiler, **_: Any) -> str:
    target = qualified(compiler, verb.schema, verb.name)
    return f"ALTER TABLE {target} ALTER COLUMN {compiler.preparer.quote(verb.column)} SET NOT NULL"


class CreateIndex(Verb):
    """``CREATE INDEX index ON schema.name (columns)``."""

    def __init__(self, schema: str, name: str, index: str, columns: Sequence[str]) -> None:
        self.schema, self.name, self.index, self.columns = schema, name, index, columns


@compiles(CreateIndex)
def _create_index(verb: CreateIndex, compiler: DDLCompiler, **_: Any) -> str:
    target = qualified(compiler, verb.schema, verb.name)
    return f"CREATE INDEX {compiler.preparer.quote(verb.index)} ON {target} ({_columns(compiler, verb.columns)})"


class CreateView(Verb):
    """``CREATE OR REPLACE VIEW schema.name AS SELECT * FROM target_schema.target``."""

    def __init__(self, schema: str, name: str, target_schema: str, target: str) -> None:
        self.schema, self.name = schema, name
        self.shown_schema, self.shown = target_schema, target


@compiles(CreateView)
def _create_view(verb: CreateView, compiler: DDLCompiler, **_: Any) -> str:
    view = qualified(compiler, verb.schema, verb.name)
    return f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM {qualified(compiler, verb.shown_schema, verb.shown)}"


class DropObject(Verb):
    """``DROP kind IF EXISTS schema.name``."""

    def __init__(self, kind: ObjectType, schema: str, name: str) -> None:
        self.kind, self.schema, self.name = kind, schema, name


@compiles(DropObject)
def _drop_object(verb: DropObject, compiler: DDLCompiler, **_: Any) -> str:
    return f"DROP {verb.kind.value} IF EXISTS {qualified(compiler, verb.schema, verb.name)}"


class DropTables(Verb):
    """``DROP TABLE IF EXISTS schema.name, …``."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places


@compiles(DropTables)
def _drop_tables(verb: DropTables, compiler: DDLCompiler, **_: Any) -> str:
    return f"DROP TABLE IF EXISTS {', '.join(qualified(compiler, *place) for place in verb.places)}"


class Analyze(Verb):
    """``ANALYZE schema.name``."""

    def __init__(self, schema: str, name: str) -> None:
        self.schema, self.name = schema, name


@compiles(Analyze)
def _analyze(verb: Analyze, compiler: DDLCompiler, **_: Any) -> str:
    return f"ANALYZE {qualified(compiler, verb.schema, verb.name)}"


class CopyFrom(Verb):
    """``COPY schema.name (columns) FROM STDIN (FORMAT BINARY)``."""

    def __init__(self, schema: str, name: str, columns: Sequence[str]) -> None:
        self.schema, self.name, self.columns = schema, name, columns


@compiles(CopyFrom)
def _copy_from(verb: CopyFrom, compiler: DDLCompiler, **_: Any) -> str:
    columns = _columns(compiler, verb.columns)
    return f"COPY {qualified(compiler, verb.schema, verb.name)} ({columns}) FROM STDIN (FORMAT BINARY)"


class CreateTemporaryTable(Verb):
    """``CREATE TEMPORARY TABLE name (column type, …) ON COMMIT DROP``."""

    def __init__(self, name: str, columns: dict[str, sa.types.TypeEngine[Any]]) -> None:
        self.name, self.columns = name, columns


@compiles(CreateTemporaryTable)
def _create_temporary_table(verb: CreateTemporaryTable, compiler: DDLCompiler, **_: Any) -> str:
    columns = _typed(compiler, verb.columns)
    return f"CREATE TEMPORARY TABLE {compiler.preparer.quote(verb.name)} ({columns}) ON COMMIT DROP"


class Grant(Verb):
    """``GRANT privilege ON schema.name TO role``.

    Args:
        privilege: The privilege, as the catalog of the database names it.
        schema: The schema.
        name: The table or view.
        role: The role; None is everybody.
        grantable: Whether the role may pass it on.
        column: The column that it is about; None is all.
    """

    def __init__(
        self, privilege: str, schema: str, name: str, role: str | None, *, grantable: bool, column: str | None = None
    ) -> None:
        self.privilege, self.schema, self.name, self.role = privilege, schema, name, role
        self.grantable, self.column = grantable, column


@compiles(Grant)
def _grant(verb: Grant, compiler: DDLCompiler, **_: Any) -> str:
    column = "" if verb.column is None else f" ({compiler.preparer.quote(verb.column)})"
    place = qualified(compiler, verb.schema, verb.name)
    return f"GRANT {verb.privilege}{column} ON {place} TO {grantee(compiler, verb.role)}{option(verb.grantable)}"


class RevokeAll(Verb):
    """``REVOKE ALL ON schema.name FROM role``; a role of None is everybody."""

    def __init__(self, schema: str, name: str, role: str | None) -> None:
        self.schema, self.name, self.role = schema, name, role


@compiles(RevokeAll)
def _revoke_all(verb: RevokeAll, compiler: DDLCompiler, **_: Any) -> str:
    # CASCADE takes back what the role has passed on.
    return f"REVOKE ALL ON {qualified(compiler, verb.schema, verb.name)} FROM {grantee(compiler, verb.role)} CASCADE"
