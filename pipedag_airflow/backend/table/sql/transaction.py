"""One transaction on a table store: everything that a step of a run does in the database."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.metadata import (
    LeaseRepository,
    MetadataRepository,
    PlaceRepository,
    RetentionRepository,
)
from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.composed import Composed
from pipedag_airflow.backend.table.sql.facts import Column, ObjectType, ScriptFacts, TableFacts
from pipedag_airflow.backend.table.sql.frames.arrow import sql_types, to_database
from pipedag_airflow.backend.table.sql.frames.base import frame_type_for_object
from pipedag_airflow.backend.table.sql.names import is_marked, shortened
from pipedag_airflow.backend.table.sql.nullability import columns_without_null
from pipedag_airflow.backend.table.sql.script import run_script
from pipedag_airflow.config.known_secrets import cause_without_secrets, without_secrets
from pipedag_airflow.core.containers import View
from pipedag_airflow.core.fingerprint import fingerprint
from pipedag_airflow.errors import StoreError, UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import pyarrow as pa

    from pipedag_airflow.backend.metadata import Place
    from pipedag_airflow.backend.table.sql.relocation import Relocation
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
        self.metadata = MetadataRepository(
            connection, store.metadata_tables, store.row_locks, self.lock, store.most_values
        )
        self.leases = LeaseRepository(connection, store.metadata_tables.lease)
        self.places = PlaceRepository(connection, store.metadata_tables.object)
        self.retention = RetentionRepository(connection, store.metadata_tables)

    def lock(self, *names: str) -> None:
        """Let others who want one of the same names wait until this transaction ends.

        Args:
            names: What is wanted; taken in one order by all, so that nobody waits in a circle. To be asked for once.
        """
        self.store.lock(self.connection, *sorted(set(names)))

    def set_up(self, instance_id: str) -> None:
        """Create the metadata tables if they are not there, and check that they are those of the instance.

        Raises:
            ConfigError: if they are not, or were written by a newer release.
        """
        schema = self.metadata.tables.schema

        def is_there() -> bool:
            return (schema, "instance") in self.objects([schema])

        def create_schema() -> None:
            self.connection.execute(ddl.CreateSchema(schema))

        self.metadata.setup(instance_id, is_there, None if self.store.avoid_drop_create_schema else create_schema)

    # --- writing ----------------------------------------------------------------------------------------------------

    def create_schema(self, schema: str) -> None:
        """Create a schema unless it is there."""
        if not self.store.avoid_drop_create_schema:
            self.store.create_schema(self.connection, schema)

    def write_table(
        self, schema: str, table: Table[Any], task: str, details: Mapping[str, Any] | None = None
    ) -> TableFacts:
        """Store a table: create it, fill it, then add its constraints and its indexes.

        What an earlier attempt left under the name is replaced.

        Args:
            schema: The schema of the generation.
            table: The table; its name is final.
            task: Id of the task, for messages.
            details: The materialization details.

        Raises:
            UnsupportedValueError: if the object is no table, or has a column that cannot be stored.
            NullabilityError: if ``nullable`` and ``non_nullable`` do not fit the table.
            StoreError: if the database refuses; the message names the task and the table.
        """
        assert table.name is not None
        kind = frame_type_for_object(table.obj)
        if kind is None:
            raise UnsupportedValueError(
                f"Table {table.name!r} of task {task!r} holds an object of type {type(table.obj).__qualname__}. "
                "A table is a pandas or polars frame, an SQLAlchemy query or an Ibis expression."
            )
        if isinstance(table, View) and not kind.by_reference:
            raise UnsupportedValueError(
                f"View {table.name!r} of task {task!r} holds an object of type {type(table.obj).__qualname__}. "
                "A view shows what an SQLAlchemy query or an Ibis expression gives; return data as a Table."
            )
        name = self.store.physical_name(table.name)
        try:
            self.store.enter_schema(self.connection, schema, alone=False)
            self.create_schema(schema)
            self.drop_objects(schema, [name])
            rows = None
            if isinstance(table, View):
                query = kind.as_query(self.store, table.obj, table.name)
                self._check_labels(query, f"view {table.name!r}")
                self.connection.execute(ddl.CreateViewAs(schema, name, query))
            else:
                rows = kind.write(self, schema, table, details or {})
            self._refuse_null(schema, name, table, task)
            self._add_keys(schema, name, table, task)
            if self.store.wants_statistics and not isinstance(table, View):
                self.connection.execute(ddl.Analyze(schema, name))
        except (sa.exc.DBAPIError, sa.exc.CompileError) as error:
            text = (
                f"Table {table.name!r} of task {task!r} could not be stored in schema {schema!r}: {self._reason(error)}"
            )
            raise StoreError(without_secrets(text)) from cause_without_secrets(error)
        facts = self._facts(schema, name, table, rows, details or {})
        self.log_stored(schema, table.name, facts)
        return facts

    def log_stored(self, schema: str, name: str, facts: TableFacts) -> None:
        """Log a table that was stored, where the configuration wants it."""
        if self.store.print_materialize:
            log.info("Stored %s.%s: %s rows, columns %s", schema, name, facts.rows, facts.columns)

    def create_from_query(
        self, schema: str, table: Table[Any], query: sa.sql.ClauseElement, details: Mapping[str, Any]
    ) -> None:
        """Create a table from a query, within the database."""
        self._check_labels(query, f"table {str(table.name)!r}")
        name = self.store.physical_name(str(table.name))
        self.store.create_table_as(self.connection, ddl.CreateTableAs(schema, name, query, details), table)

    def create_from_arrow(self, schema: str, table: Table[Any], arrow: pa.Table, details: Mapping[str, Any]) -> None:
        """Create a table by our own DDL and load an Arrow table into it."""
        where = f"table {str(table.name)!r}"
        types = sql_types(arrow.schema, table.type_map or {}, str(table.name), self.store)
        if not types:
            raise UnsupportedValueError(f"T{where[1:]} has no columns; a table in a database needs at least one.")
        self._check_columns(types, where)
        name = self.store.physical_name(str(table.name))
        self.store.create_table(self.connection, ddl.CreateTable(schema, name, types, details), table, arrow)
        self.store.load_arrow(self.connection, schema, name, to_database(arrow), types)

    def _check_labels(self, query: sa.sql.ClauseElement, where: str) -> None:
        """Check what a query calls its columns; of a query that is a text nothing is known."""
        if isinstance(query, Composed):
            self._check_columns(query.columns, where)
        elif isinstance(query, sa.sql.expression.SelectBase):
            self._check_columns((getattr(column, "name", "") for column in query.exported_columns), where)

    def _check_columns(self, columns: Iterable[str], where: str) -> None:
        limit = self.store.identifier_limit
        for column in columns:
            if len(column.encode()) > limit:
                raise UnsupportedValueError(
                    f"Column {column!r} of {where} has a name of {len(column.encode())} bytes, but this database takes "
                    f"{limit} and would cut it off. Rename it."
                )

    def drop_objects(self, schema: str, names: Iterable[str]) -> None:
        """Drop those of the named objects of a generation's schema that are there."""
        wanted = set(names)
        if wanted:
            drops = self.store.drops(self.connection, schema)
            self.store.drop(self.connection, [drop for name, drop in drops if name in wanted])

    def _refuse_null(self, schema: str, name: str, table: Table[Any], task: str) -> None:
        """Say which columns may not hold NULL; before there are indexes, because DuckDB alters no indexed table."""
        if table.nullable is None and table.non_nullable is None:
            return
        columns = [column.name for column in self.columns(schema, name).get(name, ())]
        without_null = columns_without_null(table, columns, f"Table {table.name!r} of task {task!r}")
        self.store.refuse_null(self.connection, schema, name, without_null)

    def _add_keys(self, schema: str, name: str, table: Table[Any], task: str) -> None:
        if table.primary_key or table.indexes:
            self.store.prepare_keys(self.connection, schema, name, table.primary_key or (), table.indexes or ())
        if table.primary_key:
            if self.store.checks_keys_at_commit:
                self._check_key(schema, name, table.primary_key, task)
            self.connection.execute(ddl.AddPrimaryKey(schema, name, table.primary_key))
        for columns in table.indexes or []:
            # The names alone would not do: a_b(c) and a(b_c) are two indexes.
            unique = fingerprint(name, *columns)
            readable = shortened(f"idx_{name}_{'_'.join(columns)}", self.store.identifier_limit - len(unique) - 1)
            self.connection.execute(ddl.CreateIndex(schema, name, f"{readable}_{unique}", columns))

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

    def _facts(
        self, schema: str, name: str, table: Table[Any], rows: int | None, details: Mapping[str, Any]
    ) -> TableFacts:
        return TableFacts(
            table=name,
            columns=self.columns(schema, name).get(name, ()),
            primary_key=tuple(table.primary_key or ()),
            indexes=tuple(tuple(columns) for columns in table.indexes or ()),
            rows=self.count_rows(schema, name) if rows is None else rows,
            view=isinstance(table, View),
            unlogged=bool(details.get("unlogged")) and not isinstance(table, View),
        )

    def _reason(self, error: sa.exc.DBAPIError | sa.exc.CompileError) -> str:
        return self.store.reason(error) if isinstance(error, sa.exc.DBAPIError) else str(error)

    def count_rows(self, schema: str, name: str) -> int:
        """Return the number of rows of a table."""
        table = sa.table(name, schema=self.store.schema_token(schema))
        counting = sa.select(self.store.row_count).select_from(table)
        return int(self.connection.execute(counting).scalar_one())

    # --- scripts ----------------------------------------------------------------------------------------------------

    def run_script(self, schema: str, statements: Sequence[str], task: str) -> ScriptFacts:
        """Execute the statements of a script and return what it made in its schema.

        Args:
            schema: The schema of the generation.
            statements: The statements, in their order.
            task: Id of the task, for messages.

        Raises:
            StoreError: if a statement fails, or would end the transaction; the message names the task and shows the
                statement.
        """
        return run_script(self, schema, statements, task)

    # --- the catalog ------------------------------------------------------------------------------------------------

    def highest_generation(self, stage: str) -> int:
        """Return the highest number of a generation of a stage whose schema is in the database, 0 if there is none."""
        found = (self.store.generation_number(stage, schema) for schema in self.store.list_schemas(self.connection))
        return max(filter(None, found), default=0)

    def objects(self, schemas: Iterable[str]) -> dict[tuple[str, str], ObjectType]:
        """Return what the tables and views of the schemas are by (schema, name), in the order of their making."""
        return self.store.list_objects(self.connection, list(schemas))

    def definitions(self, schemas: Iterable[str]) -> list[Place]:
        """Return the functions, sequences and types of the schemas by (schema, label), where we account for them."""
        return self.store.list_definitions(self.connection, list(schemas))

    def empty_unlogged(self, schemas: Iterable[str]) -> set[Place]:
        """Return where the tables of the schemas are that a crash empties, and that have no rows now."""
        unlogged = self.store.list_unlogged(self.connection, list(schemas))
        return {place for place, has_rows in unlogged.items() if not has_rows}

    def sizes(self, schemas: Iterable[str]) -> Mapping[tuple[str, str], int]:
        """Return the bytes on disk of the tables of the schemas by (schema, name), where they cost nothing to know."""
        return self.store.list_sizes(self.connection, list(schemas))

    def columns(self, schema: str, table: str | None = None) -> Mapping[str, tuple[Column, ...]]:
        """Return the columns of all tables and views of a schema, or of one of them, by the name of the table."""
        return self.store.list_columns(self.connection, schema, table)

    # --- publishing -------------------------------------------------------------------------------------------------

    def limit_lock_wait(self) -> None:
        """Wait for no lock of readers so long that others feel it: from here to the end of the transaction.

        What fails for it raises a TableBusyError when the transaction is left.
        """
        self.store.limit_lock_wait(self.connection)

    def held_tables(self, schema: str) -> set[Place]:
        """Return where the tables of a schema are on which others hold locks at this moment."""
        return self.store.held_tables(self.connection, schema)

    def copy_table(self, source: Place, target: Place) -> None:
        """Copy a table with its rows, keys and indexes; what an earlier attempt left at the target is replaced."""
        self.drop_objects(target[0], [target[1]])
        self.store.copy_table(self.connection, source, target)
        if self.store.wants_statistics:
            self.connection.execute(ddl.Analyze(*target))

    def relocate(self, relocation: Relocation) -> None:
        """Move tables and views between schemas, and keep what others have built on them.

        Raises:
            StoreError: if something stands in the way, or depends on what leaves.
        """
        self.create_schema(relocation.schema)
        if relocation.leaving:
            self.create_schema(relocation.archive)
        self.store.relocate(self.connection, relocation, self.places.all())

    def show(self, schema: str, name: str, target_schema: str, target: str, *, repoint: bool = True) -> None:
        """Let readers of ``schema.name`` see the table ``target_schema.target``.

        Args:
            schema: The schema that readers know.
            name: The logical name of the table.
            target_schema: The schema of a generation.
            target: The name of the table in it, as the database has it.
            repoint: Whether views of others may be changed where the columns are other ones, so that they read on.

        Raises:
            StoreError: if a table stands in the way that is not ours, or others have built on the view.
        """
        self.create_schema(schema)
        try:
            view = ddl.CreateView(schema, self.store.physical_name(name), target_schema, target)
            self.store.show(self.connection, view, repoint=repoint)
        except sa.exc.DBAPIError as error:
            if self.store.is_busy(error):
                raise
            raise StoreError(
                f"{schema}.{name} cannot be published as a view of {target_schema}.{target}: "
                f"{self.store.reason(error)}. If a table of that name was made by hand, "
                "move it elsewhere: nothing is dropped that we did not create."
            ) from error

    def show_definition(self, schema: str, place: Place) -> None:
        """Let readers of a schema find a function or its like that a script has made, where that can be done.

        Args:
            schema: The schema that readers know.
            place: The schema of a generation, and the label.
        """
        self.create_schema(schema)
        self.store.show_definition(self.connection, schema, place)

    def hide(self, schema: str, name: str) -> None:
        """Remove a view that readers saw; a table of that name, which was made by hand, is left alone."""
        physical = self.store.physical_name(name)
        if self.objects([schema]).get((schema, physical)) is ObjectType.VIEW:
            self.store.hide(self.connection, schema, physical)

    def drop_generation_schema(self, schema: str, recorded: Collection[str]) -> list[str]:
        """Drop what is ours in the schema of a generation, and the schema itself if nothing else is in it.

        Args:
            schema: The schema.
            recorded: The names of what the metadata describe in it.

        Returns:
            In words what is left in it: it is not ours, and so the schema stays.

        Raises:
            StoreError: if something outside of it depends on what is in it.
        """
        self.limit_lock_wait()
        self.store.refuse_dependents(self.connection, schema)
        drops = self.store.drops(self.connection, schema)
        self.store.drop(self.connection, [drop for name, drop in drops if name in recorded or is_marked(name)])
        left = self.store.content(self.connection, schema)
        if not left and not self.store.avoid_drop_create_schema:
            self.store.drop_schema(self.connection, schema)
        return left
