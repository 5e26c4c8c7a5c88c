"""DuckDB: one file, one writing process at a time.

A process that has the file open keeps all others out, readers too. So a connection is opened late, closed early, and
opening is queued fairly with a lock file beside the database: parallel tasks wait for each other, they never fail.
"""

from __future__ import annotations

import random
import re
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import NullPool, StaticPool

from pipedag_airflow.backend.lock import FairFileLock
from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.facts import Column
from pipedag_airflow.backend.table.sql.frames.arrow import Struct, array_of
from pipedag_airflow.backend.table.sql.store import SQLTableStore
from pipedag_airflow.errors import MissingExtraError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

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
    stores_structs = True
    checks_keys_at_commit = True
    identifier_limit = 1000
    #: How long a process queues for the file, in seconds.
    queue_seconds = 3600.0
    #: How long to wait for a process that holds the file without having queued, such as DuckDB's own shell.
    foreign_lock_seconds = 60.0

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
    def _file(self) -> Path | None:
        """The database file; None for a database in memory."""
        database = self.url.database
        return None if database in (None, "", ":memory:") else Path(str(database))

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """Queue for the file, open it, and close it at the end of the block.

        Raises:
            StoreError: if another program keeps the file open, or its folder cannot be made.
            LockError: if the queue does not move for an hour.
        """
        file = self._file
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"The folder of the database {self.address} cannot be made: {error}") from error
        queue = nullcontext() if file is None else FairFileLock(file, timeout=self.queue_seconds)
        with queue, super().connection() as connection:
            yield connection

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
        with _driver_errors():
            table = raw.sql(text).to_arrow_table()
        for index, name in enumerate(table.column_names):
            if name in intervals:
                table = table.set_column(index, name, table.column(index).cast(pa.duration("us")))
        return table

    def list_objects(self, connection: sa.Connection, schemas: Sequence[str]) -> dict[tuple[str, str], bool]:
        """Return the tables and views of schemas."""
        names: sa.BindParameter[Any] = sa.bindparam("schemas", list(schemas), expanding=True)
        query: sa.CompoundSelect[Any] = sa.union_all(
            *(
                sa.select(sa.column("schema_name"), sa.column(f"{kind}_name"), sa.literal(kind == "view"))
                .select_from(getattr(sa.func, f"duckdb_{kind}s")())
                .where(sa.column("schema_name").in_(names), sa.column("database_name") == sa.func.current_database())
                for kind in ("table", "view")
            )
        )
        return {(schema, name): bool(view) for schema, name, view in connection.execute(query)}

    def list_columns(self, connection: sa.Connection, schema: str) -> Mapping[str, tuple[Column, ...]]:
        """Return the columns of all tables and views of a schema."""
        names = ("table_name", "column_name", "data_type", "is_nullable")
        facts: list[sa.ColumnElement[Any]] = [sa.column(name) for name in names]
        query: sa.Select[Any] = (
            sa.select(*facts)
            .select_from(sa.func.duckdb_columns())
            .where(sa.column("schema_name") == schema, sa.column("database_name") == sa.func.current_database())
            .order_by(sa.column("table_name"), sa.column("column_index"))
        )
        found: dict[str, list[Column]] = {}
        for table, column, kind, nullable in connection.execute(query):
            found.setdefault(table, []).append(Column(column, kind, bool(nullable)))
        return {table: tuple(columns) for table, columns in found.items()}

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
