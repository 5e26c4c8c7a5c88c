"""The table store: one SQL database that holds the tables of all stages, and the metadata."""

from __future__ import annotations

import logging
import os
import weakref
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import sqlalchemy as sa

from pipedag_airflow.backend.metadata import MetadataTables
from pipedag_airflow.backend.table.sql.check import check_database
from pipedag_airflow.backend.table.sql.connection_url import connection_scheme, server_url
from pipedag_airflow.backend.table.sql.details import MaterializationDetails
from pipedag_airflow.backend.table.sql.frames.base import frame_type_for_object
from pipedag_airflow.backend.table.sql.literals import in_message
from pipedag_airflow.backend.table.sql.reading import StoreReading
from pipedag_airflow.backend.table.sql.schemas import StoreSchemas
from pipedag_airflow.backend.table.sql.scripting import StoreScripting
from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
from pipedag_airflow.config.known_secrets import cause_without_secrets, known_secrets, without_secrets
from pipedag_airflow.config.redacting import Secrets
from pipedag_airflow.errors import ConfigError, StoreError, TableBusyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from pipedag_airflow.backend.table.sql.session_locks import SessionLocks
    from pipedag_airflow.config.connections import Connection
    from pipedag_airflow.core.containers import Table

__all__ = ["SQLTableStore"]

log = logging.getLogger(__name__)
sql_log = logging.getLogger("pipedag_airflow.sql")

ENTRY_POINTS = "pipedag_airflow.dialects"
#: Bytes that prefix and suffix must leave for a stage.
_SHORTEST_STAGE = 33


class SQLTableStore(StoreReading, StoreSchemas, StoreScripting, ABC):
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
        no_db_locking: Do without the locks of the database where a store has a choice; most have none.
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
    #: Whether a process that is at work in the database keeps all others waiting.
    admits_one_process: ClassVar[bool] = False
    #: How many values a statement may have: PostgreSQL's protocol counts them in 16 bits.
    most_values: ClassVar[int] = 65_535
    #: How a process can have a lock that it loses when it dies; None where it cannot.
    session_locks: ClassVar[type[SessionLocks] | None] = None
    #: What counts the rows of a table.
    row_count: ClassVar[sa.ColumnElement[int]] = sa.func.count()
    #: Whether queries on a new table are planned badly until its statistics are collected.
    wants_statistics: ClassVar[bool] = False
    #: The attributes that materialization details may have, with their types or their possible values.
    detail_types: ClassVar[Mapping[str, type | tuple[str, ...]]] = {}
    #: Whether a column can hold records with named fields.
    stores_structs: ClassVar[bool] = False
    #: Whether a column can hold lists.
    stores_lists: ClassVar[bool] = True
    #: Whether a column can hold lists of lists of any lengths.
    stores_nested_lists: ClassVar[bool] = False
    #: The type of columns of durations.
    duration_type: ClassVar[sa.types.TypeEngine[Any]] = sa.Interval()
    #: The type of columns that hold as JSON what these two say that it cannot be held; None if nothing does.
    json_type: ClassVar[sa.types.TypeEngine[Any] | None] = None
    #: Whether a duplicate in a new primary key is only noticed at COMMIT, where nobody knows whose table it is.
    checks_keys_at_commit: ClassVar[bool] = False

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
        self.url = _parsed(engine_url)
        # A store may be made without a configuration, whose secrets are known.
        known_secrets.learn(Secrets.of(engine_url).texts)
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
        self.details = MaterializationDetails(
            known=self.detail_types,
            labels=materialization_details or {},
            default=default_materialization_details,
            strict=strict_materialization_details,
            store=type(self).__name__,
        )
        self.metadata_tables = MetadataTables(self.schema("pipedag_metadata"))
        if self.longest_stage < _SHORTEST_STAGE:
            raise ConfigError(
                f"schema_prefix {schema_prefix!r} and schema_suffix {schema_suffix!r} are too long together: a name "
                f"has {self.identifier_limit} bytes in this database, of which {_SHORTEST_STAGE} are for the stage."
            )
        self.instance_id = "pipeline"
        #: Options of the kinds of frames, by kind: ``table_store.hook_args`` of the configuration.
        self.hook_args: Mapping[str, Any] = {}
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
                f"table_store.args.url is missing in {context.source}: the SQLAlchemy URL of the database. Or write "
                "table_store.args.conn_id, the name of an Airflow connection."
            )
        store = cls(url, **args)
        store.instance_id = context.instance_id
        store.hook_args = context.table_hook_args
        store.local_table_cache = context.local_table_cache
        return store

    @classmethod
    def connection_args(cls, connection: Connection) -> dict[str, Any]:
        """Return the arguments that an Airflow connection stands for: the URL.

        Raises:
            ConfigError: if there is no store for its dialect, or it lacks something.
        """
        scheme = connection_scheme(connection)
        url = _subclass_for(f"{scheme}://", cls).connection_url(connection, scheme)
        return {"url": url.render_as_string(hide_password=False)}

    #: Makes the URL of an Airflow connection and SQLAlchemy's name for dialect and driver.
    connection_url = staticmethod(server_url)

    @property
    def is_private(self) -> bool:
        """Whether only this process sees the database."""
        return False

    # --- connections ------------------------------------------------------------------------------------------------

    @cached_property
    def engine(self) -> sa.Engine:
        """The SQLAlchemy engine, made on first use."""
        engine = self.create_engine()
        # Whoever drops the store without a word leaves no connection behind.
        weakref.finalize(self, _dispose, engine, os.getpid())
        if self.print_sql:
            sa.event.listen(engine, "before_cursor_execute", _log_statement)
        return engine

    def log_sql(self, statement: str) -> None:
        """Log a statement that goes past the engine, where every statement is to be logged."""
        if self.print_sql:
            _log_sql(statement)

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
                    transaction.set_up(self.instance_id)
                    connection.commit()
                    self._is_set_up = True
                    connection.begin()
                yield transaction
                self.probe(connection)
        except sa.exc.DBAPIError as error:
            statement = in_message(error.statement) if error.statement else ""
            kind = TableBusyError if self.is_busy(error) else StoreError
            text = (
                f"The database {self.address} refused, and nothing of the transaction was stored: "
                f"{self.reason(error)}{statement}"
            )
            raise kind(without_secrets(text)) from cause_without_secrets(error)

    def open(self) -> sa.Connection:
        """Open a connection.

        Raises:
            StoreError: if the database cannot be reached.
        """
        try:
            return self.engine.connect()
        except sa.exc.DBAPIError as error:
            login = Secrets.of(self.url.render_as_string(hide_password=False))
            failure = StoreError(f"The database {self.address} cannot be opened: {login.hidden(self.reason(error))}")
            if not login.are_told_by(error):
                raise failure from error
        # A chained error is printed too, and drivers like to say whom they could not log in.
        raise failure

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

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep what is costly to open from one transaction of this thread to the next, until the block ends.

        A store whose connections cost little, because they come from a pool, has nothing to do here.
        """
        yield

    def let_go(self) -> None:
        """Close what :meth:`kept_open` keeps: other work follows, which may take long. A transaction opens it again."""

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
                f"nothing of it was stored. Let such errors pass. It says: {self.reason(error)}"
            ) from error

    def check(self) -> str:
        """Try what a run needs of the database, and roll it back; see :func:`check_database`."""
        return check_database(self, self.instance_id)

    def reason(self, error: sa.exc.DBAPIError) -> str:
        """Return what the database says in an error, without the parameters of the statement."""
        return str(error.orig)

    def dispose(self) -> None:
        """Close all connections."""
        if "engine" in self.__dict__:
            self.engine.dispose()

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
        """Load an Arrow table into the empty table ``schema.name`` with columns of the given types.

        Raises:
            UnsupportedValueError: if a column has a value that the database cannot have.
        """

    @abstractmethod
    def list_schemas(self, connection: sa.Connection) -> set[str]:
        """Return the names of the schemas of the database."""

    def list_unlogged(self, connection: sa.Connection, schemas: Sequence[str]) -> Mapping[tuple[str, str], bool]:
        """Return the tables of schemas by (schema, name) that a crash empties, and whether they have rows now."""
        del connection, schemas
        return {}

    def list_sizes(self, connection: sa.Connection, schemas: Sequence[str]) -> Mapping[tuple[str, str], int]:
        """Return the bytes on disk of the tables of schemas by (schema, name), where they cost nothing to know."""
        del connection, schemas
        return {}

    def is_query(self, obj: Any) -> bool:
        """Say whether a table object is a query that the database evaluates, and not data."""
        kind = frame_type_for_object(obj)
        return kind is not None and kind.by_reference

    def as_query(self, table: Table[Any]) -> sa.sql.ClauseElement:
        """Return the query that a table's object is.

        Raises:
            UnsupportedValueError: if it is none, or one that this database cannot evaluate.
        """
        kind = frame_type_for_object(table.obj)
        assert kind is not None, "is_query has said so"
        return kind.as_query(self, table.obj, str(table.name))


def _subclass_for(engine_url: str, asked: type[SQLTableStore]) -> type[SQLTableStore]:
    if asked is not SQLTableStore:
        return asked
    dialect = _parsed(engine_url).get_backend_name()
    found = {entry_point.name: entry_point for entry_point in entry_points(group=ENTRY_POINTS)}
    if dialect not in found:
        raise ConfigError(f"There is no table store for {dialect!r} databases. Known are: {', '.join(sorted(found))}")
    subclass: type[SQLTableStore] = found[dialect].load()
    return subclass


def _parsed(engine_url: str) -> sa.URL:
    try:
        return sa.make_url(engine_url)
    except (sa.exc.ArgumentError, ValueError):
        pass
    # Raised out here, and without the text of the URL: there may be a password in it.
    raise ConfigError(
        "table_store.args.url is no SQLAlchemy URL. A valid one looks like duckdb:///path/to/file.duckdb or "
        "postgresql://user:password@host:5432/database, where / @ : % # ? in the password are written %2F %40 %3A %25 "
        "%23 %3F"
    )


def _dispose(engine: sa.Engine, process: int) -> None:
    """Close all connections; in a process that was forked since, they are the other one's."""
    engine.dispose(close=os.getpid() == process)


def _log_statement(_conn: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
    _log_sql(statement)


def _log_sql(statement: str) -> None:
    # A script may make a user, or log in somewhere else.
    sql_log.info(without_secrets(statement))
