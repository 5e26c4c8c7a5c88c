"""The verbs as Db2 says them; see :mod:`pipedag_airflow.backend.table.sql.ddl`.

There is no CREATE TABLE that is filled by its query: a table is defined by the query, and then filled. No verb here
alters what a column may hold: that would need a reorganisation, which commits whatever is under way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.ddl import Verb, qualified
from pipedag_airflow.backend.table.sql.literals import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy.sql.compiler import DDLCompiler

    from pipedag_airflow.backend.metadata import Place

__all__ = [
    "COMPRESSIONS",
    "LONGEST_VARCHAR",
    "CreateTable",
    "DropRelation",
    "InsertQuery",
    "LockTable",
    "MakeVolatile",
    "SetLockTimeout",
]

_DIALECT = "ibm_db_sa"
#: What the materialization detail ``compression`` may be, alone or in a list.
COMPRESSIONS = ("", "COMPRESS YES", "COMPRESS YES STATIC", "COMPRESS YES ADAPTIVE", "VALUE COMPRESSION")
#: The longest VARCHAR, in bytes.
LONGEST_VARCHAR = 32_672
_TABLE_SPACES = {"table_space_data": "IN", "table_space_index": "INDEX IN", "table_space_long": "LONG IN"}


def _options(compiler: DDLCompiler, details: Mapping[str, Any]) -> str:
    """Return the materialization details as what stands behind the columns of a table."""
    chosen = details.get("compression") or []
    compressions = [chosen] if isinstance(chosen, str) else chosen
    spaces = [
        f"{words} {compiler.preparer.quote(details[name])}" for name, words in _TABLE_SPACES.items() if name in details
    ]
    return "".join(f" {option}" for option in (*compressions, *spaces) if option)


def _query(compiler: DDLCompiler, query: sa.sql.ClauseElement) -> str:
    return str(compiler.sql_compiler.process(printable(query), literal_binds=True))


@compiles(ddl.CreateSchema, _DIALECT)
def _create_schema(verb: ddl.CreateSchema, compiler: DDLCompiler, **_: Any) -> str:
    execute = f"EXECUTE IMMEDIATE {_text(compiler, f'CREATE SCHEMA {compiler.preparer.quote(verb.schema)}')}"
    # That it is there is no error, also where another transaction is just making it: then this one waits for it.
    return f"BEGIN DECLARE CONTINUE HANDLER FOR SQLSTATE '42710' BEGIN END; {execute}; END"


def _text(compiler: DDLCompiler, text: str) -> str:
    return str(compiler.sql_compiler.render_literal_value(text, sa.String()))


@compiles(ddl.DropSchema, _DIALECT)
def _drop_schema(verb: ddl.DropSchema, compiler: DDLCompiler, **_: Any) -> str:
    return f"DROP SCHEMA {compiler.preparer.quote(verb.schema)} RESTRICT"


class CreateTable(Verb):
    """``CREATE TABLE schema.name (column type [NOT NULL], …)``; types as objects, or in Db2's own words."""

    def __init__(
        self,
        place: Place,
        columns: Mapping[str, sa.types.TypeEngine[Any] | str],
        not_null: Collection[str],
        details: Mapping[str, Any],
    ) -> None:
        self.place, self.columns, self.not_null, self.details = place, columns, not_null, details


@compiles(CreateTable)
def _create_table(verb: CreateTable, compiler: DDLCompiler, **_: Any) -> str:
    types = compiler.dialect.type_compiler_instance
    columns = ", ".join(
        f"{compiler.preparer.quote(name)} {kind if isinstance(kind, str) else types.process(kind)}"
        f"{' NOT NULL' if name in verb.not_null else ''}"
        for name, kind in verb.columns.items()
    )
    return f"CREATE TABLE {qualified(compiler, *verb.place)} ({columns}){_options(compiler, verb.details)}"


@compiles(ddl.CreateTableAs, _DIALECT)
def _create_table_as(verb: ddl.CreateTableAs, compiler: DDLCompiler, **_: Any) -> str:
    target, query = qualified(compiler, verb.schema, verb.name), _query(compiler, verb.query)
    return f"CREATE TABLE {target} AS (\n{query}\n) DEFINITION ONLY{_options(compiler, verb.details)}"


class InsertQuery(Verb):
    """``INSERT INTO schema.name query``."""

    def __init__(self, place: Place, query: sa.sql.ClauseElement) -> None:
        self.place, self.query = place, query


@compiles(InsertQuery)
def _insert_query(verb: InsertQuery, compiler: DDLCompiler, **_: Any) -> str:
    return f"INSERT INTO {qualified(compiler, *verb.place)}\n{_query(compiler, verb.query)}"


class LockTable(Verb):
    """``LOCK TABLE schema.name IN EXCLUSIVE MODE``: one lock to the end of the transaction, in place of one a row."""

    def __init__(self, place: Place) -> None:
        self.place = place


@compiles(LockTable)
def _lock_table(verb: LockTable, compiler: DDLCompiler, **_: Any) -> str:
    return f"LOCK TABLE {qualified(compiler, *verb.place)} IN EXCLUSIVE MODE"


@compiles(ddl.CreateIndex, _DIALECT)
def _create_index(verb: ddl.CreateIndex, compiler: DDLCompiler, **_: Any) -> str:
    # Without a schema it would be in that of the user.
    index, table = qualified(compiler, verb.schema, verb.index), qualified(compiler, verb.schema, verb.name)
    return f"CREATE INDEX {index} ON {table} ({', '.join(map(compiler.preparer.quote, verb.columns))})"


@compiles(ddl.CreateView, _DIALECT)
def _create_alias(verb: ddl.CreateView, compiler: DDLCompiler, **_: Any) -> str:
    alias, shown = qualified(compiler, verb.schema, verb.name), qualified(compiler, verb.shown_schema, verb.shown)
    return f"CREATE OR REPLACE ALIAS {alias} FOR TABLE {shown}"


class DropRelation(Verb):
    """``DROP kind schema.name``; the kind is TABLE, VIEW, ALIAS or NICKNAME."""

    def __init__(self, kind: str, place: Place) -> None:
        self.kind, self.place = kind, place


@compiles(DropRelation)
def _drop_relation(verb: DropRelation, compiler: DDLCompiler, **_: Any) -> str:
    return f"DROP {verb.kind} {qualified(compiler, *verb.place)}"


@compiles(ddl.Analyze, _DIALECT)
def _analyze(verb: ddl.Analyze, compiler: DDLCompiler, **_: Any) -> str:
    command = (
        f"RUNSTATS ON TABLE {qualified(compiler, verb.schema, verb.name)} ON ALL COLUMNS WITH DISTRIBUTION ON ALL "
        "COLUMNS AND SAMPLED DETAILED INDEXES ALL"
    )
    return f"CALL SYSPROC.ADMIN_CMD({_text(compiler, command)})"


class MakeVolatile(Verb):
    """``ALTER TABLE schema.name VOLATILE CARDINALITY``: rows are found by indexes, however few there are."""

    def __init__(self, place: Place) -> None:
        self.place = place


@compiles(MakeVolatile)
def _make_volatile(verb: MakeVolatile, compiler: DDLCompiler, **_: Any) -> str:
    return f"ALTER TABLE {qualified(compiler, *verb.place)} VOLATILE CARDINALITY"


class SetLockTimeout(Verb):
    """``SET CURRENT LOCK TIMEOUT = seconds``: for the connection, not only for its transaction."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds


@compiles(SetLockTimeout)
def _set_lock_timeout(verb: SetLockTimeout, _compiler: DDLCompiler, **_: Any) -> str:
    return f"SET CURRENT LOCK TIMEOUT = {verb.seconds}"
