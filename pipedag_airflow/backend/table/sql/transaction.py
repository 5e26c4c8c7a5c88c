"""One transaction on a table store: everything that a step of a run does in the database."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import sqlparse

from pipedag_airflow.backend.metadata import MetadataRepository
from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.facts import Column, TableFacts
from pipedag_airflow.backend.table.sql.frames.arrow import sql_types, to_database
from pipedag_airflow.backend.table.sql.frames.base import frame_type_for_object
from pipedag_airflow.core.fingerprint import fingerprint
from pipedag_airflow.errors import StoreError, UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.core.containers import Table

__all__ = ["SQLTransaction"]

log = logging.getLogger(__name__)


class SQLTransaction:
    """A transaction: what is done with it becomes visible as a whole when the store's context manager is left.

    Args:
        store: The store.
        connection: An SQLAlchemy connection within a transaction.
    """

    def __init__(self, store: SQLTableStore, connection: sa.Connection) -> None:
        self.store = store
        self.connection = connection
        self.metadata = MetadataRepository(connection, store.metadata_tables, row_locks=store.row_locks)

    # --- writing ----------------------------------------------------------------------------------------------------

    def create_schema(self, schema: str) -> None:
        """Create a schema unless it is there."""
        if not self.store.avoid_drop_create_schema:
            self.connection.execute(ddl.CreateSchema(schema))

    def write_table(self, schema: str, table: Table[Any], task: str) -> TableFacts:
        """Store a table: create it, fill it, then add its primary key and its indexes.

        What an earlier attempt left under the name is replaced.

        Raises:
            UnsupportedValueError: if the object is no table, or has a column that cannot be stored.
            StoreError: if the database refuses; the message names the task and the table.
        """
        assert table.name is not None
        kind = frame_type_for_object(table.obj)
        if kind is None:
            raise UnsupportedValueError(
                f"Table {table.name!r} of task {task!r} holds an object of type {type(table.obj).__qualname__}. "
                "A table is a pandas or polars frame, or an SQLAlchemy query."
            )
        try:
            self.create_schema(schema)
            self.drop_objects(schema, [table.name])
            kind.write(self, schema, table.name, table.obj, table.type_map or {})
            self._add_keys(schema, table, task)
        except (sa.exc.DBAPIError, sa.exc.CompileError) as error:
            raise StoreError(
                f"Table {table.name!r} of task {task!r} could not be stored in schema {schema!r}: {_reason(error)}"
            ) from error
        facts = self._facts(schema, table)
        if self.store.print_materialize:
            log.info("Stored %s.%s: %s rows, columns %s", schema, table.name, facts.rows, facts.columns)
        return facts

    def create_from_query(self, schema: str, name: str, query: sa.sql.ClauseElement) -> None:
        """Create a table from a query, within the database."""
        self.connection.execute(ddl.CreateTableAs(schema, name, query))

    def create_from_arrow(self, schema: str, name: str, arrow: pa.Table, type_map: dict[str, Any]) -> None:
        """Create a table by our own DDL and load an Arrow table into it."""
        types = sql_types(arrow.schema, type_map, name, structs=self.store.stores_structs)
        if not types:
            raise UnsupportedValueError(f"Table {name!r} has no columns; a table in a database needs at least one.")
        self.connection.execute(ddl.CreateTable(schema, name, types))
        self.store.load_arrow(self.connection, schema, name, to_database(arrow), types)

    def drop_objects(self, schema: str, names: Iterable[str]) -> None:
        """Drop those of the named tables and views of a generation's schema that are there."""
        wanted = list(names)
        found = self.objects([schema]) if wanted else {}
        for name in wanted:
            view = found.get((schema, name))
            if view is not None:
                self.connection.execute(ddl.DropObject("VIEW" if view else "TABLE", schema, name))

    def _add_keys(self, schema: str, table: Table[Any], task: str) -> None:
        assert table.name is not None
        if table.primary_key:
            if self.store.checks_keys_at_commit:
                self._check_key(schema, table.name, table.primary_key, task)
            self.connection.execute(ddl.AddPrimaryKey(schema, table.name, table.primary_key))
        for columns in table.indexes or []:
            # The names alone would not do: a_b(c) and a(b_c) are two indexes.
            unique = fingerprint(table.name, *columns)
            readable = f"idx_{table.name}_{'_'.join(columns)}"[: self.store.identifier_limit - len(unique) - 1]
            self.connection.execute(ddl.CreateIndex(schema, table.name, f"{readable}_{unique}", columns))

    def _check_key(self, schema: str, name: str, key: Sequence[str], task: str) -> None:
        columns: list[sa.ColumnClause[Any]] = [sa.column(column) for column in key]
        source = sa.table(name, *columns, schema=self.store.schema_token(schema))
        query = sa.select(*columns).select_from(source).group_by(*columns).having(sa.func.count() > 1).limit(1)
        twice = self.connection.execute(query).one_or_none()
        if twice is not None:
            raise StoreError(
                f"Table {name!r} of task {task!r} cannot have the primary key ({', '.join(key)}): the value "
                f"{', '.join(map(repr, twice))} is there more than once."
            )

    def _facts(self, schema: str, table: Table[Any]) -> TableFacts:
        assert table.name is not None
        return TableFacts(
            columns=self.columns(schema)[table.name],
            primary_key=tuple(table.primary_key or ()),
            indexes=tuple(tuple(columns) for columns in table.indexes or ()),
            rows=self.count_rows(schema, table.name),
        )

    def count_rows(self, schema: str, name: str) -> int:
        """Return the number of rows of a table."""
        table = sa.table(name, schema=self.store.schema_token(schema))
        counting = sa.select(sa.func.count()).select_from(table)
        return int(self.connection.execute(counting).scalar_one())

    # --- scripts ----------------------------------------------------------------------------------------------------

    def run_script(self, schema: str, statements: Sequence[str], task: str) -> dict[str, TableFacts]:
        """Execute the statements of a script and return the tables and views that it made in its schema.

        Args:
            schema: The schema of the generation.
            statements: The statements, in their order.
            task: Id of the task, for messages.

        Raises:
            StoreError: if a statement fails, or would end the transaction; the message names the task and shows the
                statement.
        """
        self.create_schema(schema)
        before = self.objects([schema])
        for number, statement in enumerate(statements, start=1):
            which = f"Statement {number} of {len(statements)} of the script of task {task!r}"
            shown = f"\nThe statement:\n{statement.strip()}"
            if _controls_transaction(statement):
                raise StoreError(
                    f"{which} begins or ends a transaction. A task is one transaction as a whole: remove it.{shown}"
                )
            try:
                self.connection.exec_driver_sql(statement)
            except sa.exc.DBAPIError as error:
                raise StoreError(f"{which} failed: {error.orig}{shown}") from error
        columns = self.columns(schema)
        made = {key: view for key, view in self.objects([schema]).items() if key not in before}
        return {
            name: TableFacts(columns[name], (), (), self.count_rows(place, name), view)
            for (place, name), view in made.items()
        }

    # --- the catalog ------------------------------------------------------------------------------------------------

    def objects(self, schemas: Iterable[str]) -> dict[tuple[str, str], bool]:
        """Return the tables and views of the schemas by (schema, name); the value says whether it is a view."""
        return self.store.list_objects(self.connection, list(schemas))

    def columns(self, schema: str) -> Mapping[str, tuple[Column, ...]]:
        """Return the columns of all tables and views of a schema by the name of the table."""
        return self.store.list_columns(self.connection, schema)

    # --- publishing -------------------------------------------------------------------------------------------------

    def show(self, schema: str, name: str, target_schema: str, target: str) -> None:
        """Let readers of ``schema.name`` see the table ``target_schema.target``.

        Raises:
            StoreError: if a table stands in the way that is not ours.
        """
        self.create_schema(schema)
        try:
            self.connection.execute(ddl.CreateView(schema, name, target_schema, target))
        except sa.exc.DBAPIError as error:
            raise StoreError(
                f"{schema}.{name} cannot be published as a view of {target_schema}.{target}: {error.orig}. If a table "
                "of that name was made by hand, move it elsewhere: nothing is dropped that we did not create."
            ) from error

    def hide(self, schema: str, name: str) -> None:
        """Remove a view that readers saw; a table of that name, which was made by hand, is left alone."""
        if self.objects([schema]).get((schema, name)):
            self.connection.execute(ddl.DropObject("VIEW", schema, name))

    def drop_generation_schema(self, schema: str) -> None:
        """Drop the schema of a generation with all that is in it."""
        if self.store.avoid_drop_create_schema:
            self.drop_objects(schema, [name for _, name in self.objects([schema])])
            return
        self.connection.execute(ddl.DropSchema(schema))


def _controls_transaction(statement: str) -> bool:
    words = (parsed.token_first(skip_cm=True) for parsed in sqlparse.parse(statement))
    return any(word is not None and word.normalized in _TRANSACTION_CONTROL for word in words)


#: ``START TRANSACTION`` begins with a word that begins nothing else.
_TRANSACTION_CONTROL = {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"}


def _reason(error: sa.exc.DBAPIError | sa.exc.CompileError) -> object:
    return error.orig if isinstance(error, sa.exc.DBAPIError) else error
