"""How results are stored and how they come to tasks: rules 5.1 to 5.10, as runs show them."""

from __future__ import annotations

import datetime as dt
import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import Blob, ExternalTableReference, Flow, RawSql, Stage, Table, materialize
from pipedag_airflow.errors import ConfigError, DuplicateNameError, PipedagError, UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project

on_both_databases = pytest.mark.databases("duckdb", "postgres")

#: How the two databases tell the names of a table's indexes, that of its primary key included.
INDEXES = """
    select index_name from duckdb_indexes() where schema_name like 'one%'
    union all
    select constraint_name from duckdb_constraints() where constraint_type = 'PRIMARY KEY' and schema_name like 'one%'
"""
INDEXES_OF_POSTGRES = "select indexname from pg_indexes where schemaname like 'one%'"


def frame(*values: int) -> pd.DataFrame:
    return pd.DataFrame({"x": [*values]})


def returning(make: Callable[..., Any], name: str = "task", **options: Any) -> Any:
    """A task that returns what ``make`` does."""
    return materialize(name=name, **{"version": "1", **options})(make)


def outcomes(project: Project, flow: Flow) -> tuple[dict[str, str], Exception | None]:
    """Run the flow to its end and return what became of each task, and its first exception."""
    result = project.run(flow, fail_fast=False)
    return {task.id: state.name.lower() for task, state in result.task_states.items()}, result.exception


# --- 5.1: values --------------------------------------------------------------------------------------------------


@on_both_databases
def test_5_1_and_4_5_and_10_24_values_of_any_size_and_depth_come_back_from_the_database_as_they_were(
    project: Project,
) -> None:
    value = {
        "ints": [0, -1, 2**63, -(10**400)],
        "texts": ["", " ", "a'b\"c\\", "ünï😀", "x" * 100_000],
        "nested": [None, [None, [None, ({}, ())]], {"": {"a": None}}],
        "times": [dt.date(1, 1, 1), dt.datetime.max, Path("a/b")],  # noqa: DTZ901 - a time without zone is meant
        "floats": [0.1, -0.0, 1e-300, 1e300],
    }

    def make() -> Any:
        project.call("make")
        return value

    for called in (["make"], []):
        with Flow("values") as flow, Stage("one"):
            made = returning(make)()
            through = returning(lambda value: value, "through")(made)
        result = project.run(flow)
        assert project.called == called
        assert repr(result.get(made)) == repr(result.get(through)) == repr(value)


# --- 5.2 and 5.3: names -------------------------------------------------------------------------------------------


def test_5_2_1_and_5_2_2_what_the_configuration_calls_a_table_or_a_blob_becomes_a_descriptor_of_one(
    project: Project,
) -> None:
    project.settings["auto_blob"] = ["fractions.Fraction"]

    def named() -> pd.DataFrame:
        made = frame(1, 2)
        made.attrs["name"] = "From Frame"
        return made

    with Flow("auto") as flow, Stage("one"):
        several = returning(lambda: {"plain": [pl.DataFrame({"x": [1]})], "blob": Fraction(1, 2)}, "several")()
        source = returning(named, "source")()
        part = returning(lambda df: df.head(1), "part", input_type=pd.DataFrame)(source)
    result = project.run(flow)

    assert project.query('select count(*) from one."from frame"') == [(2,)]
    # pandas hands the attributes of a frame on to every part of it: what a task makes has a name of its own.
    assert result.task_values[part].name.startswith("part_")
    table, blob = result.task_values[several]["plain"][0], result.task_values[several]["blob"]
    assert (type(table), type(blob)) == (Table, Blob)
    assert table.name.startswith("several_")
    assert blob.name.startswith("several_")
    for stored in (table, blob, result.task_values[source]):
        assert (stored.obj, stored.stage, stored.generation, len(stored.cache_key)) == (None, "one", 1, 20)
    assert result.get(several, as_type=pl.DataFrame)["blob"] == Fraction(1, 2)


def test_5_2_1_a_frame_that_is_named_by_something_else_than_a_text_is_refused(project: Project) -> None:
    def numbered() -> pd.DataFrame:
        made = frame(1)
        made.attrs["name"] = 7
        return made

    with Flow("auto") as flow, Stage("one"):
        returning(numbered)()
    with pytest.raises(UnsupportedValueError, match=r'attrs\["name"\] of a frame names its table .* not 7'):
        project.run(flow)


def test_5_2_1_a_class_that_is_not_there_is_an_error_and_not_passed_over(project: Project) -> None:
    with Flow("auto") as flow, Stage("one"):
        returning(lambda: frame(1))()
    with pytest.raises(
        ConfigError, match=r"auto_table .* lists 'pandas\.DataFrme', but pandas has no class 'DataFrme'"
    ):
        project.run(flow, config=project.config(auto_table=["absent.Frame", "pandas.DataFrme"]))


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (lambda: float("inf"), {}, ValueError),
        (lambda: {1}, {}, TypeError),
        (lambda: Blob(1), {"lazy": True, "version": None}, NotImplementedError),
        (lambda: Blob(1), {}, AttributeError),
    ],
    ids=["not finite", "a set", "blob of a lazy task", "no blob store"],
)
def test_5_1_and_5_8_what_is_refused_is_an_error_of_the_kind_that_the_reference_has(
    project: Project, make: Any, options: dict[str, Any], expected: type[Exception]
) -> None:
    config = project.config(blob_store={"class": "pipedag_airflow.backend.blob.NoBlobStore"})
    with Flow("refused") as flow, Stage("one"):
        returning(make, **options)()
    with pytest.raises(expected) as error:
        project.run(flow, config=config)
    assert isinstance(error.value, PipedagError)


@on_both_databases
def test_5_2_3_and_10_22_names_are_normalised_made_or_made_unique(project: Project) -> None:
    with Flow("names") as flow, Stage("one"):
        # Two functions of one name that differ in nothing but what their cache functions say.
        for day in (1, 2):
            returning(lambda: Table(frame(1)), "twin", cache=lambda day=day: day)()
        for name in ("other", "another"):
            returning(lambda: [Table(frame(1), "Mixed%%"), Table(frame(1), "Mixed%%"), Table(frame(1))], name)()
        returning(lambda: Table(frame(1), " As It/Is "), "named")()
    names = [*project.tables(project.run(flow))["one"]]

    suffix = "[a-z2-7]{20}_[0-9]{4}"
    forms = sorted(re.sub(suffix, "SUFFIX", name) for name in names)
    assert forms == sorted([*["twin_SUFFIX"] * 2, *["mixedSUFFIX"] * 4, "other_SUFFIX", "another_SUFFIX", "as it_is"])
    assert len({*names}) == 9


def test_5_2_3_the_made_up_name_of_a_lazy_table_follows_the_call_and_not_the_query(project: Project) -> None:
    def name(query: str, argument: int) -> str:
        with Flow("lazy") as flow, Stage("one"):
            made = materialize(name="lazy", lazy=True)(lambda _: Table(sa.text(query)))(argument)
        return str(project.run(flow).task_values[made].name)

    first = name("select 1 as x", 1)
    assert name("select 2 as x", 1) == first
    assert name("select 2 as x", 2) != first


def test_5_2_4_a_table_or_a_script_without_content_is_a_type_error(project: Project) -> None:
    with Flow("empty") as flow:
        with Stage("table"):
            returning(lambda: [Table(name="t")])()
        with Stage("script"):
            returning(lambda: [RawSql(name="s")])()
    states, error = outcomes(project, flow)

    assert {*states.values()} == {"failed"}
    assert isinstance(error, TypeError)
    assert "'table.task': result[0] is an empty Table" in str(error)


@on_both_databases
def test_5_3_a_name_is_given_once_in_a_stage_for_tables_and_once_for_blobs(project: Project) -> None:
    def flow(*, with_second: bool) -> Flow:
        with Flow("names") as flow:
            with Stage("tables"):
                returning(lambda: [Table(frame(1), "Same"), Table(frame(2), "same")])()
            with Stage("blobs"):
                returning(lambda: [Blob(1, "same"), Blob(2, "same")])()
            with Stage("kinds"):
                returning(lambda: [Table(frame(1), "same"), Blob(2, "same")])()
            with Stage("external"):
                reference = ExternalTableReference("same", "kinds")
                made = returning(lambda _: [Table(reference), Table(frame(1), "same")], input_type=pl.DataFrame)
                made(flow["kinds"]["task"][0])
            with Stage("calls"):
                returning(lambda: Table(frame(1), "same"), "first")()
                if with_second:
                    returning(lambda: Table(frame(1), "same"), "second")()
        return flow

    wrong = {"tables.task": "failed", "blobs.task": "failed"}
    states, error = outcomes(project, flow(with_second=False))
    assert isinstance(error, DuplicateNameError)
    fine = {"kinds.task": "completed", "external.task": "completed", "calls.first": "completed"}
    assert states == wrong | fine

    # What is valid has its name, too.
    states, _ = outcomes(project, flow(with_second=True))
    assert states == wrong | dict.fromkeys(fine, "cache_valid") | {"calls.second": "failed"}
    assert project.query("select x from calls.same") == [(1,)]


# --- 5.4 and 5.5: tables ------------------------------------------------------------------------------------------


@on_both_databases
def test_5_4_and_10_36_keys_and_indexes_over_columns_of_long_names_have_names_that_fit(project: Project) -> None:
    columns = [letter * 60 for letter in "abc"]
    data = pd.DataFrame({column: [1, 2] for column in columns})
    with Flow("keys") as flow, Stage("one"):
        returning(lambda: Table(data, "t" * 60, primary_key=columns, indexes=[columns, columns[:2], columns[1:]]))()
        returning(lambda: Table(frame(1), "short", primary_key="x", indexes=[["x"]]), "short")()
    project.run(flow)

    limit = project.config().table_store.identifier_limit
    is_duckdb = "duckdb" in project.database.url
    names = [str(name) for (name,) in project.query(INDEXES if is_duckdb else INDEXES_OF_POSTGRES)]
    indexes = [name for name in names if name.startswith("idx_")]
    assert (len(names), len({*indexes})) == (6, 4)
    assert max(len(name) for name in (indexes if is_duckdb else names)) <= limit
    assert is_duckdb or limit == 63


@pytest.mark.databases("postgres")
def test_5_4_and_10_37_details_are_those_of_the_table_else_of_its_stage_else_the_default(project: Project) -> None:
    project.settings["table_store"]["args"] |= {
        "materialization_details": {"fast": {"unlogged": True}, "safe": {"unlogged": False}},
        "default_materialization_details": "fast",
    }
    with Flow("details") as flow:
        with Stage("one"):
            returning(lambda: Table(frame(1), "of_default"), "default")()
        with Stage("two", "safe"):
            returning(lambda: Table(frame(1), "of_stage"), "stage")()
            returning(lambda: Table(frame(1), "of_table", materialization_details="fast"), "table")()
    project.run(flow)

    kinds = project.query("select relname, relpersistence::text from pg_class where relname ~ '^of_' and relkind = 'r'")
    assert dict(kinds) == {"of_default": "u", "of_stage": "p", "of_table": "u"}


@on_both_databases
def test_5_5_a_bare_table_is_all_of_its_rows_and_the_frame_that_a_task_returns_stays_as_it_is(
    project: Project,
) -> None:
    made = pd.DataFrame({1: [1, 2], "date": pd.to_datetime(["2020-01-01", None])}, index=[5, 7])
    before = made.copy(deep=True)

    with Flow("store") as flow, Stage("one"):
        source = returning(lambda: Table(made, "made", type_map={"1": sa.BigInteger()}))()
        materialize(lazy=True, input_type=sa.Table)(lambda table: Table(table, "copy"))(source)
        returning(len, "length", input_type=list)(source)
    result = project.run(flow, fail_fast=False)

    pd.testing.assert_frame_equal(made, before)
    assert isinstance(result.exception, TypeError)
    assert "'one.length' asks for tables of type <class 'list'>" in str(result.exception)
    copy = result.get(flow["one"]["<lambda>"], as_type=pl.DataFrame)
    assert [*map(str, copy["date"])] == ["2020-01-01 00:00:00", "None"]
    assert copy["1"].to_list() == [1, 2]


def test_5_5_the_configuration_says_with_which_dtypes_pandas_frames_arrive_unless_the_task_does(
    project: Project,
) -> None:
    project.settings["table_store"]["hook_args"] = {"pandas": {"dtype_backend": "arrow"}}
    with Flow("dtypes") as flow, Stage("one"):
        made = returning(lambda: Table(frame(1), "made"))()
        types = [pd.DataFrame, (pd.DataFrame, "numpy"), {"type": pd.DataFrame}]
        for number, input_type in enumerate(types):
            returning(lambda df: str(df["x"].dtype), f"dtype_{number}", input_type=input_type)(made)
    result = project.run(flow)

    dtypes = [result.get(flow["one"][f"dtype_{number}"]) for number in range(3)]
    assert dtypes == ["int64[pyarrow]", "Int64", "int64[pyarrow]"]
    assert str(result.get(made, as_type=pd.DataFrame)["x"].dtype) == "int64[pyarrow]"


@on_both_databases
def test_5_5_tables_of_one_name_and_one_table_twice_have_aliases_of_their_own(project: Project) -> None:
    @materialize(version="1")
    def orders(*values: int) -> Table[Any]:
        return Table(pd.DataFrame({"x": values}), "orders")

    @materialize(lazy=True, input_type=sa.Table)
    def joined(new: sa.Alias, same: sa.Alias, old: list[sa.Alias]) -> Table[Any]:
        project.call(" ".join(table.name for table in (new, same, *old)))
        tables = sa.join(new, same, new.c.x == same.c.x + 1).join(old[0], old[0].c.x == new.c.x)
        return Table(sa.select(new.c.x, same.c.x.label("y"), old[0].c.x.label("z")).select_from(tables), "joined")

    with Flow() as flow:
        with Stage("before"):
            old = orders(2, 9)
        with Stage("after"):
            new = orders(1, 2)
            joined(new, new, [old])

    assert project.executed(flow) == ["orders orders_2 orders_3"]
    assert project.query("select * from after.joined") == [(2, 1, 2)]
    assert project.run(flow).task_states[flow["after"]["joined"]].name == "CACHE_VALID"


# --- 5.7 to 5.9: scripts, blobs, tables in mid-task ---------------------------------------------------------------


@on_both_databases
def test_5_7_and_10_31_a_script_gives_its_tables_as_a_whole_or_one_by_one_on_the_first_and_on_a_cached_run(
    project: Project,
) -> None:
    def flow(version: str) -> Flow:
        @materialize(lazy=True)
        def script(stage: Stage) -> RawSql:
            schema = stage.current_name
            return RawSql(
                f"""
                create table {schema}."Numbers" as select 1 as x union all select 2; -- one; comment
                create table {schema}.texts as select '; not the end' as t;;
                create view {schema}.large as select x from {schema}."Numbers" where x > 1
                """
            )

        @materialize(version=version, input_type=pl.DataFrame)
        def read(whole: RawSql, single: pl.DataFrame) -> list[Any]:
            tables = {name: table.rows() for name, table in whole.items()}
            return [tables, single.rows(), "numbers" in whole, whole.get("absent", 0), whole["large"].height]

        with Flow("script") as flow:
            with Stage("raw") as stage:
                made = script(stage)
            with Stage("use"):
                read(made, made["numbers"])
        return flow

    expected = {"Numbers": [(1,), (2,)], "large": [(2,)], "texts": [("; not the end",)]}
    for version in ("1", "2"):
        last = flow(version)
        result = project.run(last)
        assert result.get(last["use"]["read"]) == [expected, [(1,), (2,)], True, 0, 1]
        assert result.task_states[last["raw"]["script"]].name == ("COMPLETED" if version == "1" else "CACHE_VALID")


@on_both_databases
def test_5_8_a_blob_whose_file_is_gone_is_made_again(project: Project) -> None:
    def make() -> Blob[Any]:
        project.call("make")
        return Blob({"a": [1]}, "Model")

    with Flow("blob") as flow, Stage("one"):
        made = returning(make)()

    project.run(flow)
    documented = project.folder / "blobs" / "test" / "one" / "model.pkl"
    stored = documented.resolve(strict=True)
    assert project.executed(flow) == []
    stored.unlink()
    assert project.run(flow).get(made) == {"a": [1]}
    assert project.called == ["make"]


@on_both_databases
def test_5_9_and_10_43_a_task_may_store_fifty_tables_while_it_runs(project: Project) -> None:
    @materialize(lazy=True)
    def many(first: int) -> Table[Any]:
        tables = [Table(sa.text(f"select {first + n} as x"), f"step_{n}").materialize() for n in range(50)]
        return Table(sa.union_all(*(sa.select(table.c.x) for table in tables)), "all_steps")

    for first in (0, 0):
        with Flow("many") as flow, Stage("one"):
            many(first)
        result = project.run(flow)
        assert len(project.tables(result)["one"]) == 51
    assert result.task_states[flow["one"]["many"]].name == "CACHE_VALID"
    assert project.query("select count(*), max(x) from one.all_steps") == [(50, 49)]
