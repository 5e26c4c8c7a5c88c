"""The base of all kinds of table objects, and how the right one is found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa
    import sqlalchemy as sa

    from pipedag_airflow.backend.table.sql.facts import TableLocation
    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.core.containers import Table

__all__ = ["FrameType", "frame_type_for_input", "frame_type_for_object", "is_of"]

ENTRY_POINTS = "pipedag_airflow.frames"


class FrameType(ABC):
    """One kind of table object: pandas frames, polars frames, SQLAlchemy queries, Ibis expressions.

    A class is instantiated without arguments. It must not import its library at module level: the question whether an
    object is of its kind is put to every kind.
    """

    #: Whether the object that a task receives only names the table in the database, without its data.
    by_reference = False

    @abstractmethod
    def recognises(self, obj: Any) -> bool:
        """Say whether an object that a task returned is of this kind."""

    @abstractmethod
    def accepts(self, input_type: Any) -> bool:
        """Say whether ``input_type`` asks for this kind."""

    @abstractmethod
    def write(
        self, transaction: SQLTransaction, schema: str, table: Table[Any], details: Mapping[str, Any]
    ) -> int | None:
        """Create the table in the schema of a generation and fill it from the object that it holds.

        Returns:
            The number of rows; None where only the database knows.
        """

    def name_of(self, obj: Any) -> str | None:
        """Return the name that the object itself has for its table, if this kind can have one."""
        return None

    def as_query(self, store: SQLTableStore, obj: Any, name: str) -> sa.sql.ClauseElement:
        """Return the query that the object is, which gives the table ``name``; a kind that is by reference has one.

        Raises:
            UnsupportedValueError: if this kind has none, or one that the database cannot evaluate.
        """
        del store
        raise UnsupportedValueError(f"{type(self).__name__} has no query of table {name!r}: {type(obj).__qualname__}")

    def collected(self, obj: Any) -> Any:
        """Return an object that stands for a computation as its data; the computation is done once."""
        return obj

    def has_data(self, obj: Any) -> bool:
        """Say whether an object holds its data, and does not stand for a computation that gives them."""
        del obj
        return not self.by_reference

    def to_arrow(self, obj: Any, name: str) -> pa.Table:
        """Return the data of the object ``name``, by which a lazy task's results are compared.

        Raises:
            UnsupportedValueError: if this kind has no data, or some that Arrow has no type for.
        """
        raise UnsupportedValueError(f"{type(self).__name__} has no data of table {name!r}: {type(obj).__qualname__}")

    @abstractmethod
    def read(
        self, store: SQLTableStore, connection: sa.Connection | None, location: TableLocation, input_type: Any
    ) -> Any:
        """Return the table as ``input_type`` asks for it; a kind that is by reference needs no connection."""


def is_of(obj: Any, library: str, *names: str) -> bool:
    """Say whether an object is an instance of one of a library's classes, without importing the library."""
    return any(kind.__name__ in names and kind.__module__.split(".")[0] == library for kind in type(obj).__mro__)


@cache
def _frame_types() -> tuple[FrameType, ...]:
    found = sorted(entry_points(group=ENTRY_POINTS), key=lambda entry_point: entry_point.name)
    return tuple(entry_point.load()() for entry_point in found)


def frame_type_for_object(obj: Any) -> FrameType | None:
    """Return the kind that an object is of, if any."""
    return next((kind for kind in _frame_types() if kind.recognises(obj)), None)


def frame_type_for_input(input_type: Any, task: str) -> FrameType:
    """Return the kind that a task's ``input_type`` asks for.

    Raises:
        UnsupportedValueError: if there is none; the message names the task.
    """
    if input_type is None:
        raise UnsupportedValueError(
            f"Task {task!r} gets a table as its input, but does not say as what. Give it an input_type, for example "
            "@materialize(input_type=pandas.DataFrame)."
        )
    kind = next((kind for kind in _frame_types() if kind.accepts(input_type)), None)
    if kind is None:
        raise UnsupportedValueError(
            f"Task {task!r} asks for tables of type {input_type!r}, which nothing installed provides. Known are "
            "pandas.DataFrame, polars.DataFrame, polars.LazyFrame, sqlalchemy.Table and ibis.Table."
        )
    return kind
