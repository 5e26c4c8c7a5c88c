"""polars frames, eager and lazy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipedag_airflow.backend.table.sql.frames.base import FrameType, is_of
from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl
    import pyarrow as pa
    import sqlalchemy as sa

    from pipedag_airflow.backend.table.sql.facts import TableLocation
    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.core.containers import Table

__all__ = ["PolarsFrames"]

_NAMES = ("DataFrame", "LazyFrame")


class PolarsFrames(FrameType):
    """polars frames: ``input_type`` is ``polars.DataFrame`` or ``polars.LazyFrame``."""

    def recognises(self, obj: Any) -> bool:
        """Say whether the object is a polars frame."""
        return is_of(obj, "polars", *_NAMES)

    def accepts(self, input_type: Any) -> bool:
        """Say whether polars frames are asked for."""
        return isinstance(input_type, type) and input_type.__name__ in _NAMES and _is_polars(input_type)

    def write(self, transaction: SQLTransaction, schema: str, table: Table[Any], details: Mapping[str, Any]) -> int:
        """Create the table and fill it; a lazy frame is collected first."""
        arrow = self.to_arrow(self.collected(table.obj), str(table.name))
        transaction.create_from_arrow(schema, table, arrow, details)
        return int(arrow.num_rows)

    def collected(self, obj: Any) -> pl.DataFrame:
        """Return the frame as an eager one."""
        frame: pl.DataFrame = obj if self.has_data(obj) else obj.collect()
        return frame

    def has_data(self, obj: Any) -> bool:
        """Say whether the frame is an eager one."""
        return type(obj).__name__ != "LazyFrame"

    def to_arrow(self, obj: Any, name: str) -> pa.Table:
        """Return the frame, which is an eager one, as Arrow."""
        for column in obj:
            _check_column(column, name)
        table: pa.Table = obj.to_arrow()
        return table

    def read(
        self, store: SQLTableStore, connection: sa.Connection | None, location: TableLocation, input_type: Any
    ) -> Any:
        """Read the table as an eager frame, or as a lazy frame over one or over the local copy of the table."""
        import polars as pl

        lazy = input_type.__name__ == "LazyFrame"
        scanned = store.scan_copy(location) if lazy else None
        if scanned is not None:
            return scanned
        frame = pl.from_arrow(store.fetch_table(connection, location))
        assert isinstance(frame, pl.DataFrame)
        return frame.lazy() if lazy else frame


def _check_column(column: pl.Series, table: str) -> None:
    try:
        column.clear().to_arrow()
    except ValueError as error:
        raise UnsupportedValueError(
            f"Column {column.name!r} of table {table!r} is of type {column.dtype}, which cannot be stored. Convert it, "
            "to text for example."
        ) from error


def _is_polars(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "polars"
