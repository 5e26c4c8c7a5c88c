"""What operators tell OpenLineage's provider: tables with columns, in the names of readers, and queries."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped
from airflow.sdk.execution_time.context import OutletEventAccessors

from pipedag_airflow import ExternalTableReference, Flow, PipedagConfig, RawSql, Stage, Table, materialize
from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.provider.dag import compile_dag

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import DAG


@pytest.mark.parametrize(
    ("url", "namespace", "name"),
    [
        ("postgresql://u:secret@db.example.org:6432/shop", "postgres://db.example.org:6432", "shop.raw.orders"),
        ("postgresql://u:secret@db.example.org/shop", "postgres://db.example.org:5432", "shop.raw.orders"),
        ("postgresql:///shop?host=/tmp", "postgres://localhost:5432", "shop.raw.orders"),
        ("duckdb:////data/shop.duckdb", "duckdb:///data/shop.duckdb", "shop.raw.orders"),
        ("duckdb:///:memory:", "duckdb://:memory:", "memory.raw.orders"),
    ],
)
def test_databases_and_tables_are_called_as_openlineage_calls_them(url: str, namespace: str, name: str) -> None:
    store = SQLTableStore(url)  # type: ignore[abstract]  # it makes a store of the dialect's class
    assert (store.lineage_namespace, store.lineage_name("raw", "orders")) == (namespace, name)


@materialize(version="1")
def numbers() -> Table[Any]:
    return Table(pl.DataFrame({"n": [1, 2, 3]}), "numbers")


@materialize(lazy=True, input_type=sa.Table)
def large(table: Any, other: Any, limit: int) -> Table[Any]:
    if limit < 0:
        raise ValueError("below zero")
    return Table(sa.select(table).where(table.c.n > limit), "large")


@materialize(lazy=True)
def script(stage: Stage) -> RawSql:
    return RawSql(f"create table {stage.current_name}.made as select 1 as x", "script")


@materialize(version="1", input_type=pl.DataFrame)
def read(tables: Any) -> int:
    return len(tables)


def dag(limit: int = 1, **settings: Any) -> DAG:
    with Flow("shop", airflow=settings) as flow:
        with Stage("raw") as raw:
            made = numbers()
            scripted = script(raw)
        with Stage("mart"):
            big = large(made, ExternalTableReference("orders", "elsewhere"), limit)
            read([big, scripted])
    flow.file = None
    return compile_dag(flow, {})


class Told:
    """What the operators of a run tell when they are over."""

    def __init__(self, dag: DAG) -> None:
        self.dag = dag

    def step(self, node: str) -> Any:
        task = self.dag.get_task(node)
        instance = SimpleNamespace(
            dag_id="shop",
            run_id="run",
            task_id=node,
            max_tries=0,
            try_number=1,
            xcom_push=lambda *_: None,
            get_task_states=lambda *_, **__: {},
        )
        params, events = self.dag.params.dump(), OutletEventAccessors()
        with suppress(AirflowSkipException, DownstreamTasksSkipped):
            task.execute({"ti": instance, "params": params, "outlet_events": events})
        return task

    def facets(self, node: str) -> Any:
        return self.dag.get_task(node).get_openlineage_facets_on_complete(None)


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A database with a table of somebody else's."""
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    with PipedagConfig.find(tmp_path).get().table_store.connection() as connection:
        connection.execute(sa.text("create schema elsewhere"))
        connection.execute(sa.text("create table elsewhere.orders as select 1 as id"))
        connection.commit()


def names(datasets: list[Any]) -> list[str]:
    return [dataset.name.partition(".")[2] for dataset in datasets]


def test_tasks_and_commits_tell_of_what_they_read_and_make_under_the_names_of_readers() -> None:
    told = Told(dag())
    for task in told.dag.tasks:
        told.step(task.task_id)
    facets = {task.task_id: told.facets(task.task_id) for task in told.dag.tasks}
    assert facets.pop("raw.begin_transaction") is facets.pop("mart.begin_transaction") is None
    assert {node: (names(found.inputs), names(found.outputs)) for node, found in facets.items()} == {
        "raw.numbers": ([], ["raw.numbers"]),
        "raw.script": ([], ["raw.made"]),
        "raw.commit_transaction": ([], ["raw.numbers", "raw.made"]),
        "mart.large": (["raw.numbers", "elsewhere.orders"], ["mart.large"]),
        "mart.read": (["mart.large", "raw.made"], []),
        "mart.commit_transaction": ([], ["mart.large"]),
    }
    (large,) = facets["mart.large"].outputs
    assert [(field.name, field.type) for field in large.facets["schema"].fields] == [("n", "BIGINT")]
    assert large.outputFacets["outputStatistics"].rowCount == 2
    assert facets["raw.script"].job_facets["sql"].query == "-- script\ncreate table raw.made as select 1 as x"
    assert "FROM raw.numbers" in facets["mart.large"].job_facets["sql"].query.replace('"', "")
    assert facets["raw.numbers"].job_facets == {}


def test_a_task_that_fails_tells_of_what_it_read() -> None:
    told = Told(dag(-1))
    for node in ("raw.begin_transaction", "raw.numbers", "raw.script", "raw.commit_transaction"):
        told.step(node)
    told.step("mart.begin_transaction")
    with pytest.raises(ValueError, match="below zero"):
        told.step("mart.large")
    assert names(told.facets("mart.large").inputs) == ["raw.numbers", "elsewhere.orders"]
    assert told.facets("mart.large").outputs == []


def test_what_runs_as_one_operator_reads_nothing_of_its_own() -> None:
    told = Told(dag(granularity="flow"))
    told.step("shop")
    found = told.facets("shop")
    assert (names(found.inputs), names(found.outputs)) == (
        ["elsewhere.orders"],
        ["raw.numbers", "raw.made", "mart.large"],
    )
    assert "-- task mart.large" in found.job_facets["sql"].query


def test_without_openlineage_nothing_of_it_is_imported() -> None:
    script = (
        "import sys; import pipedag_airflow.provider.operators, pipedag_airflow.provider.run_operators; "
        "print([name for name in sys.modules if name.startswith(('openlineage', 'pipedag_airflow.provider.lineage'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
