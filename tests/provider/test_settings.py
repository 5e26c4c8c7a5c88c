"""What is said of flows, stages and tasks, in the module and in pipedag.yaml, and what becomes of it in the DAG."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.definitions.deadline import DeadlineReference
from airflow.serialization.serialized_objects import DagSerialization

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.core.airflow_settings import FLOW_KEYS, OPERATOR_KEYS, TASK_KEYS
from pipedag_airflow.errors import ConfigError
from pipedag_airflow.provider.dag import compile_dag

if TYPE_CHECKING:
    from pathlib import Path

MODULE = '''
"""The shop."""
from pipedag_airflow import Flow, Stage, materialize


@materialize(version="1", airflow={"queue": "large", "doc_md": "Own words.", "task_display_name": "Load it"})
def load():
    """Load the orders."""


@materialize(version="1")
def check():
    """Check the orders."""


with Flow("shop", airflow={"owner": "anna", "retries": 1, "tags": ["sales"], "max_active_runs": 2}) as flow:
    with Stage("raw", airflow={"group_display_name": "Raw", "tooltip": "As sent", "ui_color": "#fed", "retries": 2}):
        load()
        check()
        with Stage("inner", airflow={"pool_slots": 2}):
            check()
'''

SECTION = """
flows:
  shop:
    airflow:
      owner: somebody
      description: From the file.
      deadline: {interval: 600, callback: shop_alerts.late, kwargs: {who: anna}}
      stages:
        Raw: {retries: 9, pool: duckdb, retry_delay: 30, docs_url: "https://docs.example.org/raw"}
      tasks:
        raw.check: {retries: 5, execution_timeout: 60, executor_config: {memory: 4}}
        raw.load: {queue: small, docs_url: "https://docs.example.org/load"}
"""


def only(dags: Any) -> DAG:
    bag = dags.parse()
    assert not bag.import_errors
    (dag,) = bag.dags.values()
    return dag


def test_the_nearer_one_wins_and_the_module_wins_over_the_file(dags: Any) -> None:
    dags.config(SECTION)
    dags.write(shop=MODULE)
    dag = only(dags)
    assert (dag.description, dag.max_active_runs, dag.tags) == ("From the file.", 2, {"pipedag", "sales"})
    tasks = {task.task_id: task for task in dag.tasks}
    assert {node: (task.owner, task.retries, task.pool, task.pool_slots) for node, task in tasks.items()} == {
        "raw.begin_transaction": ("anna", 2, "duckdb", 1),
        "raw.load": ("anna", 2, "duckdb", 1),
        "raw.check": ("anna", 5, "duckdb", 1),
        "raw.commit_transaction": ("anna", 2, "duckdb", 1),
        "inner.begin_transaction": ("anna", 2, "duckdb", 2),
        "inner.check": ("anna", 2, "duckdb", 2),
        "inner.commit_transaction": ("anna", 2, "duckdb", 2),
    }
    load, check = tasks["raw.load"], tasks["raw.check"]
    assert (load.queue, load.doc_md, load.task_display_name) == ("large", "Own words.", "Load it")
    assert (check.queue, check.doc_md, check.task_display_name) == ("default", "Check the orders.", "check")
    assert (check.retry_delay, check.execution_timeout) == (timedelta(seconds=30), timedelta(seconds=60))
    assert check.executor_config == {"memory": 4}
    assert load.docs_url == "https://docs.example.org/load"
    assert tasks["inner.check"].docs_url == "https://docs.example.org/raw"


def test_stages_are_groups_with_labels_words_and_colours(dags: Any) -> None:
    dags.write(shop=MODULE)
    raw = only(dags).task_group.children["raw"]
    assert (raw.label, raw.tooltip, raw.ui_color) == ("Raw", "As sent", "#fed")
    inner = raw.children["inner"]
    assert (inner.label, inner.tooltip) == ("inner", "1 task, published together")


def test_the_words_of_the_module_are_those_of_the_dag(dags: Any) -> None:
    dags.write(shop=MODULE)
    assert only(dags).doc_md == "The shop."


def test_a_deadline_of_the_file_counts_from_the_queueing_of_a_run(dags: Any) -> None:
    dags.config(SECTION)
    dags.write(shop=MODULE)
    (deadline,) = only(dags).deadline
    assert deadline.reference == DeadlineReference.DAGRUN_QUEUED_AT
    assert deadline.interval == timedelta(minutes=10)
    assert (deadline.callback.path, deadline.callback.kwargs) == ("shop_alerts.late", {"who": "anna"})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("stages: {rwa: {pool: x}}", r"airflow.stages.rwa of pipedag.yaml: flow 'shop' has no stage 'rwa'; .*'raw'"),
        ("tasks: {raw.lod: {pool: x}}", r"flow 'shop' has no task 'raw.lod'; did you mean 'raw.load'"),
        ("stages: {raw: {pol: x}}", r"unknown key 'pol'; did you mean 'pool'"),
        ("tasks: {raw.load: {sla: 3}}", r"no SLAs any more"),
        ("deadline: {interval: 60}", r"airflow.deadline of flow 'shop' needs interval"),
        ("end_date: 'tomorrow'", r"airflow.end_date of flow 'shop' is no date: 'tomorrow'"),
    ],
)
def test_what_the_file_says_of_nothing_is_an_import_error(dags: Any, section: str, message: str) -> None:
    dags.config(f"flows: {{shop: {{airflow: {{{section}}}}}}}")
    dags.write(shop=MODULE)
    (error,) = dags.parse().import_errors.values()
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(error)


def test_variables_in_what_is_said_of_a_stage_become_numbers(dags: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOTS", "3")
    dags.config("flows: {shop: {airflow: {stages: {raw: {pool_slots: '{$SLOTS}'}}}}}")
    dags.write(shop=MODULE)
    assert only(dags).get_task("raw.load").pool_slots == 3


def test_the_flow_may_name_the_instance_and_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pipedag.yaml").write_text(
        "instances: {__any__: {}, prod: {airflow: {retries: 4}}}\nflows: {f: {airflow: {instance: prd}}}"
    )
    monkeypatch.setenv("PIPEDAG_CONFIG", str(tmp_path))
    with Flow("f", airflow={"instance": "prod", "end_date": datetime(2026, 1, 1, tzinfo=UTC)}) as flow, Stage("s"):
        materialize(version="1", name="t")(lambda: 1)()
    dag = compile_dag(flow, {})
    assert {(task.reference.instance, task.retries) for task in dag.tasks} == {("prod", 4)}
    assert dag.end_date == datetime(2026, 1, 1, tzinfo=UTC)


def test_what_is_said_of_a_flow_holds_for_its_tasks_but_two_callbacks_are_those_of_its_runs() -> None:
    def note(context: object) -> None:
        del context

    with (
        Flow("f", airflow={"on_failure_callback": note, "on_retry_callback": note, "docs_url": "d"}) as flow,
        Stage("s"),
    ):
        materialize(version="1", name="t")(lambda: 1)()
    flow.file = None
    dag = compile_dag(flow, {})
    assert dag.on_failure_callback[1:] == [note]  # after ours
    assert [task.on_failure_callback for task in dag.tasks] == [[], [], []]
    assert [task.on_retry_callback for task in dag.tasks] == [[note]] * 3
    assert [task.docs_url for task in dag.tasks] == ["d"] * 3


def test_every_key_is_an_argument_that_airflow_knows() -> None:
    operator = inspect.signature(BaseOperator.__init__).parameters.keys()
    newest = {"retry_policy"}  # not in the oldest release
    assert TASK_KEYS - {"docs_url"} - newest <= operator
    dag = inspect.signature(DAG.__init__).parameters.keys()
    assert FLOW_KEYS - OPERATOR_KEYS - {"granularity", "instance", "split"} <= dag


def test_a_serialised_task_has_its_links_and_fields_but_no_parameters(
    dags: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow.settings.PLUGINS_FOLDER", str(dags.path))
    dags.config(SECTION)
    dags.write(shop=MODULE)
    encoded = DagSerialization.to_dict(only(dags))
    tasks = {task["__var"]["task_id"]: task["__var"] for task in encoded["dag"]["tasks"]}
    assert tasks["raw.load"]["_operator_extra_links"].keys() == {
        *("Tables", "Tables of the run before", "Generation", "Docs")
    }
    assert not any("params" in task for task in tasks.values())
    restored = DagSerialization.from_dict(encoded)
    assert restored.params.dump().keys() >= {"select", "instance"}
    assert restored.get_task("raw.load").template_fields == ["inputs", "sql"]
