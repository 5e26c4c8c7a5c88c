"""What SQL Server says differently of the verbs of :mod:`pipedag_airflow.backend.table.sql.ddl`, and its own ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.ddl import Verb
from pipedag_airflow.backend.table.sql.dialects.sqlserver.scripts import with_into
from pipedag_airflow.backend.table.sql.literals import printable

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import DDLCompiler

__all__ = ["AlterColumn", "CreateSynonym", "DropModule"]


def _literal(compiler: DDLCompiler, text: str) -> str:
    return str(compiler.sql_compiler.render_literal_value(text, sa.Unicode()))


@compiles(ddl.CreateDatabase, "mssql")
def _create_database(verb: ddl.CreateDatabase, compiler: DDLCompiler, **_: Any) -> str:
    return f"IF DB_ID({_literal(compiler, verb.name)}) IS NULL CREATE DATABASE {compiler.preparer.quote(verb.name)}"


@compiles(ddl.CreateSchema, "mssql")
def _create_schema(verb: ddl.CreateSchema, compiler: DDLCompiler, **_: Any) -> str:
    # CREATE SCHEMA has to be alone in its batch.
    made = _literal(compiler, f"CREATE SCHEMA {compiler.preparer.quote(verb.schema)}")
    return f"IF SCHEMA_ID({_literal(compiler, verb.schema)}) IS NULL EXEC({made})"


@compiles(ddl.DropSchema, "mssql")
def _drop_schema(verb: ddl.DropSchema, compiler: DDLCompiler, **_: Any) -> str:
    return f"DROP SCHEMA IF EXISTS {compiler.preparer.quote(verb.schema)}"


@compiles(ddl.CreateTableAs, "mssql")
def _create_table_as(verb: ddl.CreateTableAs, compiler: DDLCompiler, **_: Any) -> str:
    query = str(compiler.sql_compiler.process(printable(verb.query), literal_binds=True))
    return with_into(query, ddl.qualified(compiler, verb.schema, verb.name))


@compiles(ddl.CreateView, "mssql")
def _create_view(verb: ddl.CreateView, compiler: DDLCompiler, **_: Any) -> str:
    # What was granted on the view stays.
    view = ddl.qualified(compiler, verb.schema, verb.name)
    shown = ddl.qualified(compiler, verb.shown_schema, verb.shown)
    return f"CREATE OR ALTER VIEW {view} AS SELECT * FROM {shown}"  # noqa: S608 - both are quoted


class AlterColumn(Verb):
    """``ALTER TABLE schema.name ALTER COLUMN column type [NOT] NULL``.

    Args:
        schema: The schema.
        name: The table.
        column: The column.
        kind: Its type, with its collation: what is not said again is lost.
        nullable: Whether it may hold NULL.
    """

    def __init__(self, schema: str, name: str, column: str, kind: str, *, nullable: bool) -> None:
        self.schema, self.name, self.column, self.kind, self.nullable = schema, name, column, kind, nullable


@compiles(AlterColumn)
def _alter_column(verb: AlterColumn, compiler: DDLCompiler, **_: Any) -> str:
    table, column = ddl.qualified(compiler, verb.schema, verb.name), compiler.preparer.quote(verb.column)
    return f"ALTER TABLE {table} ALTER COLUMN {column} {verb.kind} {'NULL' if verb.nullable else 'NOT NULL'}"


class CreateSynonym(Verb):
    """``CREATE SYNONYM schema.name FOR target_schema.name``."""

    def __init__(self, schema: str, name: str, target_schema: str) -> None:
        self.schema, self.name, self.meant_schema = schema, name, target_schema


@compiles(CreateSynonym)
def _create_synonym(verb: CreateSynonym, compiler: DDLCompiler, **_: Any) -> str:
    synonym = ddl.qualified(compiler, verb.schema, verb.name)
    return f"CREATE SYNONYM {synonym} FOR {ddl.qualified(compiler, verb.meant_schema, verb.name)}"


class DropModule(Verb):
    """``DROP kind IF EXISTS schema.name``, for what a script has made that is no table and no view."""

    def __init__(self, kind: str, schema: str, name: str) -> None:
        self.kind, self.schema, self.name = kind, schema, name


@compiles(DropModule)
def _drop_module(verb: DropModule, compiler: DDLCompiler, **_: Any) -> str:
    return f"DROP {verb.kind} IF EXISTS {ddl.qualified(compiler, verb.schema, verb.name)}"
