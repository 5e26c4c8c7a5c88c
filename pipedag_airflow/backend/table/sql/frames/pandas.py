"""pandas frames."""

from __future__ import annotations

import datetime as dt
from numbers import Number
from typing import TYPE_CHECKING, Any

from pipedag_airflow.backend.table.sql.frames.base import FrameType, is_of
from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    import pyarrow as pa
    import sqlalchemy as sa

    from pipedag_airflow.backend.table.sql.facts import TableLocation
    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.core.containers import Table

__all__ = ["PandasFrames"]

_BACKENDS = ("numpy", "arrow")


class PandasFrames(FrameType):
    """pandas frames, with numpy's nullable dtypes or Arrow's.

    ``input_type`` is ``pandas.DataFrame``, ``(pandas.DataFrame, "arrow")`` or
    ``{"type": pandas.DataFrame, "backend": "arrow"}``. Where it names no backend, ``pandas.dtype_backend`` in
    ``table_store.hook_args`` of the configuration does; else that is numpy.
    """

    def recognises(self, obj: Any) -> bool:
        """Say whether the object is a pandas frame."""
        return is_of(obj, "pandas", "DataFrame")

    def accepts(self, input_type: Any) -> bool:
        """Say whether pandas frames are asked for."""
        frame_type, _ = _type_and_backend(input_type)
        return getattr(frame_type, "__name__", "") == "DataFrame" and frame_type.__module__.split(".")[0] == "pandas"

    def write(self, transaction: SQLTransaction, schema: str, table: Table[Any], details: Mapping[str, Any]) -> int:
        """Create the table and fill it; the frame's index is not stored."""
        arrow = self.to_arrow(table.obj, str(table.name))
        transaction.create_from_arrow(schema, table, arrow, details)
        return int(arrow.num_rows)

    def name_of(self, obj: Any) -> str | None:
        """Return ``attrs["name"]`` of the frame.

        Raises:
            UnsupportedValueError: if that is no string.
        """
        name = obj.attrs.get("name")
        if name is not None and not isinstance(name, str):
            raise UnsupportedValueError(f'attrs["name"] of a frame names its table and is a string, not {name!r}.')
        return name

    def to_arrow(self, obj: Any, name: str) -> pa.Table:
        """Return the frame as Arrow, without its index."""
        frame = obj.set_axis([str(column) for column in obj.columns], axis="columns")
        if not frame.columns.is_unique:
            twice = sorted(set(frame.columns[frame.columns.duplicated()]))
            raise UnsupportedValueError(f"Table {name!r} has two columns of one name: {', '.join(twice)}")
        return _to_arrow(frame, name)

    def read(
        self, store: SQLTableStore, connection: sa.Connection | None, location: TableLocation, input_type: Any
    ) -> pd.DataFrame:
        """Read the table.

        The frame does not carry the table's name in its ``attrs``: pandas hands them on to every frame that is made
        from it, and what a task makes from an input has a name of its own.
        """
        _, backend = _type_and_backend(input_type, store.hook_args.get("pandas", {}).get("dtype_backend", "numpy"))
        arrow = store.fetch_table(connection, location)
        return _arrow_frame(arrow) if backend == "arrow" else _numpy_frame(arrow)


#: How pyarrow says that it cannot convert something; its own errors derive from these.
_REFUSALS = (ValueError, TypeError, OverflowError, NotImplementedError)
#: Kinds of values of which a column has one; a subclass comes before its base.
_FAMILIES = (
    (bool, "bool"),
    (str, "str"),
    (bytes, "bytes"),
    (dt.datetime, "datetime"),
    (dt.date, "date"),
    (dt.time, "time"),
    (dt.timedelta, "timedelta"),
    (Number, "number"),
)
#: What pandas, which is quick to see it, says of values of one family. It says "date" also of dates and datetimes.
_OF_ONE_FAMILY = {"string", "bytes", "boolean", "integer", "floating", "decimal", "time", "empty"}


def _to_arrow(frame: pd.DataFrame, table: str) -> pa.Table:
    """Return the frame as Arrow; NaN in a column of numpy's floats is a missing value, as pandas has it."""
    import pandas as pd
    import pyarrow as pa

    for name in frame.columns[[str(dtype) == "object" for dtype in frame.dtypes]]:
        if pd.api.types.infer_dtype(frame[name]) in _OF_ONE_FAMILY:
            continue
        # Arrow would convert some mixtures: of a date and a datetime it keeps the dates.
        families = {_family(kind) for kind in frame[name].dropna().map(type).unique()} - {None}
        if len(families) > 1:
            raise _refusal(frame[name], table, f"it mixes {' and '.join(sorted(map(str, families)))}")
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except _REFUSALS:
        for name in frame.columns:
            _check_column(frame[name], table)
        raise


def _family(kind: type) -> str | None:
    return next((name for base, name in _FAMILIES if issubclass(kind, base)), None)


def _check_column(column: pd.Series[Any], table: str) -> None:
    import pyarrow as pa

    try:
        pa.Array.from_pandas(column)
    except _REFUSALS as error:
        reason = error.args[0] if isinstance(error, pa.ArrowException) else error
        raise _refusal(column, table, reason) from error


def _refusal(column: pd.Series[Any], table: str, reason: object) -> UnsupportedValueError:
    return UnsupportedValueError(
        f"Column {column.name!r} of table {table!r} is of dtype {column.dtype} and cannot be stored: {reason}. "
        "Give all of its values one type, or convert it, to text for example."
    )


def _type_and_backend(input_type: Any, default: str = "numpy") -> tuple[Any, str]:
    if isinstance(input_type, dict):
        frame_type, backend = input_type.get("type"), input_type.get("backend", default)
    elif isinstance(input_type, tuple) and len(input_type) == 2:
        frame_type, backend = input_type
    else:
        frame_type, backend = input_type, default
    if backend not in _BACKENDS:
        raise UnsupportedValueError(f"The backend of a pandas frame is one of {', '.join(_BACKENDS)}, not {backend!r}")
    return frame_type, backend


def _arrow_frame(arrow: pa.Table) -> pd.DataFrame:
    import pandas as pd

    frame: pd.DataFrame = arrow.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def _numpy_frame(arrow: pa.Table) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    nullable = {
        pa.int8(): pd.Int8Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.uint8(): pd.UInt8Dtype(),
        pa.uint16(): pd.UInt16Dtype(),
        pa.uint32(): pd.UInt32Dtype(),
        pa.uint64(): pd.UInt64Dtype(),
        pa.float32(): pd.Float32Dtype(),
        pa.float64(): pd.Float64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
        pa.string(): pd.StringDtype(),
        pa.large_string(): pd.StringDtype(),
        pa.string_view(): pd.StringDtype(),
    }

    def pandas_dtype(kind: pa.DataType) -> Any:
        if kind in nullable:
            return nullable[kind]
        own = pa.types.is_timestamp(kind) or pa.types.is_duration(kind)
        # What numpy has no dtype for keeps Arrow's: as objects, lists would lose their nulls and times their type.
        return None if own or pa.types.is_dictionary(kind) else pd.ArrowDtype(kind)

    # Python's dates would be an object for each value, and end with the year 9999.
    moments = [field.with_type(pa.timestamp("s")) if pa.types.is_date(field.type) else field for field in arrow.schema]
    frame: pd.DataFrame = arrow.cast(pa.schema(moments)).to_pandas(types_mapper=pandas_dtype)
    return frame
