"""The operator of a stage that has a DAG of its own: when it starts a run there, and what it makes of its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, DownstreamTasksSkipped, TaskDeferred
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from test_dag_structure import call
from test_granularity import Events, three_stages
from test_split import SPLIT, Instance, context_of, dags_of, not_found

from pipedag_airflow import Flow, Stage
from pipedag_airflow.provider.form import RUN_OF
from pipedag_airflow.provider.links import RunLink
from pipedag_airflow.provider.triggers import PartRunTrigger
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk.execution_time.comms import TriggerDagRun


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))


class Whole:
    """The operator of the stage "a" in the DAG of a flow, whose part is in the given state."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.operator = dags_of(three_stages(flow=SPLIT))["flow"].get_task("a")
        self.instance = Instance("deleted", "flow", "a")
        self.context = context_of(self.operator, self.instance) | {"outlet_events": Events()}
        #: What was sent to Airflow.
        self.sent: list[TriggerDagRun] = []
        self.error: Exception | None = None
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", self, raising=False)

    def send(self, message: TriggerDagRun) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(message)

    def step(self) -> Any:
        """Execute the operator, and return what it waits with."""
        with pytest.raises(TaskDeferred) as deferred:
            self.operator.execute(self.context)
        assert deferred.value.method_name == "execute_complete"
        return deferred.value.trigger.serialize()

    def complete(self, state: str | None) -> None:
        self.operator.execute_complete(self.context, {"state": state})

    def publish(self) -> None:
        session = self.operator.session(self.context, self.operator.asked_for(self.context))
        execute(session, "a.x")
        publish(session, "a")

    def link(self) -> str:
        return RunLink().get_link(self.operator, ti_key=self.instance)


@pytest.fixture
def whole(home: None, monkeypatch: pytest.MonkeyPatch) -> Whole:
    return Whole(monkeypatch)


_WAITS = {"dag_id": "flow.a", "run_id": "part__own", "after": 7.0, "poll": 2.0, "patience": 600.0}


@pytest.mark.parametrize("state", ["deleted", "failed", "success"])
def test_the_part_of_a_run_is_started_and_one_that_is_over_is_cleared(whole: Whole, state: str) -> None:
    whole.instance.state = state
    assert whole.step() == ("pipedag_airflow.provider.triggers.PartRunTrigger", _WAITS)
    (sent,) = whole.sent
    assert (sent.dag_id, sent.run_id, sent.reset_dag_run) == ("flow.a", "part__own", True)
    assert sent.conf == {**whole.context["params"], RUN_OF: "own"}
    assert whole.link().endswith("/dags/flow.a/runs/part__own")
    assert whole.instance.pushed["decisions"]["a"]["tasks"] == {"a.x": "runs (first_run)"}


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_part_that_is_at_work_is_waited_for_and_not_started_anew(whole: Whole, state: str) -> None:
    whole.instance.state = state
    assert whole.step()[1] == _WAITS
    assert whole.sent == []


@pytest.mark.parametrize(
    ("known", "warned"), [({"flow.a": "paused"}, True), ({"flow.a": "active"}, False), ({}, False)]
)
def test_a_part_whose_dag_is_paused_is_waited_for_and_the_log_says_so_again_and_again(
    whole: Whole, caplog: pytest.LogCaptureFixture, known: dict[str, str], warned: bool
) -> None:
    whole.instance.dags = known
    whole.step()
    with pytest.raises(TaskDeferred) as deferred:
        whole.complete("queued")
    assert deferred.value.trigger.serialize()[1] == _WAITS
    said = [message for message in caplog.messages if "of the DAG flow.a, which is paused" in message]
    assert len(said) == (2 if warned else 0)
    assert all("`airflow dags unpause flow.a`" in message for message in said)


def test_that_airflow_does_not_start_it_is_an_error_that_says_so_and_may_be_tried_again(whole: Whole) -> None:
    whole.error = not_found()
    with pytest.raises(AirflowException, match=r"did not start run part__own of the DAG flow\.a") as raised:
        whole.operator.execute(whole.context)
    assert not isinstance(raised.value, AirflowFailException)


def test_what_is_all_valid_has_no_run_and_no_link(whole: Whole) -> None:
    whole.context["params"]["select"] = ["stage:a"]  # nothing reads it, so it is free when it is published
    whole.step()
    whole.publish()
    again = dags_of(three_stages(flow=SPLIT))["flow"].get_task("a")
    whole.operator, whole.instance.run_id = again, "next"
    assert again.execute(whole.context) == {"unchanged": ["a"]}
    assert (len(whole.sent), whole.link()) == (1, "")
    assert whole.instance.pushed["decisions"]["a"]["unchanged"]


def test_the_operator_of_a_stage_takes_the_colour_of_its_run(whole: Whole) -> None:
    whole.step()
    with pytest.raises(AirflowFailException, match=r"Stage a: run part__own of the DAG flow\.a is failed"):
        whole.complete("failed")
    with pytest.raises(AirflowFailException, match=r"run part__own of the DAG flow\.a was deleted"):
        whole.complete(None)
    whole.publish()
    whole.complete("success")


def test_a_part_that_somebody_marked_as_done_does_not_make_its_operator_green(whole: Whole) -> None:
    whole.step()
    with pytest.raises(AirflowFailException, match="has not published 'a': somebody has marked it"):
        whole.complete("success")


def test_a_part_of_a_stage_that_is_selected_in_part_need_not_publish_it(whole: Whole) -> None:
    whole.context["params"]["select"] = ["a.x"]
    whole.step()
    whole.complete("success")


@pytest.mark.parametrize(
    ("states", "patience"),
    [
        (["queued", "running", "success"], 60),
        (["running", "failed"], 60),
        (["running", None], 60),
        (["queued"], 0),
    ],
)
def test_the_trigger_waits_until_the_run_is_over_or_deleted_or_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, states: list[str | None], patience: float
) -> None:
    left = iter(states)

    def state(dag_id: str, run_id: str) -> str:
        assert (dag_id, run_id) == ("flow.a", "part__own")
        if (found := next(left)) is None:
            raise not_found()
        return found

    monkeypatch.setattr(RuntimeTaskInstance, "get_dagrun_state", state)

    async def first() -> Any:
        return await anext(aiter(PartRunTrigger("flow.a", "part__own", after=0, poll=0, patience=patience).run()))

    assert asyncio.run(first()).payload == {"state": states[-1]}
    assert list(left) == []


def test_the_trigger_leaves_airflow_time_to_hear_of_the_end_of_the_process_that_deferred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[object] = []

    async def sleep(seconds: float) -> None:
        done.append(seconds)

    def state(dag_id: str, run_id: str) -> str:
        done.append(run_id)
        return "success"

    async def first() -> Any:
        return await anext(aiter(PartRunTrigger("flow.a", "part__own", after=7).run()))

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(RuntimeTaskInstance, "get_dagrun_state", state)
    asyncio.run(first())
    assert done == [7, "part__own"]


def test_a_stage_whose_first_operator_is_a_nested_stage_says_what_would_run(home: None) -> None:
    with Flow("flow", airflow=SPLIT) as flow:
        with Stage("before"):
            call("x")
        with Stage("a"), Stage("inner", airflow={"granularity": "stage"}):
            call("y")
    operator = dags_of(flow)["flow.a"].get_task("inner")
    instance = Instance("running", "flow.a", "inner")
    with pytest.raises(DownstreamTasksSkipped):
        operator.execute(context_of(operator, instance, dry_run=True))
    assert set(instance.pushed["decisions"]["tasks"]) == {"inner.y"}
