"""The table store: one SQL database that holds the tables of all stages, and the metadata."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import sqlalchemy as sa

from pipedag_airflow.backend.metadata import MetadataTables
from pipedag_airflow.backend.table.sql.frames.base import frame_type_for_input, frame_type_for_object
from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
from pipedag_airflow.core.naming import generation_schema
from pipedag_airflow.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from pipedag_airflow.backend.table.sql.facts import Column, TableLocation

__all__ = ["SQLTableStore"]

log = logging.getLogger(__name__)
sql_log = logging.getLogger("pipedag_airflow.sql")

ENTRY_POINTS = "pipedag_airflow.dialects"


class SQLTableStore(ABC):
    """Table store in an SQL database.

    The subclass for the dialect of the URL is what is constructed. Every attempt to build a stage writes to a schema of
    its own; publishing switches in one transaction what readers of the stage's schema see. No connection is opened
    before the first transaction.

    Args:
        engine_url: SQLAlchemy URL of the database.
        create_database_if_not_exists: Create the database first if it is not there.
        schema_prefix: Put before the name of every schema that we make.
        schema_suffix: Put behind the name of every schema that we make.
        avoid_drop_create_schema: Issue no CREATE SCHEMA and DROP SCHEMA.
        print_materialize: Log every table that is stored.
        print_sql: Log every statement.
        no_db_locking: Accepted for compatibility; has no effect.
        strict_materialization_details: Details that cannot be used are an error, else a line in the log.
        materialization_details: Label to details.
        default_materialization_details: Label for tables that name none.

    Raises:
        ConfigError: if there is no store for the dialect, or the URL cannot be parsed.
    """

    #: SQLAlchemy's name of the dialect that a subclass is for.
    dialect_name: ClassVar[str]
    #: Whether DDL takes part in transactions.
    transactional_ddl: ClassVar[bool] = True
    #: Whether rows can be locked with SELECT … FOR SHARE.
    row_locks: ClassVar[bool] = True
    #: Whether a table can be moved between schemas without copying it.
    moves_tables: ClassVar[bool] = False
    #: Whether tables and stages may have materialization details.
    has_materialization_details: ClassVar[bool] = False
    #: Whether a column can hold records with named fields.
    stores_structs: ClassVar[bool] = False
    #: Whether a duplicate in a new primary key is only noticed at COMMIT, where nobody knows whose table it is.
    checks_keys_at_commit: ClassVar[bool] = False
    #: Longest name of a schema, table or index, in characters.
    identifier_limit: ClassVar[int] = 63

    def __new__(cls, engine_url: str, *args: Any, **kwargs: Any) -> Self:
        """Choose the subclass for the dialect of the URL."""
        return cast("Self", object.__new__(_subclass_for(engine_url, cls)))

    def __init__(
        self,
        engine_url: str,
        *,
        create_database_if_not_exists: bool = False,
        schema_prefix: str = "",
        schema_suffix: str = "",
        avoid_drop_create_schema: bool = False,
        print_materialize: bool = False,
        print_sql: bool = False,
        no_db_locking: bool = True,
        strict_materialization_details: bool = True,
        materialization_details: dict[str, dict[str, str | list[str]]] | None = None,
        default_materialization_details: str | None = None,
    ) -> None:
        self.url = sa.make_url(engine_url)
        self.create_database_if_not_exists = create_database_if_not_exists
        self.schema_prefix = schema_prefix
        self.schema_suffix = schema_suffix
        self.avoid_drop_create_schema = avoid_drop_create_schema
        self.print_materialize = print_materialize
        self.print_sql = print_sql
        self.no_db_locking = no_db_locking
        self.strict_materialization_details = strict_materialization_details
        self.materialization_details = materialization_details
        self.default_materialization_details = default_materialization_details
        self.metadata_tables = MetadataTables(self.schema("pipedag_metadata"))
        self._instance_id = "pipeline"
        self._is_set_up = False

    @classmethod
    def from_config(cls, context: Any, url: str | None = None, **args: Any) -> SQLTableStore:
        """Make the store that a configuration describes; ``url`` is the SQLAlchemy URL.

        Raises:
            ConfigError: if there is no URL.
        """
        url = url or args.pop("engine_url", None)
        if url is None:
            raise ConfigError(
                f"table_store.args.url is missing in {context.source}: the SQLAlchemy URL of the database."
            )
        store = cls(url, **args)
        store._instance_id = context.instance_id
        return store

    # --- names ------------------------------------------------------------------------------------------------------

    def schema(self, stage: str) -> str:
        """Return the schema in which readers find a stage."""
        return f"{self.schema_prefix}{stage}{self.schema_suffix}"

    def generation_schema(self, stage: str, generation: int) -> str:
        """Return the schema that a generation of a stage writes to."""
        return self.schema(generation_schema(stage, generation))

    def schema_token(self, schema: str) -> str:
        """Return the name of a schema as SQLAlchemy's constructs take it, for dialects that read a dot in it."""
        return schema

    @property
    def address(self) -> str:
        """The database for messages, without user and password."""
        return self.url.set(username=None, password=None, query={}).render_as_string()

    # --- connections ------------------------------------------------------------------------------------------------

    @cached_property
    def engine(self) -> sa.Engine:
        """The SQLAlchemy engine, made on first use."""
        engine = self.create_engine()
        if self.print_sql:
            sa.event.listen(engine, "before_cursor_execute", _log_statement)
        return engine

    @abstractmethod
    def create_engine(self) -> sa.Engine:
        """Return a new engine for the store's URL."""

    @contextmanager
    def transaction(self) -> Iterator[SQLTransaction]:
        """Open a transaction: it is committed when the block ends, and rolled back whole on any error.

        The metadata schema is made on first use. Transactions are short and are not nested.

        Raises:
            StoreError: if the database cannot be reached, or refuses; also if the block went on after a refusal.
            ConfigError: if the database belongs to another instance.
        """
        try:
            with self.connection() as connection:
                transaction = SQLTransaction(self, connection)
                if not self._is_set_up:
                    transaction.metadata.setup(self._instance_id, not self.avoid_drop_create_schema)
                    connection.commit()
                    self._is_set_up = True
                    connection.begin()
                yield transaction
                self.probe(connection)
        except sa.exc.DBAPIError as error:
            statement = f"\nThe statement:\n{error.statement}" if error.statement else ""
            raise StoreError(
                f"The database {self.address} refused, and nothing of the transaction was stored: "
                f"{error.orig}{statement}"
            ) from error

    def open(self) -> sa.Connection:
        """Open a connection.

        Raises:
            StoreError: if the database cannot be reached.
        """
        try:
            return self.engine.connect()
        except sa.exc.DBAPIError as error:
            raise StoreError(f"The database {self.address} cannot be opened: {error.orig}") from error

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """Open a connection with a transaction that ends with the block."""
        with self.open() as connection:
            connection.begin()
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def probe(self, connection: sa.Connection) -> None:
        """Make sure that the transaction is still sound: some databases answer COMMIT of a broken one with success.

        Raises:
            StoreError: if a statement failed and the error was caught.
        """
        try:
            connection.execute(sa.select(sa.literal(1))).all()
        except sa.exc.DBAPIError as error:
            raise StoreError(
                "A statement failed before, and its error was caught; the database has given up the transaction, and "
                f"nothing of it was stored. Let such errors pass. It says: {error.orig}"
            ) from error

    def dispose(self) -> None:
        """Close all connections."""
        if "engine" in self.__dict__:
            self.engine.dispose()

    # --- reading tables ---------------------------------------------------------------------------------------------

    def read_table(self, connection: sa.Connection | None, location: TableLocation, input_type: Any, task: str) -> Any:
        """Return a stored table as a task asks for it.

        Args:
            connection: An open connection; None will do where ``input_type`` is by reference.
            location: Where the table is.
            input_type: What the task asks for.
            task: Id of the task, for messages.

        Raises:
            StoreError: if the table cannot be read; the message names the task and the table.
            UnsupportedValueError: if nothing provides tables of that type.
        """
        kind = frame_type_for_input(input_type, task)
        try:
            return kind.read(self, connection, location, input_type)
        except (sa.exc.DBAPIError, ValueError) as error:
            raise StoreError(
                f"Table {location.stage}.{location.name} (stored as {location.schema}.{location.table}) could not be "
                f"read as {input_type!r} for task {task!r}: {error}"
            ) from error

    def table_reference(self, location: TableLocation) -> sa.Table:
        """Return an SQLAlchemy table of known columns; it also knows its logical place, for hashing queries."""
        columns = [
            sa.Column(column.name, self.parse_type(column.type), nullable=column.nullable)
            for column in location.columns
        ]
        info = {"pipedag": (location.stage, location.name)}
        schema = self.schema_token(location.schema)
        return sa.Table(location.table, sa.MetaData(), *columns, schema=schema, info=info)

    def fetch_table(self, connection: sa.Connection | None, location: TableLocation) -> pa.Table:
        """Return the rows of a table as Arrow."""
        assert connection is not None, "data can only be read on a connection"
        return self.fetch_arrow(connection, sa.select(self.table_reference(location)))

    # --- what a dialect provides ------------------------------------------------------------------------------------

    @abstractmethod
    def load_arrow(
        self,
        connection: sa.Connection,
        schema: str,
        name: str,
        arrow: pa.Table,
        types: dict[str, sa.types.TypeEngine[Any]],
    ) -> None:
        """Load an Arrow table into the empty table ``schema.name`` with columns of the given types."""

    @abstractmethod
    def fetch_arrow(self, connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
        """Return the rows of a query as Arrow."""

    @abstractmethod
    def list_objects(self, connection: sa.Connection, schemas: Sequence[str]) -> dict[tuple[str, str], bool]:
        """Return the tables and views of schemas by (schema, name); the value says whether it is a view."""

    @abstractmethod
    def list_columns(self, connection: sa.Connection, schema: str) -> Mapping[str, tuple[Column, ...]]:
        """Return the columns of all tables and views of a schema, in their order."""

    @abstractmethod
    def parse_type(self, text: str) -> sa.types.TypeEngine[Any]:
        """Return the SQLAlchemy type for a type in the dialect's own words."""

    def is_query(self, obj: Any) -> bool:
        """Say whether a table object is a query that the database evaluates, and not data."""
        kind = frame_type_for_object(obj)
        return kind is not None and kind.by_reference

    def check_materialization_details(self, label: str | None, where: str) -> None:
        """Refuse details where the store has none.

        Raises:
            ConfigError: if details are strict.
        """
        if label is None or self.has_materialization_details:
            return
        message = (
            f"{where} has the materialization details {label!r}, but a {type(self).__name__} has none. "
            "Remove them, or set strict_materialization_details: false."
        )
        if self.strict_materialization_details:
            raise ConfigError(message)
        log.error(message)


def _subclass_for(engine_url: str, asked: type[SQLTableStore]) -> type[SQLTableStore]:
    if asked is not SQLTableStore:
        return asked
    try:
        dialect = sa.make_url(engine_url).get_backend_name()
    except sa.exc.ArgumentError as error:
        # The text of the URL may hold a password, so it is not shown.
        raise ConfigError(
            "table_store.args.url is no SQLAlchemy URL. A valid one looks like duckdb:///path/to/file.duckdb"
        ) from error
    found = {entry_point.name: entry_point for entry_point in entry_points(group=ENTRY_POINTS)}
    if dialect not in found:
        raise ConfigError(f"There is no table store for {dialect!r} databases. Known are: {', '.join(sorted(found))}")
    subclass: type[SQLTableStore] = found[dialect].load()
    return subclass


def _log_statement(_conn: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
    sql_log.info(statement)
