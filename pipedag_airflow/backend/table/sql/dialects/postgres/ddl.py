"""The verbs with which tables and views change their place, as SQLAlchemy elements, and what goes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from pipedag_airflow.backend.table.sql.ddl import Verb, grantee, option, qualified

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.sql.compiler import DDLCompiler

    from pipedag_airflow.backend.metadata import Place

__all__ = [
    "AlterOwner",
    "AsWritten",
    "CommentOnSchema",
    "CopyRows",
    "CreateTableLike",
    "GrantDefault",
    "GrantOnSchema",
    "LockTables",
    "RenameIndex",
    "RenameRelation",
    "RenameSchema",
    "ReplaceView",
    "SetSchema",
]


class LockTables(Verb):
    """``LOCK TABLE schema.name, … IN ACCESS EXCLUSIVE MODE``, in the order given."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places


@compiles(LockTables)
def _lock_tables(verb: LockTables, compiler: DDLCompiler, **_: Any) -> str:
    tables = ", ".join(qualified(compiler, *place) for place in verb.places)
    return f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"


# PostgreSQL takes ALTER TABLE for views of either kind, too.


class SetSchema(Verb):
    """``ALTER TABLE schema.name SET SCHEMA target``."""

    def __init__(self, place: Place, target: str) -> None:
        self.place, self.target_schema = place, target


@compiles(SetSchema)
def _set_schema(verb: SetSchema, compiler: DDLCompiler, **_: Any) -> str:
    return f"ALTER TABLE {qualified(compiler, *verb.place)} SET SCHEMA {compiler.preparer.quote(verb.target_schema)}"


class RenameRelation(Verb):
    """``ALTER TABLE schema.name RENAME TO new``."""

    def __init__(self, place: Place, new: str) -> None:
        self.place, self.new = place, new


@compiles(RenameRelation)
def _rename_relation(verb: RenameRelation, compiler: DDLCompiler, **_: Any) -> str:
    return f"ALTER TABLE {qualified(compiler, *verb.place)} RENAME TO {compiler.preparer.quote(verb.new)}"


class RenameIndex(Verb):
    """``ALTER INDEX schema.name RENAME TO new``."""

    def __init__(self, place: Place, new: str) -> None:
        self.place, self.new = place, new


@compiles(RenameIndex)
def _rename_index(verb: RenameIndex, compiler: DDLCompiler, **_: Any) -> str:
    return f"ALTER INDEX {qualified(compiler, *verb.place)} RENAME TO {compiler.preparer.quote(verb.new)}"


class AlterOwner(Verb):
    """``ALTER TABLE schema.name OWNER TO role``."""

    def __init__(self, place: Place, role: str) -> None:
        self.place, self.role = place, role


@compiles(AlterOwner)
def _alter_owner(verb: AlterOwner, compiler: DDLCompiler, **_: Any) -> str:
    return f"ALTER TABLE {qualified(compiler, *verb.place)} OWNER TO {compiler.preparer.quote(verb.role)}"


class ReplaceView(Verb):
    """``CREATE OR REPLACE VIEW schema.name WITH (options) AS definition``.

    Args:
        place: Schema and name of the view.
        settings: Storage options as the catalog has them: name=value.
        definition: The query, as the database itself wrote it down.
    """

    def __init__(self, place: Place, settings: Sequence[str], definition: str) -> None:
        self.place, self.settings, self.definition = place, settings, definition


@compiles(ReplaceView)
def _replace_view(verb: ReplaceView, compiler: DDLCompiler, **_: Any) -> str:
    options = f" WITH ({', '.join(verb.settings)})" if verb.settings else ""
    definition = verb.definition.replace("%", "%%")  # the drivers take a % for the place of a parameter
    return f"CREATE OR REPLACE VIEW {qualified(compiler, *verb.place)}{options} AS {definition}"


class AsWritten(Verb):
    """A statement that the database itself has written down."""

    def __init__(self, statement: str) -> None:
        self.statement = statement


@compiles(AsWritten)
def _as_written(verb: AsWritten, compiler: DDLCompiler, **_: Any) -> str:
    return verb.statement.replace("%", "%%")  # the drivers take a % for the place of a parameter


class RenameSchema(Verb):
    """``ALTER SCHEMA schema RENAME TO new``."""

    def __init__(self, schema: str, new: str) -> None:
        self.schema, self.new = schema, new


@compiles(RenameSchema)
def _rename_schema(verb: RenameSchema, compiler: DDLCompiler, **_: Any) -> str:
    return f"ALTER SCHEMA {compiler.preparer.quote(verb.schema)} RENAME TO {compiler.preparer.quote(verb.new)}"


class CommentOnSchema(Verb):
    """``COMMENT ON SCHEMA schema IS text``."""

    def __init__(self, schema: str, text: str) -> None:
        self.schema, self.text = schema, text


@compiles(CommentOnSchema)
def _comment_on_schema(verb: CommentOnSchema, compiler: DDLCompiler, **_: Any) -> str:
    text = compiler.sql_compiler.render_literal_value(verb.text, sa.String())
    return f"COMMENT ON SCHEMA {compiler.preparer.quote(verb.schema)} IS {text}"


class GrantOnSchema(Verb):
    """``GRANT privilege ON SCHEMA schema TO role``; a role of None is everybody."""

    def __init__(self, privilege: str, schema: str, role: str | None, *, grantable: bool) -> None:
        self.privilege, self.schema, self.role, self.grantable = privilege, schema, role, grantable


@compiles(GrantOnSchema)
def _grant_on_schema(verb: GrantOnSchema, compiler: DDLCompiler, **_: Any) -> str:
    schema = compiler.preparer.quote(verb.schema)
    return f"GRANT {verb.privilege} ON SCHEMA {schema} TO {grantee(compiler, verb.role)}{option(verb.grantable)}"


class GrantDefault(Verb):
    """``ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA schema GRANT privilege ON objects TO role``."""

    def __init__(
        self, privilege: str, schema: str, objects: str, owner: str, role: str | None, *, grantable: bool
    ) -> None:
        self.privilege, self.schema, self.objects = privilege, schema, objects
        self.owner, self.role, self.grantable = owner, role, grantable


@compiles(GrantDefault)
def _grant_default(verb: GrantDefault, compiler: DDLCompiler, **_: Any) -> str:
    quote = compiler.preparer.quote
    whose = f"ALTER DEFAULT PRIVILEGES FOR ROLE {quote(verb.owner)} IN SCHEMA {quote(verb.schema)}"
    what = f"GRANT {verb.privilege} ON {verb.objects}"
    return f"{whose} {what} TO {grantee(compiler, verb.role)}{option(verb.grantable)}"


class CreateTableLike(Verb):
    """``CREATE [UNLOGGED] TABLE schema.name (LIKE source INCLUDING ALL)``."""

    def __init__(self, place: Place, source: Place, *, unlogged: bool = False) -> None:
        self.place, self.source, self.unlogged = place, source, unlogged


@compiles(CreateTableLike)
def _create_table_like(verb: CreateTableLike, compiler: DDLCompiler, **_: Any) -> str:
    what = "CREATE UNLOGGED TABLE" if verb.unlogged else "CREATE TABLE"
    return f"{what} {qualified(compiler, *verb.place)} (LIKE {qualified(compiler, *verb.source)} INCLUDING ALL)"


class CopyRows(Verb):
    """``INSERT INTO schema.name (column, …) SELECT column, … FROM source``: all rows."""

    def __init__(self, place: Place, source: Place, columns: Sequence[str]) -> None:
        self.place, self.source, self.columns = place, source, columns


@compiles(CopyRows)
def _copy_rows(verb: CopyRows, compiler: DDLCompiler, **_: Any) -> str:
    columns = ", ".join(map(compiler.preparer.quote, verb.columns))
    into = f"{qualified(compiler, *verb.place)} ({columns})" if columns else qualified(compiler, *verb.place)
    return f"INSERT INTO {into} SELECT {columns} FROM {qualified(compiler, *verb.source)}"  # noqa: S608 - all is quoted
