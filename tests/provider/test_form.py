"""The form of a run: what it asks for, what it refuses, and what the steps of the run make of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSkipException,
    DownstreamTasksSkipped,
    ParamValidationError,
)
from airflow.sdk.execution_time.context import OutletEventAccessors
from test_dag_structure import call

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.config import CacheValidationMode
from pipedag_airflow.provider.dag import compile_dag

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import DAG

#: What the source of `orders` says is new.
news = {"day": 1}


def flow(version: str = "1") -> Flow:
    @materialize(version="1", cache=lambda: news["day"])
    def orders() -> Table[Any]:
        return Table(pl.DataFrame({"day": [news["day"]]}), "orders")

    @materialize(version=version, input_type=pl.DataFrame)
    def priced(table: Any) -> Table[Any]:
        return Table(table, "priced")

    @materialize(version="1", input_type=pl.DataFrame)
    def report(table: Any) -> Table[Any]:
        return Table(table, "report")

    @materialize(version="1")
    def other() -> int:
        return 1

    with Flow("shop") as flow:
        with Stage("raw"):
            made = orders()
        with Stage("out"):
            report(priced(made))
        with Stage("apart"):
            other()
    flow.file = None
    return flow


YAML = """
instances:
  __any__: {instance_id: common}
  prod: {instance_id: prod}
  test: {instance_id: test}
flows:
  shop: {airflow: {instance: test}, instances: {night: {}}}
  another: {instances: {elsewhere: {}}}
"""


class Runs:
    """Steps of runs of the DAG, in this process."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}
        self.states: dict[str, str] = {}

    def step(self, node: str, run_id: str = "run", version: str = "1", **params: Any) -> list[str]:
        """Execute a step, and return what it skips."""
        dag = self.dag(version)
        instance = SimpleNamespace(
            dag_id="shop",
            run_id=run_id,
            task_id=node,
            max_tries=0,
            xcom_push=self.told.__setitem__,
            get_dagrun_state=lambda *_: "success",  # of all other runs
            get_task_states=lambda dag_id, run_ids, **_: {run_ids[0]: self.states} if dag_id == "shop" else {},
        )
        try:
            told = OutletEventAccessors()
            dag.get_task(node).execute({"ti": instance, "params": dag.params.dump() | params, "outlet_events": told})
        except DownstreamTasksSkipped as skipped:
            return list(skipped.tasks)
        return []

    def dag(self, version: str = "1") -> DAG:
        return compile_dag(flow(version), {})

    def whole(self, run_id: str) -> None:
        for stage in flow().plan().stages:
            for node in ("begin_transaction", *(task.partition(".")[2] for task in stage.tasks), "commit_transaction"):
                self.step(f"{stage.name}.{node}", run_id)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    monkeypatch.setitem(news, "day", 1)
    return Runs()


@pytest.fixture
def configured(runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    del runs  # it sets up first
    (tmp_path / "pipedag.yaml").write_text(YAML)
    monkeypatch.setenv("PIPEDAG_CONFIG", str(tmp_path))


# --- what it asks for ----------------------------------------------------------------------------------------------


def test_every_parameter_has_a_title_a_section_a_description_and_a_default(runs: Runs) -> None:
    params = runs.dag().params
    params.validate()
    for name in params:
        schema = params.get_param(name).schema
        assert {"title", "section", "description_md", "type"} <= schema.keys(), name
    assert [params.get_param(name).schema["section"] for name in params] == [
        *("Run", "Run", "Run", "Run", "Selection", "Selection", "Cache", "Cache", "Cache")
    ]


@pytest.mark.parametrize(
    ("granularity", "stages", "offered"),
    [
        ("task", ["raw", "mart"], ["as built", "stage", "flow"]),
        ("task", ["raw", "beside"], ["as built", "stage"]),
        ("stage", ["raw", "mart"], None),
        ("flow", ["raw", "mart"], None),
    ],
)
def test_a_run_may_ask_for_larger_operators_than_those_that_the_dag_has(
    granularity: str, stages: list[str], offered: list[str] | None
) -> None:
    with Flow("shop", airflow={"granularity": granularity}) as built:
        with Stage(stages[0]):
            first = call("first")
        with Stage(stages[1]):
            call("second", *([first] if stages[1] == "mart" else []))
    built.file = None
    params = compile_dag(built, {}).params
    assert (params.get_param("granularity").schema["enum"] if "granularity" in params else None) == offered


@pytest.mark.usefixtures("configured")
def test_the_instances_are_those_that_the_file_has_for_the_flow() -> None:
    instance = compile_dag(flow(), {}).params.get_param("instance")
    assert instance.value == "test"
    assert instance.schema["enum"] == ["__any__", "night", "prod", "test"]


def test_where_any_name_is_an_instance_those_of_the_file_are_examples(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pipedag.yaml").write_text(f"strict_instance_lookup: false\n{YAML}")
    monkeypatch.setenv("PIPEDAG_CONFIG", str(tmp_path))
    params = compile_dag(flow(), {}).params
    assert params.get_param("instance").schema["examples"] == ["__any__", "night", "prod", "test"]
    params["instance"] = "new"


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("instance", "prd"),
        ("cache_validation_mode", "force"),
        ("ignore_cache_function", "yes"),
        ("fail_fast", "yes"),
        ("dry_run", "maybe"),
        ("select", 3),
    ],
)
def test_the_form_refuses_what_means_nothing(name: str, value: object) -> None:
    params = compile_dag(flow(), {}).params
    with pytest.raises(ParamValidationError):
        params[name] = value


def test_the_modes_are_all_that_there_are(runs: Runs) -> None:
    mode = runs.dag().params.get_param("cache_validation_mode")
    assert mode.schema["enum"] == ["as configured", *CacheValidationMode]
    assert all(f"`{known}`" in mode.schema["description_md"] for known in CacheValidationMode)


# --- what becomes of it --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"cache_validation_mode": "normal", "ignore_cache_function": True}, "The form of the run got .* only one"),
        ({"instance": "prd"}, "has no instance 'prd'"),
        ({"select": ["raw.order"]}, "Did you mean 'raw.orders'"),
    ],
)
def test_begin_refuses_what_the_form_cannot_without_another_try(
    runs: Runs, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(AirflowFailException, match=message):
        runs.step("raw.begin_transaction", **params)


@pytest.mark.usefixtures("configured")
def test_the_steps_of_a_run_and_their_waiting_are_in_its_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    task = compile_dag(flow(), {}).get_task("raw.begin_transaction")
    seen = {}
    monkeypatch.setattr(type(task), "step", lambda self, session, _: seen.setdefault("config", session.config))
    for chosen, expected in (("prod", "prod"), ("__any__", "common")):
        seen.clear()
        params = compile_dag(flow(), {}).params.dump() | {"instance": chosen}
        task.execute({"ti": SimpleNamespace(dag_id="shop", run_id="run"), "params": params})
        assert seen["config"].instance_id == expected
        assert task.reference.instance == (None if chosen == "__any__" else chosen)


def test_a_run_may_ignore_cache_functions_or_force_them(runs: Runs) -> None:
    runs.whole("first")
    news["day"] = 2
    assert runs.step("raw.begin_transaction", "second", ignore_cache_function=True)[0] == "raw.orders"
    assert runs.step("raw.begin_transaction", "third", cache_validation_mode="ignore_fresh_input")[0] == "raw.orders"
    assert runs.step("raw.begin_transaction", "fourth") == []
    assert runs.told["decisions"]["tasks"]["raw.orders"].startswith("runs (cache_function_changed)")


def test_a_run_that_is_to_fail_fast_begins_nothing_after_a_failure(runs: Runs) -> None:
    runs.states = {"raw.begin_transaction": "success", "raw.orders": "failed", "apart.other": "running"}
    with pytest.raises(AirflowFailException, match=r"apart.begin_transaction was not begun: raw.orders failed before"):
        runs.step("apart.begin_transaction", fail_fast=True)
    runs.states = {"apart.begin_transaction": "failed"}
    runs.step("apart.begin_transaction", fail_fast=True)


# --- dry runs ------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_run_and_why_and_skips_all_of_it(runs: Runs, tmp_path: Path) -> None:
    runs.whole("first")
    skipped = runs.step("raw.begin_transaction", "dry", version="2", dry_run=True)
    assert set(skipped) == {task.task_id for task in runs.dag().tasks} - {"raw.begin_transaction"}
    assert runs.told["decisions"] == {
        "dry_run": True,
        "tasks": {
            "raw.orders": "valid",
            "out.priced": "runs (version_changed): version '1' is now '2'",
            "out.report": "runs (inputs_open): waits for out.priced",
            "apart.other": "valid",
        },
    }
    runs.whole("second")
    assert runs.told["decisions"]["generation"] == 2, "the dry run opened no generation"


def test_a_dry_run_passes_on_across_stages_what_would_be_made_anew(runs: Runs) -> None:
    runs.whole("first")
    news["day"] = 2
    runs.step("raw.begin_transaction", "dry", dry_run=True)
    told = runs.told["decisions"]["tasks"]
    assert told["raw.orders"].startswith("runs (cache_function_changed)")
    assert told["out.priced"] == "runs (inputs_open): waits for raw.orders"
    runs.step("raw.begin_transaction", "dry", dry_run=True, select=["apart.other"])
    assert runs.told["decisions"]["tasks"] == {"apart.other": "runs (selected)"}


def test_a_dry_run_of_what_was_never_run_writes_nothing_that_a_run_would_find(runs: Runs) -> None:
    runs.step("raw.begin_transaction", "dry", dry_run=True)
    assert runs.told["decisions"]["tasks"]["raw.orders"] == "runs (first_run)"
    runs.step("raw.begin_transaction", "first")
    assert runs.told["decisions"]["generation"] == 1


def test_in_a_dry_run_other_begins_and_cleared_tasks_do_nothing(runs: Runs) -> None:
    assert runs.step("apart.begin_transaction", dry_run=True) == ["apart.other", "apart.commit_transaction"]
    for node in ("raw.orders", "raw.commit_transaction"):
        with pytest.raises(AirflowSkipException, match="this is a dry run"):
            runs.step(node, dry_run=True)
