"""What every table store must do about NULL; a part of the suite of table stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow.errors import NullabilityError, StoreError
from pipedag_airflow.testing.store_fixtures import SCHEMA, TableStoreFixtures, objects, write

if TYPE_CHECKING:
    from pipedag_airflow.backend.table import SQLTableStore

__all__ = ["NullabilitySuite"]

_FRAME = pl.DataFrame({"k": [1, 2], "from table": ["x", "y"], "c": [None, 1.5]})
_QUERY = sa.text("SELECT 1 AS k, 'x' AS \"from table\", CAST(NULL AS INTEGER) AS c")

#: The options of a table, and which of its three columns may hold NULL.
_NULLABILITY: tuple[tuple[dict[str, Any], list[bool]], ...] = (
    ({}, [True, True, True]),
    ({"nullable": ["c"]}, [False, False, True]),
    ({"nullable": ["c", "from table"]}, [False, True, True]),
    ({"non_nullable": ["from table"]}, [True, False, True]),
    ({"non_nullable": []}, [True, True, True]),
    ({"nullable": ["c", "k"], "non_nullable": ["from table"]}, [True, False, True]),
    ({"non_nullable": ["from table"], "primary_key": "k", "indexes": [["c"]]}, [False, False, True]),
    ({"nullable": ["c"], "primary_key": ["k", "from table"], "indexes": [["k"]]}, [False, False, True]),
)

#: What does not fit the table, and what the message says.
_REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"nullable": ["z"]}, "nullable names columns that it does not have: z. Its columns are k, from table, c"),
    ({"non_nullable": ["C"]}, "non_nullable names columns that it does not have: C"),
    ({"nullable": ["c", "k"], "non_nullable": ["k", "from table"]}, "nullable and non_nullable both name: k"),
    ({"nullable": ["c"], "non_nullable": ["k"]}, "neither nullable nor non_nullable names: from table"),
    ({"nullable": ["k", "c"], "primary_key": "k"}, "nullable names columns of its primary key: k"),
)


class NullabilitySuite(TableStoreFixtures):
    """Tests of ``nullable`` and ``non_nullable``."""

    @pytest.mark.parametrize(("options", "expected"), _NULLABILITY, ids=str)
    @pytest.mark.parametrize("obj", [_FRAME, _QUERY], ids=["frame", "query"])
    def test_columns_refuse_null_as_the_table_says(
        self, store: SQLTableStore, obj: Any, options: dict[str, Any], expected: list[bool]
    ) -> None:
        """The database says the same as the facts."""
        facts = write(store, obj, **options)
        assert [column.nullable for column in facts.columns] == expected
        with store.transaction() as transaction:
            columns = sa.inspect(transaction.connection).get_columns("t", SCHEMA)
        assert [column["nullable"] for column in columns] == expected

    @pytest.mark.parametrize(("options", "message"), _REFUSED, ids=str)
    def test_lists_that_do_not_fit_the_table_are_an_error(
        self, store: SQLTableStore, options: dict[str, Any], message: str
    ) -> None:
        """It names the table, its task and the columns; nothing is stored."""
        with pytest.raises(NullabilityError, match=f"^Table 't' of task 'task': {message}"):
            write(store, _FRAME, **options)
        assert not objects(store)

    def test_null_where_it_may_not_be_is_an_error(self, store: SQLTableStore) -> None:
        """It names the table, its task and the column."""
        with pytest.raises(StoreError, match=r"Table 't' of task 'task' could not be stored(?s:.*)\bc\b"):
            write(store, _FRAME, non_nullable=["c"])
        assert not objects(store)
