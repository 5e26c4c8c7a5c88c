"""The parameters by which a DAG run is asked for a part of the flow, and what the operators make of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSkipException,
    DownstreamTasksSkipped,
    ParamValidationError,
)

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.errors import ConfigError
from pipedag_airflow.provider.dag import compile_dag

if TYPE_CHECKING:
    from pathlib import Path


def flow() -> Flow:
    @materialize(version="1")
    def task(number: int) -> int:
        return number

    with Flow("flow") as flow:
        with Stage("a"):
            one = task(1)
            task(2)
            with Stage("inner"):
                task(3)
        with Stage("b"):
            task(one)
    flow.file = None
    return flow


def run(monkeypatch: pytest.MonkeyPatch, home: Path, node: str, *select: str) -> Any:
    """Execute the operator of a node in a run with a selection; pipedag keeps its data in a folder."""
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(home))
    instance = SimpleNamespace(dag_id="flow", run_id="run", max_tries=0, task_id=node, xcom_push=lambda *_: None)
    instance.get_task_states = lambda *_, **__: {}
    dag = compile_dag(flow(), {})
    params = dag.params.dump() | {"select": list(select), "exclude": None}
    return dag.get_task(node).execute({"ti": instance, "params": params})


def test_the_form_asks_for_lines_of_text_and_nothing_is_everything() -> None:
    params = compile_dag(flow(), {"params": {"size": 3}}).params
    assert (params["select"], params["exclude"], params["size"]) == ([], [], 3)
    for name in ("select", "exclude"):
        param = params.get_param(name)
        assert param.schema["type"][0] == "array"
        assert param.schema["section"] == "Selection"
    assert "`stage:clean`" in params.get_param("select").schema["description_md"]
    for value in (["+a.b"], "a.b stage:c", None):
        params["select"] = value
    with pytest.raises(ParamValidationError):
        params["select"] = 3


def test_a_parameter_of_the_users_of_the_same_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="flow 'flow' has a parameter 'select' of its own"):
        compile_dag(flow(), {"params": {"select": 1}})


def test_begin_skips_what_is_not_selected_and_leaves_the_commit_to_set_the_rest_aside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        run(monkeypatch, tmp_path, "a.begin_transaction", "a.task")
    assert skipped.value.tasks == ["a.task__2"]


@pytest.mark.parametrize(
    ("stage", "select", "skips"),
    [
        ("b", "stage:a", ["b.task", "b.commit_transaction"]),
        ("a", "stage:b", ["a.task", "a.task__2"]),  # its commit waits for the stage in it
        ("inner", "a.task", ["inner.task", "inner.commit_transaction"]),
    ],
)
def test_begin_of_a_stage_of_which_nothing_is_selected_skips_all_and_opens_no_database(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str, select: str, skips: list[str]
) -> None:
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        run(monkeypatch, tmp_path, f"{stage}.begin_transaction", select)
    assert skipped.value.tasks == skips
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_is_not_selected_stays_skipped_when_it_is_cleared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(AirflowSkipException, match=r"a.task is not selected in this run"):
        run(monkeypatch, tmp_path, "a.task", "b.task")


def test_the_commit_of_a_stage_that_is_not_selected_publishes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(AirflowSkipException, match="Stage a is not selected as a whole"):
        run(monkeypatch, tmp_path, "a.commit_transaction", "stage:inner")


def test_a_wrong_selection_fails_without_another_try(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match=r"has no task 'a.tusk'. Did you mean 'a.task'\?"):
        run(monkeypatch, tmp_path, "b.begin_transaction", "a.tusk")
