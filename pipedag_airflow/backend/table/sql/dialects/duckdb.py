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
from sqlalchemy.pool import NullPool, StaticPool

from pipedag_airflow.backend.lock import FairFileLock
from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.facts import Column
from pipedag_airflow.backend.table.sql.store import SQLTableStore
from pipedag_airflow.errors import MissingExtraError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

__all__ = ["DuckDBTableStore"]

_INCOMING = "pipedag_incoming"
#: How long to wait for a process that holds the file without having queued, such as DuckDB's own shell.
_FOREIGN_LOCK_SECONDS = 60.0


class DuckDBTableStore(SQLTableStore):
    """Table store in a DuckDB file; takes the same arguments as :class:`SQLTableStore`.

    Publishing re-points views, because DuckDB renames no schemas: a view may show a table in the schema of any earlier
    generation, so tables that did not change are neither copied nor moved.

    Raises:
        MissingExtraError: if DuckDB is not installed.
    """

    dialect_name = "duckdb"
    row_locks = False
    identifier_limit = 1000
    #: How long a process queues for the file, in seconds.
    queue_seconds = 3600.0

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
            StoreError: if another program keeps the file open.
            LockError: if the queue does not move for an hour.
        """
        file = self._file
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        queue = nullcontext() if file is None else FairFileLock(file, timeout=self.queue_seconds)
        with queue, super().connection() as connection:
            yield connection

    def open(self) -> sa.Connection:
        """Open the file, waiting for programs that hold it without having queued.

        Raises:
            StoreError: if another program keeps the file open for a minute, or the file cannot be opened at all.
        """
        deadline = time.monotonic() + _FOREIGN_LOCK_SECONDS
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
        raw.register(_INCOMING, arrow)
        try:
            connection.execute(ddl.InsertByName(schema, name, types, _INCOMING))
        finally:
            raw.unregister(_INCOMING)

    def fetch_arrow(self, connection: sa.Connection, query: sa.sql.ClauseElement) -> pa.Table:
        """Return the rows of a query as Arrow."""
        raw: Any = connection.connection.driver_connection
        text = str(query.compile(dialect=self.engine.dialect, compile_kwargs={"literal_binds": True}))
        return raw.sql(text).to_arrow_table()

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

    def parse_type(self, text: str) -> sa.types.TypeEngine[Any]:
        """Return the SQLAlchemy type for one of DuckDB's type names; unknown ones get no type."""
        if text.endswith("[]"):
            return sa.ARRAY(self.parse_type(text.removesuffix("[]")))
        decimal = _DECIMAL.fullmatch(text)
        if decimal is not None:
            return sa.Numeric(int(decimal[1]), int(decimal[2]))
        return sa.types.to_instance(_TYPES.get(text, sa.types.NullType))


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
