"""Each DDL verb as an SQLAlchemy element, compiled per dialect.

All names go through the dialect's preparer. There is no SQL text outside this module; a dialect that says something
differently registers its own compilation with ``@compiles(Verb, "name")``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from pipedag_airflow.backend.table.sql.literals import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.sql.compiler import DDLCompiler, GenericTypeCompiler

__all__ = [
    "AddPrimaryKey",
    "CreateIndex",
    "CreateSchema",
    "CreateTable",
    "CreateTableAs",
    "CreateView",
    "DropObject",
    "DropSchema",
    "InsertByName",
    "qualified",
    "struct",
]


class _Verb(sa.schema.ExecutableDDLElement):
    inherit_cache = False


def qualified(compiler: DDLCompiler, schema: str, name: str) -> str:
    """Return ``schema.name`` quoted by the rules of the dialect; a dot within either is part of the name."""
    preparer = compiler.preparer
    return f"{preparer.quote(schema)}.{preparer.quote(name)}"


def struct(compiler: GenericTypeCompiler, fields: dict[str, sa.types.TypeEngine[Any]]) -> str:
    """Return ``STRUCT(name type, …)``."""
    quote = compiler.dialect.identifier_preparer.quote
    return f"STRUCT({', '.join(f'{quote(name)} {compiler.process(kind)}' for name, kind in fields.items())})"


def _columns(compiler: DDLCompiler, columns: Sequence[str]) -> str:
    return ", ".join(compiler.preparer.quote(column) for column in columns)


def _literal_sql(compiler: DDLCompiler, query: sa.sql.ClauseElement) -> str:
    return str(compiler.sql_compiler.process(printable(query), literal_binds=True))


class CreateSchema(_Verb):
    """``CREATE SCHEMA IF NOT EXISTS schema``."""

    def __init__(self, schema: str) -> None:
        self.schema = schema


@compiles(CreateSchema)
def _create_schema(verb: CreateSchema, compiler: DDLCompiler, **_: Any) -> str:
    return f"CREATE SCHEMA IF NOT EXISTS {compiler.preparer.quote(verb.schema)}"


class DropSchema(_Verb):
    """``DROP SCHEMA IF EXISTS schema CASCADE``."""

    def __init__(self, schema: str) -> None:
        self.schema = schema


@compiles(DropSchema)
def _drop_schema(verb: DropSchema, compiler: DDLCompiler, **_: Any) -> str:
    return f"DROP SCHEMA IF EXISTS {compiler.preparer.quote(verb.schema)} CASCADE"


class CreateTable(_Verb):
    """``CREATE TABLE schema.name (column type, …)``."""

    def __init__(self, schema: str, name: str, columns: dict[str, sa.types.TypeEngine[Any]]) -> None:
        self.schema, self.name, self.columns = schema, name, columns


@compiles(CreateTable)
def _create_table(verb: CreateTable, compiler: DDLCompiler, **_: Any) -> str:
    columns = ", ".join(
        f"{compiler.preparer.quote(name)} {compiler.dialect.type_compiler_instance.process(kind)}"
        for name, kind in verb.columns.items()
    )
    return f"CREATE TABLE {qualified(compiler, verb.schema, verb.name)} ({columns})"


class CreateTableAs(_Verb):
    """``CREATE TABLE schema.name AS query``."""

    def __init__(self, schema: str, name: str, query: sa.sql.ClauseElement) -> None:
        self.schema, self.name, self.query = schema, name, query


@compiles(CreateTableAs)
def _create_table_as(verb: CreateTableAs, compiler: DDLCompiler, **_: Any) -> str:
    target = qualified(compiler, verb.schema, verb.name)
    return f"CREATE TABLE {target} AS\n{_literal_sql(compiler, verb.query)}"


class InsertByName(_Verb):
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


class AddPrimaryKey(_Verb):
    """``ALTER TABLE schema.name ADD PRIMARY KEY (columns)``."""

    def __init__(self, schema: str, name: str, columns: Sequence[str]) -> None:
        self.schema, self.name, self.columns = schema, name, columns


@compiles(AddPrimaryKey)
def _add_primary_key(verb: AddPrimaryKey, compiler: DDLCompiler, **_: Any) -> str:
    target = qualified(compiler, verb.schema, verb.name)
    return f"ALTER TABLE {target} ADD PRIMARY KEY ({_columns(compiler, verb.columns)})"


class CreateIndex(_Verb):
    """``CREATE INDEX index ON schema.name (columns)``."""

    def __init__(self, schema: str, name: str, index: str, columns: Sequence[str]) -> None:
        self.schema, self.name, self.index, self.columns = schema, name, index, columns


@compiles(CreateIndex)
def _create_index(verb: CreateIndex, compiler: DDLCompiler, **_: Any) -> str:
    target = qualified(compiler, verb.schema, verb.name)
    return f"CREATE INDEX {compiler.preparer.quote(verb.index)} ON {target} ({_columns(compiler, verb.columns)})"


class CreateView(_Verb):
    """``CREATE OR REPLACE VIEW schema.name AS SELECT * FROM target_schema.target``."""

    def __init__(self, schema: str, name: str, target_schema: str, target: str) -> None:
        self.schema, self.name = schema, name
        self.shown_schema, self.shown = target_schema, target


@compiles(CreateView)
def _create_view(verb: CreateView, compiler: DDLCompiler, **_: Any) -> str:
    view = qualified(compiler, verb.schema, verb.name)
    return f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM {qualified(compiler, verb.shown_schema, verb.shown)}"


class DropObject(_Verb):
    """``DROP kind IF EXISTS schema.name``, where kind is TABLE or VIEW."""

    def __init__(self, kind: str, schema: str, name: str) -> None:
        if kind not in ("TABLE", "VIEW"):
            raise ValueError(f"kind is TABLE or VIEW, not {kind!r}")
        self.kind, self.schema, self.name = kind, schema, name


@compiles(DropObject)
def _drop_object(verb: DropObject, compiler: DDLCompiler, **_: Any) -> str:
    return f"DROP {verb.kind} IF EXISTS {qualified(compiler, verb.schema, verb.name)}"
