"""What every table store must do about Ibis, if Ibis writes SQL for its database.

::

    class TestIbisOnMyTableStore(IbisSuite):
        @pytest.fixture
        def make_store(self, tmp_path):
            return functools.partial(MyTableStore, f"mydatabase:///{tmp_path}/test")
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import ibis
import polars as pl
import pytest
import sqlalchemy as sa
from ibis.expr import operations

from pipedag_airflow.core.containers import View
from pipedag_airflow.errors import StoreError, UnsupportedValueError
from pipedag_airflow.testing.store_fixtures import FRAME, LITERALS, SCHEMA, TableStoreFixtures, location, read, write

if TYPE_CHECKING:
    from pipedag_airflow.backend.table import SQLTableStore
    from pipedag_airflow.backend.table.sql.facts import TableFacts

__all__ = ["IbisSuite"]

_NUMBERS = pl.DataFrame({"key": [1, 1, 2, None], "From": ["a", "b", "c", None], "x": [0.5, 1.5, 4.0, None]})


def _expression(store: SQLTableStore, facts: TableFacts, name: str = "t") -> Any:
    return store.read_table(None, location(facts, name), ibis.Table, "task")


class IbisSuite(TableStoreFixtures):
    """Tests of one table store."""

    def test_an_expression_is_evaluated_by_the_database(self, store: SQLTableStore) -> None:
        """Joins, groups, windows and a self-join; whatever the columns are called."""
        left = _expression(store, write(store, _NUMBERS, "left 'T'"), "left 'T'")
        right = _expression(store, write(store, FRAME, "right"), "right")
        sums = left.group_by("key").agg(total=left.x.sum(), rows=left.count())
        joined = sums.join(right, sums.key == right.a).select("key", "total", "rows", "b")
        assert sorted(read(store, location(write(store, joined))).rows()) == [(1, 2.0, 2, "x"), (2, 4.0, 1, None)]
        other = left.view()
        pairs = left.join(other, (left.key == other.key) & (left.x < other.x)).select(left.From, then=other.From)
        assert read(store, location(write(store, pairs))).rows() == [("a", "b")]

    def test_a_table_expression_stands_for_all_rows(self, store: SQLTableStore) -> None:
        """Also where it got a name, and as part of a union."""
        table = _expression(store, write(store, FRAME, "source"), "source")
        for expression, times in ((table, 1), (table.alias("named"), 1), (table.union(table.mutate(a=table.a + 2)), 2)):
            assert read(store, location(write(store, expression))).height == 2 * times

    def test_no_connection_is_needed_for_an_expression(
        self, store: SQLTableStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its columns are known, and its names are those that readers know."""
        facts = write(store, FRAME)
        monkeypatch.setattr(store, "open", lambda: pytest.fail("a connection was opened"))
        table = _expression(store, facts)
        assert table.columns == ("a", "b")
        assert "s.t" in repr(table)

    def test_what_needs_a_connection_is_an_error(self, store: SQLTableStore) -> None:
        """It names the table, and what to do instead."""
        table = _expression(store, write(store, FRAME))
        for wanted in (table.execute, table.to_pyarrow, table.a.sum().execute, lambda: table.sql("SELECT 1 AS x")):
            with pytest.raises(UnsupportedValueError, match=r"Table s\.t has no connection .* Return the expression"):
                wanted()

    def test_values_in_an_expression_are_stored_as_they_are(self, store: SQLTableStore) -> None:
        """Whatever the driver takes for a place holder."""
        table = _expression(store, write(store, FRAME, "source"), "source")
        text = "50% %s %% %(a)s :b ::c ? $1 'q' \"q\" \\ \n é😀"
        facts = write(store, table.limit(1).select(x=ibis.literal(text)))
        assert read(store, location(facts)).item() == text
        kept = table.filter(table.b == "x").mutate(y=table.b.like("%x%"))
        assert read(store, location(write(store, kept))).rows() == [(1, "x", True)]

    @pytest.mark.parametrize("value", LITERALS, ids=repr)
    def test_values_in_an_expression_keep_their_types(self, store: SQLTableStore, value: Any) -> None:
        """A date does not become a text."""
        table = _expression(store, write(store, FRAME, "source"), "source")
        literal = ibis.interval(value) if isinstance(value, dt.timedelta) else ibis.literal(value)
        facts = write(store, table.limit(1).select(x=literal))
        assert read(store, location(facts)).item() == value

    def test_columns_of_unknown_types_are_passed_on_and_cast(self, store: SQLTableStore) -> None:
        """Ibis calls their type unknown."""
        kind = "BIT" if store.dialect_name == "duckdb" else "bit(3)"
        table = _expression(store, write(store, sa.text(f"SELECT CAST('101' AS {kind}) AS bits, 1 AS a")))
        assert table.schema()["bits"].is_unknown()
        facts = write(store, table.select("bits", text=table.bits.cast("string")), "out")
        assert facts.columns[0].type == kind
        assert read(store, location(facts, "out"))["text"].to_list() == ["101"]

    def test_an_expression_is_shown_by_a_view(self, store: SQLTableStore) -> None:
        """As an SQLAlchemy query is."""
        table = _expression(store, write(store, FRAME, "source"), "source")
        with store.transaction() as transaction:
            facts = transaction.write_table(SCHEMA, View(table.filter(table.a == 2), "v"), "task")
        assert (facts.rows, facts.view) == (1, True)
        assert read(store, location(facts, "v")).rows() == [(2, None)]

    def test_a_table_of_somebody_else_is_named_in_an_expression(self, store: SQLTableStore) -> None:
        """By an unbound table, which is what the database knows under that name."""
        write(store, FRAME, "theirs")
        theirs = ibis.table({"a": "int64", "b": "string"}, name="theirs", database=SCHEMA)
        assert sorted(read(store, location(write(store, theirs.select("a")))).rows()) == [(1,), (2,)]
        with pytest.raises(StoreError, match="Table 't' of task 'task'"):
            write(store, ibis.table({"a": "int64"}, name="nowhere", database=SCHEMA))

    def test_what_the_database_cannot_have_is_an_error(self, store: SQLTableStore) -> None:
        """Data of the expression's own, tables of another connection, long names, and what Ibis cannot write."""
        table = _expression(store, write(store, FRAME, "source"), "source")
        data = ibis.memtable(FRAME)
        other = operations.DatabaseTable("other", schema=table.schema(), source=object()).to_expr()
        result = operations.SQLQueryResult("SELECT 1 AS a", schema=table.schema(), source=object()).to_expr()
        refused = (
            (table.join(data, "a"), r"'t' holds data \(ibis.memtable\)"),
            (table.join(other, "a"), "'t' reads something of another connection of Ibis .DatabaseTable 'other'"),
            (table.join(result, "a"), "another connection of Ibis .SQLQueryResult"),
            (table.rename({"x" * (store.identifier_limit + 1): "a"}), "has a name of"),
            (table.select(x=table.b.hashbytes("md5")), "'t' cannot be written as SQL"),
        )
        for expression, message in refused[: 5 if store.dialect_name == "duckdb" else 4]:
            with pytest.raises(UnsupportedValueError, match=message):
                write(store, expression)
