"""SQL Server: stages are schemas of views on the tables of generations, which a publish re-points in one transaction.

What is sent was tested statement by statement; it was never run against a server. See docs/sqlserver.md.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.dialects.sqlserver import catalog, errors, scripts, session
from pipedag_airflow.backend.table.sql.dialects.sqlserver.columns import prepare_keys, set_nullability
from pipedag_airflow.backend.table.sql.dialects.sqlserver.ddl import CreateSynonym, DropModule
from pipedag_airflow.backend.table.sql.dialects.sqlserver.locks import SqlServerSessionLocks, lock_in_transaction
from pipedag_airflow.backend.table.sql.dialects.sqlserver.rows import fetch, load_rows
from pipedag_airflow.backend.table.sql.dialects.sqlserver.types import parse_type
from pipedag_airflow.backend.table.sql.store import SQLTableStore
from pipedag_airflow.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import pyarrow as pa

    from pipedag_airflow.backend.metadata import Place
    from pipedag_airflow.backend.table.sql.facts import Column, ObjectType

__all__ = ["MSSqlTableStore"]

log = logging.getLogger(__name__)

#: Errors of CREATE DATABASE where another process was faster.
_IS_THERE = {1801}
#: The login is right, and the database is not there, or not for it.
_CANNOT_OPEN_DATABASE = "(4060)"

_HAVE_SYNONYMS = ("procedure", "function", "aggregate")


class MSSqlTableStore(SQLTableStore):
    """Table store in a database of Microsoft SQL Server, 2017 or newer, by way of pyodbc.

    Args:
        *args: As for :class:`SQLTableStore`.
        disable_pytsql: Execute scripts by what stands between lines of GO, and not by pytsql.
        pytsql_isolate_top_level_statements: Whether pytsql sends each statement by itself, with all DECLAREs before it.
        **kwargs: As for :class:`SQLTableStore`. ``schema_prefix`` and ``schema_suffix`` have no dot: a store is one
            database.

    Raises:
        MissingExtraError: if pyodbc or the driver manager of ODBC is not installed.
        ConfigError: if the URL names another driver, or prefix or suffix has a dot.
    """

    dialect_name = "mssql"
    lineage_scheme = "mssql"
    default_port = 1433
    identifier_limit = 128
    #: The server takes 2,100 of them, and 1,000 rows.
    most_values = 2_000
    #: COUNT ends at two thousand millions.
    row_count = sa.func.count_big(sa.literal_column("*"))
    stores_lists = False
    duration_type = sa.BigInteger()
    session_locks = SqlServerSessionLocks

    def __init__(
        self,
        *args: Any,
        disable_pytsql: bool = False,
        pytsql_isolate_top_level_statements: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.disable_pytsql = disable_pytsql
        self.pytsql_isolate_top_level_statements = pytsql_isolate_top_level_statements
        if "." in self.schema_prefix + self.schema_suffix:
            raise ConfigError(
                f"schema_prefix {self.schema_prefix!r} or schema_suffix {self.schema_suffix!r} has a dot, which would "
                "name another database. A store is one database, which its URL names: give each instance its own."
            )

    # --- connections ------------------------------------------------------------------------------------------------

    def create_engine(self) -> sa.Engine:
        """Return an engine that names types by our rules, and sends rows as arrays of parameters."""
        return session.make_engine(self.url)

    def open(self) -> sa.Connection:
        """Open a connection; the database is made first if it is not there and the configuration says so.

        Raises:
            StoreError: if the database cannot be reached or made.
        """
        try:
            return super().open()
        except StoreError as error:
            # The error itself is not chained where it says whom the server has refused.
            if not self.create_database_if_not_exists or _CANNOT_OPEN_DATABASE not in str(error):
                raise
            self._create_database(error)
            return super().open()

    def _create_database(self, refusal: StoreError) -> None:
        admin = session.make_engine(
            self.url.set(database="master"), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
        )
        verb = ddl.CreateDatabase(str(self.url.database))
        try:
            with admin.connect() as connection:
                self.log_sql(str(verb.compile(dialect=admin.dialect)))
                connection.execute(verb)
        except sa.exc.DBAPIError as error:
            if not errors.numbers(error) & _IS_THERE:
                raise StoreError(f"{refusal}; and it cannot be made: {self.reason(error)}") from error
        log.info("Created the database %s", self.address)

    def reason(self, error: sa.exc.DBAPIError) -> str:
        """Return what the server says, without what ODBC puts around it."""
        return errors.reason(error)

    def is_busy(self, error: sa.exc.DBAPIError) -> bool:
        """Say whether a statement failed only because of what others were doing at that moment."""
        return errors.is_busy(error)

    def probe(self, connection: sa.Connection) -> None:
        """Make sure that no statement has failed: the server has rolled back then, and goes on as if nothing had been.

        Raises:
            StoreError: if one has, and the error was caught.
        """
        failure = session.failure_of(connection)
        if failure is not None:
            raise StoreError(
                "A statement failed before, and its error was caught; SQL Server has rolled back, and nothing of the "
                f"transaction was stored. Let such errors pass. It said: {failure}"
            )

    # --- locks ------------------------------------------------------------------------------------------------------

    def lock(self, connection: sa.Connection, *names: str) -> None:
        """Let others who want one of the same names wait until the transaction ends."""
        lock_in_transaction(connection, [f"{self.metadata_tables.schema} {name}" for name in names])

    def enter_schema(self, connection: sa.Connection, schema: str, *, alone: bool) -> None:
        """Let scripts have a schema for themselves: the catalog tells not who has made what."""
        name = f"{self.metadata_tables.schema} objects of {schema}"
        lock_in_transaction(connection, [name], mode="Exclusive" if alone else "Shared")

    def limit_lock_wait(self, connection: sa.Connection) -> None:
        """Let no statement of the transaction wait for a lock for so long that readers feel it."""
        session.limit_lock_wait(connection)

    def lock_holders(self, connection: sa.Connection, schemas: Sequence[str]) -> list[str]:
        """Return in words who holds locks on the tables and views of schemas."""
        return catalog.holders(connection, schemas)

    # --- schemas and tables -----------------------------------------------------------------------------------------

    def schema_token(self, schema: str) -> str:
        """Return a schema's name in brackets if it has a dot, which would else stand behind a database."""
        return self.engine.dialect.identifier_preparer.quote_identifier(schema) if "." in schema else schema

    def create_schema(self, connection: sa.Connection, schema: str) -> None:
        """Create a schema unless it is there, in a transaction of its own: parallel tasks of a stage need the same."""
        if catalog.has_schema(connection, schema):
            return
        with self.connection() as own:
            self.lock(own, f"schema {schema}")
            super().create_schema(own, schema)

    def refuse_null(self, connection: sa.Connection, schema: str, name: str, columns: Sequence[str]) -> None:
        """Let some columns hold no NULL, and the others hold it; see :func:`set_nullability`."""
        set_nullability(connection, schema, name, columns)

    def prepare_keys(
        self,
        connection: sa.Connection,
        schema: str,
        name: str,
        primary_key: Collection[str],
        indexes: Collection[Sequence[str]],
    ) -> None:
        """Give the columns of keys and indexes a length; see :func:`prepare_keys`."""
        prepare_keys(connection, schema, name, primary_key, {column for index in indexes for column in index})

    def load_arrow(
        self,
        connection: sa.Connection,
        schema: str,
        name: str,
        arrow: pa.Table,
        types: dict[str, sa.types.TypeEngine[Any]],
    ) -> None:
        """Load an Arrow table by INSERT with arrays of parameters."""
        load_rows(connection, sa.table(name, schema=self.schema_token(schema)), arrow, types)

    def fetch_arrow(self, connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
        """Return the rows of a query as Arrow; types that frames do not have as text."""
        return fetch(connection, query)

    # --- scripts ----------------------------------------------------------------------------------------------------

    def batches(self, script: str) -> list[str]:
        """Return the script for pytsql, or what of it is sent at once without; the separator does not count."""
        return scripts.split_batches(script) if self.disable_pytsql else [script]

    def controls_transaction(self, statement: str) -> bool:
        """Say whether a batch begins or ends a transaction."""
        return any(map(scripts.controls_transaction, scripts.split_batches(statement)))

    def run_statement(self, connection: sa.Connection, statement: str) -> None:
        """Execute a script by pytsql, or a batch of it without.

        Raises:
            StoreError: if it goes to another database, or pytsql does not understand it.
        """
        other = scripts.other_database(statement, self.url.database)
        if other is not None:
            raise StoreError(
                f"A script goes to the database {other!r} with USE, but is to make its tables in {self.address}. "
                "Remove it, and write database.schema.table for tables of others."
            )
        self.log_sql(statement)
        try:
            if self.disable_pytsql:
                scripts.run_batch(connection, statement)
            else:
                isolate = self.pytsql_isolate_top_level_statements
                scripts.run_with_pytsql(connection, statement, isolate=isolate)
        except sa.exc.DBAPIError as error:
            session.note_failure(connection, error)
            raise

    # --- the catalog ------------------------------------------------------------------------------------------------

    def list_schemas(self, connection: sa.Connection) -> set[str]:
        """Return the names of the schemas of the database."""
        return catalog.schemas(connection)

    def list_objects(
        self, connection: sa.Connection, schemas: Sequence[str], *, own: bool = False
    ) -> dict[Place, ObjectType]:
        """Return what the tables and views of schemas are, the oldest first; see :meth:`enter_schema` for ``own``."""
        del own
        return {place: kind for place, kind, _ in catalog.relations(connection, schemas)}

    def identities(self, connection: sa.Connection, schema: str) -> dict[Place, int]:
        """Return the object ids of the tables and views of a schema."""
        return {place: number for place, _, number in catalog.relations(connection, [schema])}

    def list_definitions(self, connection: sa.Connection, schemas: Sequence[str], *, own: bool = False) -> list[Place]:
        """Return the procedures, functions, synonyms, sequences and types that scripts have made."""
        del own
        found = ((schema, catalog.modules(connection, schema)) for schema in schemas)
        return [(schema, f"{kind.lower()} {name}") for schema, listed in found for kind, name in listed]

    def show_definition(self, connection: sa.Connection, schema: str, place: Place) -> None:
        """Let a procedure or function be called by a synonym; there are none of synonyms, sequences and types."""
        kind, _, name = place[1].partition(" ")
        if kind in _HAVE_SYNONYMS:
            self.hide_definition(connection, schema, place[1])
            connection.execute(CreateSynonym(schema, name, place[0]))

    def hide_definition(self, connection: sa.Connection, schema: str, label: str) -> None:
        """Remove the synonym of a procedure or function."""
        kind, _, name = label.partition(" ")
        if kind in _HAVE_SYNONYMS:
            connection.execute(DropModule("SYNONYM", schema, name))

    def content(self, connection: sa.Connection, schema: str) -> list[str]:
        """Return in words what is in a schema."""
        return sorted(label for label, _ in self.drops(connection, schema))

    def drops(self, connection: sa.Connection, schema: str) -> list[tuple[str, sa.schema.ExecutableDDLElement]]:
        """Return what would drop each thing in a schema by its name or label: procedures and their like at last."""
        made = catalog.modules(connection, schema)
        modules = [(f"{kind.lower()} {name}", DropModule(kind, schema, name)) for kind, name in made]
        return [*super().drops(connection, schema), *modules]

    def list_sizes(self, connection: sa.Connection, schemas: Sequence[str]) -> Mapping[Place, int]:
        """Return the bytes on disk of the tables of schemas, with their indexes and long values."""
        return catalog.sizes(connection, schemas)

    def list_columns(
        self, connection: sa.Connection, schema: str, table: str | None = None
    ) -> Mapping[str, tuple[Column, ...]]:
        """Return the columns of all tables and views of a schema, or of one of them."""
        return catalog.columns(connection, schema, table)

    def parse_type(self, text: str) -> sa.types.TypeEngine[Any]:
        """Return the SQLAlchemy type for a type as the catalog has it; unknown ones get no type."""
        return parse_type(text)
