"""Each example of pydiverse.pipedag's API reference, with our package's name and data to run it on.

What stands in for an ellipsis or for something that an example only names is not pointed out: flows around single
tasks, bodies of functions, data. Where code of an example is altered, a comment says how, and why.
"""

from __future__ import annotations

import hashlib
from datetime import date
from typing import TYPE_CHECKING

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import (
    AUTO_VERSION,
    Blob,
    ConfigContext,
    Flow,
    RawSql,
    Stage,
    StageLockContext,
    Table,
    engine,
    materialize,
)

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Project


@materialize
def numbers():
    return Table(pd.DataFrame({"x": [0, 1, 2, 3]}), "numbers")


@materialize(input_type=pd.DataFrame)
def doubled(df):
    return Table(df * 2)


@materialize(input_type=pd.DataFrame)
def total(df):
    return int(df["x"].sum())


def test_flow(project: Project) -> None:
    with Flow("my_flow") as flow:
        with Stage("stage_1") as stage_1:
            task_1 = numbers()
            task_2 = doubled(task_1)

        with Stage("stage_2"):
            task_3 = total(task_2)  # in the example it reads task_3, which does not exist yet

    with project.config():
        result = flow.run()

    assert result.successful
    assert result.get(task_3) == 12
    assert flow["stage_1"] is flow.get_stage("stage_1") is stage_1


def two_stages() -> Flow:
    with Flow() as flow:
        with Stage("stage_1"):
            task_1 = numbers()
            doubled(task_1)

        with Stage("stage_2"):
            task_3 = numbers()
            total(task_3)
    return flow


def test_flow_run_of_everything_and_of_one_stage(project: Project) -> None:
    flow = two_stages()
    stage_1, stage_2 = flow["stage_1"], flow["stage_2"]

    assert flow.run(config=project.config()).task_states.keys() == {*stage_1.tasks, *stage_2.tasks}
    assert flow.run(stage_1, config=project.config()).task_states.keys() == set(stage_1.tasks)


def test_flow_run_of_single_tasks(project: Project) -> None:
    flow = two_stages()
    task_1, task_4 = flow["stage_1"]["numbers"], flow["stage_2"]["total"]
    flow.run(config=project.config())

    result = flow.run(task_1, task_4, config=project.config())

    assert result.task_states.keys() == {task_1, task_4}


def test_materialize_with_a_frame_and_with_a_query(project: Project) -> None:
    @materialize(version="1.0", input_type=pd.DataFrame)
    def task(df: pd.DataFrame) -> pd.DataFrame:
        df = df.assign(y=df["x"] + 1)
        return Table(df)

    @materialize(lazy=True, input_type=sa.Table)
    def lazy_task(tbl: sa.Table) -> sa.Table:
        query = sa.select(tbl).where(tbl.c.y > 2)
        return Table(query)

    with Flow() as flow, Stage("stage"):
        filtered = lazy_task(task(numbers()))

    result = project.run(flow)

    assert result.get(filtered, as_type=pd.DataFrame).to_dict("list") == {"x": [2, 3], "y": [3, 4]}


def test_materialize_with_a_cache_function(project: Project, tmp_path: Path) -> None:
    def file_digest(path):
        with open(path, "rb") as f:  # noqa: PTH123 - as in the example
            return hashlib.file_digest(f, "sha256").hexdigest()

    @materialize(version="1.0", cache=file_digest)
    def task(path):
        project.call("task")
        df = pd.read_csv(path)  # "read_scv" in the example
        return Table(df)

    path = tmp_path / "data.csv"
    with Flow() as flow, Stage("stage"):
        read = task(path)

    path.write_text("x\n1\n")
    assert project.executed(flow) == ["task"]
    assert project.executed(flow) == []
    path.write_text("x\n2\n")
    result = project.run(flow)
    assert project.called == ["task"]
    assert result.get(read, as_type=pd.DataFrame)["x"].tolist() == [2]


def test_materialize_with_several_outputs(project: Project) -> None:
    @materialize(version="1.0", nout=2)
    def task():
        return 1, 2

    with Flow() as flow, Stage("stage"):
        one, two = task()

    result = project.run(flow)

    assert (result.get(one), result.get(two)) == (1, 2)


def test_materialize_with_parts_of_an_output(project: Project) -> None:
    @materialize(version="1.0")
    def task():
        return {
            "x": [0, 1],
            "y": [2, 3],
        }

    @materialize
    def another_task(x, y):
        return [x, y]

    with Flow() as flow, Stage("stage"):
        task_out = task()
        received = another_task(task_out["x"], task_out["y"][1])

    assert project.run(flow).get(received) == [[0, 1], 3]


def test_auto_version(project: Project) -> None:
    @materialize(version="1.0")
    def source():
        return Table(pl.DataFrame({"col1": [1, 2], "col2": [3, 4]}))

    @materialize(input_type=pl.LazyFrame, version=AUTO_VERSION)
    def polars_task(x: pl.LazyFrame):
        return x.with_columns((pl.col("col1") * pl.col("col2")).alias("col3"))

    with Flow() as flow, Stage("stage"):
        product = polars_task(source())

    result = project.run(flow, config=project.config(auto_table=["polars.LazyFrame"]))

    assert result.get(product).collect()["col3"].to_list() == [3, 8]


def test_table(project: Project) -> None:
    @materialize()
    def task():
        df = pd.DataFrame({"x": [0, 1, 2, 3]})  # in the example the second bracket is missing
        return Table(df, "name")

    with Flow() as flow, Stage("stage"):
        task()

    project.run(flow)

    assert project.query("select x from stage.name order by x") == [(0,), (1,), (2,), (3,)]


def test_raw_sql(project: Project) -> None:
    @materialize(lazy=True)
    def raw_sql_task(stage):
        schema = stage.current_name
        # The second statement is "CREATE TABEL" in the example.
        return RawSql(f"""
            CREATE TABLE {schema}.tbl_1 AS SELECT 1 as x;
            CREATE TABLE {schema}.tbl_2 AS SELECT 2 as x;
        """)

    @materialize(input_type=sa.Table)
    def foo(tbl_1, tbl_2):
        return Table(sa.union_all(sa.select(tbl_1), sa.select(tbl_2)), "foo")

    @materialize(input_type=sa.Table)
    def bar(raw_sql):
        tbl_1 = raw_sql["tbl_1"]
        tbl_2 = raw_sql["tbl_2"]
        assert "tbl_3" not in raw_sql
        assert raw_sql.get("tbl_3") is None
        assert list(raw_sql) == ["tbl_1", "tbl_2"]
        assert dict(raw_sql.items()) == {"tbl_1": tbl_1, "tbl_2": tbl_2}
        return Table(sa.select((tbl_1.c.x + tbl_2.c.x).label("sum")), "bar")

    with Flow() as f, Stage("stage") as s:
        out = raw_sql_task(s)

        # Manually pass specific tables into the task
        foo(out["tbl_1"], out["tbl_2"])

        # Or pass the entire RawSql object into the task
        bar(out)

    project.run(f)

    assert project.query("select x from stage.foo order by x") == [(1,), (2,)]
    assert project.query('select "sum" from stage.bar') == [(3,)]


class SomePicklableClass:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, SomePicklableClass)

    __hash__ = None  # type: ignore[assignment] # it need not be hashable either


def test_blob(project: Project) -> None:
    @materialize()
    def task():
        obj = SomePicklableClass()
        return Blob(obj, "name")

    with Flow() as flow, Stage("stage"):
        made = task()

    assert project.run(flow).get(made) == SomePicklableClass()
    assert (project.folder / "blobs" / "test" / "stage" / "name.pkl").exists()


def test_result(project: Project) -> None:
    with Flow() as flow, Stage("stage"):
        task = numbers()

    result = project.run(flow)

    assert result.flow is flow
    assert result.successful
    assert result.exception is None
    assert isinstance(result.task_values[task], Table)
    assert result.task_states[task].name == "COMPLETED"
    assert result.get(task, as_type=pl.DataFrame)["x"].to_list() == [0, 1, 2, 3]


def test_stage_lock_context(project: Project) -> None:
    with Flow() as flow, Stage("stage"):
        task_x = numbers()

    with StageLockContext():
        result = flow.run(config=project.config(strict_result_get_locking=True))
        df = result.get(task_x, as_type=pd.DataFrame)

    assert df["x"].tolist() == [0, 1, 2, 3]


def test_config_context(project: Project) -> None:
    config = project.config(attrs={"limit": 3})

    @materialize
    def task():
        return ConfigContext.get().attrs.limit

    with Flow() as flow, Stage("stage"):
        limit = task()

    with config.evolve(fail_fast=False):
        assert flow.run().get(limit) == 3


def test_external_table_reference(project: Project) -> None:
    from pipedag_airflow.backend.table.sql import ExternalTableReference

    # The external table becomes cache invalid every day at midnight
    def my_cache_fun():
        return date.today().strftime("%Y/%m/%d")  # noqa: DTZ011 - as in the example

    @materialize(version="1.0")
    def task():
        return Table(ExternalTableReference("name_of_table", "schema"))

    # In the example it has the name of the one above, which stands for itself there.
    @materialize(cache=my_cache_fun)
    def task_with_cache():
        return Table(ExternalTableReference("name_of_table", "schema"))

    with Flow() as flow, Stage("stage"):
        task()
        read = task_with_cache()

    with project.config().table_store.transaction() as transaction:
        transaction.connection.execute(sa.text("create schema schema"))
        transaction.connection.execute(sa.text("create table schema.name_of_table as select 1 as x"))

    assert project.run(flow).get(read, as_type=pd.DataFrame)["x"].tolist() == [1]


@pytest.mark.parametrize("name", ["SequentialEngine", "DaskEngine", "PrefectTwoEngine"])
def test_orchestration_engine(project: Project, name: str, request: pytest.FixtureRequest) -> None:
    if name == "PrefectTwoEngine":
        pytest.importorskip("prefect", reason="Prefect needs an environment of its own: .ci/prefect")
        request.getfixturevalue("prefect_server")
    with Flow() as flow, Stage("stage"):
        task = total(numbers())

    assert project.run(flow, orchestration_engine=getattr(engine, name)()).get(task) == 6
