"""Runs of a flow that is split: what happens in one part concerns the others, and what becomes of a part by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError, ErrorType, TaskDeferred
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from test_granularity import three_stages

from pipedag_airflow import PipedagConfig
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.errors import SelectionError
from pipedag_airflow.provider.dag import compile_dags
from pipedag_airflow.provider.dag_runs import part_run_id, stages_kept_to_the_end
from pipedag_airflow.provider.form import RUN_OF, RunOptions

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))


@pytest.fixture
def dags() -> dict[str, Any]:
    """The DAG of a flow and those of its stages a, b with inner, and c."""
    return {dag.dag_id: dag for dag in compile_dags(three_stages(flow={"split": "stage"}), {})}


def context_of(dag: Any, known: Known, **conf: Any) -> Any:
    """Return the context of a step, or of a callback, in a run of a DAG that was given these parameters."""
    params = dag.params.dump() | conf
    return {"dag": dag, "run_id": known.run_id, "ti": known, "params": params, "dag_run": SimpleNamespace(conf=conf)}


class Known:
    """What Airflow knows of the tasks of runs, by the ids of the DAGs: of a run of the flow, and of its parts."""

    dag_id, run_id, task_id = "flow.c", part_run_id("whole"), "c.v"

    def __init__(self, state: str | None = "running", **states: dict[str, str | None]) -> None:
        self.state = state
        self.states = {name.replace("_", "."): of_dag for name, of_dag in states.items()}

    def get_task_states(self, dag_id: str, run_ids: list[str]) -> dict[str, dict[str, str | None]]:
        assert run_ids == ["whole" if dag_id == "flow" else part_run_id("whole")]
        if dag_id not in self.states:
            raise not_found()
        return {run_ids[0]: self.states[dag_id]}

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        assert (dag_id, run_id) == ("flow", "whole")
        if self.state is None:
            raise not_found()
        return self.state


def not_found() -> AirflowRuntimeError:
    return AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 404}))


def test_the_dag_of_a_stage_that_is_run_by_itself_has_of_a_selection_what_is_in_that_stage(
    dags: dict[str, Any],
) -> None:
    begin = dags["flow.b"].get_task("b.begin_transaction")

    def selected(select: Any) -> Any:
        context = context_of(begin.dag, Known(), select=select)
        return begin.session(context, RunOptions.of(context["params"])).selection

    assert selected(["+stage:b", "b.y+"]).stages == {"b", "inner"}
    assert selected(["+stage:b", "b.y+"]).tasks == {"b.y", "inner.z", "b.w"}
    assert selected("b.y").tasks == {"b.y"}
    with pytest.raises(SelectionError, match=r"'stage:c,stage:b' selects nothing of flow 'flow'"):
        selected("stage:c")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("failed", r"run whole of the DAG flow, .* has failed\. Clear c there"),
        ("success", r"run whole of the DAG flow, .* has ended as a success\. Clear c there"),
        (None, r"run whole of the DAG flow, .* was deleted\. Trigger a run of the DAG flow"),
    ],
)
def test_nothing_is_begun_for_a_run_of_the_flow_that_is_over_or_deleted(
    dags: dict[str, Any], state: str | None, message: str
) -> None:
    operator = dags["flow.c"].get_task("c.v")
    with pytest.raises(AirflowFailException, match=message):
        operator.execute(context_of(operator.dag, Known(state), **{RUN_OF: "whole"}))


FLOW = {"a": "success", "b": "deferred", "c": "deferred"}
BROKEN = {"b.begin_transaction": "success", "b.y": "failed", "inner.commit_transaction": "upstream_failed"}


@pytest.mark.parametrize(
    ("known", "failed"),
    [
        (Known(flow=FLOW, flow_b=BROKEN | {"b.w": "running"}), "b.y"),
        (Known(flow=FLOW, flow_b=BROKEN | {"b.w": None}), "b.y"),
        (Known(flow=FLOW | {"b": "failed"}, flow_b=BROKEN), "b"),
        (Known(flow=FLOW, flow_c={"c.begin_transaction": "failed", "c.v": "running"}), "c.begin_transaction"),
        (Known(flow=FLOW, flow_b=BROKEN), None),
        (Known(flow=FLOW | {"b": None}, flow_b=BROKEN | {"b.w": "running"}), None),
        (Known(flow=FLOW), None),
    ],
    ids=[
        "in a part at work",
        "in a part that goes on",
        "a part",
        "in the part itself",
        "in a part before the stage was cleared",
        "in a part whose stage has not begun",
        "nothing",
    ],
)
def test_a_step_does_not_begin_after_a_failure_in_another_part_if_the_run_is_to_fail_fast(
    dags: dict[str, Any], known: Known, failed: str | None
) -> None:
    operator = dags["flow.c"].get_task("c.v")
    operator.step = lambda *_: "done"
    context = context_of(operator.dag, known, **{RUN_OF: "whole"}, fail_fast=True)
    if failed is None:
        assert operator.execute(context) == "done"
        return
    with pytest.raises(AirflowFailException, match=rf"c\.v was not begun: {failed} failed before"):
        operator.execute(context)


@pytest.mark.parametrize(
    ("known", "kept"),
    [
        (Known(flow=FLOW, flow_b=BROKEN | {"b.w": "running"}), ["inner"]),
        (Known(flow=FLOW | {"b": "failed"}), ["b", "inner"]),
        (Known(flow={"b.begin_transaction": "failed", "b.commit_transaction": "upstream_failed"}), ["b"]),
        (Known(flow={"a": "failed", "mail": "running"}), ["a"]),
        (Known(flow=FLOW), []),
        (Known(), []),
    ],
    ids=["a nested one in a part", "a part", "a commit", "an operator that is a stage", "nothing", "a run deleted"],
)
def test_a_run_keeps_the_stages_that_have_failed_in_any_of_its_parts_with_all_that_is_nested_in_them(
    known: Known, kept: list[str]
) -> None:
    nested = three_stages().plan().nested()
    assert stages_kept_to_the_end("airflow:flow/whole", ["a", "b", "c"], nested, known) == kept


def test_a_step_that_waits_tells_the_trigger_which_parts_there_are_and_what_is_nested(
    dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(flow=FLOW)
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", known.get_task_states)
    with PipedagConfig.find(None).get().create_lock_manager() as locks:
        locks.acquire("c", Owner.of_run("local:1"), seconds=60)
    operator = dags["flow.c"].get_task("c.begin_transaction")
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context_of(operator.dag, known, **{RUN_OF: "whole"}, select="stage:c"))
    waiting = deferred.value.trigger
    assert (waiting.run_id, waiting.parts, waiting.nested) == ("airflow:flow/whole", ["a", "b", "c"], {"b": ["inner"]})


@pytest.mark.parametrize(
    ("known", "released"),
    [
        (Known(flow={"a": "success", "b": "failed", "c": "success"}, flow_b=BROKEN), True),
        (Known(flow_b=BROKEN), True),
        (Known(flow=FLOW | {"b": "failed"}, flow_b=BROKEN), False),
        (Known(flow=dict.fromkeys("abc", "success"), flow_b=BROKEN, flow_c={"c.v": "running"}), False),
    ],
    ids=["over", "deleted", "at work", "at work in another part"],
)
def test_a_part_that_fails_gives_back_the_stages_of_the_run_of_the_flow_if_that_is_over(
    dags: dict[str, Any], known: Known, released: bool
) -> None:
    assert gives_back(dags["flow.b"], known, **{RUN_OF: "whole"}) is released


def test_a_part_that_fails_knows_the_run_of_the_flow_also_where_airflow_lets_nobody_change_params(
    dags: dict[str, Any],
) -> None:
    assert gives_back(dags["flow.b"], Known(flow_b=BROKEN), overrides=False, **{RUN_OF: "whole"})


def test_nothing_is_given_back_where_airflow_does_not_tell_the_task(
    dags: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for dag_id in ("flow", "flow.b"):
        (callback,) = dags[dag_id].on_failure_callback
        callback({"dag": dags[dag_id], "run_id": "manual", "reason": "task_failure"})
        assert "does not say which task failed in manual" in caplog.messages[-1]


def test_a_parameter_of_parts_changes_nothing_in_the_dag_of_the_flow(dags: dict[str, Any]) -> None:
    known = Known(flow=dict.fromkeys("abc", "failed"))
    known.run_id = "whole"
    assert gives_back(dags["flow"], known, **{RUN_OF: "another"})


def gives_back(dag: Any, known: Known, *, overrides: bool = True, **conf: str) -> bool:
    """Say whether a stage that the run of the flow holds is free after a DAG run of it has failed."""
    with PipedagConfig.find(None).get().create_lock_manager() as locks:
        locks.acquire("b", Owner.of_run("airflow:flow/whole"), seconds=60)
        (callback,) = dag.on_failure_callback
        context = context_of(dag, known, **conf)
        callback(context if overrides else context | {"params": dag.params.dump()})
        return locks.holder("b") is None
