"""PostgreSQL: all that a task stores, with its keys, statistics and metadata, in one transaction."""

from __future__ import annotations

import logging
import re
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.dialects.postgres import catalog, errors
from pipedag_airflow.backend.table.sql.dialects.postgres.advisory import PostgresSessionLocks, lock_in_transaction
from pipedag_airflow.backend.table.sql.dialects.postgres.binary_copy import binary_copy
from pipedag_airflow.backend.table.sql.dialects.postgres.definitions import definitions, drops, naming_in_text
from pipedag_airflow.backend.table.sql.dialects.postgres.dependents import dependents_elsewhere
from pipedag_airflow.backend.table.sql.dialects.postgres.drops import drop_all
from pipedag_airflow.backend.table.sql.dialects.postgres.locks import held_tables, limit_lock_wait, lock_holders
from pipedag_airflow.backend.table.sql.dialects.postgres.pool import notice_ended_connections
from pipedag_airflow.backend.table.sql.dialects.postgres.read import fetch
from pipedag_airflow.backend.table.sql.dialects.postgres.relocation import PostgresRelocation
from pipedag_airflow.backend.table.sql.dialects.postgres.replacement import PostgresReplacement
from pipedag_airflow.backend.table.sql.dialects.postgres.table_copy import copy_table
from pipedag_airflow.backend.table.sql.facts import ObjectType
from pipedag_airflow.backend.table.sql.frames.arrow import array_of, sql_types
from pipedag_airflow.backend.table.sql.relocation import Move, Relocation
from pipedag_airflow.backend.table.sql.store import SQLTableStore
from pipedag_airflow.errors import ConfigError, MissingExtraError, StoreError, TableBusyError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    import pyarrow as pa

    from pipedag_airflow.backend.metadata import Place
    from pipedag_airflow.backend.table.sql.facts import Column

__all__ = ["PostgresTableStore"]

log = logging.getLogger(__name__)

_INCOMING = "pipedag_incoming"
_DRIVERS = ("psycopg", "psycopg2")
#: When a connection on which nothing arrives any more is given up, after about 50 s: else that takes minutes or hours.
#: The first three are for whoever waits for an answer, in seconds, the last one for what is sent, in milliseconds.
_SILENCE = {"keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 50_000}
#: How libpq calls a transaction in which a statement has failed.
_GIVEN_UP = 3
#: SQLSTATE of CREATE OR REPLACE VIEW where a column went, or changed its name or type.
_OTHER_COLUMNS = "42P16"
#: SQLSTATEs of CREATE DATABASE where another process was faster.
_IS_THERE = ("42P04", "23505")


class PostgresTableStore(SQLTableStore):
    """Table store in a PostgreSQL database; takes the same arguments as :class:`SQLTableStore`.

    The drivers psycopg (``postgresql://`` and ``postgresql+psycopg://``) and psycopg2 (``postgresql+psycopg2://``) are
    used for all but reading frames, for which there is ADBC. Materialization details may have ``unlogged``: a table
    that is not written to the log, and is made again after a crash of the server.

    Raises:
        MissingExtraError: if a driver is not installed.
        ConfigError: if the URL names another driver.
    """

    dialect_name = "postgresql"
    lineage_scheme = "postgres"
    default_port = 5432
    wants_statistics = True
    moves_tables = True
    session_locks = PostgresSessionLocks
    json_type = JSONB()
    detail_types = {"unlogged": bool}  # noqa: RUF012 - a ClassVar in the base

    def create_engine(self) -> sa.Engine:
        """Return an engine that notices connections which a restart of the server has ended."""
        url = self.url.set(drivername="postgresql+psycopg") if "+" not in self.url.drivername else self.url
        driver = url.get_driver_name()
        if driver not in _DRIVERS:
            raise ConfigError(f"Write postgresql+psycopg:// or postgresql+psycopg2://, not {url.drivername}://")
        # A prepared statement fails after a publish has changed the columns of what it reads.
        options: dict[str, Any] = {"prepare_threshold": None} if driver == "psycopg" else {}
        options |= {name: value for name, value in _SILENCE.items() if name not in url.query}
        try:
            engine = sa.create_engine(url, connect_args=options)
        except ImportError as error:
            raise MissingExtraError(f"{driver} is not installed: pip install 'pipedag-airflow[postgres]'.") from error
        notice_ended_connections(engine)
        return engine

    def open(self) -> sa.Connection:
        """Open a connection; the database is made first if it is not there and the configuration says so.

        Raises:
            StoreError: if the database cannot be reached or made.
        """
        try:
            return super().open()
        except StoreError as error:
            if not (self.create_database_if_not_exists and self._create_database(error)):
                raise
            return super().open()

    def _create_database(self, refusal: StoreError) -> bool:
        """Create the database unless it is there; another reason for the refusal is not ours to mend."""
        admin = sa.create_engine(
            self.engine.url.set(database="postgres"), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
        )
        name = str(self.url.database)
        try:
            with admin.connect() as connection:
                if catalog.has_database(connection, name):
                    return True  # another process was faster; if not, the refusal comes again
                verb = ddl.CreateDatabase(name)
                self.log_sql(str(verb.compile(dialect=admin.dialect)))
                connection.execute(verb)
        except sa.exc.DBAPIError as error:
            if errors.state(error) in _IS_THERE:
                return True
            if errors.state(error) is None:
                return False  # not even the server is reached
            raise StoreError(f"{refusal}; and it cannot be made: {self.reason(error)}") from error
        log.info("Created the database %s", self.address)
        return True

    def reason(self, error: sa.exc.DBAPIError) -> str:
        """Return what the server says, without the parameters of the statement."""
        return errors.reason(error)

    def probe(self, connection: sa.Connection) -> None:
        """Make sure that the transaction is still sound; the driver knows, so the server is asked only if it is not."""
        raw: Any = connection.connection.driver_connection
        if raw.info.transaction_status == _GIVEN_UP:
            super().probe(connection)

    def lock(self, connection: sa.Connection, *names: str) -> None:
        """Let others who want one of the same names wait until the transaction ends."""
        lock_in_transaction(connection, [f"{self.metadata_tables.schema} {name}" for name in names])

    def is_busy(self, error: sa.exc.DBAPIError) -> bool:
        """Say whether a statement failed only because of what others were doing at that moment."""
        return errors.is_busy(error)

    def limit_lock_wait(self, connection: sa.Connection) -> None:
        """Let no statement of the transaction wait for a lock for so long that readers feel it."""
        limit_lock_wait(connection)

    def lock_holders(self, connection: sa.Connection, schemas: Sequence[str]) -> list[str]:
        """Return in words who holds locks on the tables of schemas."""
        return lock_holders(connection, schemas)

    def relocate(self, connection: sa.Connection, relocation: Relocation, ours: Collection[Place]) -> None:
        """Move tables and views; see :class:`PostgresRelocation` and :class:`PostgresReplacement`."""
        if not relocation.waits and self.avoid_drop_create_schema:
            raise TableBusyError(
                f"Schema {relocation.schema!r} is not replaced by a new one either, because avoid_drop_create_schema "
                "is set."
            )
        way = PostgresRelocation if relocation.waits else PostgresReplacement
        way(connection, relocation, ours).run()

    def copy_table(self, connection: sa.Connection, source: Place, target: Place) -> None:
        """Copy a table with its rows, keys and indexes; see :func:`copy_table`."""
        copy_table(connection, source, target)

    def held_tables(self, connection: sa.Connection, schema: str) -> set[Place]:
        """Return where the tables of a schema are on which others hold locks at this moment."""
        return held_tables(connection, schema)

    def create_schema(self, connection: sa.Connection, schema: str) -> None:
        """Create a schema unless it is there, in a transaction of its own.

        Parallel tasks of a stage need the same one; in their own transactions each would wait until the first of them
        has loaded its table, and then fail.
        """
        if catalog.has_schema(connection, schema):
            return
        with self.connection() as own:
            self.lock(own, f"schema {schema}")
            super().create_schema(own, schema)

    def refuse_dependents(self, connection: sa.Connection, schema: str) -> None:
        """Refuse to drop what is in a schema if something outside of it depends on that.

        Raises:
            StoreError: if there is something; the message names it.
        """
        dependents = dependents_elsewhere(connection, schema)
        if dependents:
            raise StoreError(
                f"The schema {schema} is not dropped, because {', '.join(dependents)} would be dropped with it: "
                "nothing is dropped that we did not create. Let them read the schema of the stage, which stays."
            )

    def content(self, connection: sa.Connection, schema: str) -> list[str]:
        """Return in words what is in a schema."""
        return catalog.content(connection, schema)

    def drop_schema(self, connection: sa.Connection, schema: str) -> None:
        """Drop a schema; the server refuses if somebody has put something into it at this moment."""
        connection.execute(ddl.DropSchema(schema))

    def show(self, connection: sa.Connection, view: ddl.CreateView, *, repoint: bool) -> None:
        """Create a view, or let it show another table; with its grants, also where the columns are other ones."""
        try:
            with connection.begin_nested():
                super().show(connection, view, repoint=repoint)
        except sa.exc.DBAPIError as error:
            if errors.state(error) != _OTHER_COLUMNS:
                raise
            hidden = (view.schema, f"pipedag_hidden_{uuid.uuid4().hex}")
            hiding = Move((view.schema, view.name), hidden)
            relocation = Relocation(
                view.schema, view.schema, (hiding,), (), made=(view,), obsolete=(hidden,), repoint=repoint
            )
            self.relocate(connection, relocation, ours=())

    def load_arrow(
        self,
        connection: sa.Connection,
        schema: str,
        name: str,
        arrow: pa.Table,
        types: dict[str, sa.types.TypeEngine[Any]],
    ) -> None:
        """Load an Arrow table by a binary COPY; where the user chose other types, by way of a temporary table."""
        natural = sql_types(arrow.schema, {}, name, self)
        if all(_takes(types[column], natural[column]) for column in types):
            self._copy(connection, ddl.CopyFrom(schema, name, list(types)), arrow)
            return
        connection.execute(ddl.CreateTemporaryTable(_INCOMING, natural))
        self._copy(connection, ddl.CopyFrom("pg_temp", _INCOMING, list(types)), arrow)
        # A cast to VARCHAR(n) cuts off what does not fit; storing TEXT in such a column is an error.
        casts = {column: sa.Text() if isinstance(kind, sa.String) else kind for column, kind in types.items()}
        connection.execute(ddl.InsertByName(schema, name, casts, _INCOMING))
        connection.execute(ddl.DropObject(ObjectType.TABLE, "pg_temp", _INCOMING))

    def _copy(self, connection: sa.Connection, verb: ddl.CopyFrom, arrow: pa.Table) -> None:
        raw: Any = connection.connection.driver_connection
        statement = catalog.as_text(verb, self.engine.dialect)
        self.log_sql(statement)
        with self._driver_errors(statement), raw.cursor() as cursor:
            if hasattr(cursor, "copy_expert"):  # psycopg2
                with _Stream(binary_copy(arrow, verb.name)) as stream:
                    cursor.copy_expert(statement, stream, size=_Stream.SIZE)
                return
            with cursor.copy(statement) as copy:
                for piece in binary_copy(arrow, verb.name):
                    copy.write(piece)

    @contextmanager
    def _driver_errors(self, statement: str) -> Iterator[None]:
        """Let errors of calls that go past SQLAlchemy look like its own."""
        try:
            yield
        except self.engine.dialect.loaded_dbapi.Error as error:
            raise sa.exc.DBAPIError(statement, None, error) from error

    def fetch_arrow(self, connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
        """Return the rows of a query as Arrow.

        Intervals are read as microseconds, a month counting 30 days; types that frames do not have as text.
        """
        return fetch(connection, query, self.log_sql)

    def list_schemas(self, connection: sa.Connection) -> set[str]:
        """Return the names of the schemas of the database."""
        return catalog.schemas(connection)

    def list_objects(
        self, connection: sa.Connection, schemas: Sequence[str], *, own: bool = False
    ) -> dict[tuple[str, str], ObjectType]:
        """Return what the tables and views of schemas are, in the order in which they were made."""
        return catalog.objects(connection, schemas, own=own)

    def identities(self, connection: sa.Connection, schema: str) -> dict[Place, int]:
        """Return the object ids of the tables and views of a schema."""
        return {(schema, name): oid for oid, name, _ in catalog.relations(connection, schema)}

    def list_definitions(self, connection: sa.Connection, schemas: Sequence[str], *, own: bool = False) -> list[Place]:
        """Return the functions, sequences and types of schemas, in the order in which they were made."""
        return list(definitions(connection, schemas, own=own))

    def naming_in_text(self, connection: sa.Connection, schema: str, labels: Collection[str]) -> list[str]:
        """Return the labels of the functions in a schema that name it in a text, which follows nothing that moves."""
        return naming_in_text(connection, schema, labels)

    def drops(self, connection: sa.Connection, schema: str) -> list[tuple[str, sa.schema.ExecutableDDLElement]]:
        """Return what would drop each thing in a schema by its name or label; the newest first."""
        return drops(connection, schema)

    def drop(self, connection: sa.Connection, drops: Sequence[sa.schema.ExecutableDDLElement]) -> None:
        """Drop things that may depend on each other; see :func:`drop_all`."""
        if len(drops) == 1:
            super().drop(connection, drops)
        else:
            drop_all(connection, drops)

    def list_unlogged(self, connection: sa.Connection, schemas: Sequence[str]) -> Mapping[tuple[str, str], bool]:
        """Return the unlogged tables of schemas, and whether they have rows: after a crash of the server none has."""
        return catalog.unlogged(connection, schemas)

    def list_sizes(self, connection: sa.Connection, schemas: Sequence[str]) -> Mapping[tuple[str, str], int]:
        """Return the bytes on disk of the tables of schemas, with their indexes and long values."""
        return catalog.sizes(connection, schemas)

    def list_columns(
        self, connection: sa.Connection, schema: str, table: str | None = None
    ) -> Mapping[str, tuple[Column, ...]]:
        """Return the columns of all tables and views of a schema, or of one of them."""
        return catalog.columns(connection, schema, table)

    def parse_type(self, text: str) -> sa.types.TypeEngine[Any]:
        """Return the SQLAlchemy type for a type as PostgreSQL writes it; unknown ones get no type."""
        if text.endswith("[]"):
            return array_of(self.parse_type(text.removesuffix("[]")))
        plain, arguments = _ARGUMENTS.sub("", text), _ARGUMENTS.search(text)
        if plain == "numeric" and arguments is not None:
            return sa.Numeric(int(arguments[1]), int(arguments[2] or 0))
        return sa.types.to_instance(_TYPES.get(plain, sa.types.NullType))


class _Stream:
    """What psycopg2 reads from: a file of the pieces. Their errors pass as they are, not as errors of the driver."""

    SIZE = 1 << 20

    def __init__(self, pieces: Iterable[memoryview]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")
        self._error: Exception | None = None

    def read(self, size: int) -> bytes:
        try:
            while not self._rest:
                self._rest = next(self._pieces)
        except StopIteration:
            return b""
        except Exception as error:
            self._error = error
            raise
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._error is not None:
            raise self._error


def _takes(chosen: sa.types.TypeEngine[Any], natural: sa.types.TypeEngine[Any]) -> bool:
    """Say whether a column of the chosen type reads the binary form of the natural one."""
    if isinstance(natural, sa.String):
        return isinstance(chosen, sa.String) and not isinstance(chosen, sa.Enum)
    return repr(chosen) == repr(natural)


_ARGUMENTS = re.compile(r"\((\d+)(?:,(-?\d+))?\)")
_TYPES: dict[str, Any] = {
    "bigint": sa.BigInteger,
    "boolean": sa.Boolean,
    "bytea": sa.LargeBinary,
    "character": sa.String,
    "character varying": sa.String,
    "date": sa.Date,
    "double precision": sa.Double,
    "integer": sa.Integer,
    "interval": sa.Interval,
    "numeric": sa.Numeric,
    "real": sa.Float(24),
    "smallint": sa.SmallInteger,
    "text": sa.Text,
    "time without time zone": sa.Time,
    "timestamp with time zone": sa.DateTime(timezone=True),
    "timestamp without time zone": sa.DateTime,
    "uuid": sa.Uuid,
}
