"""What every table store must do.

::

    class TestMyTableStore(TableStoreSuite):
        @pytest.fixture
        def make_store(self, tmp_path):
            return functools.partial(MyTableStore, f"mydatabase:///{tmp_path}/test")

What a store says of itself (``transactional_ddl``, ``stores_structs``, …) decides which tests apply. The
suite needs pandas and polars.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow.core.containers import Table, View
from pipedag_airflow.errors import ConfigError, StoreError, UnsupportedValueError
from pipedag_airflow.testing.names_suite import NamesSuite
from pipedag_airflow.testing.nullability_suite import NullabilitySuite
from pipedag_airflow.testing.store_fixtures import (
    FRAME,
    LITERALS,
    REFUSED,
    ROWS,
    SCHEMA,
    TableStoreFixtures,
    location,
    objects,
    quoted,
    read,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipedag_airflow.backend.table import SQLTableStore

__all__ = ["TableStoreSuite"]


class TableStoreSuite(NamesSuite, NullabilitySuite, TableStoreFixtures):
    """Tests of one table store."""

    # --- transactions -----------------------------------------------------------------------------------------------

    def test_a_transaction_is_stored_as_a_whole(self, store: SQLTableStore) -> None:
        """Everything of a block that ends well is there afterwards."""
        with store.transaction() as transaction:
            transaction.write_table(SCHEMA, Table(FRAME, "one"), "task")
            transaction.write_table(SCHEMA, Table(FRAME, "two"), "task")
        assert set(objects(store)) == {(SCHEMA, "one"), (SCHEMA, "two")}

    def test_a_transaction_that_fails_leaves_nothing(self, store: SQLTableStore) -> None:
        """And the error passes as it is."""
        if not store.transactional_ddl:
            pytest.skip("the store says that its DDL takes no part in transactions")
        with pytest.raises(ZeroDivisionError), store.transaction() as transaction:  # noqa: PT012 - its end is the test
            transaction.write_table(SCHEMA, Table(FRAME, "one"), "task")
            raise ZeroDivisionError
        assert not objects(store)

    def test_a_swallowed_error_loses_nothing_silently(self, store: SQLTableStore) -> None:
        """Either the block fails, or what it did before the error is stored."""
        told = ""
        try:
            with store.transaction() as transaction:
                transaction.write_table(SCHEMA, Table(FRAME, "one"), "task")
                with contextlib.suppress(sa.exc.DBAPIError):
                    transaction.connection.exec_driver_sql("SELECT * FROM nowhere")
        except StoreError as error:
            told = str(error)
        assert bool(objects(store)) != ("nothing of it was stored" in told)

    def test_a_refusal_of_the_database_is_a_store_error(self, store: SQLTableStore) -> None:
        """It shows the statement, but not the parameters."""
        with pytest.raises(StoreError, match="FROM nowhere") as caught, store.transaction() as transaction:
            transaction.connection.execute(sa.text("SELECT * FROM nowhere WHERE a = :a"), {"a": "secret"})
        assert "secret" not in str(caught.value)

    # --- writing ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "obj",
        [
            FRAME,
            FRAME.lazy(),
            pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
            sa.text("SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, NULL"),
            sa.select(sa.literal(1).label("a"), sa.literal("x").label("b")).union_all(
                sa.select(sa.literal(2), sa.null())
            ),
        ],
        ids=["polars", "polars lazy", "pandas", "text", "select"],
    )
    def test_a_table_is_stored_from(self, store: SQLTableStore, obj: Any) -> None:
        """Frames and queries of any kind; the facts say what was stored."""
        facts = write(store, obj)
        assert [column.name for column in facts.columns] == ["a", "b"]
        assert (facts.rows, facts.view, facts.primary_key, facts.indexes) == (2, False, (), ())
        assert sorted(read(store, location(facts)).rows()) == ROWS

    def test_a_table_that_was_read_can_be_returned(self, store: SQLTableStore) -> None:
        """An SQLAlchemy table stands for all of its rows."""
        source = store.read_table(None, location(write(store, FRAME)), sa.Table, "task")
        copied = write(store, source, "copy")
        assert sorted(read(store, location(copied, "copy")).rows()) == ROWS

    def test_literals_of_queries_are_stored_as_they_are(self, store: SQLTableStore) -> None:
        """Whatever the driver takes for a place holder."""
        value = "50% %s %% %(a)s :b ::c ? $1 'q' \"q\" \\ \n é😀"
        facts = write(store, sa.select(sa.literal(value).label("x")))
        assert read(store, location(facts)).item() == value

    def test_texts_are_executed_as_they_are_written(self, store: SQLTableStore) -> None:
        """A colon in a string begins no parameter, unless one is bound."""
        text = sa.text("SELECT ':a %s' AS a, 'b:c' AS b, 'it''s \"100%\"' AS c, :d AS d").bindparams(d="50% :e")
        facts = write(store, text)
        assert read(store, location(facts)).row(0) == (":a %s", "b:c", 'it\'s "100%"', "50% :e")
        nested = sa.select(sa.text("':a' AS a"), sa.literal(":b").label("b"))
        assert read(store, location(write(store, nested))).row(0) == (":a", ":b")

    def test_a_parameter_that_is_not_bound_is_an_error(self, store: SQLTableStore) -> None:
        """It does not become NULL."""
        with pytest.raises(StoreError, match="Table 't' of task 'task'"):
            write(store, sa.text("SELECT :missing AS a"))

    @pytest.mark.parametrize("value", LITERALS, ids=repr)
    def test_literals_of_queries_keep_their_types(self, store: SQLTableStore, value: Any) -> None:
        """A date does not become a text."""
        facts = write(store, sa.select(sa.literal(value).label("x")))
        assert read(store, location(facts)).item() == value

    def test_writing_a_table_again_replaces_it(self, store: SQLTableStore) -> None:
        """Columns and keys too, and also what was a view before."""
        write(store, FRAME, primary_key="a", indexes=[["b"]])
        facts = write(store, pl.DataFrame({"c": [3]}), indexes=[["c"]])
        assert read(store, location(facts)).rows() == [(3,)]
        with store.transaction() as transaction:
            transaction.show(SCHEMA, "v", SCHEMA, "t")
        assert objects(store) == {(SCHEMA, "t"): False, (SCHEMA, "v"): True}
        write(store, FRAME, "v")
        assert objects(store) == {(SCHEMA, "t"): False, (SCHEMA, "v"): False}

    def test_keys_and_indexes_are_what_the_database_says(self, store: SQLTableStore) -> None:
        """Columns of the key are not nullable, all others are."""
        frame = pl.DataFrame({"k": [1, 2], "K 2": ["x", "y"], "b": [None, 1.5], "c": [True, False]})
        facts = write(store, frame, primary_key=["k", "K 2"], indexes=[["b"], ["c", "b"]])
        assert facts.primary_key == ("k", "K 2")
        assert facts.indexes == (("b",), ("c", "b"))
        assert [column.nullable for column in facts.columns] == [False, False, True, True]
        with store.transaction() as transaction:
            inspector = sa.inspect(transaction.connection)
            key = inspector.get_pk_constraint("t", SCHEMA)["constrained_columns"]
            columns = inspector.get_columns("t", SCHEMA)
            indexes = inspector.get_indexes("t", SCHEMA)
        assert key == ["k", "K 2"]
        assert [(column["name"], column["nullable"]) for column in columns] == [
            (column.name, column.nullable) for column in facts.columns
        ]
        assert len(indexes) == 2

    def test_indexes_whose_names_would_be_the_same_are_two(self, store: SQLTableStore) -> None:
        """a_b(c) and a(b_c)."""
        frame = pl.DataFrame({"c": [1], "b_c": [2]})
        write(store, frame, "a_b", indexes=[["c"]])
        assert write(store, frame, "a", indexes=[["b_c"]]).indexes == (("b_c",),)

    def test_a_key_that_is_not_unique_is_an_error(self, store: SQLTableStore) -> None:
        """It names task and table, and a value."""
        with pytest.raises(StoreError, match=r"(?s)'t' of task 'task'.*7"):
            write(store, pl.DataFrame({"k": [1, 7, 7]}), primary_key="k")
        assert not objects(store)

    @pytest.mark.parametrize(("obj", "options", "message"), REFUSED, ids=[message for *_, message in REFUSED])
    def test_what_cannot_be_stored_is_an_error(
        self, store: SQLTableStore, obj: Any, options: dict[str, Any], message: str
    ) -> None:
        """The message names the table, and the column where there is one."""
        with pytest.raises(UnsupportedValueError, match=message):
            write(store, obj, **options)

    def test_chosen_types_win(self, store: SQLTableStore) -> None:
        """The frame's values are cast; values that cannot be are an error that names the table."""
        facts = write(store, FRAME, type_map={"a": sa.String})
        assert read(store, location(facts))["a"].to_list() == ["1", "2"]
        with pytest.raises(StoreError, match=r"(?s)Table 't' of task 'task'.*['\"]x['\"]"):
            write(store, FRAME, type_map={"b": sa.Integer()})

    def test_a_view_shows_what_its_query_gives(self, store: SQLTableStore) -> None:
        """And takes the place of a table of its name."""
        source = store.read_table(None, location(write(store, FRAME, "from table"), "from table"), sa.Table, "task")
        write(store, FRAME, "v")
        with store.transaction() as transaction:
            facts = transaction.write_table(SCHEMA, View(sa.select(source).where(source.c.a == 2), "v"), "task")
        assert (facts.rows, facts.view, [column.name for column in facts.columns]) == (1, True, ["a", "b"])
        assert read(store, location(facts, "v")).rows() == [(2, None)]
        assert objects(store) == {(SCHEMA, "from table"): False, (SCHEMA, "v"): True}

    # --- scripts ----------------------------------------------------------------------------------------------------

    def test_a_script_makes_tables_and_views(self, store: SQLTableStore) -> None:
        """Several statements; what was there before is not the script's."""
        write(store, FRAME, "before")
        table, view = quoted(store, SCHEMA, "T 1"), quoted(store, SCHEMA, "v")
        statements = [
            f"CREATE TABLE {table} AS SELECT 1 AS a, '%s :b' AS b",
            f"INSERT INTO {table} SELECT 2, '50%'",
            f"CREATE VIEW {view} AS SELECT a FROM {table}",  # noqa: S608 - the script of a test
        ]
        with store.transaction() as transaction:
            made = transaction.run_script(SCHEMA, statements, "task").tables
        assert {name: (facts.rows, facts.view) for name, facts in made.items()} == {"T 1": (2, False), "v": (2, True)}
        assert read(store, location(made["T 1"], "T 1"))["b"].to_list() == ["%s :b", "50%"]
        assert read(store, location(made["v"], "v"))["a"].to_list() == [1, 2]

    def test_a_script_that_fails_leaves_nothing(self, store: SQLTableStore) -> None:
        """The message names the task and the statement."""
        good = f"CREATE TABLE {quoted(store, SCHEMA, 'a')} AS SELECT 1 AS a"
        with pytest.raises(StoreError, match="Statement 2 of 3 of the script of task 'task'") as caught:  # noqa: SIM117 - the error is raised within
            with store.transaction() as transaction:
                transaction.run_script(SCHEMA, [good, "SELECT * FROM nowhere", good], "task")
        assert str(caught.value).endswith("The statement:\nSELECT * FROM nowhere")
        assert not objects(store)

    @pytest.mark.parametrize(
        "statement", ["COMMIT", "rollback", "-- x\nBEGIN TRANSACTION", "/* x */ start transaction"]
    )
    def test_a_script_cannot_end_the_transaction(self, store: SQLTableStore, statement: str) -> None:
        """What came before it would stay although the task fails later, or be lost although it succeeds."""
        good = f"CREATE TABLE {quoted(store, SCHEMA, 'a')} AS SELECT 1 AS a"
        with pytest.raises(StoreError, match=r"Statement 2 of 2 .* a transaction"), store.transaction() as transaction:
            transaction.run_script(SCHEMA, [good, statement], "task")
        assert not objects(store)

    def test_a_script_can_run_again(self, store: SQLTableStore) -> None:
        """After what its earlier attempt made has gone."""
        table, view = quoted(store, SCHEMA, "a"), quoted(store, SCHEMA, "v")
        statements = [f"CREATE TABLE {table} AS SELECT 1 AS a", f"CREATE VIEW {view} AS SELECT a FROM {table}"]  # noqa: S608 - quoted
        made: list[str] = []
        for _ in range(2):
            with store.transaction() as transaction:
                transaction.drop_objects(SCHEMA, made)
                made = sorted(transaction.run_script(SCHEMA, statements, "task").tables)
            assert made == ["a", "v"]

    # --- publishing -------------------------------------------------------------------------------------------------

    def test_a_view_is_pointed_elsewhere_and_hidden(self, store: SQLTableStore) -> None:
        """To a table of other columns, in another schema."""
        first, second = write(store, FRAME), write(store, pl.DataFrame({"z": [None, 1.5, 2]}), "u", "s__g2")
        for facts, name, schema in ((first, "t", SCHEMA), (second, "u", "s__g2")):
            with store.transaction() as transaction:
                transaction.show("s", "shown", schema, name)
            assert read(store, location(facts, "shown", "s")).equals(read(store, location(facts, name, schema)))
        for _ in range(2):
            with store.transaction() as transaction:
                transaction.hide("s", "shown")
            assert not objects(store, "s")

    def test_a_table_made_by_hand_is_left_alone(self, store: SQLTableStore) -> None:
        """It cannot be published over, and is not hidden."""
        write(store, FRAME)
        by_hand = write(store, pl.DataFrame({"mine": [1]}), "t", "s")
        with pytest.raises(StoreError, match="made by hand"), store.transaction() as transaction:
            transaction.show("s", "t", SCHEMA, "t")
        with store.transaction() as transaction:
            transaction.hide("s", "t")
        assert read(store, location(by_hand, "t", "s")).rows() == [(1,)]

    def test_the_schema_of_a_generation_is_dropped(self, store: SQLTableStore) -> None:
        """With its views; other generations stay; dropping it twice is no error."""
        write(store, FRAME, primary_key="a")
        write(store, FRAME, "t", "s__g11")
        with store.transaction() as transaction:
            transaction.show(SCHEMA, "v", SCHEMA, "t")
        for _ in range(2):
            with store.transaction() as transaction:
                transaction.drop_generation_schema(SCHEMA, ["t", "v"])
            assert objects(store, SCHEMA, "s__g11") == {("s__g11", "t"): False}

    # --- reading ----------------------------------------------------------------------------------------------------

    def test_a_table_is_read_as_the_task_asks(self, store: SQLTableStore) -> None:
        """As pandas with both backends, polars eager and lazy."""
        place = location(write(store, FRAME))
        numpy, arrow = read(store, place, pd.DataFrame), read(store, place, (pd.DataFrame, "arrow"))
        assert [str(dtype) for dtype in numpy.dtypes] == ["Int64", "string"]
        assert [str(dtype) for dtype in arrow.dtypes] == ["int64[pyarrow]", "string[pyarrow]"]
        assert arrow.equals(read(store, place, {"type": pd.DataFrame, "backend": "arrow"}))
        assert numpy.attrs == arrow.attrs == {}, "what a task makes from a frame has a name of its own"
        for frame in (numpy, arrow):
            assert frame["a"].tolist() == [1, 2]
            assert frame["b"][0] == "x"
            assert frame["b"].isna().tolist() == [False, True]
        eager, lazy = read(store, place, pl.DataFrame), read(store, place, pl.LazyFrame)
        assert isinstance(lazy, pl.LazyFrame)
        assert eager.equals(FRAME)
        assert lazy.collect().equals(FRAME)

    def test_a_reference_needs_no_connection(self, store: SQLTableStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its columns are known."""
        place = location(write(store, FRAME))
        monkeypatch.setattr(store, "open", lambda: pytest.fail("a connection was opened"))
        alias = store.read_table(None, place, sa.Table, "task")
        assert (alias.name, list(alias.c.keys())) == ("t", ["a", "b"])

    @pytest.mark.parametrize(
        ("input_type", "message"),
        [
            (None, "Task 'task' gets a table .* Give it an input_type"),
            (dict, "Task 'task' asks for tables of type <class 'dict'>"),
            ((pd.DataFrame, "java"), "one of numpy, arrow, not 'java'"),
        ],
    )
    def test_what_cannot_be_asked_for_is_an_error(self, store: SQLTableStore, input_type: Any, message: str) -> None:
        """It names the task."""
        place = location(write(store, FRAME))
        with pytest.raises(UnsupportedValueError, match=message):
            read(store, place, input_type)

    def test_a_table_that_is_gone_is_an_error(self, store: SQLTableStore) -> None:
        """It names the table, where it was, and the task."""
        gone = location(write(store, FRAME), "gone")
        with pytest.raises(StoreError, match=r"Table s\.gone \(stored as s__g1\.gone\).* for task 'task'"):
            read(store, gone)

    # --- options ----------------------------------------------------------------------------------------------------

    def test_details_that_are_not_configured_are_refused(
        self, make_store: Callable[..., SQLTableStore], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Strictly, or with a line in the log."""
        strict, lax = make_store(), make_store(strict_materialization_details=False)
        assert strict.details.of(None, "Table 't'") == {}
        with pytest.raises(ConfigError, match="Table 't' has the materialization details 'fast'"):
            strict.details.of("fast", "Table 't'")
        with caplog.at_level(logging.ERROR):
            assert lax.details.of("fast", "Table 't'") == {}
        assert "Table 't' has the materialization details 'fast'" in caplog.text

    def test_details_that_the_store_does_not_know_are_refused(
        self, make_store: Callable[..., SQLTableStore], caplog: pytest.LogCaptureFixture
    ) -> None:
        """When it is made, with what to do; or they are passed over with a line in the log."""
        labels = {"fast": {"nitro": True}}
        with pytest.raises(
            ConfigError, match=r"materialization_details\.fast\.nitro: .*strict_materialization_details=F"
        ):
            make_store(materialization_details=labels)
        with caplog.at_level(logging.ERROR):
            lax = make_store(materialization_details=labels, strict_materialization_details=False)
        assert lax.details.of("fast", "Table 't'") == {}
        assert "materialization_details.fast.nitro" in caplog.text
        with pytest.raises(ConfigError, match="default_materialization_details is 'slow'"):
            make_store(default_materialization_details="slow")

    def test_schemas_can_be_left_to_others(self, make_store: Callable[..., SQLTableStore]) -> None:
        """With avoid_drop_create_schema the objects go and the schema stays."""
        store = make_store(avoid_drop_create_schema=True)
        for schema in (store.schema("pipedag_metadata"), SCHEMA):
            with store.connection() as connection:
                connection.exec_driver_sql(f"CREATE SCHEMA {quoted(store, schema)}")
        write(store, FRAME)
        with store.transaction() as transaction:
            transaction.drop_generation_schema(SCHEMA, ["t"])
        assert not objects(store)
        write(store, FRAME)
        with pytest.raises(StoreError):
            write(store, FRAME, schema="nobody_made_it")
        store.dispose()
