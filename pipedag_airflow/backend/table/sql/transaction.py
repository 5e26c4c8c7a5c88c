"""One transaction on a table store: everything that a step of a run does in the database."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.metadata import MetadataRepository
from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.facts import Column, TableFacts
from pipedag_airflow.backend.table.sql.frames.arrow import sql_types
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
            self.connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))

    def write_table(self, schema: str, table: Table[Any], task: str) -> TableFacts:
        """Store a table: create it, fill it, then add its primary key and its indexes.

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
        self.create_schema(schema)
        self.connection.execute(ddl.DropObject("TABLE", schema, table.name))
        try:
            kind.write(self, schema, table.name, table.obj, table.type_map or {})
            self._add_keys(schema, table)
        except sa.exc.DBAPIError as error:
            raise StoreError(
                f"Table {table.name!r} of task {task!r} could not be stored in schema {schema!r}: {error.orig}"
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
        types = sql_types(arrow.schema, type_map, name)
        if not types:
            raise UnsupportedValueError(f"Table {name!r} has no columns; a table in a database needs at least one.")
        self.connection.execute(ddl.CreateTable(schema, name, types))
        self.store.load_arrow(self.connection, schema, name, arrow, types)

    def _add_keys(self, schema: str, table: Table[Any]) -> None:
        assert table.name is not None
        if table.primary_key:
            self.connection.execute(ddl.AddPrimaryKey(schema, table.name, table.primary_key))
        for columns in table.indexes or []:
            index = f"idx_{table.name}_{'_'.join(columns)}"
            if len(index) > self.store.identifier_limit:
                index = f"idx_{fingerprint(table.name, *columns)}"
            self.connection.execute(ddl.CreateIndex(schema, table.name, index, columns))

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
        counting = sa.select(sa.func.count()).select_from(sa.table(name, schema=schema))
        return int(self.connection.execute(counting).scalar_one())

    # --- scripts ----------------------------------------------------------------------------------------------------

    def run_script(self, schema: str, statements: Sequence[str], task: str) -> dict[str, TableFacts]:
        """Execute the statements of a script and return the tables and views that it made in its schema.

        Raises:
            StoreError: if a statement fails; the message names the task and shows the statement.
        """
        self.create_schema(schema)
        before = self.objects([schema])
        for number, statement in enumerate(statements, start=1):
            try:
                self.connection.exec_driver_sql(statement)
            except sa.exc.DBAPIError as error:
                raise StoreError(
                    f"Statement {number} of {len(statements)} of the script of task {task!r} failed: {error.orig}\n"
                    f"The statement:\n{statement.strip()}"
                ) from error
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
        """Remove a view that readers saw."""
        self.connection.execute(ddl.DropObject("VIEW", schema, name))

    def drop_generation_schema(self, schema: str) -> None:
        """Drop the schema of a generation with all that is in it."""
        if self.store.avoid_drop_create_schema:
            for (place, name), view in self.objects([schema]).items():
                self.connection.execute(ddl.DropObject("VIEW" if view else "TABLE", place, name))
            return
        self.connection.execute(sa.schema.DropSchema(schema, cascade=True, if_exists=True))
