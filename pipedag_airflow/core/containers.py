"""What a task returns to have it stored: :class:`Table`, :class:`View`, :class:`RawSql` and :class:`Blob`.

A table that somebody else owns is not stored, but referred to: :class:`ExternalTableReference`.

A container made by a user carries the object itself. Once stored it comes back as a *descriptor*: a container without
object that knows its ``stage``, its ``generation`` and its ``cache_key``, the identity that consumers are keyed by.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar

import attrs

from pipedag_airflow.core.fingerprint import fingerprint
from pipedag_airflow.core.naming import normalise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Blob", "ExternalTableReference", "RawSql", "Stored", "Table", "View", "materialize_now"]

T = TypeVar("T")

#: Stores a table at once and returns a reference to it; set by the run while a task's function is called.
materialize_now: ContextVar[Callable[[Table[Any]], Any] | None] = ContextVar("materialize_now", default=None)


class Stored:
    """What the containers share once they are stored."""

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
    if name is not None and not name.strip():
        raise ValueError(f"The name of a {kind} is empty: {name!r}. Leave it out, and it is made from the task's name.")
    return name


@attrs.frozen
class ExternalTableReference:
    """Reference to a table or view that somebody else owns.

    A task returns it, alone or in a :class:`Table`; it may also be an argument of a task, or take the place of a result
    in ``flow.run(inputs=...)``. The table is neither copied nor stored, only looked for. Its identity is its schema and
    name, and for a result the call that returned it: whether its data changed is for a cache function to say.

    Args:
        name: Name of the table, as the database has it.
        schema: Its schema, which is not that of the stage whose task returns the reference.
        shared_lock_allowed: Accepted for compatibility; nothing is locked to read a table.

    Raises:
        TypeError: if a name is no string.

    Example:
        ::

            @materialize(version="1", cache=lambda: date.today())
            def customers():
                return Table(ExternalTableReference("customers", "crm"))
    """

    name: str
    schema: str
    shared_lock_allowed: bool = False

    def __attrs_post_init__(self) -> None:
        for what in (self.name, self.schema):
            if not isinstance(what, str):
                raise TypeError(f"An external table is named by two strings, its name and its schema, not {what!r}.")

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class Table(Stored, Generic[T]):
    """Container for storing tables.

    Args:
        obj: The table: a pandas or polars frame, an SQLAlchemy query or text, an Ibis expression, or an
            :class:`ExternalTableReference`.
        name: Name of the table in its stage. None: made from the task's name. ``"x%%"``: made unique.
        primary_key: Column or columns of the primary key.
        indexes: Indexes to create, each a list of column names.
        type_map: Column name to SQL type (an SQLAlchemy type), where the type of the frame's column does not suit.
        materialization_details: Label of the materialization details; overrides the stage's.
        nullable: Columns that may hold NULL; all others then may not, unless they are in ``non_nullable``.
        non_nullable: Columns that may not hold NULL; all others then may. If both lists are given, each column of the
            table is in one of them. If neither is, only the columns of the primary key may not.

    Raises:
        TypeError: if an argument has the wrong form.
        ValueError: if the name is empty, or something is said of an external table that is its owner's to say.

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
        nullable: list[str] | None = None,
        non_nullable: list[str] | None = None,
    ) -> None:
        if isinstance(obj, ExternalTableReference):
            if name is not None or primary_key or indexes or type_map:
                raise ValueError(
                    f"The external table {obj} has its own name, keys and types: give the reference alone."
                )
            name = obj.name
        self.obj = obj
        self.name = _checked_name("table", name)
        self.primary_key = _checked_primary_key(primary_key)
        self.indexes = _checked_indexes(indexes)
        self.type_map = type_map
        self.materialization_details = materialization_details
        self.nullable = _checked_columns("nullable", nullable)
        self.non_nullable = _checked_columns("non_nullable", non_nullable)

    @property
    def external(self) -> ExternalTableReference | None:
        """The table of somebody else's that this one stands for, if it does."""
        return self.obj if isinstance(self.obj, ExternalTableReference) else None

    def materialize(self) -> Any:
        """Store the table now, within a running task, and return an SQLAlchemy table for the task's next queries.

        Where the table is made of an Ibis expression, that is a table of Ibis.

        The table belongs to the task's result, whether the task returns it (or what this method gave) or not. It
        becomes visible with its stage, and not at all if the task fails afterwards. A lazy task finds it stored if its
        query, and all that the task materialized before, are the same. Calling this twice stores once.

        Outside of a running task, where functions of tasks are plain functions, the table's object is returned.

        Raises:
            DuplicateNameError: if the task has materialized another table of that name.
            StoreError: if the table cannot be stored.

        Example:
            ::

                @materialize(lazy=True, input_type=sa.Table)
                def report(orders, customers):
                    joined = Table(sa.select(orders, customers.c.name).join(customers), "joined").materialize()
                    return Table(sa.select(joined).where(joined.c.price > 100), "large_orders")
        """
        store = materialize_now.get()
        return self.obj if store is None else store(self)


class View(Table[T]):
    """Container for a query that is published as a view: no rows are stored, and whoever reads it sees a table.

    It shows the tables that the task received, as they were then; like a table, it is made anew when they are, and
    stays as it is while they do.

    Args:
        obj: The query: an SQLAlchemy selectable or text.
        name: Name of the view in its stage, formed like that of a :class:`Table`.

    Example:
        ::

            @materialize(lazy=True, input_type=sa.Table)
            def all_years(*years):
                return View(sa.union_all(*(sa.select(year) for year in years)), "all_years")
    """

    def __init__(self, obj: T | None = None, name: str | None = None) -> None:
        super().__init__(obj, name)


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


def _checked_columns(argument: str, columns: list[str] | None) -> list[str] | None:
    if columns is not None and not _are_columns(columns):
        raise TypeError(f'{argument} is a list of column names, such as ["a", "b"], not {columns!r}')
    return columns


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
        ValueError: if the name is empty.

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
