"""What is shown of a task instance: what it read, its queries, and where its links lead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped
from airflow.sdk.execution_time.context import OutletEventAccessors

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.provider.dag import compile_dag

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import DAG


@materialize(version="1")
def numbers() -> Table[Any]:
    return Table(pl.DataFrame({"n": [1, 2, 3]}), "numbers")


@materialize(lazy=True, input_type=sa.Table)
def large(table: Any, *, limit: int, api_key: str, label: str) -> Table[Any]:
    if limit < 0:
        raise ValueError("below zero")
    return Table(sa.select(table).where(table.c.n > limit), "large")


@materialize(lazy=True, input_type=pl.DataFrame)
def copied(table: Any) -> Table[Any]:
    return Table(table, "copied")


def dag(limit: int = 1) -> DAG:
    with Flow("shop") as flow, Stage("raw"):
        made = numbers()
        copied(made)
        large(made, limit=limit, api_key="hunter2", label="{{ no_template }}")
    flow.file = None
    return compile_dag(flow, {})


class Runs:
    """Runs of the DAG, one step after the other, in this process."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}

    def step(self, dag: DAG, node: str, run_id: str) -> Any:
        task = dag.get_task(node)
        instance = SimpleNamespace(
            dag_id="shop",
            run_id=run_id,
            task_id=node,
            max_tries=0,
            xcom_push=self.told.__setitem__,
            get_task_states=lambda *_, **__: {},
        )
        try:
            told = OutletEventAccessors()
            task.execute({"ti": instance, "params": dag.params.dump(), "outlet_events": told})
        except (AirflowSkipException, DownstreamTasksSkipped):
            pass
        finally:
            self.links = {link.name: link.get_link(task, ti_key=instance) for link in task.operator_extra_links}
        return task

    def whole(self, dag: DAG, run_id: str) -> None:
        for node in ("begin_transaction", "numbers", "copied", "large", "commit_transaction"):
            self.step(dag, f"raw.{node}", run_id)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    return Runs()


def test_a_task_shows_what_it_reads_its_query_and_the_run_before(runs: Runs) -> None:
    runs.whole(dag(), "first run/1")
    runs.step(dag(2), "raw.begin_transaction", "second")
    task = runs.step(dag(2), "raw.large", "second")
    assert task.inputs["table"] == "table raw.numbers, generation 2, 3 rows"
    assert (task.inputs["limit"], task.inputs["label"]) == (2, "{{ no_template }}")
    assert "hunter2" not in str(task.inputs)
    assert task.sql.startswith("-- large\nSELECT")
    assert "raw__g1.numbers" in task.sql.replace('"', "")
    assert task.sql.endswith("> 2")
    assert runs.links == {
        "Tables": "/dags/shop/runs/second/tasks/raw.large/xcom",
        "Tables of the run before": "/dags/shop/runs/first%20run%2F1/tasks/raw.large/xcom",
        "Generation": "/dags/shop/runs/second/tasks/raw.commit_transaction/xcom",
    }


def test_a_task_that_fails_shows_what_it_read(runs: Runs) -> None:
    runs.whole(dag(), "first")
    runs.step(dag(-1), "raw.begin_transaction", "second")
    failing = dag(-1)
    with pytest.raises(ValueError, match="below zero"):
        runs.step(failing, "raw.large", "second")
    assert failing.get_task("raw.large").inputs["limit"] == -1
    assert runs.links["Tables of the run before"] == "/dags/shop/runs/first/tasks/raw.large/xcom"


def test_a_task_that_turns_out_to_be_valid_shows_its_tables(runs: Runs) -> None:
    runs.whole(dag(), "first")
    again = dag()
    runs.step(again, "raw.begin_transaction", "second")
    runs.told.clear()
    runs.step(again, "raw.copied", "second")
    assert runs.told["return_value"]["tables"] == {"copied": {"schema": "raw__g1", "rows": 3}}


def test_the_links_begin_with_the_address_of_airflow(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://example.org/airflow/")
    runs.step(dag(), "raw.begin_transaction", "first")
    assert runs.links == {
        "Generation": "https://example.org/airflow/dags/shop/runs/first/tasks/raw.commit_transaction/xcom"
    }
