"""DuckDB: one file, one writing process at a time.

A process that has the file open keeps all others out, readers too. So a connection is opened late, closed early, and
opening is queued fairly with a lock file beside the database: parallel tasks wait for each other, they never fail.

Opening and closing take DuckDB longer than a whole transaction of ours. So within a step the file stays open from one
transaction to the next, unless somebody waits for it, or the user's function is about to run.
"""

from __future__ import annotations

import random
import re
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import NullPool, StaticPool

from pipedag_airflow.backend.lock import FairFileLock
from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.connection_url import file_url
from pipedag_airflow.backend.table.sql.facts import Column, ObjectType
from pipedag_airflow.backend.table.sql.frames.arrow import Struct, array_of
from pipedag_airflow.backend.table.sql.store import SQLTableStore
from pipedag_airflow.errors import MissingExtraError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from pipedag_airflow.backend.metadata import Place

__all__ = ["DuckDBTableStore"]

_INCOMING = "pipedag_incoming"


class DuckDBTableStore(SQLTableStore):
    """Table store in a DuckDB file; takes the same arguments as :class:`SQLTableStore`.

    Publishing re-points views, because DuckDB renames no schemas: a view may show a table in the schema of any earlier
    generation, so tables that did not change are neither copied nor moved.

    Raises:
        MissingExtraError: if DuckDB is not installed.
    """

    dialect_name = "duckdb"
    row_locks = False
    admits_one_process = True
    stores_structs = True
    stores_nested_lists = True
    checks_keys_at_commit = True
    connection_url = staticmethod(file_url)
    identifier_limit = 1000
    #: How long a process queues for the file, in seconds.
    queue_seconds = 3600.0
    #: How long to wait for a process that holds the file without having queued, such as DuckDB's own shell.
    foreign_lock_seconds = 60.0

    @cached_property
    def _turn(self) -> _Turn:
        return _Turn()

    def create_engine(self) -> sa.Engine:
        """Return an engine that keeps no connection, so that closing one frees the file for other processes."""
        pool: type[sa.Pool] = StaticPool if self._file is None else NullPool
        try:
            return sa.create_engine(self.url, poolclass=pool)
        except (sa.exc.NoSuchModuleError, ImportError) as error:
            raise MissingExtraError(
                "DuckDB is not installed: pip install 'pipedag-airflow[duckdb]'. "
                "(Use duckdb-sqlalchemy; the older duckdb-engine does not work with current SQLAlchemy.)"
            ) from error

    @property
    def is_private(self) -> bool:
        """Whether the database is in memory."""
        return self._file is None

    @property
    def _file(self) -> Path | None:
        """The database file; None for a database in memory."""
        database = self.url.database
        return None if database in (None, "", ":memory:") else Path(str(database))

    @property
    def lineage_namespace(self) -> str:
        """The database as OpenLineage calls it: the file."""
        return f"duckdb://{':memory:' if self._file is None else self._file.absolute()}"

    def lineage_name(self, schema: str, table: str) -> str:
        """Return how OpenLineage calls a table: DuckDB calls a database after its file."""
        return f"{'memory' if self._file is None else self._file.stem}.{schema}.{table}"

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """Queue for the file and open it, unless this thread keeps it open; close it at the end of the block.

        Raises:
            StoreError: if another program keeps the file open, or its folder cannot be made.
            LockError: if the queue does not move for an hour.
        """
        turn = self._turn
        if self._file is not None and not turn.taken:
            self._take_turn(self._file)
        try:
            with super().connection() as connection:
                yield connection
        finally:
            if not turn.keep or turn.is_wanted:
                self.let_go()

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep the file open from one transaction of this thread to the next, as long as nobody else waits for it."""
        turn = self._turn
        outermost, turn.keep = not turn.keep, True
        try:
            yield
        finally:
            if outermost:
                turn.keep = False
                self.let_go()

    def let_go(self) -> None:
        """Close the file if this thread keeps it open."""
        self._turn.give_back()

    def _take_turn(self, file: Path) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"The folder of the database {self.address} cannot be made: {error}") from error
        with ExitStack() as stack:
            queue = stack.enter_context(FairFileLock(file, timeout=self.queue_seconds))
            # As long as one connection is there, others of this process are had at once.
            stack.enter_context(self.open())
            self._turn.take(queue, stack.pop_all())

    def open(self) -> sa.Connection:
        """Open the file, waiting for programs that hold it without having queued.

        Raises:
            StoreError: if another program keeps the file open for a minute, or the file cannot be opened at all.
        """
        deadline = time.monotonic() + self.foreign_lock_seconds
        while True:
            try:
                return super().open()
            except StoreError as error:
                if "Could not set lock" not in str(error):
                    raise
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"{error}. Another program keeps the file open, a DuckDB shell or a notebook perhaps: "
                        "close it, then run again."
                    ) from error
                time.sleep(random.uniform(0.02, 0.1))  # noqa: S311 - jitter, not cryptography

    def load_arrow(
        self,
        connection: sa.Connection,
        schema: str,
        name: str,
        arrow: pa.Table,
        types: dict[str, sa.types.TypeEngine[Any]],
    ) -> None:
        """Load an Arrow table: DuckDB reads it in place."""
        raw: Any = connection.connection.driver_connection
        with _driver_errors():
            raw.register(_INCOMING, arrow)
        connection.execute(ddl.InsertByName(schema, name, types, _INCOMING))
        # Not after an error: in a transaction that was given up even this fails, and would hide the error.
        raw.unregister(_INCOMING)

    def fetch_arrow(self, connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
        """Return the rows of a query as Arrow.

        Intervals are read as microseconds, a month counting 30 days: frames know no months, and nanoseconds overflow.
        """
        import pyarrow as pa

        raw: Any = connection.connection.driver_connection
        columns = list(query.selected_columns)
        intervals = {column.name for column in columns if isinstance(column.type, sa.Interval)}
        shown = [
            sa.func.epoch_us(column).label(column.name) if column.name in intervals else column for column in columns
        ]
        text = str(query.with_only_columns(*shown).compile(dialect=self.engine.dialect))
        self.log_sql(text)
        with _driver_errors():
            table = raw.sql(text).to_arrow_table()
        for index, name in enumerate(table.column_names):
            if name in intervals:
                table = table.set_column(index, name, table.column(index).cast(pa.duration("us")))
        return table

    def list_schemas(self, connection: sa.Connection) -> set[str]:
        """Return the names of the schemas of the database."""
        query: sa.Select[Any] = (
            sa.select(sa.column("schema_name"))
            .select_from(sa.func.duckdb_schemas())
            .where(sa.column("database_name") == sa.func.current_database())
        )
        return set(connection.scalars(query))

    def list_objects(
        self, connection: sa.Connection, schemas: Sequence[str], *, own: bool = False
    ) -> dict[tuple[str, str], ObjectType]:
        """Return the tables of schemas, and then the views; a transaction never sees what others do meanwhile."""
        del own
        return {place: kind for place, kind, _ in self._relations(connection, schemas)}

    def identities(self, connection: sa.Connection, schema: str) -> dict[Place, int]:
        """Return the object ids of the tables and views of a schema."""
        return {place: oid for place, _, oid in self._relations(connection, [schema])}

    def _relations(self, connection: sa.Connection, schemas: Sequence[str]) -> list[tuple[Place, ObjectType, int]]:
        """Return the tables of schemas, and then the views, with their object ids.

        The oldest come first: a foreign key is part of a new table, so that it is never to a newer one.
        """
        names: sa.BindParameter[Any] = sa.bindparam("schemas", list(schemas), expanding=True)
        query: sa.CompoundSelect[Any] = sa.union_all(
            *(
                sa.select(
                    sa.column("schema_name"),
                    sa.column(f"{kind}_name"),
                    sa.literal(kind.upper()).label("kind"),
                    sa.column(f"{kind}_oid").label("oid"),
                )
                .select_from(getattr(sa.func, f"duckdb_{kind}s")())
                .where(sa.column("schema_name").in_(names), sa.column("database_name") == sa.func.current_database())
                for kind in ("table", "view")
            )
        )
        rows = connection.execute(query.order_by("kind", "oid"))
        return [((schema, name), ObjectType(kind), oid) for schema, name, kind, oid in rows]

    def list_columns(
        self, connection: sa.Connection, schema: str, table: str | None = None
    ) -> Mapping[str, tuple[Column, ...]]:
        """Return the columns of all tables and views of a schema, or of one of them."""
        names = ("table_name", "column_name", "data_type", "is_nullable")
        facts: list[sa.ColumnElement[Any]] = [sa.column(name) for name in names]
        query: sa.Select[Any] = (
            sa.select(*facts)
            .select_from(sa.func.duckdb_columns())
            .where(sa.column("schema_name") == schema, sa.column("database_name") == sa.func.current_database())
            .order_by(sa.column("table_name"), sa.column("column_index"))
        )
        if table is not None:
            query = query.where(sa.column("table_name") == table)
        found: dict[str, list[Column]] = {}
        for name, column, kind, nullable in connection.execute(query):
            found.setdefault(name, []).append(Column(column, kind, bool(nullable)))
        return {name: tuple(columns) for name, columns in found.items()}

    def schema_token(self, schema: str) -> str:
        """Return a schema's name quoted if it has a dot, which would else stand between a database and a schema."""
        return self.engine.dialect.identifier_preparer.quote_identifier(schema) if "." in schema else schema

    def parse_type(self, text: str) -> sa.types.TypeEngine[Any]:
        """Return the SQLAlchemy type for one of DuckDB's type names; unknown ones get no type."""
        if text.endswith("[]"):
            return array_of(self.parse_type(text.removesuffix("[]")))
        decimal = _DECIMAL.fullmatch(text)
        if decimal is not None:
            return sa.Numeric(int(decimal[1]), int(decimal[2]))
        return sa.types.to_instance(_TYPES.get(text, sa.types.NullType))


class _Turn(threading.local):
    """The turn of a thread to have the file open."""

    def __init__(self) -> None:
        self.keep = False
        self._queue: FairFileLock | None = None
        self._opened = ExitStack()

    @property
    def taken(self) -> bool:
        """Whether the file is open."""
        return self._queue is not None

    @property
    def is_wanted(self) -> bool:
        """Whether somebody else waits for the file."""
        return self._queue is not None and self._queue.is_wanted

    def take(self, queue: FairFileLock, opened: ExitStack) -> None:
        """Note what to close later."""
        self._queue, self._opened = queue, opened

    def give_back(self) -> None:
        """Close the file, and let the next one have it."""
        self._queue = None
        self._opened.close()


@contextmanager
def _driver_errors() -> Iterator[None]:
    """Let errors of calls that go past SQLAlchemy look like its own."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise sa.exc.DBAPIError(None, None, error) from error


@compiles(Struct, "duckdb")
def _struct(kind: Struct, compiler: Any, **_: Any) -> str:
    return ddl.struct(compiler, kind.fields)


_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
_TYPES: dict[str, Any] = {
    "BIGINT": sa.BigInteger,
    "BLOB": sa.LargeBinary,
    "BOOLEAN": sa.Boolean,
    "DATE": sa.Date,
    "DOUBLE": sa.Double,
    "FLOAT": sa.Float(24),
    "HUGEINT": sa.Numeric(38, 0),
    "INTEGER": sa.Integer,
    "INTERVAL": sa.Interval,
    "SMALLINT": sa.SmallInteger,
    "TIME": sa.Time,
    "TIMESTAMP": sa.DateTime,
    "TIMESTAMP_MS": sa.DateTime,
    "TIMESTAMP_NS": sa.DateTime,
    "TIMESTAMP_S": sa.DateTime,
    "TIMESTAMP WITH TIME ZONE": sa.DateTime(timezone=True),
    "TINYINT": sa.SmallInteger,
    "UBIGINT": sa.Numeric(20, 0),
    "UHUGEINT": sa.Numeric(38, 0),
    "UINTEGER": sa.BigInteger,
    "USMALLINT": sa.Integer,
    "UTINYINT": sa.SmallInteger,
    "UUID": sa.Uuid,
    "VARCHAR": sa.String,
}
