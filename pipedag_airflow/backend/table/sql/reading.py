"""How the tables of a store are read: as frames, as Arrow, or by a reference in queries."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.facts import TableLocation
from pipedag_airflow.backend.table.sql.frames.arrow import from_database
from pipedag_airflow.backend.table.sql.frames.base import frame_type_for_input, frame_type_for_object
from pipedag_airflow.backend.table.sql.names import StoreNames
from pipedag_airflow.backend.table.sql.standing import standing
from pipedag_airflow.errors import ExternalTableError, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl
    import pyarrow as pa

    from pipedag_airflow.backend.table.cache import TableCache
    from pipedag_airflow.backend.table.sql.facts import Column
    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.core.containers import ExternalTableReference

__all__ = ["StoreReading"]


class StoreReading(StoreNames):
    """The part of :class:`SQLTableStore` that reads tables, from what a dialect says of them."""

    #: Where copies of the tables are kept that are read as frames; none unless one is configured.
    local_table_cache: TableCache | None = None

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
            return kind.read(cast("SQLTableStore", self), connection, location, input_type)
        except (sa.exc.DBAPIError, ValueError) as error:
            raise StoreError(
                f"Table {location.stage}.{location.name} (stored as {location.schema}.{location.table}) could not be "
                f"read as {input_type!r} for task {task!r}: {error}"
            ) from error

    def external_location(
        self, connection: sa.Connection, reference: ExternalTableReference, task: str
    ) -> TableLocation:
        """Return where a table or view of somebody else's is, and what it looks like now.

        Args:
            connection: An open connection.
            reference: The reference.
            task: Id of the task, for messages.

        Raises:
            ExternalTableError: if it is not there; the message names the nearest one that is.
        """
        tables = self.list_columns(connection, reference.schema)
        if reference.name not in tables:
            near = difflib.get_close_matches(reference.name, tables, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ExternalTableError(
                f"Task {task!r} refers to the table or view {str(reference)!r}, which is not in {self.address}.{hint} "
                "Its owner must create it, and let us read it, first."
            )
        return TableLocation(reference.schema, reference.name, reference.schema, reference.name, tables[reference.name])

    def table_reference(self, location: TableLocation) -> sa.Table:
        """Return an SQLAlchemy table of known columns; it also knows its location, for comparing queries."""
        columns = [
            sa.Column(column.name, self.parse_type(column.type), nullable=column.nullable)
            for column in location.columns
        ]
        schema = self.schema_token(location.schema)
        return sa.Table(location.table, sa.MetaData(), *columns, schema=schema, info={"pipedag": location})

    def named_reference(self, location: TableLocation) -> sa.FromClause:
        """Return an alias of the table as queries of tasks call it.

        A query is the same when its tables are called otherwise: to SQLAlchemy, and to those who compare queries, the
        name is one that was made up, like that of an alias to which none was given.
        """
        name = self.physical_name(location.alias or location.name)
        return self.table_reference(location).alias(sa.sql.elements.conv(name))

    def reference_like(self, obj: Any, location: TableLocation) -> Any:
        """Return a reference to the table for queries of the kind that ``obj`` is; to SQLAlchemy's where it is data."""
        kind = frame_type_for_object(obj)
        if kind is None or not kind.by_reference:
            return self.named_reference(location)
        return kind.read(cast("SQLTableStore", self), None, location, type(obj))

    def fetch_table(self, connection: sa.Connection | None, location: TableLocation) -> pa.Table:
        """Return the rows of a table as Arrow, in the types that frames have; from a local copy if there is one.

        Raises:
            ValueError: if a column is of a type that frames do not have; the message names it.
        """
        assert connection is not None, "data can only be read on a connection"

        def read() -> pa.Table:
            return from_database(self.fetch_arrow(connection, sa.select(self.table_reference(location))))

        if self.local_table_cache is None:
            return read()
        return self.local_table_cache.fetch(
            location, read, lambda: standing(cast("SQLTableStore", self), connection, location)
        )

    def scan_copy(self, location: TableLocation) -> pl.LazyFrame | None:
        """Return a frame that reads the local copy of a table when it is collected, None if there is none."""
        return None if self.local_table_cache is None else self.local_table_cache.find_lazy(location)

    @abstractmethod
    def fetch_arrow(self, connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
        """Return the rows of a query as Arrow."""

    @abstractmethod
    def list_columns(
        self, connection: sa.Connection, schema: str, table: str | None = None
    ) -> Mapping[str, tuple[Column, ...]]:
        """Return the columns of all tables and views of a schema, or of one of them, in their order."""

    @abstractmethod
    def parse_type(self, text: str) -> sa.types.TypeEngine[Any]:
        """Return the SQLAlchemy type for a type in the dialect's own words."""
