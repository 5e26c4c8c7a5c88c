"""A DAG for each stage: which DAGs there are, what is in them, and who runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError, ErrorType, TaskDeferred
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from test_dag_structure import call, edges
from test_granularity import three_stages

from pipedag_airflow import Flow, GroupNode, PipedagConfig, Stage
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.errors import ConfigError
from pipedag_airflow.provider.dag import compile_dags
from pipedag_airflow.provider.dag_runs import part_run_id, stages_kept_to_the_end
from pipedag_airflow.provider.form import RUN_OF

SPLIT = {"split": "stage"}
_A = {"[a > a.x", "a.x > a]"}
_B = {"[b > b.y", "b.y > [inner", "[inner > inner.z", "inner.z > inner]", "inner] > b.w", "b.w > b]"}
_C = {"[c > c.v", "c.v > c]"}


def dags_of(flow: Flow, **dag_args: Any) -> dict[str, Any]:
    flow.file = None
    return {dag.dag_id: dag for dag in compile_dags(flow, dag_args)}


@pytest.mark.parametrize(
    ("airflow", "expected"),
    [
        ({}, {"flow": {"a > b", "b > c"}, "flow.a": _A, "flow.b": _B, "flow.c": _C}),
        ({"a": {"granularity": "stage"}}, {"flow": {"a > b", "b > c"}, "flow.b": _B, "flow.c": _C}),
        (
            {"inner": {"granularity": "stage"}},
            {
                "flow": {"a > b", "b > c"},
                "flow.a": _A,
                "flow.b": {"[b > b.y", "b.y > inner", "inner > b.w", "b.w > b]"},
                "flow.c": _C,
            },
        ),
    ],
    ids=["all", "one that is one operator", "one nested that is one operator"],
)
def test_each_stage_has_a_dag_with_all_that_is_nested_in_it(airflow: dict[str, Any], expected: dict[str, Any]) -> None:
    dags = dags_of(three_stages(flow=SPLIT, **airflow))
    assert {name: edges(dag) for name, dag in dags.items()} == expected


def test_groups_are_in_the_dags_of_the_stages_that_they_are_in() -> None:
    with Flow("flow", airflow=SPLIT) as flow:
        with GroupNode("around"), Stage("a"), GroupNode("within"):
            x = call("x")
        with Stage("b"):
            call("y", x)
    dags = dags_of(flow)
    assert {name: groups_of(dag) for name, dag in dags.items()} == {
        "flow": {"around"},
        "flow.a": {"a", "within"},
        "flow.b": {"b"},
    }


def groups_of(dag: Any) -> set[str]:
    return {group.group_display_name or group.group_id for group in dag.task_group_dict.values()} - {None}


def test_what_is_said_of_the_flow_holds_once_in_its_own_dag() -> None:
    said = {"schedule": "@daily", "description": "A shop", "tags": ["sales"], "retries": 3, "owner": "sales"}
    dags = dags_of(three_stages(flow=SPLIT | said), on_success_callback=print)
    whole, part = dags["flow"], dags["flow.b"]
    assert (whole.schedule, part.schedule) == ("@daily", None)
    assert (whole.description, part.description) == ("A shop", None)
    assert (whole.is_paused_upon_creation, part.is_paused_upon_creation) == (None, False)
    assert (whole.on_success_callback, part.on_success_callback) == (print, None)
    assert whole.tags == part.tags == {"pipedag", "sales"}
    assert (part.get_task("b.y").retries, part.get_task("b.y").owner) == (3, "sales")
    assert RUN_OF not in whole.params
    assert part.params.dump() == whole.params.dump() | {RUN_OF: None}


@pytest.mark.parametrize(
    ("airflow", "message"),
    [
        ({"split": "task"}, "airflow.split of flow 'flow' is 'task', but can only be 'stage'"),
        (SPLIT | {"granularity": "flow"}, "both split: stage, a DAG for each stage, and granularity: flow"),
    ],
)
def test_what_contradicts_itself_or_does_not_exist_is_an_error(airflow: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dags_of(three_stages(flow=airflow))


def test_the_name_of_our_parameter_is_taken() -> None:
    with pytest.raises(ConfigError, match=f"a parameter '{RUN_OF}' of its own"):
        dags_of(three_stages(flow=SPLIT), params={RUN_OF: 1})


def test_a_module_registers_all_its_dags_and_to_dag_takes_the_place_of_all(dags: Any) -> None:
    text = """
from pipedag_airflow import Flow, Stage, materialize

@materialize(version="1")
def one():
    return 1

with Flow("shop", airflow={"split": "stage"}) as flow:
    with Stage("raw"):
        one()
"""
    dags.write(shop=text)
    assert sorted(dags.parse("shop.py").dags) == ["shop", "shop.raw"]
    dags.write(shop=text + 'dag = flow.to_dag(dag_id="store")\n')
    assert sorted(dags.parse("shop.py").dags) == ["store", "store.raw"]


class Instance(SimpleNamespace):
    """A task instance in the DAG of a stage, as far as a session asks it; the flow's run is in the given state."""

    def __init__(self, state: str) -> None:
        super().__init__(dag_id="flow.b", run_id="own", task_id="b.begin_transaction", state=state, asked=[])

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        self.asked.append((dag_id, run_id))
        if self.state == "deleted":
            raise not_found()
        return str(self.state)


@pytest.fixture
def begin_of_b(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    return dags_of(three_stages(flow=SPLIT))["flow.b"].get_task("b.begin_transaction")


def session_of(operator: Any, instance: Instance, **conf: Any) -> Any:
    from pipedag_airflow.provider.form import RunOptions

    params = operator.dag.params.dump() | conf
    return operator.session({"ti": instance, "params": params}, RunOptions.of(params))


def test_the_run_of_a_stage_is_the_run_of_the_flow(begin_of_b: Any) -> None:
    session = session_of(begin_of_b, Instance("running"), **{RUN_OF: "whole"}, select=["stage:b", "stage:c"])
    assert session.run_id == "airflow:flow/whole"
    assert session.selection.stages == {"b", "inner", "c"}


def test_the_dag_of_a_stage_that_is_run_by_itself_is_of_that_stage_alone(begin_of_b: Any) -> None:
    session = session_of(begin_of_b, Instance("running"))
    assert session.run_id == "airflow:flow.b/own"
    assert session.selection.stages == {"b", "inner"}


def test_the_dag_of_a_stage_that_is_run_by_itself_has_of_a_selection_what_is_in_that_stage(begin_of_b: Any) -> None:
    session = session_of(begin_of_b, Instance("running"), select=["+stage:b", "b.y+"])
    assert session.selection.stages == {"b", "inner"}
    assert session.selection.tasks == {"b.y", "inner.z", "b.w"}
    assert session_of(begin_of_b, Instance("running"), select="b.y").selection.tasks == {"b.y"}
    with pytest.raises(AirflowFailException, match=r"'stage:c,stage:b' selects nothing of flow 'flow'"):
        begin_of_b.execute({"ti": Instance("running"), "params": begin_of_b.dag.params.dump() | {"select": "stage:c"}})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("failed", r"run whole of the DAG flow, .* has failed\. Clear b there"),
        ("success", r"run whole of the DAG flow, .* has ended as a success\. Clear b there"),
        ("deleted", r"run whole of the DAG flow, .* was deleted\. Trigger a run of the DAG flow"),
    ],
)
def test_nothing_is_begun_for_a_run_of_the_flow_that_is_over(begin_of_b: Any, state: str, message: str) -> None:
    instance = Instance(state)
    with pytest.raises(AirflowFailException, match=message):
        session_of(begin_of_b, instance, **{RUN_OF: "whole"})
    assert instance.asked == [("flow", "whole")]


# --- what happens in one part and concerns the others ---------------------------------------------------------------


class Known:
    """What Airflow knows of the tasks of runs, by the ids of the DAGs: of a run of the flow, and of its parts."""

    dag_id, run_id, task_id = "flow.c", part_run_id("whole"), "c.v"

    def __init__(self, **states: dict[str, str | None]) -> None:
        self.states = {name.replace("_", "."): of_dag for name, of_dag in states.items()}

    def get_task_states(self, dag_id: str, run_ids: list[str]) -> dict[str, dict[str, str | None]]:
        assert run_ids == ["whole" if dag_id == "flow" else part_run_id("whole")]
        if dag_id not in self.states:
            raise not_found()
        return {run_ids[0]: self.states[dag_id]}

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        assert (dag_id, run_id) == ("flow", "whole")
        return "running"


def not_found() -> AirflowRuntimeError:
    return AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 404}))


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
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, known: Known, failed: str | None
) -> None:
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    operator = dags_of(three_stages(flow=SPLIT))["flow.c"].get_task("c.v")
    operator.step = lambda *_: "done"
    context: Any = {"ti": known, "params": operator.dag.params.dump() | {RUN_OF: "whole", "fail_fast": True}}
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
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    known = Known(flow=FLOW)
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", known.get_task_states)
    with PipedagConfig.find(None).get().create_lock_manager() as locks:
        locks.acquire("c", Owner.of_run("local:1"), seconds=60)
    operator = dags_of(three_stages(flow=SPLIT))["flow.c"].get_task("c.begin_transaction")
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({"ti": known, "params": operator.dag.params.dump() | {RUN_OF: "whole", "select": "stage:c"}})
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
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, known: Known, released: bool
) -> None:
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    dag = dags_of(three_stages(flow=SPLIT))["flow.b"]
    assert gives_back(dag, known, part_run_id("whole"), **{RUN_OF: "whole"}) is released


def test_a_parameter_of_parts_changes_nothing_in_the_dag_of_the_flow(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path))
    dag = dags_of(three_stages(flow=SPLIT))["flow"]
    assert gives_back(dag, Known(flow=dict.fromkeys("abc", "failed")), "whole", **{RUN_OF: "another"})


def gives_back(dag: Any, known: Known, run_id: str, **conf: str) -> bool:
    """Say whether a stage that the run of the flow holds is free after a DAG run of it has failed."""
    with PipedagConfig.find(None).get().create_lock_manager() as locks:
        locks.acquire("b", Owner.of_run("airflow:flow/whole"), seconds=60)
        (callback,) = dag.on_failure_callback
        callback({"dag": dag, "run_id": run_id, "ti": known, "params": dag.params.dump() | conf})
        return locks.holder("b") is None


def test_the_operator_of_a_stage_takes_the_colour_of_its_run() -> None:
    operator = dags_of(three_stages(flow=SPLIT))["flow"].get_task("b")
    context: Any = {"ti": SimpleNamespace(dag_id="flow", run_id="whole")}
    operator.execute_complete(context, ("trigger", {"whole": "success"}))
    with pytest.raises(AirflowFailException, match=r"Stage b: run whole of the DAG flow\.b is failed"):
        operator.execute_complete(context, ("trigger", {"whole": "failed"}))
