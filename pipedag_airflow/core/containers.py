"""What a task returns to have it stored: :class:`Table`, :class:`RawSql` and :class:`Blob`.

A container made by a user carries the object itself. Once stored it comes back as a *descriptor*: a container without
object that knows its ``stage``, its ``generation`` and its ``cache_key``, the identity that consumers are keyed by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar

from pipedag_airflow.core.fingerprint import fingerprint
from pipedag_airflow.core.naming import normalise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Blob", "RawSql", "Stored", "Table"]

T = TypeVar("T")


class Stored:
    """What the three containers share once they are stored."""

    name: str | None
    #: Name of the stage that holds the object; None until it is stored.
    stage: str | None = None
    #: Number of the stage's generation in which the object is found.
    generation: int | None = None
    #: Identity by provenance: changes when the object may have changed.
    cache_key: str | None = None

    def locate(self, stage: str, generation: int, cache_key: str) -> None:
        """Make a descriptor of the container: say where it is stored and under which identity."""
        self.stage = stage
        self.generation = generation
        self.cache_key = cache_key

    def __repr__(self) -> str:
        where = f"{self.stage}." if self.stage else ""
        return f"<{type(self).__name__} {where}{self.name}>"


def _checked_name(kind: str, name: Any) -> str | None:
    if name is not None and not isinstance(name, str):
        raise TypeError(f"The name of a {kind} is a string, not {type(name).__name__}: {name!r}")
    return name


class Table(Stored, Generic[T]):
    """Container for storing tables.

    Args:
        obj: The table: a pandas or polars frame, an SQLAlchemy query or text.
        name: Name of the table in its stage. None: made from the task's name. ``"x%%"``: made unique.
        primary_key: Column or columns of the primary key.
        indexes: Indexes to create, each a list of column names.
        type_map: Column name to SQL type (an SQLAlchemy type), where the type of the frame's column does not suit.
        materialization_details: Label of the materialization details; overrides the stage's.

    Raises:
        TypeError: if an argument has the wrong form.

    Example:
        >>> Table([1, 2], "numbers", primary_key="id")
        <Table numbers>
    """

    def __init__(
        self,
        obj: T | None = None,
        name: str | None = None,
        *,
        primary_key: str | list[str] | None = None,
        indexes: list[list[str]] | None = None,
        type_map: dict[str, Any] | None = None,
        materialization_details: str | None = None,
    ) -> None:
        self.obj = obj
        self.name = _checked_name("table", name)
        self.primary_key = _checked_primary_key(primary_key)
        self.indexes = _checked_indexes(indexes)
        self.type_map = type_map
        self.materialization_details = materialization_details


def _checked_primary_key(primary_key: str | list[str] | None) -> list[str] | None:
    if primary_key is None or _are_columns(primary_key):
        return primary_key
    if isinstance(primary_key, str):
        return [primary_key]
    raise TypeError(f"primary_key is the name of a column or a list of names, not {primary_key!r}")


def _checked_indexes(indexes: list[list[str]] | None) -> list[list[str]] | None:
    if indexes is None:
        return None
    if not (isinstance(indexes, list) and all(map(_are_columns, indexes))):
        raise TypeError(f'indexes is a list of lists of column names, such as [["a"], ["a", "b"]], not {indexes!r}')
    return indexes


def _are_columns(names: Any) -> TypeGuard[list[str]]:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


class RawSql(Stored):
    """Container for SQL scripts that create tables by themselves.

    A script may write only to the schema of its own stage: pass the :class:`Stage` to the task and use
    ``stage.current_name`` in the script.

    Args:
        sql: The script.
        name: Name of the script in its stage, formed like that of a :class:`Table`.
        separator: What separates the statements; separators within strings and comments do not count.

    Raises:
        TypeError: if the name or the separator has the wrong form.

    Example:
        A stored script gives its tables by name::

            out = raw_sql_task(stage)  # while wiring
            consumer(out["tbl_1"])
    """

    def __init__(self, sql: str | None = None, name: str | None = None, separator: str = ";") -> None:
        self.sql = sql
        self.name = _checked_name("raw SQL script", name)
        if not (isinstance(separator, str) and separator):
            raise TypeError(f"The separator of a raw SQL script is a string that is not empty, not {separator!r}")
        self.separator = separator
        #: Names of the tables and views that the script made, sorted; known once it has run.
        self.table_names: list[str] = []
        self._loaded: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the tables that the script made."""
        return iter(self.table_names)

    def __contains__(self, table_name: object) -> bool:
        """Say whether the script made a table of that name."""
        return self._find(table_name) is not None

    def __getitem__(self, table_name: str) -> Any:
        """Return the table that the script made under that name.

        Within a task this is the loaded table (of the task's ``input_type``), else a descriptor.

        Raises:
            KeyError: if the script made no such table.
        """
        found = self._find(table_name)
        if found is None:
            made = ", ".join(self.table_names) or "none"
            raise KeyError(f"The script {self!r} made no table {table_name!r}, but: {made}")
        return self.table(found) if self._loaded is None else self._loaded[found]

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return pairs of table name and table."""
        return [(name, self[name]) for name in self.table_names]

    def get(self, table_name: str, default: Any = None) -> Any:
        """Return the table of that name, or ``default`` if the script made no such table."""
        found = self._find(table_name)
        return default if found is None else self[found]

    def table(self, table_name: str) -> Table[Any]:
        """Return the descriptor of one of the script's tables."""
        table: Table[Any] = Table(name=table_name)
        assert self.stage is not None
        assert self.generation is not None
        assert self.cache_key is not None
        table.locate(self.stage, self.generation, fingerprint(self.cache_key, table_name))
        return table

    def loaded(self, tables: dict[str, Any]) -> RawSql:
        """Return a copy whose tables are the given objects: what a consuming task receives."""
        copy = RawSql(self.sql, self.name, self.separator)
        copy.stage, copy.generation, copy.cache_key = self.stage, self.generation, self.cache_key
        copy.table_names = list(self.table_names)
        copy._loaded = tables
        return copy

    def _find(self, table_name: object) -> str | None:
        """Return the name as the script wrote it: exact if there is one, else regardless of case."""
        if not isinstance(table_name, str):
            return None
        if table_name in self.table_names:
            return table_name
        return next((name for name in self.table_names if normalise(name) == normalise(table_name)), None)


class Blob(Stored, Generic[T]):
    """Container for any other Python object; it is pickled into the blob store.

    Args:
        obj: The object.
        name: Name of the blob in its stage, formed like that of a :class:`Table`.

    Example:
        >>> Blob({"weights": [1.0, 2.0]}, "model")
        <Blob model>
    """

    def __init__(self, obj: T | None = None, name: str | None = None) -> None:
        self.obj = obj
        self.name = _checked_name("blob", name)
