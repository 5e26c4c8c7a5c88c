"""How flows, stages and tasks are wired: rules 1.1 to 1.4, as a run shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, GroupNode, RawSql, Stage, Table, materialize
from pipedag_airflow.errors import SelectionError

if TYPE_CHECKING:
    from conftest import Project


on_both_databases = pytest.mark.databases("duckdb", "postgres")


@materialize
def table(value: int = 1) -> Table[Any]:
    return Table(pd.DataFrame({"x": [value]}), "made")


@materialize
def echo(value: Any) -> Any:
    return value


def test_1_1_7_the_number_of_outputs_is_not_compared_with_the_result(project: Project) -> None:
    @materialize(nout=2)
    def three() -> list[int]:
        return [1, 2, 3]

    with Flow() as flow, Stage("one"):
        first, second = three()

    result = project.run(flow)

    assert (result.get(first), result.get(second), result.get(flow["one"]["three"])) == (1, 2, [1, 2, 3])


@on_both_databases
def test_1_1_9_a_table_that_a_script_did_not_make_is_a_key_error_of_the_run(project: Project) -> None:
    @materialize(lazy=True)
    def script(stage: Stage) -> RawSql:
        return RawSql(f"create table {stage.current_name}.there as select 1 as x")

    with Flow() as flow, Stage("one") as stage:
        echo(script(stage)["elsewhere"])

    with pytest.raises(KeyError, match="elsewhere"):
        project.run(flow)


def test_1_1_11_and_10_4_a_list_that_is_changed_after_wiring_is_seen_by_the_run_and_makes_the_task_run(
    project: Project,
) -> None:
    @materialize(version="1")
    def total(numbers: list[int]) -> int:
        project.call("total")
        return sum(numbers)

    numbers = [1, 2]
    with Flow() as flow, Stage("one"):
        added = total(numbers)

    numbers.append(3)
    assert project.run(flow).get(added) == 6
    numbers.append(4)
    result = project.run(flow)
    assert project.called == ["total"]
    assert result.get(added) == 10


def test_1_1_11_and_10_38_a_list_that_is_changed_while_the_run_goes_on_stays_for_it_as_it_was_when_it_started(
    project: Project,
) -> None:
    columns, inner = ["a"], {"deep": [["a"]]}

    @materialize
    def change() -> None:
        columns.append("b")
        inner["deep"][0].append("b")

    @materialize
    def see(columns: list[str], inner: dict[str, Any]) -> list[Any]:
        return [columns, inner]

    with Flow() as flow, Stage("one"):
        change()
        seen = see(columns, inner)

    assert project.run(flow).get(seen) == [["a"], {"deep": [["a"]]}]
    assert project.run(flow).get(seen) == [["a", "b"], {"deep": [["a", "b"]]}]


def test_1_2_1_a_sequential_run_goes_in_the_order_of_wiring(project: Project) -> None:
    def noted(name: str) -> Any:
        return materialize(name=name)(lambda: project.call(name))

    with Flow() as flow, Stage("outer"):
        noted("c")()
        with Stage("inner"):
            noted("b")()
        noted("a")()

    assert project.executed(flow) == ["c", "b", "a"]


@on_both_databases
def test_1_2_3_and_10_18_a_nested_stage_reads_what_is_not_published_and_the_outer_stage_what_is(
    project: Project,
) -> None:
    project.settings["stage_commit_technique"] = "read_views"

    @materialize(input_type=sa.Table)
    def schema_of(source: sa.Alias) -> str:
        return str(source.element.schema)

    with Flow() as flow, Stage("outer"):
        made = table()
        with Stage("inner"):
            inside = schema_of(made)
            inner_made = table(2)
        after = schema_of(inner_made)

    result = project.run(flow)

    # The table is where its generation has put it, be it published or not.
    assert (result.get(inside), result.get(after)) == ("outer__g1", "inner__g1")
    assert project.query('select x from "inner".made') == [(2,)]


@on_both_databases
def test_1_2_3_the_inner_commit_comes_before_whoever_reads_it_in_the_outer_stage(project: Project) -> None:
    published = []

    @materialize(input_type=pd.DataFrame)
    def look(df: pd.DataFrame) -> None:
        del df
        published.append({schema for schema in project.schemas() if schema in ("inner", "outer")})

    with Flow() as flow, Stage("outer"):
        made = table()
        with Stage("inner"):
            look(made)
            inner_made = table()
        look(inner_made)

    project.run(flow)

    assert published == [set(), {"inner"}]


@on_both_databases
def test_1_2_5_and_10_23_a_stage_without_tasks_of_its_own_gets_no_schema(project: Project) -> None:
    with Flow() as flow, Stage("outer"):
        with Stage("empty"):
            pass
        with Stage("inner"):
            table()

    assert project.run(flow).successful

    with project.config().table_store.connection() as connection:
        schemas = project.config().table_store.list_schemas(connection)
    assert {name for name in schemas if "outer" in name or "empty" in name} == set()
    assert "inner" in schemas


def test_1_3_4_and_10_39_a_barrier_orders_what_is_selected_on_its_two_sides(project: Project) -> None:
    written: list[int] = []
    seen: list[int] = []

    def look() -> int:
        seen.append(len(written))
        return seen[-1]

    @materialize(version="1", cache=look)
    def read() -> int:
        return len(written)

    with Flow() as flow, Stage("one"):
        materialize(name="write")(lambda: written.append(1))()
        with GroupNode(ordering_barrier=True):
            echo("not selected")
            read()

    for selected in (["one.write", "one.read"], ["one.read", "one.write"], []):
        project.run(flow, *selected)
        assert seen[-1] == len(written), "not even the cache function is called before what stands before the barrier"
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("component", [1, None, table])
def test_1_4_1_only_parts_of_the_flow_can_be_selected(project: Project, component: Any) -> None:
    with Flow() as flow, Stage("one"):
        table()

    with pytest.raises(TypeError, match="Select stages, tasks or texts like"):
        project.run(flow, component)


@on_both_databases
def test_1_4_3_and_10_14_a_selected_stage_brings_its_nested_ones_and_not_those_around_it(project: Project) -> None:
    with Flow() as flow, Stage("outer"):
        table(1)
        with Stage("middle"):
            table(2)
            with Stage("inner"):
                table(3)
        with Stage("beside"):
            table(4)

    result = project.run(flow, flow["middle"])

    assert {task.id for task in result.task_states} == {"middle.table", "inner.table"}
    made = {schema for schema, name in project.query(project.database.tables) if name == "made"}
    assert {schema for schema in made if "__g" not in schema} == {"inner", "middle"}


def test_1_4_1_tasks_and_stages_may_be_mixed_unless_a_stage_would_publish_what_is_unpublished(project: Project) -> None:
    with Flow() as flow:
        with Stage("one"):
            first = table(1)
        with Stage("two"):
            echo(2)
        with Stage("three"):
            materialize(name="rows", input_type=pd.DataFrame)(len)(first)

    result = project.run(flow, first, flow["two"])
    assert {task.id for task in result.task_states} == {"one.table", "two.echo"}
    assert [*project.generations(result)] == ["two"]
    with pytest.raises(SelectionError, match=r"one\.table"):
        project.run(flow, first, flow["three"])


@on_both_databases
def test_1_4_4_and_10_13_and_10_52_selected_tasks_run_though_they_are_valid_and_their_result_is_that_of_the_run(
    project: Project,
) -> None:
    values = [1]

    @materialize(version="1")
    def eager() -> Table[Any]:
        project.call("eager")
        return Table(pd.DataFrame({"x": values}), "eager")

    @materialize(lazy=True, input_type=sa.Table)
    def lazy(source: Any) -> Table[Any]:
        return Table(sa.select(source.c.x), "lazy")

    @materialize(version="1", input_type=pd.DataFrame)
    def after(df: pd.DataFrame) -> int:
        project.call("after")
        return len(df)

    with Flow() as flow, Stage("one"):
        made = lazy(eager())
        after(made)

    project.run(flow)
    values = [2]
    result = project.run(flow, flow["one"]["eager"], made)

    assert project.called == ["eager"]
    assert [*result.get(made, as_type=pd.DataFrame)["x"]] == [2]
    assert project.query("select x from one.lazy") == [(1,)], "nothing is published"


@on_both_databases
def test_1_4_5_a_stage_that_is_not_selected_is_not_waited_for(project: Project) -> None:
    values = [1]

    @materialize
    def source() -> Table[Any]:
        return Table(pd.DataFrame({"x": values}), "made")

    @materialize(version="1", input_type=pd.DataFrame)
    def more(df: pd.DataFrame) -> Table[Any]:
        project.call("more")
        return Table(df + 1, "more")

    with Flow() as flow:
        with Stage("first"):
            made = source()
        with Stage("second"):
            made = more(made)
        with Stage("third"):
            more(made)

    project.run(flow)
    values = [5]
    project.run(flow, flow["first"], flow["third"])

    # The third stage read what the second one has published, which is as it was.
    assert project.called == []
    assert project.query("select x from first.made") == [(5,)]
    assert project.query("select x from third.more") == [(3,)]
