"""Stages and tables as assets: their addresses, and which events of them Airflow is told of, by which step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped
from airflow.sdk.execution_time.context import OutletEventAccessors

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.provider.assets import asset, asset_uri, stage_alias
from pipedag_airflow.provider.dag import compile_dag

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import DAG


def dag(version: str = "1", days: int = 2) -> DAG:
    @materialize(version=version)
    def orders() -> Table[Any]:
        return Table(pl.DataFrame({"day": range(days)}), "orders")

    @materialize(version="1")
    def items() -> Table[Any]:
        return Table(pl.DataFrame({"item": ["a"]}), "items")

    @materialize(version="1", input_type=pl.DataFrame)
    def report(table: Any) -> Table[Any]:
        return Table(table, "report")

    with Flow("shop") as flow:
        with Stage("raw"):
            made = orders()
            items()
        with Stage("mart"):
            report(made)
    flow.file = None
    return compile_dag(flow, {})


class Runs:
    """Steps of runs of the DAG in this process; ``states`` is what Airflow knows of them."""

    def __init__(self) -> None:
        self.states: dict[str, dict[str, str]] = {}

    def step(self, dag: DAG, node: str, run_id: str, *, dies: bool = False) -> dict[str, Any]:
        """Execute a step, and return the events that Airflow stores of it, by address."""
        events = OutletEventAccessors()
        instance = SimpleNamespace(
            dag_id="shop",
            run_id=run_id,
            task_id=node,
            max_tries=0,
            xcom_push=lambda *_: None,
            get_dagrun_state=lambda *_: "success",
            get_task_states=lambda dag_id, task_ids, run_ids: {run_ids[0]: self.states.get(run_ids[0], {})},
        )
        known = self.states.setdefault(run_id, {})
        known[node] = "running"
        context = {"ti": instance, "params": dag.params.dump(), "outlet_events": events}
        try:
            dag.get_task(node).execute(context)
        except DownstreamTasksSkipped as skipped:
            known |= dict.fromkeys(map(str, skipped.tasks), "skipped")
        except AirflowSkipException:
            known[node] = "skipped"
            return {}
        known[node] = "failed" if dies else "success"
        told = [event for accessor in events.values() for event in accessor.asset_alias_events]
        return {} if dies else {event.dest_asset_key.uri: event.extra for event in told}

    def stage(self, dag: DAG, stage: str, run_id: str, *, dies: bool = False) -> dict[str, Any]:
        """Run a stage, skipping what its begin skips; its commit may die after the publish."""
        found = self.step(dag, f"{stage}.begin_transaction", run_id)
        for task in dag.tasks:
            node = task.task_id
            if node.startswith(f"{stage}.") and node not in self.states[run_id]:
                found |= self.step(dag, node, run_id, dies=dies and node.endswith("commit_transaction"))
        return found


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    return Runs()


RAW, ORDERS, ITEMS = (asset_uri(*place) for place in (("raw",), ("raw", "orders"), ("raw", "items")))


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (asset_uri("raw"), "pipedag://pipeline/__any__/raw"),
        (asset_uri("raw", "orders", name="shop", instance="prod"), "pipedag://shop/prod/raw/orders"),
        (asset_uri("raw", "a/b ?#ä"), "pipedag://pipeline/__any__/raw/a%2Fb%20%3F%23%C3%A4"),
    ],
)
def test_the_address_follows_from_the_names(uri: str, expected: str) -> None:
    assert uri == expected
    assert Asset(uri).uri == uri, "Airflow leaves it as it is"


def test_the_address_alone_is_the_asset() -> None:
    assert asset("raw", "orders") == Asset("pipedag://pipeline/__any__/raw/orders")


def test_the_dag_declares_what_a_stage_reads_and_through_what_it_tells(runs: Runs) -> None:
    tasks = {task.task_id: task for task in dag().tasks}
    assert tasks["mart.begin_transaction"].inlets == [asset("raw")]
    raw, mart = (stage_alias(stage, "pipeline") for stage in ("raw", "mart"))
    outlets = {name: task.outlets for name, task in tasks.items() if name.endswith("_transaction")}
    assert outlets == {
        "raw.begin_transaction": [raw, mart],  # a run may ask it to do all
        "raw.commit_transaction": [raw],
        "mart.begin_transaction": [mart],
        "mart.commit_transaction": [mart],
    }


def test_a_flow_may_be_scheduled_on_assets_by_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pipedag.yaml").write_text(
        "name: shop\nflows: {shop: {airflow: {schedule: ['pipedag://shop/prod/raw'], instance: prod}}}\n"
        "instances: {prod: {}}"
    )
    monkeypatch.setenv("PIPEDAG_CONFIG", str(tmp_path))
    compiled = dag()
    assert compiled.schedule == [Asset("pipedag://shop/prod/raw")]
    assert compiled.get_task("mart.begin_transaction").inlets == [asset("raw", name="shop", instance="prod")]


# --- events --------------------------------------------------------------------------------------------------------


def test_a_publish_tells_of_the_stage_and_of_the_tables_that_changed_and_of_nothing_else(runs: Runs) -> None:
    first = runs.stage(dag(), "raw", "first")
    assert first.keys() == {RAW, ORDERS, ITEMS}
    assert first[RAW]["rows"] == {"items": 1, "orders": 2}
    assert runs.stage(dag(), "raw", "same") == {}
    changed = runs.stage(dag("2", days=3), "raw", "changed")
    assert changed.keys() == {RAW, ORDERS}
    content = changed[RAW].pop("content")
    assert changed[RAW] == {"generation": 3, "run": "airflow:shop/changed", "rows": {"orders": 3}, "removed": []}
    assert (changed[ORDERS]["generation"], changed[ORDERS]["rows"]) == (3, 3)
    assert changed[ORDERS]["content"] != first[ORDERS]["content"]
    assert content != first[RAW]["content"]


def test_a_stage_that_goes_back_to_what_it_held_has_the_mark_of_then(runs: Runs) -> None:
    versions = {"first": "1", "other": "2", "again": "1"}
    first, _, again = (runs.stage(dag(version), "raw", run) for run, version in versions.items())
    assert again[RAW]["content"] == first[RAW]["content"]


def test_what_a_commit_that_died_could_not_tell_its_next_try_tells(runs: Runs) -> None:
    assert runs.stage(dag(), "raw", "first", dies=True) == {}
    assert runs.step(dag(), "raw.commit_transaction", "first").keys() == {RAW, ORDERS, ITEMS}
    assert runs.stage(dag(), "raw", "second") == {}


def test_what_no_try_of_the_commit_told_the_next_begin_tells_once(runs: Runs) -> None:
    runs.stage(dag(), "raw", "first", dies=True)
    told = runs.stage(dag(), "raw", "second")
    assert told.keys() == {RAW, ORDERS, ITEMS}
    assert told[RAW]["run"] == "airflow:shop/first"
    assert runs.stage(dag(), "raw", "third") == {}


def test_what_another_step_is_about_to_tell_is_left_to_it(runs: Runs) -> None:
    runs.stage(dag(), "raw", "first", dies=True)
    runs.states["first"]["raw.commit_transaction"] = "up_for_retry"
    assert runs.stage(dag(), "raw", "second") == {}


def test_what_was_published_without_airflow_the_next_begin_tells(runs: Runs) -> None:
    dag().get_task("raw.orders").reference.flow.run()
    dag("2", days=3).get_task("raw.orders").reference.flow.run()
    told = runs.stage(dag("2", days=3), "raw", "first")
    assert told.keys() == {RAW, ORDERS, ITEMS}
    # All of it at once: of one stage nothing piles up.
    assert (told[RAW]["generation"], told[ORDERS]["rows"], told[ITEMS]["rows"]) == (2, 3, 1)


def test_if_airflow_does_not_know_the_step_that_was_to_tell_it_is_told_again(runs: Runs) -> None:
    runs.stage(dag(), "raw", "first")
    runs.states.clear()
    assert runs.stage(dag(), "raw", "second").keys() == {RAW, ORDERS, ITEMS}
