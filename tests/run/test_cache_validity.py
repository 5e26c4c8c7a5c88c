"""Which tasks run, and which are valid."""

from __future__ import annotations

import datetime as dt
import threading
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import Blob, Flow, RawSql, Stage, Table, View, materialize
from pipedag_airflow.errors import CacheError, DuplicateNameError
from pipedag_airflow.run.result import FinalTaskState

if TYPE_CHECKING:
    from conftest import Project

on_both_databases = pytest.mark.databases("duckdb", "postgres")


def shop(
    project: Project,
    *,
    version: str | None = "1",
    limit: int = 2,
    rate: float = 0.5,
    digest: str = "a",
    sales_name: str = "sales",
    with_extra: bool = True,
) -> Flow:
    """A flow of each kind of task; each argument stands for one edit that a user makes."""

    def content(*_: Any) -> str:
        project.call("content")
        return digest

    @materialize(version=version)
    def sales() -> Table[Any]:
        project.call("sales")
        return Table(pd.DataFrame({"id": [1, 2, 3], "price": [10, 20, 30]}), sales_name, primary_key="id")

    @materialize(version="1", cache=content)
    def rates(base: float) -> float:
        project.call("rates")
        return base

    @materialize(lazy=True, input_type=sa.Table)
    def large(table: Any) -> Table[Any]:
        project.call("large")
        return Table(sa.select(table).where(table.c.id >= limit), "large")

    @materialize(version="1", input_type=pl.DataFrame)
    def report(table: Any, rate: float) -> Table[Any]:
        project.call("report")
        return Table(table.with_columns(tax=pl.col("price") * rate), "report")

    @materialize(version="1")
    def extra() -> Table[Any]:
        project.call("extra")
        return Table(pd.DataFrame({"x": [1]}), "extra")

    with Flow("shop") as flow:
        with Stage("raw"):
            sold = sales()
            factor = rates(rate)
            if with_extra:
                extra()
        with Stage("mart"):
            report(large(sold), factor)
    return flow


def without_content(called: list[str]) -> list[str]:
    """The functions that were called, but for the cache function and lazy tasks, which are called in every run."""
    return [name for name in called if name not in ("content", "large")]


def test_the_first_run_executes_everything(project: Project) -> None:
    result = project.run(shop(project))

    assert without_content(project.called) == ["sales", "rates", "extra", "report"]
    assert project.tables(result) == {"raw": {"sales": 3, "extra": 1}, "mart": {"large": 2, "report": 2}}
    assert set(result.task_states.values()) == {FinalTaskState.COMPLETED}


@on_both_databases
def test_an_unchanged_run_calls_nothing_and_publishes_nothing(project: Project) -> None:
    before = project.generations(project.run(shop(project)))
    before_tables = project.objects("*")

    result = project.run(shop(project))

    assert without_content(project.called) == []
    assert set(result.task_states.values()) == {FinalTaskState.CACHE_VALID}
    assert project.generations(result) == before
    assert project.objects("*") == before_tables


def test_a_cached_result_is_read_like_a_fresh_one(project: Project) -> None:
    flow = shop(project)
    fresh = project.run(flow).get(flow["mart"]["report"])
    again = shop(project)
    cached = project.run(again).get(again["mart"]["report"])

    assert cached.equals(fresh)
    assert cached.schema == fresh.schema


@on_both_databases
@pytest.mark.parametrize(
    ("edit", "executed"),
    [
        ({"version": "2"}, ["sales", "report"]),
        ({"limit": 3}, ["report"]),
        ({"rate": 0.25}, ["rates", "report"]),
        ({"digest": "b"}, ["rates"]),
        ({"with_extra": False}, []),
    ],
    ids=lambda value: str(value),
)
def test_an_edit_runs_exactly_what_depends_on_it(project: Project, edit: dict[str, Any], executed: list[str]) -> None:
    project.run(shop(project))

    assert without_content(project.executed(shop(project, **edit))) == executed
    assert without_content(project.executed(shop(project, **edit))) == []


def test_a_cache_function_is_called_once_in_a_run(project: Project) -> None:
    for _ in range(2):
        assert project.executed(shop(project)).count("content") == 1


@on_both_databases
def test_ignore_cache_function_keeps_results_valid(project: Project) -> None:
    project.run(shop(project))

    assert without_content(project.executed(shop(project, digest="b"), ignore_cache_function=True)) == []
    assert without_content(project.executed(shop(project, digest="b"))) == ["rates"]


def test_a_task_without_version_always_runs_and_its_table_consumers_follow(project: Project) -> None:
    for _ in range(2):
        assert without_content(project.executed(shop(project, version=None)))[-2:] != []
        assert {"sales", "report"} <= set(project.called)


@on_both_databases
def test_a_table_of_a_removed_task_leaves_with_the_next_publish(project: Project) -> None:
    project.run(shop(project))
    result = project.run(shop(project, with_extra=False))

    assert project.tables(result)["raw"] == {"sales": 3}
    assert project.objects("raw") == {"raw.sales"}


@on_both_databases
def test_a_lost_table_is_made_again(project: Project) -> None:
    project.run(shop(project))
    (table,) = {name for name in project.objects("mart*", "BASE TABLE") if name.endswith(".report")}
    project.database.execute(f"drop table {table} cascade")

    assert without_content(project.executed(shop(project))) == ["report"]
    assert project.query("select count(*) from mart.report") == [(2,)]


@on_both_databases
def test_a_renamed_lazy_table_is_not_made_again_and_its_consumers_stay_valid(project: Project) -> None:
    def flow_with(name: str) -> Flow:
        @materialize(lazy=True)
        def numbers() -> Table[Any]:
            return Table(sa.select(sa.literal(1).label("x")), name)

        @materialize(version="1", input_type=pl.DataFrame)
        def consumer(table: pl.DataFrame) -> int:
            project.call("consumer")
            return table.height

        with Flow("rename") as flow, Stage("one"):
            consumer(numbers())
        return flow

    assert project.executed(flow_with("before")) == ["consumer"]
    result = project.run(flow_with("after"))

    assert project.called == []
    assert project.tables(result) == {"one": {"after": 1}}
    assert project.query("select * from one.after") == [(1,)]
    assert project.executed(flow_with("after")) == []


@pytest.mark.databases("duckdb", "postgres")
def test_a_renamed_lazy_table_leaves_the_lazy_tasks_that_read_it_valid_and_what_comes_after_them(
    project: Project,
) -> None:
    def flow_with(name: str) -> Flow:
        @materialize(lazy=True)
        def source() -> Table[Any]:
            return Table(sa.text("select 1 as x"), name)

        @materialize(lazy=True, input_type=sa.Table)
        def reader(table: Any) -> list[Table[Any]]:
            step = Table(sa.select(table.c.x, sa.literal(2).label("y")), f"{name}_step").materialize()
            other = table.alias()
            return [Table(sa.select(step.c.y, other.c.x).where(other.c.x == table.c.x), "read"), View(table, "view")]

        @materialize(version="1", input_type=pl.DataFrame)
        def last(tables: list[pl.DataFrame]) -> int:
            project.call("last")
            return sum(table.height for table in tables)

        with Flow("rename") as flow:
            with Stage("one"):
                made = source()
            with Stage("two"):
                last(reader(made))
        return flow

    assert project.executed(flow_with("before")) == ["last"]
    result = project.run(flow_with("after"))

    assert project.called == []
    assert {state.name for state in result.task_states.values()} == {"CACHE_VALID"}
    assert project.tables(result) == {"one": {"after": 1}, "two": {"after_step": 1, "read": 1, "view": 1}}
    assert project.query("select * from two.read") == [(2, 1)]
    assert project.query("select * from two.view") == [(1,)]
    assert project.executed(flow_with("after")) == []


def test_tables_that_change_places_in_a_query_make_it_run(project: Project) -> None:
    def flow_with(names: tuple[str, str], swapped: bool) -> Flow:
        @materialize(lazy=True)
        def number(value: int, name: str) -> Table[Any]:
            return Table(sa.select(sa.literal(value).label("x")), name)

        @materialize(lazy=True, input_type=sa.Table)
        def minus(left: Any, right: Any) -> Table[Any]:
            if swapped:
                left, right = right, left
            return Table(sa.select((left.c.x - right.c.x).label("x")), "difference")

        with Flow("swap") as flow, Stage("one"):
            minus(number(5, names[0]), number(3, names[1]))
        return flow

    project.run(flow_with(("a", "b"), swapped=False))
    for names, swapped, difference in [(("a", "b"), True, -2), (("a", "b"), False, 2), (("a", "b"), True, -2)]:
        project.run(flow_with(names, swapped))
        assert project.query("select x from one.difference") == [(difference,)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("select 'A' as x", "select 'a' as x"),
        ("select 1 as x -- one", "select 1 as x -- two"),
        ('select 1 as "X"', "select 1 as x"),
    ],
)
def test_a_query_is_compared_to_the_letter(project: Project, before: str, after: str) -> None:
    def flow_with(sql: str) -> Flow:
        @materialize(lazy=True)
        def query() -> Table[Any]:
            return Table(sa.text(sql), "query")

        with Flow("letters") as flow, Stage("one"):
            query()
        return flow

    first = project.generations(project.run(flow_with(before)))
    assert project.generations(project.run(flow_with(before))) == first
    assert project.generations(project.run(flow_with(after))) != first


@pytest.mark.parametrize(
    ("stage", "before", "after"),
    [
        ("raw", "select 'raw__g2.x' as x", "select 'raw__g3.x' as x"),
        ("raw", "select $$raw__g2.x$$ as x", "select $$raw__g3.x$$ as x"),
        ("val", "select 1 as val", "select 1 as val__g7"),
        ("val", 'select 1 as "val__g6"', 'select 1 as "val__g7"'),
        ("val", 'select 1 as "val__g6."', 'select 1 as "val__g7."'),
        ("val", 'select 1 as "a val__g6.b"', 'select 1 as "a val__g7.b"'),
    ],
)
def test_a_query_that_says_what_looks_like_a_generation_is_compared_to_the_letter(
    project: Project, stage: str, before: str, after: str
) -> None:
    def flow_with(sql: str) -> Flow:
        @materialize(lazy=True)
        def query() -> Table[Any]:
            return Table(sa.text(sql), "query")

        with Flow("letters") as flow, Stage(stage):
            query()
        return flow

    first = project.generations(project.run(flow_with(before)))
    assert project.generations(project.run(flow_with(before))) == first
    assert project.generations(project.run(flow_with(after))) != first


def test_two_equal_queries_of_one_lazy_task_are_cached(project: Project) -> None:
    def flow() -> Flow:
        @materialize(lazy=True, nout=2)
        def twice() -> tuple[Any, Any]:
            return Table(sa.text("select 1 as x"), "a"), Table(sa.text("select 1 as x"), "b")

        with Flow("twice") as flow, Stage("one"):
            twice()
        return flow

    first = project.run(flow())
    second = project.run(flow())

    assert project.generations(second) == project.generations(first)
    assert project.tables(second) == {"one": {"a": 1, "b": 1}}


def test_the_same_call_runs_once_in_a_stage_and_twice_in_two(project: Project) -> None:
    @materialize(version="1")
    def numbers(n: int) -> Table[Any]:
        project.call(f"numbers({n})")
        return Table(pd.DataFrame({"x": range(n)}))

    @materialize(version="1")
    def two() -> int:
        return 2

    @materialize(version="1", input_type=pd.DataFrame)
    def rows(*tables: pd.DataFrame) -> int:
        project.call("rows")
        return sum(len(table) for table in tables)

    def flow() -> tuple[Flow, Any]:
        with Flow("memo") as flow:
            with Stage("one"):
                a, b, c = numbers(2), numbers(2), numbers(two())
            with Stage("two"):
                d = numbers(2)
                total = rows(a, b, c, d)
        return flow, total

    first, total = flow()
    result = project.run(first)
    assert project.called == ["numbers(2)", "numbers(2)", "rows"]
    assert result.get(total) == 8

    again, total = flow()
    assert project.executed(again) == []


def number(value: Any, version: str = "1") -> Any:
    @materialize(name="number", version=version)
    def function() -> Any:
        return value

    return function


def numbers(*values: Any) -> Flow:
    """A stage of different functions of one name, and one that reads the second of them."""

    @materialize(version="1")
    def echo(value: Any) -> Any:
        return value

    with Flow("names") as flow:
        with Stage("stage"):
            tasks = [number(value)() for value in values]
        with Stage("reader"):
            echo(tasks[1])
    return flow


def test_functions_of_one_name_never_share_a_result_however_they_are_wired(project: Project) -> None:
    for values, executed in [
        ([1, 2], [1, 2]),
        ([1, 2], []),
        ([0, 1, 2], [0]),
        ([2, 1, 0], []),
        ([2, 3], [3]),
        ([3, 1], [1]),  # one result is kept
    ]:
        flow = numbers(*values)
        result = project.run(flow)
        tasks = flow["stage"].tasks
        assert [result.get(task) for task in tasks] == values
        assert result.get(flow["reader"]["echo"]) == values[1]
        completed = [task for task in tasks if result.task_states[task] is FinalTaskState.COMPLETED]
        assert [result.get(task) for task in completed] == executed


def test_what_is_published_of_functions_of_one_name_is_read_as_theirs_only(project: Project) -> None:
    project.run(numbers(1, 2))

    same, swapped, edited = numbers(1, 2), numbers(2, 1), numbers(1, 3)
    assert project.run(same, same["reader"]).get(same["reader"]["echo"]) == 2
    for other in (swapped, edited):
        with pytest.raises(CacheError, match=r"nothing is published of 'stage\.number__2'.*by another function"):
            project.run(other, other["reader"])
    with project.config():
        assert [task.get_output_from_store() for task in swapped["stage"].tasks] == [2, 1]
        with pytest.raises(CacheError, match=r"Nothing is published of task 'stage\.number__2'"):
            edited["stage"].tasks[1].get_output_from_store()


def test_functions_of_one_name_and_code_are_called_each_for_itself(project: Project) -> None:
    calls: list[int] = []

    def counting() -> Any:
        @materialize(name="count", version="1")
        def count() -> int:
            calls.append(1)
            return len(calls)

        return count

    with Flow("names") as flow, Stage("stage"):
        tasks = [counting()(), counting()()]

    result = project.run(flow)
    assert [result.get(task) for task in tasks] == [1, 2]


def test_functions_of_one_name_whose_code_cannot_be_followed_need_names_of_their_own(project: Project) -> None:
    def hiding(value: int) -> Any:
        hidden = (item for item in [value])

        @materialize(name="next", version="1")
        def function() -> int:
            return next(hidden)

        return function

    with Flow("alone") as flow, Stage("stage"):
        task = hiding(5)()
    assert project.run(flow).get(task) == 5

    with Flow("two") as flow, Stage("stage"):
        hiding(1)(), hiding(2)()
    with pytest.raises(
        DuplicateNameError,
        match=r"Stage 'stage' has different functions of the name 'next'.*can be followed: function function .* uses "
        r'hidden of its closure, .*Give each of them a name of its own: @materialize\(name="',
    ):
        project.run(flow)


def test_functions_of_one_name_that_cannot_be_told_apart_concern_no_other_stage(project: Project) -> None:
    def hiding() -> Any:
        hidden = (item for item in [1])

        @materialize(name="next", version="1")
        def function() -> int:
            return next(hidden)

        return function

    with Flow("two") as flow:
        with Stage("stage"):
            hiding()(), hiding()()
        with Stage("other"):
            number(3)()
    assert project.run(flow, flow["other"]).get(flow["other"]["number"]) == 3


def test_functions_of_one_name_and_code_in_two_modules_never_share_a_result(project: Project) -> None:
    def given(module: str) -> Any:
        space: dict[str, Any] = {"__name__": module, "VALUE": module}
        exec("def given():\n    return VALUE", space)
        return materialize(space["given"], version="1")

    for modules in [("one", "two"), ("two", "one"), ("none", "two", "one")]:
        with Flow("modules") as flow, Stage("stage"):
            tasks = [given(module)() for module in modules]
        result = project.run(flow)
        assert [result.get(task) for task in tasks] == list(modules)


SEEN: dict[str, int] = {}
LOCK = threading.Lock()


def test_what_functions_of_one_name_use_from_elsewhere_does_not_tell_them_apart(project: Project) -> None:
    def counting(value: int) -> Any:
        @materialize(name="count", version="1")
        def count() -> int:
            with LOCK:
                SEEN[f"count {value}"] = 1
            return value

        return count

    def flow() -> Flow:
        with Flow("names") as flow, Stage("stage"):
            counting(1)(), counting(2)()
        return flow

    project.run(flow())
    assert SEEN
    result = project.run(flow())
    assert set(result.task_states.values()) == {FinalTaskState.CACHE_VALID}


@pytest.mark.databases("postgres")
@pytest.mark.parametrize("of_stage", [True, False])
def test_a_lazy_table_whose_materialization_details_are_others_is_made_anew(project: Project, of_stage: bool) -> None:
    project.settings["table_store"]["args"]["materialization_details"] = {
        "fast": {"unlogged": True},
        "safe": {"unlogged": False},
    }

    def kind(label: str) -> str:
        @materialize(lazy=True)
        def made() -> Table[Any]:
            return Table(sa.text("select 1 as x"), "made", materialization_details=None if of_stage else label)

        with Flow("details") as flow, Stage("one", label if of_stage else None):
            made()
        decisions.append(str(project.run(flow).explain(flow["one"]["made"])))
        ((kind,),) = project.query(
            "select relpersistence::text from pg_class where relname = 'made' and relnamespace = 'one'::regnamespace"
        )
        return str(kind)

    decisions: list[str] = []
    assert [kind(label) for label in ("safe", "fast", "fast", "safe")] == ["p", "u", "u", "p"]
    assert "materialization details" in decisions[1]
    assert "valid" in decisions[2]


def test_an_omitted_default_is_the_same_call_as_the_default_given(project: Project) -> None:
    @materialize(version="1")
    def power(base: int, exponent: int = 2) -> int:
        project.call("power")
        return base**exponent

    with Flow("default") as omitted, Stage("one"):
        power(3)
    with Flow("default") as given, Stage("one"):
        power(base=3, exponent=2)

    assert project.executed(omitted) == ["power"]
    assert project.executed(given) == []


def test_a_script_is_valid_in_the_second_run_with_its_tables_and_views(project: Project) -> None:
    @materialize(lazy=True)
    def script(stage: Stage) -> RawSql:
        schema = stage.current_name
        return RawSql(
            f"""
            CREATE TABLE {schema}.Numbers AS SELECT 1 AS x UNION ALL SELECT 2; -- a; comment
            CREATE VIEW {schema}.larger AS SELECT ';' AS semicolon, * FROM {schema}.Numbers WHERE x > 1;
            """
        )

    @materialize(version="1", input_type=pl.DataFrame)
    def both(whole: RawSql, single: pl.DataFrame) -> list[Any]:
        project.call("both")
        return [whole["numbers"].height, whole["larger"].height, single.height, sorted(whole)]

    def flow() -> tuple[Flow, Any]:
        with Flow("script") as flow:
            with Stage("raw") as stage:
                made = script(stage)
            with Stage("out"):
                task = both(made, made["Numbers"])
        return flow, task

    first, task = flow()
    result = project.run(first)
    assert result.get(task) == [2, 1, 2, ["Numbers", "larger"]]
    assert project.query("select * from raw.larger") == [(";", 2)]

    second, task = flow()
    again = project.run(second)
    assert project.called == []
    assert again.get(task) == [2, 1, 2, ["Numbers", "larger"]]
    assert project.generations(again) == project.generations(result)


def test_values_come_back_with_the_type_they_went_in_with(project: Project) -> None:
    value = {"tuple": (1, (2.5, None)), 3: [True, "", 2**80], "nested": {"a": {1: "x"}}}

    @materialize(version="1")
    def values() -> Any:
        return value

    @materialize(version="1", nout=1)
    def consume(value: Any) -> str:
        return repr(value)

    for _ in range(2):
        with Flow("values") as flow, Stage("one"):
            source = values()
            text = consume(source)
        result = project.run(flow)
        assert result.get(source) == value
        assert result.get(source["tuple"][1]) == (2.5, None)
        assert result.get(text) == repr(value)


def test_a_blob_is_loaded_from_the_generation_that_made_it(project: Project) -> None:
    def flow(version: str) -> tuple[Flow, Any]:
        @materialize(version=version)
        def model() -> Blob[Any]:
            return Blob({"version": version}, "model")

        with Flow("blob") as flow, Stage("one"):
            task = model()
        return flow, task

    first, task = flow("1")
    old = project.run(first)
    second, new_task = flow("2")
    new = project.run(second)

    assert new.get(new_task) == {"version": "2"}
    assert old.get(task) == {"version": "1"}, "a result reads what its own run made"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (sa.text("select ':a' as x"), sa.text("select ':b' as x")),
        (sa.select(sa.literal("2013-01-01").label("x")), sa.select(sa.literal(dt.date(2013, 1, 1)).label("x"))),
        (sa.select(sa.literal(1).label("x")), sa.select(sa.literal("1").label("x"))),
    ],
    ids=["a colon", "a date or its text", "a number or its text"],
)
def test_queries_that_differ_in_a_value_only_are_different(project: Project, before: Any, after: Any) -> None:
    def flow_with(query: Any) -> Flow:
        @materialize(lazy=True)
        def task() -> Table[Any]:
            return Table(query, "query")

        with Flow("values") as flow, Stage("one"):
            task()
        return flow

    first = project.generations(project.run(flow_with(before)))
    assert project.generations(project.run(flow_with(after))) != first
