"""What the tests of table stores work with: names, frames, and short ways to write and read."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.facts import ObjectType, TableFacts, TableLocation
from pipedag_airflow.core.containers import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipedag_airflow.backend.table import SQLTableStore

__all__ = [
    "FRAME",
    "HOSTILE_NAMES",
    "LITERALS",
    "REFUSED",
    "ROWS",
    "SCHEMA",
    "TableStoreFixtures",
    "location",
    "objects",
    "quoted",
    "read",
    "write",
]

#: Names that break whatever is put together without quoting.
HOSTILE_NAMES = (
    "UPPER",
    "MixEd",
    "select",
    "from table",
    'quo"te',
    "quo'te",
    "ünï😀",
    "a.b",
    'a".b',
    "a%b",
    "%(a)s",
    "a:b",
    "a;b--",
    "a\\b",
    "[a]",
    "{a}",
    "?",
    "$1",
)
SCHEMA = "s__g1"
FRAME = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
ROWS = [(1, "x"), (2, None)]

#: Values of queries that are no numbers or texts when a driver prints them.
LITERALS = (
    dt.date(2020, 2, 29),
    dt.datetime(1, 1, 1, 12, 30, 0, 1),  # noqa: DTZ001 - a moment without a zone
    dt.time(23, 59, 59, 999999),
    dt.timedelta(days=-3, microseconds=1),
    1e300,
    float("inf"),
    True,
)
#: What is no table: the object, the options of its Table, and what the message says.
REFUSED: tuple[tuple[Any, dict[str, Any], str], ...] = (
    (object(), {}, "Table 't' of task 'task' holds an object of type object"),
    (FRAME, {"type_map": {"z": sa.Integer}}, "columns that the table does not have: z. It has: a, b"),
    (FRAME, {"type_map": {"a": "INTEGER"}}, "'INTEGER' for column 'a'"),
    (pl.DataFrame(), {}, "Table 't' has no columns"),
    (pd.DataFrame(index=[1]), {}, "Table 't' has no columns"),
    (pd.DataFrame([[1, 2]], columns=[1, "1"]), {}, "Table 't' has two columns of one name: 1"),
    (pd.DataFrame({"a": [1], "x": ["y"]}).astype({"a": complex}), {}, "Column 'a' of table 't'"),
    (pd.DataFrame({"a": [1], "x": [object()]}), {}, "Column 'x' of table 't'"),
    (pd.DataFrame({"a": [1, 2], "x": ["y", 1]}), {}, "Column 'x' of table 't'"),
    (pd.DataFrame({"a": [2**70, 1]}), {}, "Column 'a' of table 't'"),
    (pl.DataFrame({"a": pl.Series([1], dtype=pl.Int128)}), {}, "Column 'a' of table 't' is of type Int128"),
    (pl.DataFrame({"a": pl.Series([1], dtype=pl.Object)}), {}, "Column 'a' of table 't'"),
)


def write(store: SQLTableStore, obj: Any, name: str = "t", schema: str = SCHEMA, **options: Any) -> TableFacts:
    """Store a table in a transaction of its own."""
    with store.transaction() as transaction:
        return transaction.write_table(schema, Table(obj, name, **options), "task")


def location(facts: TableFacts, name: str = "t", schema: str = SCHEMA) -> TableLocation:
    """Return where a table is."""
    return TableLocation("s", name, schema, name, facts.columns)


def read(store: SQLTableStore, place: TableLocation, input_type: Any = pl.DataFrame) -> Any:
    """Read a table in a transaction of its own."""
    with store.transaction() as transaction:
        return store.read_table(transaction.connection, place, input_type, "task")


def objects(store: SQLTableStore, *schemas: str) -> dict[tuple[str, str], bool]:
    """Return the tables and views of schemas; the value says whether it is a view."""
    with store.transaction() as transaction:
        found = transaction.objects(schemas or [SCHEMA])
    return {place: kind is not ObjectType.TABLE for place, kind in found.items()}


def quoted(store: SQLTableStore, *names: str) -> str:
    """Return a qualified name for a script."""
    return ".".join(map(store.engine.dialect.identifier_preparer.quote, names))


class TableStoreFixtures:
    """The fixtures of a suite of table stores."""

    @pytest.fixture
    def make_store(self) -> Callable[..., SQLTableStore]:
        """Give a callable that takes the options of a store and makes one. To be overridden."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, make_store: Callable[..., SQLTableStore]) -> Iterator[SQLTableStore]:
        """A store of an empty database."""
        store = make_store()
        yield store
        store.dispose()
